"""Files on a disk: where they are, and which. Imported by commands that only look, which must not
wait for torch."""

import hashlib
import os
from pathlib import Path

from trainables.errors import UserError

LAST = "last.pt"
"""In a trial's folder: the checkpoint that it goes on from."""
BEST = "best.pt"
"""In a trial's folder: the exported weights of its best epoch."""
ARCHITECTURE = "architecture.txt"
"""In a trial's folder: every layer of its network."""


def default_cache_dir() -> Path:
    """$VISTUNE_CACHE, or ~/.cache/vistune."""
    return Path(os.environ.get("VISTUNE_CACHE") or "~/.cache/vistune").expanduser()


def content_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        UserError: no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"backbone file {path} cannot be read: {error.strerror}; give another"
        ) from None
