"""A matrix of shares: a coloured cell for each true and predicted class, with the names of both and
a scale of the colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.plots.canvas import HEADING, MARGIN, Canvas, width_of
from trainables.plots.class_colours import INK, blues

BESIDE = 0.25
"""Space for the name of an axis, in inches."""
_BAR, _BAR_LABELS = 0.1, 0.5  # widths of the colour scale and its labels, in inches
SCALE = 2 * _BAR + _BAR_LABELS
"""Width of the scale with its distance from the matrix, in inches."""
_BAR_HEIGHT = 0.6  # as a share of the matrix
_CAPTION_LINE = 0.17  # inches
# Up to this many classes, every cell contains its share.
_MAX_NAMED_CELLS = 20


@dataclass(frozen=True)
class ShareMatrix:
    """The cells and what stands around them, in inches."""

    rows: Sequence[str]
    """Names of the true classes."""
    columns: Sequence[str]
    """Names of the predicted classes."""
    cell: float
    """Side of a cell."""
    fontsize: float
    upright: bool
    """True if the names of the columns are not rotated."""
    left: float
    top: float
    below: float
    """Height of the column names."""

    @property
    def width(self) -> float:
        return self.cell * len(self.columns)

    @property
    def height(self) -> float:
        return self.cell * len(self.rows)

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def foot(self) -> float:
        """Lower edge of everything below the cells."""
        return self.bottom + self.below + BESIDE

    def middle(self, number: int) -> float:
        """Middle of a row or column, relative to the matrix."""
        return (number + 0.5) * self.cell


def laid_out(rows: Sequence[str], columns: Sequence[str], cell: float) -> ShareMatrix:
    """Place a matrix whose cells have this side, in inches."""
    fontsize = min(9.0, 0.6 * 72 * cell)
    upright = max(len(text) for text in columns) <= 2
    below = _CAPTION_LINE if upright else width_of(columns, fontsize)
    left = MARGIN + BESIDE + width_of(rows, fontsize)
    top = HEADING + MARGIN
    return ShareMatrix(rows, columns, cell, fontsize, upright, left, top, below)


def draw_matrix(
    canvas: Canvas,
    matrix: ShareMatrix,
    shares: np.ndarray,  # (rows, columns), in [0, 1]
) -> None:
    """Draw the cells, their names and the scale."""
    place = (matrix.left, matrix.top, matrix.width, matrix.height)
    canvas.image(blues(shares), *place, frame="black", smooth=False)
    _label_classes(canvas, matrix)
    if len(matrix.rows) <= _MAX_NAMED_CELLS:
        _write_shares(canvas, matrix, shares)
    _draw_scale(canvas, matrix)


def _label_classes(canvas: Canvas, matrix: ShareMatrix) -> None:
    """Name the rows, the columns and the two axes."""
    size = matrix.fontsize
    for number, text in enumerate(matrix.rows):
        y = matrix.top + matrix.middle(number)
        canvas.write(matrix.left - MARGIN, y, text, fontsize=size, ha="right", va="center_baseline")
    for number, text in enumerate(matrix.columns):
        canvas.write(
            matrix.left + matrix.middle(number),
            matrix.bottom + MARGIN,
            text,
            fontsize=size,
            ha="center",
            va="top",
            rotated=not matrix.upright,
        )
    across, down = matrix.left + matrix.width / 2, matrix.top + matrix.height / 2
    canvas.write(across, canvas.height - MARGIN, "predicted", fontsize=10, ha="center")
    canvas.write(MARGIN, down, "true", fontsize=10, va="center", rotated=True)


def _write_shares(canvas: Canvas, matrix: ShareMatrix, shares: np.ndarray) -> None:
    """Write every share of at least half a percent into its cell."""
    for (row, column), share in np.ndenumerate(shares):
        if share < 0.005:
            continue
        canvas.write(
            matrix.left + matrix.middle(column),
            matrix.top + matrix.middle(row),
            f"{share:.0%}",
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if share >= 0.3 else INK,
        )


def _draw_scale(canvas: Canvas, matrix: ShareMatrix) -> None:
    """Draw the colour scale to the right of the matrix."""
    height = _BAR_HEIGHT * matrix.height
    top = matrix.top + (matrix.height - height) / 2
    left = matrix.right + _BAR
    steps = np.linspace(1, 0, 200)[:, None] ** 2
    canvas.image(blues(steps), left, top, _BAR, height, smooth=False)
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        y = top + height * (1 - math.sqrt(share))
        canvas.write(left + _BAR + MARGIN, y, f"{share:.0%}", va="center_baseline")
