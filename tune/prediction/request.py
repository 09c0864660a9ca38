"""One prediction as a user asks for it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Request:
    """The arguments and options of `report.py predict`, but the study's."""

    source: Path
    """Folder of images, or a csv that names them."""
    out: Path
    """File, or for segmentation folder, to write."""
    probabilities: bool = False
    """Classification: one more column for each class."""
    skip_corrupt: bool = False
    """Leave out images that cannot be read, instead of refusing."""
    overwrite: bool = False
    """Replace what is there."""
    repeat: int | None = None
    """Seed of a repeat, whose weights predict instead of the trial's."""
    max_megapixels: int | None = None
    """Largest image that is read, in millions of pixels; None: the limit of the study."""
    data: str | None = None
    """Folder of the training data, where it has moved."""
