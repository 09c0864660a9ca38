"""Facts that the loader has understood about a data set, as values that every page can show."""

from dataclasses import dataclass
from typing import Literal

Became = Literal["train", "val", "test", "unlabeled", "hidden test", "left out"]


@dataclass(frozen=True)
class FolderUse:
    """One folder of the data and its use."""

    folder: str
    """Relative to the root; "." is the root itself."""
    became: Became
    images: int
    """Number of images below it that have this use."""
    reason: str = ""
    """The reason for this use, in a few words; empty where the name says it."""


@dataclass(frozen=True)
class LeftOut:
    """Files that are no images of the data set, counted by one reason."""

    reason: str
    """Such as "ending .txt", "hidden folder", "thumbnail"."""
    files: int
    example: str
    """One path, relative to the root."""
