"""The colours of classes with their names beside them, in columns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.plots.canvas import Canvas, width_of
from trainables.plots.class_colours import hex_colour

# Inches.
_LINE, _PATCH, _GAP = 0.25, 0.25, 0.15
_HALF = 0.04  # of a patch's height


@dataclass(frozen=True)
class ClassKey:
    """Names and colours, placed within a width in inches."""

    names: Sequence[str]
    colours: Sequence[Sequence[int]]
    """Red, green and blue, 0 to 255, of each name."""
    width: float

    @property
    def height(self) -> float:
        """Height of all lines, in inches."""
        return _LINE * self._lines

    def draw(self, canvas: Canvas, left: float, top: float) -> None:
        """Draw it, one column after another."""
        for number, (name, colour) in enumerate(zip(self.names, self.colours, strict=True)):
            column, line = divmod(number, self._lines)
            x = left + column * self._column
            middle = top + (line + 0.5) * _LINE
            fill = hex_colour(colour)
            right = x + _PATCH
            canvas.rectangle(x, middle - _HALF, right, middle + _HALF, frame="#888888", fill=fill)
            canvas.write(right + _GAP / 2, middle, name, va="center_baseline")

    @property
    def _column(self) -> float:
        """Width of a column, in inches."""
        return _PATCH + 2 * _GAP + width_of(self.names)

    @property
    def _lines(self) -> int:
        columns = max(1, int(self.width / self._column))
        return math.ceil(len(self.names) / columns)
