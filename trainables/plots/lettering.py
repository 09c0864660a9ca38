"""Text on pictures, drawn by Pillow.

It looks as matplotlib's does and takes a fortieth of its time (`docs/notes/speed.md`).
"""

import functools
import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from trainables.plots.fonts import dejavu, fallback_font

Font = ImageFont.FreeTypeFont

_ASCENT, _DESCENT, _LINE = 0.76, 0.25, 1.2  # as shares of an em
# Between these code points are the scripts whose letters change with their neighbours or run from
# right to left, such as Arabic and Devanagari.
_FIRST_SHAPED, _LAST_SHAPED = 0x590, 0x1FFF


@dataclass(frozen=True)
class Type:
    """Size and weight of letters."""

    pixels: float
    """Size of an em."""
    bold: bool = False

    @property
    def ascent(self) -> float:
        """Height above the baseline."""
        return _ASCENT * self.pixels

    @property
    def descent(self) -> float:
        """Depth below the baseline."""
        return _DESCENT * self.pixels

    @property
    def line(self) -> float:
        """Distance of two baselines."""
        return _LINE * self.pixels


def shortened(name: str, limit: int = 40) -> str:
    """Cut a name to `limit` characters."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def width(text: str, kind: Type) -> float:
    """Width of one line, in pixels."""
    return sum(font.getlength(part) for part, font in _parts(text, kind))


def draw(picture: Image.Image, left: int, baseline: int, text: str, kind: Type, fill: str) -> None:
    """Draw one line that begins at this pixel."""
    pen = ImageDraw.Draw(picture)
    x = float(left)
    for part, font in _parts(text, kind):
        pen.text((round(x), baseline), part, fill, font, anchor="ls")
        x += font.getlength(part)


def upwards(text: str, kind: Type) -> Image.Image:
    """Opacity ("L") of one line that is read from the bottom to the top."""
    ascent, descent = math.ceil(kind.ascent), math.ceil(kind.descent)
    line = Image.new("L", (math.ceil(width(text, kind)), ascent + descent))
    draw(line, 0, ascent, text, kind, "white")
    return line.transpose(Image.Transpose.ROTATE_90)


def _parts(text: str, kind: Type) -> list[tuple[str, Font]]:
    """Split a line where the font changes."""
    usual = dejavu(kind.bold)
    lacking, other = fallback_font(text, usual)
    is_shaped = any(_FIRST_SHAPED <= ord(letter) <= _LAST_SHAPED for letter in text)
    if other is None:
        return [(text, _font(usual, kind.pixels, is_shaped))]

    parts: list[tuple[str, str]] = []  # (letters, path of their font)
    for letter in text:
        path = other if letter in lacking else usual
        if parts and parts[-1][1] == path:
            parts[-1] = (parts[-1][0] + letter, path)
        else:
            parts.append((letter, path))
    return [(part, _font(path, kind.pixels, is_shaped)) for part, path in parts]


@functools.cache
def _font(path: str, pixels: float, is_shaped: bool) -> Font:
    layout = ImageFont.Layout.RAQM if is_shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, pixels, layout_engine=layout)
