"""Find studies in a storage."""

from pathlib import Path

from trainables.config import nearest
from trainables.errors import UserError
from tune.command_line import command
from tune.formatting import moment
from tune.object_store.restore import pull
from tune.object_store.s3 import address, local_folder
from tune.study.group import members, search_numbers
from tune.study.manifest import read_manifest


def synced_folder(storage: str) -> Path:
    """Return the folder of the studies, after downloading the current state of an object store.

    Args:
        storage: a folder, or `s3://bucket/prefix`.
    """
    root = local_folder(storage)
    pull(root)
    return root


def study_folders(root: Path) -> list[Path]:
    """Return the folders of the studies, newest first."""
    manifests = list(root.glob("*/study.json"))
    manifests.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent for path in manifests]


def find_study(root: Path, name: str) -> Path:
    """Return the folder of a study.

    Raises:
        UserError: there is no such study.
    """
    folder = root / name
    if (folder / "study.json").exists():
        return folder
    names = [path.name for path in study_folders(folder.parent)]
    others = nearest(name, names) if names else "; there is none"
    raise UserError(f"no study {name!r} in {_shown(folder.parent)}{others}")


def find_all(root: Path) -> list[Path]:
    """Return the folders of all studies, newest first.

    Raises:
        UserError: there are no studies.
    """
    found = study_folders(root)
    if not found:
        begin = command("run", "ssl", storage=root)
        raise UserError(
            f"no study in {_shown(root)}: run `{begin}`, or name the folder with --storage"
        )
    return found


def _shown(root: Path) -> str:
    """Return the storage as the user typed it: an address or a folder."""
    return address(root) or str(root)


def is_comparison(folder: Path) -> bool:
    """True if the name belongs to a comparison of settings, not to a study."""
    if (folder / "study.json").exists():
        return False
    return members(folder) is not None or bool(search_numbers(folder))


def describe(folder: Path) -> str:
    """Describe a study in one line.

    Raises:
        UserError: its manifest is damaged.
    """
    manifest = read_manifest(folder / "study.json")
    return (
        f"{folder.name}: {manifest.experiment} on {manifest.data['name']}, "
        f"preset {manifest.preset}, begun {moment(manifest.created)}"
    )
