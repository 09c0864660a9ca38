"""The rule that converts the values or colours in a folder's masks to class numbers.

A mask contains line numbers of the class file (`class_list.py`), counted from 0, or the colours
listed there. 255 is unknown, and so is the void value `data.ignore`, whose line names no class. If
the class file has two lines and all masks contain only 0 and one other value, such as 255, that
value means the second line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from trainables.data.class_list import ClassList, Color, written
from trainables.data.images import CorruptImage
from trainables.data.splits import IGNORE

BLURRED = "JPEG has blurred the borders: save masks as PNG, with the values of classes alone"
"""Advice for masks with lossy compression."""
_ILLEGAL = 254
_SHOWN = 5  # most values or colours named in a message
_WHOLE_NUMBERS = ("I;16", "I;16B", "I;16L", "I")

ReadLines = Callable[[Image.Image, ClassList], np.ndarray]
"""Opened mask -> (H, W) uint8 lines of the class file, or values that are not lines."""


@dataclass(frozen=True, eq=False)
class MaskCode:
    """The mask rule of one folder.

    Args:
        ignore: void value, 0 to 255; for coloured masks, the number of the void line.
        foreground: value that means line 1; None if that is 1.
        read_lines: reader of a layout with its own colours.
    """

    lines: ClassList
    ignore: int = IGNORE
    foreground: int | None = None
    read_lines: ReadLines | None = None

    @cached_property
    def kept(self) -> list[int]:
        """Lines that name a class."""
        return [line for line in range(len(self.lines.names)) if line != self.ignore]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, ..."""
        return tuple(self.lines.names[line] for line in self.kept)

    @property
    def colors(self) -> tuple[Color, ...]:
        """Colours of the classes in pictures."""
        return tuple(self.lines.colors[line] for line in self.kept)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """All differences from the plain rule: one name per line, and 255 for unknown."""
        differs: list[str] = []
        if self.lines.coloured:
            differs += [written(color) for color in self.lines.colors]
        if self.ignore != IGNORE:
            differs.append(f"ignore {self.ignore}")
        if self.foreground is not None:
            differs.append(f"foreground {self.foreground}")
        return tuple(differs)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences about behaviour that a reader may not expect."""
        notes: list[str] = []
        if self.foreground is not None:
            background, name = self.lines.names
            notes.append(
                f"the masks contain only 0 and {self.foreground}: {self.foreground} is read as "
                f"{name}, 0 as {background}"
            )
        if self.ignore != IGNORE:
            void = "value"
            if self.ignore < len(self.lines.names):
                void = f"{self.lines.names[self.ignore]}, value"
            notes.append(f"{void} {self.ignore} of the masks is unknown, as data.ignore says")
        return tuple(notes)

    @cached_property
    def _numbers(self) -> np.ndarray:  # (256,) uint8
        """Mask value -> class number, `IGNORE`, or `_ILLEGAL`."""
        numbers = np.full(256, _ILLEGAL, np.uint8)
        for number, line in enumerate(self.kept):
            numbers[line] = number
        numbers[IGNORE] = IGNORE
        numbers[self.ignore] = IGNORE
        if self.foreground is not None:
            numbers[self.foreground] = numbers[1]
            numbers[1] = _ILLEGAL
        return numbers

    def __call__(self, image: Image.Image) -> np.ndarray:  # (H, W) uint8: [0, C), or IGNORE
        """Class numbers of an opened mask.

        Raises:
            CorruptImage: the mask has values or colours that belong to no class.
        """
        read_lines = self.read_lines or lines_of
        values = read_lines(image, self.lines)
        numbers: np.ndarray = self._numbers[values]
        if (numbers == _ILLEGAL).any():
            present = np.unique(values[numbers == _ILLEGAL]).tolist()
            blurred = f"; {BLURRED}" if image.format == "JPEG" else ""
            raise CorruptImage(self._refusal(present) + blurred)
        return numbers

    def _refusal(self, values: Sequence[int]) -> str:
        """Explain why a mask with these sorted values cannot be read. If only one value is wrong,
        name the option that makes it readable."""
        shown = ", ".join(str(value) for value in values[:_SHOWN])
        if len(values) > _SHOWN:
            shown += f" and {len(values) - _SHOWN} more"
        count = len(self.lines.names)
        refusal = f"has the values {shown}, but {self.lines.file} has {count} lines"
        if len(values) == 1:
            refusal += f" (--set data.ignore={values[0]} makes it unknown)"
        return refusal


def lines_of(image: Image.Image, lines: ClassList) -> np.ndarray:  # (H, W) uint8
    """Lines of the class file that an opened mask contains, by colour or by value.

    Raises:
        CorruptImage: the mask has colours that the file does not list, or values above 255.
    """
    plain = plain_values(image)
    by_colour = plain.ndim == 3 or (lines.coloured and _holds_colours(image, lines))
    if not by_colour:
        return plain
    if not lines.coloured:
        raise CorruptImage(
            f"is coloured ({', '.join(colours_in(plain)[:_SHOWN])}), but {lines.file} has names "
            "alone; give every line its colour: name,red,green,blue"
        )
    return _lines_of_colours(image, lines)


def _holds_colours(image: Image.Image, lines: ClassList) -> bool:
    """True if a mask with only greys contains colours of the file: it was saved as RGB, or all
    listed colours are grey."""
    if image.mode in ("RGB", "RGBA"):
        return True
    return all(red == green == blue for red, green, blue in lines.colors)


def _lines_of_colours(image: Image.Image, lines: ClassList) -> np.ndarray:  # (H, W) uint8
    """Lines whose colours equal those of the pixels exactly.

    Raises:
        CorruptImage: the mask has colours that the file does not list.
    """
    packed = _packed(np.asarray(image.convert("RGB")))
    listed = _packed(np.array(lines.colors, np.uint8))
    order = np.argsort(listed)
    place = np.searchsorted(listed[order], packed).clip(max=len(listed) - 1)
    line = order[place]
    strange = listed[line] != packed
    if strange.any():
        pixels = np.asarray(image.convert("RGB"))[strange]
        colours = ", ".join(colours_in(pixels[None])[:_SHOWN])
        raise CorruptImage(
            f"has the colours {colours}, which {lines.file} does not list; add a line for them "
            "(void, for one, and --set data.ignore=ITS NUMBER, counted from 0)"
        )
    numbers: np.ndarray = line.astype(np.uint8)
    return numbers


def plain_values(image: Image.Image) -> np.ndarray:  # (H, W) uint8, or (H, W, 3) of colours
    """Values of an opened mask: palette indices, or the grey level if grey was saved as RGB.

    Raises:
        CorruptImage: the mask has values above 255.
    """
    if image.mode in ("L", "1", "P"):
        values = np.asarray(image).astype(np.uint8)
        if image.format == "GIF" and image.mode == "P":
            return _black_and_white(image, values)
        return values

    if image.mode in _WHOLE_NUMBERS:
        wide = np.asarray(image)
        if wide.size and (wide.min() < 0 or wide.max() > IGNORE):
            raise CorruptImage(f"has the value {wide.max()}; a mask's values are 0 to 255")
        return wide.astype(np.uint8)

    if image.mode == "F":
        raise CorruptImage("holds floating-point numbers; save it as 8-bit numbers of classes")
    colours = np.asarray(image.convert("RGB"))
    red = colours[..., 0]
    if (colours == red[..., None]).all():
        return red
    return colours


def _black_and_white(image: Image.Image, values: np.ndarray) -> np.ndarray:
    """Values of a GIF. Encoders number black and white in either order; here white is 1."""
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = palette[np.unique(values)]
    black = (used == 0).all(1)
    white = (used == IGNORE).all(1)
    if not (black | white).all():
        return values
    is_white = (palette == IGNORE).all(1)
    numbers: np.ndarray = is_white[values].astype(np.uint8)
    return numbers


def colours_in(pixels: np.ndarray) -> list[str]:  # (H, W, 3) uint8
    """Colours, most frequent first, as written in a class file."""
    packed, counts = np.unique(_packed(pixels), return_counts=True)
    ordered = packed[np.argsort(-counts, kind="stable")].tolist()
    return [written((code >> 16, code >> 8 & 255, code & 255)) for code in ordered]


def _packed(
    colours: np.ndarray,  # (..., 3) uint8
) -> np.ndarray:  # (...) int64
    """Encode each colour as one number: 65,536 red + 256 green + blue."""
    red, green, blue = np.moveaxis(colours.astype(np.int64), -1, 0)
    packed: np.ndarray = (red << 16) + (green << 8) + blue
    return packed
