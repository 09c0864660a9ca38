"""Adopt a study's folder that was copied or moved by hand: the study takes the folder's name.

A copy becomes a study of its own. Its draws and seeds still depend on the name that it began with.
MLflow identifies a study by the first event of its log; there the copy gets runs of its own.
"""

import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

from trainables.errors import UserError
from trainables.files import atomic_file
from tune.study.events import EventLog
from tune.study.manifest import Manifest, read_manifest

__all__ = ["COPY", "adopt", "awaits_adoption"]

COPY = "copy"
"""Key in a log's first event: name of the copy that has an identity of its own."""

_OF_THE_ORIGINAL = ("tracking.json", ".holder.json")
"""Files about the runs and the process of the original."""
_LATEST_MS = 1000


def adopt(folder: Path) -> str:
    """Give a study the name of its folder, and a copy an identity of its own.

    The caller holds the study's lock. If a kill interrupts this, the next call repeats it.

    Returns:
        A line for the user; "" if there was nothing to do.
    Raises:
        UserError: the manifest or the log is damaged.
    """
    path = folder / "study.json"
    if not path.exists():
        return ""
    manifest = read_manifest(path)
    before = manifest.name
    original = folder.parent / before
    if not awaits_adoption(folder):
        return ""

    is_copy = _is_there(original, manifest)
    if is_copy:
        for name in _OF_THE_ORIGINAL:
            (folder / name).unlink(missing_ok=True)
        _begin_identity(folder)

    log = EventLog(folder / "events.jsonl")
    log.append("rename", name=folder.name)
    log.close()
    begun_as = None if folder.name == manifest.identity else manifest.identity
    replace(manifest, name=folder.name, begun_as=begun_as).write(path)
    if is_copy:
        return f"a copy of study {before}: from now on a study of its own, also in MLflow"
    return f"study {before} was moved here: {folder.name} is its name now"


def awaits_adoption(folder: Path) -> bool:
    """True if a study's folder was copied or moved by hand and is not adopted yet.

    Raises:
        UserError: the manifest is damaged or missing.
    """
    before = read_manifest(folder / "study.json").name
    return before != folder.name and not _is_another_way(folder, folder.parent / before)


def _is_another_way(folder: Path, original: Path) -> bool:
    """True if the folder is a link to the study, or a second mount of it."""
    if folder.is_symlink():
        return True
    return original.exists() and folder.samefile(original)


def _is_there(original: Path, manifest: Manifest) -> bool:
    """True if the study that the manifest describes still has its original folder."""
    try:
        there = read_manifest(original / "study.json")
    except UserError:
        return False
    return there.identity == manifest.identity and there.created == manifest.created


def _begin_identity(folder: Path) -> None:
    """Change the log's first event, whose time identifies the study; the copy leaves its
    comparison.

    The change is the same on every machine. A second call changes nothing.
    """
    path = folder / "events.jsonl"
    (first, *_), _ = EventLog.read(path, 0, limit=1)
    if first.get(COPY) == folder.name:
        return
    later = 1 + zlib.crc32(folder.name.encode()) % _LATEST_MS
    own = {**first, "t": first["t"] + later, "group": None, COPY: folder.name}

    with path.open("rb") as source, atomic_file(path) as file:
        source.readline()
        file.write(json.dumps(own, separators=(",", ":")).encode() + b"\n")
        shutil.copyfileobj(source, file)
