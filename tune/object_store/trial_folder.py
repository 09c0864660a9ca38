"""The files of a trial's folder that belong in an object store, and the configuration in their
metadata.

Imports no torch, because the head uses it too.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.files import BEST, FIRST_EPOCH, HISTORY, LAST, is_partial
from tune.object_store import s3
from tune.study.manifest import PATH_KEYS
from tune.study.run_configs import CONFIG_FILE

CONFIG = "config"
"""Key of an object's metadata: digest of the trial's config."""
_NOTES = (HISTORY, FIRST_EPOCH)  # without them another machine could not resume


def config_meta(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of the objects of a trial with this flat config. Paths of data and
    backbone do not count."""
    values = {key: value for key, value in config.items() if key not in PATH_KEYS}
    text = json.dumps(values, sort_keys=True)
    return {CONFIG: hashlib.sha256(text.encode()).hexdigest()[:32]}


def files_to_upload(folder: Path) -> list[Path]:
    """List the finished files directly in a trial's folder, except this machine's notes
    (dotfiles)."""
    return [path for path in sorted(folder.glob("*")) if path.is_file() and _is_uploaded(path)]


def _is_uploaded(path: Path) -> bool:
    if path.name in _NOTES:
        return True
    return not is_partial(path.name) and not path.name.startswith(".")


def spent_files(state: str) -> tuple[str, ...]:
    """Names of the files that a run no longer needs once it has ended in this state."""
    notes = (LAST, *_NOTES)
    return notes if state == "COMPLETE" else (*notes, BEST)


def upload_ended(folder: Path, state: str) -> None:
    """Bring the copy of an ended trial to its final state.

    Checkpoint and notes are removed, because the trial will not be resumed. The weights of a trial
    that did not complete are removed too. Whatever else it left on this machine is uploaded.

    Raises:
        Unreachable, Refused, OSError
    """
    _, uploaded = s3.within(folder)
    removed = spent_files(state)
    for path in uploaded:
        if path.name in removed:
            s3.delete(path)

    config = folder / CONFIG_FILE
    meta = config_meta(json.loads(config.read_text())) if config.exists() else {}

    for path in files_to_upload(folder):
        if path.name not in removed and not _is_copy(uploaded.get(path), path):
            s3.put_file(path, meta)


def _is_copy(entry: s3.ObjectInfo | None, path: Path) -> bool:
    """Compare by the etag, which is the MD5 of the content, unless the store encrypts with a key of
    its own; then the file is sent again."""
    if entry is None:
        return False

    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return entry.etag.strip('"') == digest
