"""Folders of images with masks, for segmentation. Each layout exists with or without train/,
validation/ (val/) and test/:

    satellite          0000_sat.jpg beside 0000_mask.png, in seven colours (`masks.SATELLITE`)
    images and masks   images/a.jpg and masks/a.png, of the same name; a mask is a palette or gray
                       PNG whose values are the lines of classes.txt, counted from 0; 255 is
                       unknown. train/images/ and images/train/ are equally good

A new layout is one more class with `matches` and `read`, and one more entry of `PAIR_LAYOUTS`.
"""

import colorsys
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from trainables.data.layout_base import Match
from trainables.data.masks import SATELLITE, ReadValues, index_values, satellite_values
from trainables.data.splits import IGNORE
from trainables.errors import UserError

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""
Kind = Literal["image", "mask"]

_SUFFIX = re.compile(r"(.+)_(sat|mask)\.\w+")
_IMAGE_FOLDERS = ("images", "image", "imgs")
_MASK_FOLDERS = ("masks", "mask", "labels", "annotations")


@dataclass(frozen=True)
class PairedFiles:
    """Images and masks of a folder by the key that both share, such as "train/0000"."""

    images: dict[str, str]
    masks: dict[str, str]


class PairLayout(Protocol):
    """One way in which people arrange images and masks."""

    name: str
    """Name in notes and messages; part of the fingerprint."""

    def matches(self, files: Sequence[str]) -> Match:
        """Tells if the paths have this layout, and what they lack otherwise."""

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        """Pairs the paths of a folder that matches.

        Raises:
            UserError: two images or two masks of one pair.
        """

    def classes(self, root: Path) -> dict[str, Color]:
        """Names of the classes 0, 1, ... and their colours in pictures.

        Raises:
            UserError: the folder does not say what the classes are.
        """

    def values(self, classes: int) -> ReadValues:
        """The function that reads the class numbers of an opened mask."""


class SatellitePairs:
    """<id>_sat.jpg beside <id>_mask.png, in the colours of `SATELLITE`."""

    name = "satellite pairs"

    def matches(self, files: Sequence[str]) -> Match:
        for file in files:
            if _SUFFIX.fullmatch(file.split("/")[-1]):
                return Match()
        return Match("no <id>_sat.jpg with <id>_mask.png")

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        return _pair(root, files, self._key)

    def _key(self, file: str) -> tuple[Kind, str] | None:
        folder, _, name = file.rpartition("/")
        match = _SUFFIX.fullmatch(name)
        if match is None:
            return None
        return "image" if match[2] == "sat" else "mask", f"{folder}/{match[1]}"

    def classes(self, root: Path) -> dict[str, Color]:
        return SATELLITE

    def values(self, classes: int) -> ReadValues:
        return satellite_values


class ImagesAndMasks:
    """Folders images/ and masks/ with files of the same names, and classes.txt."""

    name = "images and masks"

    def matches(self, files: Sequence[str]) -> Match:
        keys = [self._key(file) for file in files]
        kinds = {key[0] for key in keys if key is not None}
        if "image" not in kinds:
            return Match("no folder images/ with images")
        if "mask" not in kinds:
            return Match("no folder masks/ with images")
        return Match()

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        return _pair(root, files, self._key)

    def _key(self, file: str) -> tuple[Kind, str] | None:
        """The path without its folder images/ or masks/ and without extension."""
        *folders, name = file.split("/")
        for position, folder in enumerate(folders):
            kind = _kind_of_folder(folder)
            if kind is not None:
                others = folders[:position] + folders[position + 1 :]
                return kind, "/".join([*others, Path(name).stem])
        return None

    def classes(self, root: Path) -> dict[str, Color]:
        names = _read_class_names(root / "classes.txt")
        return dict(zip(names, _distinct_colors(len(names)), strict=True))

    def values(self, classes: int) -> ReadValues:
        return partial(index_values, classes=classes)


PAIR_LAYOUTS: tuple[PairLayout, ...] = (SatellitePairs(), ImagesAndMasks())
"""All layouts, in the order in which they are tried."""


def _pair(
    root: Path, files: Sequence[str], key_of: Callable[[str], tuple[Kind, str] | None]
) -> PairedFiles:
    found: dict[Kind, dict[str, str]] = {"image": {}, "mask": {}}
    for file in files:
        kind_and_key = key_of(file)
        if kind_and_key is None:
            continue
        kind, key = kind_and_key
        other = found[kind].setdefault(key, file)
        if other != file:
            raise UserError(f"{root} has {other} and {file} for one pair; keep one of them")
    return PairedFiles(found["image"], found["mask"])


def _kind_of_folder(name: str) -> Kind | None:
    if name.lower() in _IMAGE_FOLDERS:
        return "image"
    if name.lower() in _MASK_FOLDERS:
        return "mask"
    return None


def _read_class_names(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError):
        raise UserError(
            f"{path} cannot be read; "
            "write one class name a line, in the order of the values in the masks"
        ) from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not 2 <= len(names) <= IGNORE - 1 or twice:
        counted = str(len(names))
        if twice:
            counted += f", {', '.join(twice)} twice"
        raise UserError(
            f"{path} must name 2 to {IGNORE - 1} different classes, one a line, but names {counted}"
        )
    return names


def _distinct_colors(count: int) -> list[Color]:
    """Hues around the circle, every other one darker."""
    colors: list[Color] = []
    for number in range(count):
        value = 0.9 - 0.3 * (number % 2)
        red, green, blue = colorsys.hsv_to_rgb(number / count, 0.75, value)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors
