"""A prediction request of a user."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Request:
    """Arguments and options of `report.py predict`, except the study."""

    source: Path
    """Folder of images, or a csv that names them."""
    out: Path
    """File to write; for segmentation, a folder."""
    probabilities: bool = False
    """Classification only: add a column per class."""
    skip_corrupt: bool = False
    """Leave out unreadable images instead of refusing them."""
    overwrite: bool = False
    """Replace existing files."""
    repeat: int | None = None
    """Seed of a repeat whose weights predict instead of the trial's."""
    max_megapixels: int | None = None
    """Largest image to read, in millions of pixels; None: the study's limit."""
    data: str | None = None
    """Folder of the training data, if it has moved."""
