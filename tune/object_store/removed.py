"""Notes about studies that have left their place in an object store, for good or for another one.

    <root>/.removed/<place>/<id>    {"to": "archived/toy"}, or {"to": ""} for good

A note is for machines that have a folder of the study: without it, they would take the study for
one of their own that nobody has uploaded yet. It is valid as long as the store has no log of the
study in that place.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from tune.object_store import s3
from tune.study.events import EventLog
from tune.study.group import LOG
from tune.study.identity import study_id

REMOVED = ".removed"
"""Folder of a storage for the notes, and for this machine's folders of studies that have moved."""


def put_aside(root: Path) -> None:
    """Hide this machine's folders of studies that have left their place in the store. The folder of
    a deleted study is removed. That of a moved study is kept in `.removed`, because it may contain
    what the store does not have.

    Raises:
        Unreachable, Refused, OSError
    """
    for folder, note in noted(root):
        if not (folder / LOG).exists() or identity_here(folder) != note.name:
            continue
        if s3.etag(folder / LOG) is not None:
            continue  # a command was killed before its end, or brought the study back
        with contextlib.suppress(Timeout), _unused(folder):
            _put_aside(root, folder, note)


def _put_aside(root: Path, folder: Path, note: Path) -> None:
    content = s3.get(note)
    place = root / REMOVED / f"{folder.name}-{note.name}"
    if content is None:
        return

    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    folder.rename(place)
    if not json.loads(content.body)["to"]:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[None]:
    """Hold the locks of a study that no process of this machine runs.

    Raises:
        Timeout: a process runs it.
    """
    with FileLock(folder / ".lock", timeout=0), FileLock(folder / ".lease", timeout=0):
        yield


def identity_here(folder: Path) -> str:
    """Identity of a study or group, from its log on this machine."""
    events, _ = EventLog.read(folder / LOG, 0, limit=1)
    return study_id(events[0])


def note_of(root: Path, folder: Path, identity: str) -> Path:
    """Path of the note that says that a study with this identity has left a place."""
    return root / REMOVED / folder.relative_to(root) / identity


def note_removal(root: Path, folder: Path, to: str) -> None:
    """Note that the study in a folder of this machine leaves its place.

    Args:
        to: its new place in the storage; "" if it is deleted.
    Raises:
        Unreachable, Refused
    """
    note = note_of(root, folder, identity_here(folder))
    s3.put(note, json.dumps({"to": to}).encode())


def noted(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the places that studies have left, with the notes.

    Raises:
        Unreachable, Refused
    """
    notes = root / REMOVED
    for note in s3.below(notes):
        yield root / note.parent.relative_to(notes), note
