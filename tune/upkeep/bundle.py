"""`report.py bundle`: a study in one file, to be kept elsewhere or sent to somebody."""

import contextlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainables.errors import UserError
from trainables.files import BEST, LAST, atomic_file, is_partial, remove_partials_of
from tune.reports.html_report import write_report
from tune.study.group import LOG
from tune.study.kept_files import PIN, RETRAINED
from tune.study.mending import JOURNAL
from tune.upkeep.stored import bring_files

NOTE = "resuming and predicting run the code that comes with it; showing runs none"
"""A sentence for those who get a bundle from somebody."""

_CHECKPOINTS = ".ckpt"
"""Suffix of what scripts save, often."""
_KEPT = (".state.json", PIN, RETRAINED)
"""Names with a dot in front that belong to the record: how far its tables have the event log, and
trials whose weights stay."""


def bundle(folders: Sequence[Path], out: Path, *, weights: bool = True, overwrite: bool) -> Path:
    """Write a `.tar.gz` of studies: record, report, pictures, exported model and, if wanted, the
    weights of completed trials, those of an object store too. Unpacked in another storage they can
    be shown and resumed, and `report.py sync` brings them into MLflow there. What is true of this
    machine alone stays here: checkpoints of open trials, locks, and how far MLflow and W&B have the
    record.

    Raises:
        UserError: the file already exists, or there is no place for it.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} already exists; give another --out, or --overwrite")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is not a folder; give another --out")

    for folder in folders:
        bring_files(folder, lambda path: _belongs(path, weights))
        if (folder / "study.json").exists():
            write_report(folder)

    remove_partials_of(out)
    with atomic_file(out) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for folder in folders:
            for path in _files(folder, weights):
                if path.resolve() != out.resolve():  # an earlier bundle
                    _add(archive, path, str(path.relative_to(folder.parent)))
    return out


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Pack a file as it is now, also where a run replaces it meanwhile; one that a run has removed
    is left out."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as content:
        archive.addfile(archive.gettarinfo(arcname=name, fileobj=content), content)


def _files(folder: Path, weights: bool) -> Iterator[Path]:
    """The files to pack. The record comes first, its journal before its log: of a study that runs,
    what the journal lacks is written back from the log, and weights are never missing."""
    record = [path for path in (folder / JOURNAL, folder / LOG) if path.exists()]
    others = [path for path in sorted(folder.rglob("*")) if path not in record]
    for path in (*record, *others):
        if path.is_file() and _belongs(path.relative_to(folder), weights):
            yield path


def _belongs(path: Path, weights: bool) -> bool:
    """Tell if a file belongs into a bundle.

    Args:
        path: inside the folder of a study.
        weights: those of trials do.
    """
    if not weights and (path.name == BEST or path.suffix == _CHECKPOINTS):
        return False
    return not _is_of_this_machine(path)


def _is_of_this_machine(path: Path) -> bool:
    """Tell if a file means nothing, or something wrong, on another machine.

    Args:
        path: inside the folder of a study.
    """
    if path.parts[0] == "wandb" or path.parts[0].startswith("tracking"):
        return True
    if path.name == LAST or path.suffix == ".lock" or is_partial(path.name):
        return True
    return path.name.startswith(".") and path.name not in _KEPT
