"""Draw the pictures that are still missing when a run has ended, in a separate process that
outlives the command.

    python -m tune.reports.draw_behind JSON    # {"pictures": "best", "claims": {folder: token}}

The process ends when everything is drawn and sent to MLflow, or when another process claims the
pictures (`drawing_claim.py`): a new start, `report.py html`, or a removal of the study. If it is
killed, it leaves at most pictures that are not on record; the next process draws them again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.errors import UserError
from tune.object_store import s3
from tune.reports.drawing_claim import DrawingClaim
from tune.reports.drawing_process import DrawingProcess, Drawn
from tune.reports.low_priority import yield_to_all
from tune.reports.undrawn import Undrawn, read_wanted, undrawn
from tune.startup import ROOT
from tune.study.events import EventLog
from tune.study.lock import addition, is_in_use
from tune.study.record import read_record
from tune.tracking.logs import sync_study

_QUEUE = ".drawing.lock"
"""Lock file in a storage: only one such process draws at a time. The others wait before they import
the drawing code."""
_LOOK_S = 0.2


def claimed(folders: Sequence[Path]) -> list[DrawingClaim]:
    """Claim the pictures of these studies; return no claims if any folder is not writable."""
    try:
        return [DrawingClaim(folder) for folder in folders]
    except OSError:
        return []


def draw_behind(claims: Sequence[DrawingClaim], which: Drawn) -> int | None:
    """Start a process that draws the studies' missing pictures, and return its id. Return None if
    it does not start or there are no claims. No process runs the studies any more.

    Args:
        claims: made while the studies were still locked, so a start that follows at once makes
            later claims.
    """
    if not claims:
        return None
    tokens = {str(claim.folder): claim.token for claim in claims}
    task = json.dumps({"pictures": which, "claims": tokens})
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "tune.reports.draw_behind", task],
            cwd=ROOT,  # import our packages, not those in the current folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None
    return process.pid


def draw_now(folder: Path) -> None:
    """Draw the pictures that a study's last run left undrawn, before a page shows them. Do nothing
    if the study is running, because that run draws for itself, or if the folder mirrors a
    bucket."""
    which = read_wanted(folder)
    if which is None or s3.address(folder) is not None or is_in_use(folder):
        return
    missing = _missing(folder, which)
    if not missing:
        return

    print(
        f"drawing missing pictures of {folder.name}: {_said(missing)}", file=sys.stderr, flush=True
    )
    with DrawingClaim(folder) as claim, closing(DrawingProcess()) as process:
        draw_missing(claim, which, process)


def draw_missing(claim: DrawingClaim, which: Drawn, process: DrawingProcess) -> None:
    """Draw and record a study's missing pictures, as long as the claim holds and nobody runs the
    study."""
    if not claim.take():
        return
    for one in _missing(claim.folder, which):
        snapshots = one.snapshots()
        if not snapshots:
            continue
        process.start()
        plots = one.folder / "plots"
        if process.draw(one.title, snapshots, plots, is_wanted=lambda: claim.stands):
            _record(claim, one)
        if not claim.stands:
            return


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0."""
    (task,) = sys.argv[1:] if argv is None else argv
    given = json.loads(task)
    claims = [DrawingClaim(Path(folder), token) for folder, token in given["claims"].items()]
    yield_to_all(os.getpid())
    queue = FileLock(claims[0].folder.parent / _QUEUE)
    if not _has_turn(queue, claims):
        return 0

    with queue, closing(DrawingProcess()) as process:
        for claim in claims:
            _draw_and_send(claim, given["pictures"], process)
    return 0


def _has_turn(queue: FileLock, claims: Sequence[DrawingClaim]) -> bool:
    """Wait for the turn to draw; False if no claim holds any more."""
    while any(claim.stands for claim in claims):
        with suppress(Timeout):
            queue.acquire(timeout=_LOOK_S)
            return True
    return False


def _draw_and_send(claim: DrawingClaim, which: Drawn, process: DrawingProcess) -> None:
    # Nobody would see an error here; the next start draws and sends what is missing.
    with suppress(UserError, OSError), claim:
        draw_missing(claim, read_wanted(claim.folder) or which, process)
        if claim.stands:
            sync_study(claim.folder, is_wanted=lambda: claim.stands)


def _missing(folder: Path, which: Drawn) -> list[Undrawn]:
    record = read_record(folder)
    return undrawn(folder, record.manifest, record.completed, which)


def _record(claim: DrawingClaim, one: Undrawn) -> None:
    """Add the pictures to the study's event log, unless the study is running again."""
    with addition(claim.folder) as is_free:
        if not is_free or not claim.stands:
            return
        log = EventLog(claim.folder / "events.jsonl")
        try:
            one.record(log.append)
        finally:
            log.close()


def _said(missing: Sequence[Undrawn]) -> str:
    numbers = [str(one.number) for one in missing if one.number is not None]
    parts = ["the data"] if len(numbers) < len(missing) else []
    if numbers:
        parts.append(f"trial{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}")
    return " and ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
