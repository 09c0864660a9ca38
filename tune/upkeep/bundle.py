"""`report.py bundle`: a study in one file, to be kept elsewhere or sent to somebody."""

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainables.errors import UserError
from trainables.files import BEST, LAST, PARTIAL, atomic_file
from tune.reports.html_report import write_report

_LEFT_OUT = (LAST, "tracking.json")
"""Checkpoints, and what is true of one MLflow alone."""


def bundle(folders: Sequence[Path], out: Path, *, weights: bool = True, overwrite: bool) -> Path:
    """Write a `.tar.gz` of studies: record, report, pictures, exported model and, if wanted, the
    weights of completed trials. Unpacked in another storage they can be shown and resumed, and
    `report.py sync` brings them into MLflow there.

    Raises:
        UserError: the file is there already, or there is no place for it.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already; give another --out, or --overwrite")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder; give another --out")

    for folder in folders:
        if (folder / "study.json").exists():
            write_report(folder)

    with atomic_file(out) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for folder in folders:
            for path in _files(folder, weights):
                archive.add(path, arcname=str(path.relative_to(folder.parent)), recursive=False)
    return out


def _files(folder: Path, weights: bool) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in _LEFT_OUT:
            continue
        if path.suffix in (".lock", PARTIAL) or path.name.startswith(".lock"):
            continue
        if path.name == BEST and not weights:
            continue
        yield path
