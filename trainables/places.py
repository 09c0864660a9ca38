"""Where things are on a disk. Imported by commands that only look, which must not wait for torch."""

import os
from pathlib import Path

LAST = "last.pt"
"""In a trial's folder: the checkpoint that it goes on from."""
BEST = "best.pt"
"""In a trial's folder: the exported weights of its best epoch."""


def default_cache_dir() -> Path:
    """$VISTUNE_CACHE, or ~/.cache/vistune."""
    return Path(os.environ.get("VISTUNE_CACHE") or "~/.cache/vistune").expanduser()
