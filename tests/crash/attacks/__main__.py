"""`python -m tests.crash.attacks`: run the attacks, and print a line for each."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests import REPO
from tests.crash.attacks import disks, files, meanwhile, places, reports, typed
from tests.crash.attacks.common import FAKETIME
from tests.crash.place import Case, Place, try_each

ATTACKS: dict[str, tuple[str, Case]] = {
    "odd-paths": ("4 11", places.odd_paths),
    "long-paths": ("11", places.long_paths),
    "names": ("5", places.names),
    "links": ("11", places.links),
    "linked-study": ("5", places.linked_study),
    "no-folder": ("11", places.no_folder),
    "renamed": ("1 5", meanwhile.renamed),
    "trial-deleted": ("1", meanwhile.trial_deleted),
    "study-deleted": ("1", meanwhile.study_deleted),
    "log-deleted": ("5", meanwhile.log_deleted),
    "stopped": ("11", meanwhile.stopped),
    "closed": ("11", meanwhile.closed),
    "interrupted": ("11", meanwhile.interrupted),
    "clocks": ("11", meanwhile.clocks),
    "full": ("1 10", disks.full),
    "read-only": ("1", disks.read_only),
    "limits": ("1", disks.limits),
    "edited": ("5", files.edited),
    "odd-database": ("4", files.odd_database),
    "interrupted-mlflow": ("4", files.interrupted_mlflow),
    "odd-locks": ("6", files.odd_locks),
    "odd-logs": ("5", files.odd_logs),
    "at-once": ("6", reports.at_once),
    "reports-at-once": ("6", reports.reports_at_once),
    "deleted-while-read": ("6", reports.deleted_while_read),
    "killed-html": ("7", reports.killed_html),
    "killed-bundle": ("7", reports.killed_bundle),
    "killed-delete": ("7", reports.killed_delete),
    "killed-export": ("7 11", reports.killed_export),
    "killed-rename": ("7", reports.killed_rename),
    "killed-archive": ("7", reports.killed_archive),
    "senseless": ("11", typed.senseless),
    "odd-files": ("11", typed.odd_files),
    "spilled": ("8", typed.spilled),
    "surroundings": ("11", typed.surroundings),
    "script": ("8", typed.script),
    "served": ("12", typed.served),
}
"""Name -> numbers of the list in docs/notes/crash.md, and the attack."""


def main() -> int:
    """Parse argv, run the attacks, print a line for each. Return 1 if something went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.attacks", description=__doc__)
    parser.add_argument("--only", action="append", choices=ATTACKS, help="default: all")
    parser.add_argument("--faketime", default="", help="libfaketime's library")
    options = parser.parse_args()
    FAKETIME[0] = options.faketime

    with tempfile.TemporaryDirectory(prefix="vistune-attacks-") as scratch:
        return try_each(
            ATTACKS, options.only or ATTACKS, lambda name: Place(Path(scratch) / name, REPO)
        )


if __name__ == "__main__":
    sys.exit(main())
