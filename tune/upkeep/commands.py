"""`report.py rename|archive|delete|bundle`: maintenance of studies, most of it after a
confirmation."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from trainables.errors import UserError
from tune.command_line import command
from tune.object_store.removals import finish_removals
from tune.object_store.restore import pull
from tune.object_store.s3 import address, needed
from tune.reports.storage import synced_folder
from tune.upkeep.kept import ARCHIVE, named_folders

Storage = Annotated[
    str, typer.Option(help="Where studies are kept: a folder, s3://bucket/prefix or gs://...")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Name = Annotated[str, typer.Argument(help="A study or a comparison.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module to `report.py`."""
    for function in (rename, archive, delete, bundle):
        app.command()(function)


def rename(
    study: Annotated[str, typer.Argument(help="The study's name.")],
    name: Annotated[str, typer.Argument(help="Its new name.")],
    storage: Storage = "runs",
    yes: Yes = False,
) -> None:
    """Rename a study: its folder, its runs in MLflow and its registered model. Its draws and seeds
    stay."""
    from tune.tracking.tracker import Tracker
    from tune.upkeep import actions
    from tune.upkeep.mlflow_side import MlflowSide

    root = _folder(storage)
    (folder, *members) = named_folders(root, study)
    if members:
        raise UserError(
            f"{study} is a comparison, whose studies carry its name; it cannot be renamed"
        )

    side = MlflowSide(root)
    _tell(actions.description(root, [folder], side))
    _ask(f"rename {study} to {name}", yes)
    place = actions.rename(root, folder, name, side)
    print(_shown(place))
    print(Tracker(place).sync())


def archive(
    study: Name,
    storage: Storage = "runs",
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
    yes: Yes = False,
) -> None:
    """Take a study out of every list: move its folder to archived/ in the storage, and its runs to
    MLflow's bin. A registered model stays."""
    from tune.upkeep import actions
    from tune.upkeep.mlflow_side import MlflowSide

    root = _folder(storage)
    side = MlflowSide(root)
    if undo:
        folders = named_folders(root / ARCHIVE, study)
        actions.restore(root, folders, side)
        _tell(_shown(root / folder.name) for folder in folders)
        return

    folders = named_folders(root, study)
    _tell(actions.description(root, folders, side))
    _ask(f"archive {study}", yes)
    print(_shown(actions.archive(root, folders, side) / study))
    back = command("report", "archive", study, "--undo", storage=root)
    print(f"`{back}` brings it back")


def delete(study: Name, storage: Storage = "runs", yes: Yes = False) -> None:
    """Delete a study for good: its folder, its runs in MLflow and its registered model."""
    from tune.upkeep import actions
    from tune.upkeep.mlflow_side import MlflowSide

    root = _folder(storage)
    folders = named_folders(root, study)
    side = MlflowSide(root)
    _tell(actions.description(root, folders, side))
    _ask(f"delete {study} for good", yes)
    actions.delete(root, folders, side)
    print(f"deleted {study}; MLflow keeps deleted runs until `mlflow gc`")


def bundle(
    study: Name,
    storage: Storage = "runs",
    out: Annotated[
        Path | None, typer.Option(help="File. Default: STUDY.tar.gz in this folder.")
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights/--no-weights", help="Include the weights of trials.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
) -> None:
    """Pack a study into one file: record, report, pictures, exported model, weights."""
    from tune.upkeep.bundle import NOTE
    from tune.upkeep.bundle import bundle as pack

    root = synced_folder(storage)
    folders = named_folders(root, study)
    file = out or Path(f"{study}.tar.gz")
    written = pack(folders, file.expanduser(), weights=weights, overwrite=overwrite)
    size = written.stat().st_size / 1e6
    print(f"{written}: {size:.1f} MB; `tar xzf {written} -C runs` unpacks it")
    print(NOTE)


def _folder(storage: str) -> Path:
    """Return the folder of the studies. In an object store, first download the archived studies and
    finish removals that were killed."""
    root = synced_folder(storage)
    if address(root) is not None:
        pull(root / ARCHIVE)
        with needed(root):
            finish_removals(root)
    return root


def _shown(folder: Path) -> str:
    """Return a study's location as the user knows it."""
    return address(folder) or str(folder)


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _ask(doing: str, yes: bool) -> None:
    """Ask for confirmation on the terminal.

    Raises:
        UserError: the answer is no, or there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"to {doing} without being asked, add --yes")
    if not typer.confirm(f"{doing}?"):
        raise UserError("nothing was changed")
