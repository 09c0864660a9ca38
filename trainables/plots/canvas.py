"""Figures laid out by hand, in inches from the upper left corner.

Axes, a layout engine, legends and one subplot per image would cost many times the drawing itself. A
process that draws fifteen pictures of each shown trial beside training must be cheap.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from trainables.plots import lettering
from trainables.plots.class_colours import INK
from trainables.plots.lettering import Type
from trainables.plots.markers import Marker, stamp
from trainables.plots.png import write_png

DPI = 120
MARGIN = 0.05
"""Distance between the figure's edge and its content, in inches."""
HEADING = 0.48
"""Height of the two lines at the top, in inches."""
FRAME = "#cccccc"
_TITLE_BASE, _SUBTITLE_BASE = 0.18, 0.38
_SMALL = 64  # images with smaller sides are drawn pixel by pixel
_POINT = 1 / 72  # inches

Across = Literal["left", "center", "right"]
"""The part of a text that lies at its x."""
Upwards = Literal["baseline", "center_baseline", "center", "top", "bottom"]
"""The part of a text that lies at its y. "center_baseline" is the middle of capital letters."""


def width_of(texts: Sequence[str], fontsize: float = 9) -> float:
    """Width of the widest text, in inches."""
    kind = Type(fontsize * _POINT * DPI)
    return max((lettering.width(text, kind) for text in texts), default=0.0) / DPI


class Canvas:
    """A figure of the given size in inches. Each part is drawn over the earlier ones."""

    def __init__(self, width: float, height: float, dpi: int = DPI):
        self.width = width
        self.height = height
        self.dpi = dpi
        self.texts: list[str] = []
        """All texts written so far, in order."""
        self._picture = Image.new("RGB", (round(width * dpi), round(height * dpi)), "white")
        self._pen = ImageDraw.Draw(self._picture)
        self._has_photos = False

    def heading(self, title: str, subtitle: str, x: float = MARGIN) -> None:
        """Write two lines at the top."""
        self.write(x, _TITLE_BASE, title, fontsize=12, bold=True, color="black")
        self.write(x, _SUBTITLE_BASE, subtitle)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        fontsize: float = 9,
        bold: bool = False,
        color: str = INK,
        ha: Across = "left",
        va: Upwards = "baseline",
        rotated: bool = False,
    ) -> None:
        """Write a text.

        Args:
            fontsize: in points.
            rotated: write it upwards. It may then have one line and not lie at its baseline.
        """
        self.texts.append(text)
        kind = Type(fontsize * _POINT * self.dpi, bold)
        if rotated:
            self._write_upwards(x, y, text, kind, color, ha, va)
            return

        lines = text.split("\n")
        below = (len(lines) - 1) * kind.line  # from the first baseline to the last
        baseline = y * self.dpi + _above_baseline(kind, va, below)
        for number, line in enumerate(lines):
            left = x * self.dpi - _share_before(ha) * lettering.width(line, kind)
            base = round(baseline + number * kind.line)
            lettering.draw(self._picture, round(left), base, line, kind, color)

    def rectangle(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        frame: str = FRAME,
        fill: str | None = None,
    ) -> None:
        """Draw a rectangle."""
        corners = [round(inches * self.dpi) for inches in (left, top, right, bottom)]
        self._pen.rectangle(corners, fill=fill, outline=frame)

    def scatter(
        self,
        places: np.ndarray,  # (n, 2), inches
        size: float,  # points squared, of a square
        shape: str,
        colours: Sequence[str],  # n
        edge: float = 0,  # width of a white line around each marker, points
        opacity: float = 1,
    ) -> None:
        """Draw a marker at each place."""
        point = _POINT * self.dpi
        marker = Marker(shape, np.sqrt(size) * point, edge * point, opacity)
        stamp(self._picture, places * self.dpi, marker, colours)

    def image(
        self,
        pixels: np.ndarray,  # (h, w, 3) uint8
        left: float,
        top: float,
        width: float,
        height: float,
        frame: str = FRAME,
        smooth: bool = True,
    ) -> None:
        """Draw a framed image. Small images, and those that are not photos (`smooth=False`), are
        drawn pixel by pixel."""
        x, y = round(left * self.dpi), round(top * self.dpi)
        size = (round(width * self.dpi), round(height * self.dpi))
        self._has_photos |= smooth
        smooth = smooth and max(pixels.shape) >= _SMALL  # smoothing would blur small images
        way = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        drawn = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, way)
        self._pen.rectangle((x - 1, y - 1, x + size[0], y + size[1]), outline=frame)
        self._picture.paste(drawn, (x, y))

    def save(self, path: Path) -> None:
        """Write the figure as PNG."""
        write_png(path, np.asarray(self._picture), self.dpi, self._has_photos)

    def _write_upwards(
        self, x: float, y: float, text: str, kind: Type, color: str, ha: Across, va: Upwards
    ) -> None:
        opacity = lettering.upwards(text, kind)
        before = {"top": 0.0, "center": 0.5, "bottom": 1.0}[va]
        left = x * self.dpi - _share_before(ha) * opacity.width
        top = y * self.dpi - before * opacity.height
        self._picture.paste(color, (round(left), round(top)), opacity)


def _share_before(ha: Across) -> float:
    """Share of a text's width that lies left of its x."""
    return {"left": 0.0, "center": 0.5, "right": 1.0}[ha]


def _above_baseline(kind: Type, va: Upwards, below: float) -> float:
    """Pixels from the y of a text down to its first baseline.

    Args:
        below: from the first baseline to the last, in pixels.
    """
    drops = {
        "baseline": 0.0,
        "center_baseline": kind.ascent / 2,
        "center": (kind.ascent - kind.descent - below) / 2,
        "top": kind.ascent,
        "bottom": -kind.descent - below,
    }
    return drops[va]
