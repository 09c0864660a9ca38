"""`report.py bundle`: pack a study into one file, to archive it or send it to someone."""

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
"""Note for people who receive a bundle."""

_CHECKPOINTS = ".ckpt"
"""Usual suffix of checkpoints that scripts save."""
_KEPT = (".state.json", PIN, RETRAINED)
"""Dot files that belong to the record: how much of the event log its tables have, and trials whose
weights are kept."""


def bundle(folders: Sequence[Path], out: Path, *, weights: bool = True, overwrite: bool) -> Path:
    """Write studies to a `.tar.gz`: record, report, pictures, exported model and optionally the
    weights of completed trials, including those in an object store. Unpacked in another storage,
    the studies can be shown and resumed, and `report.py sync` sends them to MLflow there. Files
    that are valid only on this machine are left out: checkpoints of open trials, locks, and how
    much of the record MLflow and W&B have.

    Raises:
        UserError: the file already exists, or its parent is not a folder.
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
    """Pack a file as it is now, even if a run replaces it meanwhile. A file that a run has removed
    is left out."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as content:
        archive.addfile(archive.gettarinfo(arcname=name, fileobj=content), content)


def _files(folder: Path, weights: bool) -> Iterator[Path]:
    """Yield the files to pack. The record comes first, its journal before its log. If the study is
    running, missing parts of the journal can then be restored from the log, and no weights are
    missing."""
    record = [path for path in (folder / JOURNAL, folder / LOG) if path.exists()]
    others = [path for path in sorted(folder.rglob("*")) if path not in record]
    for path in (*record, *others):
        if path.is_file() and _belongs(path.relative_to(folder), weights):
            yield path


def _belongs(path: Path, weights: bool) -> bool:
    """True if a file belongs in a bundle.

    Args:
        path: path within the study's folder.
        weights: include the weights of trials.
    """
    if not weights and (path.name == BEST or path.suffix == _CHECKPOINTS):
        return False
    return not _is_of_this_machine(path)


def _is_of_this_machine(path: Path) -> bool:
    """True if a file is meaningless or wrong on another machine.

    Args:
        path: path within the study's folder.
    """
    if path.parts[0] == "wandb" or path.parts[0].startswith("tracking"):
        return True
    if path.name == LAST or path.suffix == ".lock" or is_partial(path.name):
        return True
    return path.name.startswith(".") and path.name not in _KEPT
