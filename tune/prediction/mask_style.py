"""The format in which a folder's masks are saved: colours, or numbers with a palette. Predicted
masks are saved in the same format."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from PIL import Image

from trainables.data.images import CorruptImage, open_image
from trainables.data.pairs import Pairs

_LOOKED_AT = 50  # maximum number of masks to read until every class has been seen
_NUMBERS = ("P", "L", "1")  # Pillow modes of masks whose pixels are numbers


@dataclass
class MaskStyle:
    """Pixel value of each class, and the mode of the file."""

    colors: np.ndarray  # (C, 3) uint8, colours of the classes in pictures
    mode: str = "RGB"
    """Pillow mode: RGB, P (numbers with a palette) or L (numbers)."""
    palette: list[int] | None = None
    values: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Class -> its pixel value, if a mask has shown it: (number,), or (red, green, blue)."""

    def save(
        self,
        mask: np.ndarray,  # (H, W) uint8, class numbers
        file: BinaryIO,
    ) -> None:
        """Write a mask as PNG."""
        classes = len(self.colors)
        if self.mode == "RGB":
            table = self.colors.copy()
            for number, color in self.values.items():
                table[number] = color
            Image.fromarray(table[mask]).save(file, format="PNG")
            return
        numbers = np.arange(classes, dtype=np.uint8)
        for number, (value,) in self.values.items():
            numbers[number] = value
        picture = Image.fromarray(numbers[mask])
        if self.mode == "P":
            picture = picture.convert("P")
            picture.putpalette(self.palette or _palette(numbers, self.colors))
        picture.save(file, format="PNG")


def style_of(pairs: Pairs | None, classes: Sequence[str], colors: np.ndarray) -> MaskStyle:
    """Return the style of the masks on which a model was trained.

    Args:
        pairs: the training data; None if it is not a folder or no longer exists. Masks are then
            saved in the classes' colours.
        colors: (C, 3) uint8.
    """
    if pairs is None:
        return MaskStyle(colors)
    return _learned(pairs, len(classes), colors)


def _learned(pairs: Pairs, classes: int, colors: np.ndarray) -> MaskStyle:
    """Learn the style from the first masks, until they have shown every class."""
    style: MaskStyle | None = None
    for path in pairs.masks[:_LOOKED_AT]:
        try:
            with open_image(pairs.listing.root / path) as image:
                if style is None:
                    style = _of_image(image, colors)
                _learn(style, image, pairs.code(image))
        except CorruptImage:
            continue
        if len(style.values) == classes:
            break
    return style or MaskStyle(colors)


def _of_image(image: Image.Image, colors: np.ndarray) -> MaskStyle:
    if image.mode not in _NUMBERS:
        return MaskStyle(colors)
    if image.mode == "P":
        return MaskStyle(colors, "P", image.getpalette())
    return MaskStyle(colors, "L")


def _learn(
    style: MaskStyle,
    image: Image.Image,
    values: np.ndarray,  # (H, W) uint8, class numbers
) -> None:
    """Record the pixel values of classes that this mask is the first to show."""
    numbers = image.mode in _NUMBERS
    if numbers != (style.mode != "RGB"):
        return
    if numbers:
        gray = image.convert("L") if image.mode == "1" else image
        pixels = np.asarray(gray)[..., None]
    else:
        pixels = np.asarray(image.convert("RGB"))

    present, first = np.unique(values, return_index=True)
    flat = pixels.reshape(-1, pixels.shape[-1])
    for number, position in zip(present.tolist(), first.tolist(), strict=True):
        if number < len(style.colors):
            style.values.setdefault(number, tuple(flat[position].tolist()))


def _palette(numbers: np.ndarray, colors: np.ndarray) -> list[int]:
    table = np.zeros((256, 3), np.uint8)
    table[numbers] = colors
    flat: list[int] = table.flatten().tolist()
    return flat
