"""Figures laid out by hand, in inches from the upper left corner.

Axes, a layout engine, legends and one subplot per image would cost several times the drawing
itself. A process that draws fifteen pictures of each shown trial beside training must be cheap.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Rectangle
from matplotlib.transforms import IdentityTransform
from PIL import Image

from trainables.plots.style import INK

DPI = 120
MARGIN = 0.05
"""Distance between the figure's edge and its content, in inches."""
HEADING = 0.48
"""Height of the two lines at the top, in inches."""
FRAME = "#cccccc"
_TITLE_BASE, _SUBTITLE_BASE = 0.18, 0.38
_SMALL = 64  # images with smaller sides are drawn pixel by pixel
# zlib level: takes half the time of the default 6, with pictures a fifth larger.
_COMPRESSION = 3


def width_of(texts: Sequence[str], fontsize: float = 9) -> float:
    """Width of the widest text, in inches."""
    renderer: Any = RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]
    font = FontProperties(size=fontsize)
    widths = [renderer.get_text_width_height_descent(text, font, False)[0] for text in texts]
    return float(max(widths, default=0.0)) / DPI


class Canvas:
    """A figure of the given size in inches."""

    def __init__(self, width: float, height: float, dpi: int = DPI):
        self.width = width
        self.height = height
        self.dpi = dpi
        self.texts: list[str] = []
        """All texts written so far, in order."""
        self._figure = Figure(figsize=(width, height), dpi=dpi)
        self._agg: Any = FigureCanvasAgg(self._figure)
        self._inches = self._figure.dpi_scale_trans
        self._images: list[tuple[Image.Image, tuple[int, int]]] = []

    def heading(self, title: str, subtitle: str, x: float = MARGIN) -> None:
        """Write two lines at the top."""
        self.write(x, _TITLE_BASE, title, fontsize=12, fontweight="bold", color="black")
        self.write(x, _SUBTITLE_BASE, subtitle)

    def write(self, x: float, y: float, text: str, **look: Any) -> None:
        """Write a text whose baseline starts here, unless matplotlib text properties in `look`
        change the alignment."""
        style: dict[str, Any] = {"fontsize": 9, "color": INK, "va": "baseline", **look}
        self.texts.append(text)
        self._figure.text(x, self.height - y, text, transform=self._inches, **style)

    def rectangle(self, left: float, top: float, right: float, bottom: float, **look: Any) -> None:
        """Draw a rectangle: a frame, unless matplotlib patch properties in `look` change it."""
        style: dict[str, Any] = {"fill": False, "edgecolor": FRAME, "linewidth": 0.8, **look}
        corner = (left, self.height - bottom)
        self._add(Rectangle(corner, right - left, bottom - top, transform=self._inches, **style))

    def scatter(
        self,
        places: np.ndarray,  # (n, 2), inches
        size: float,  # points squared, of a square
        marker: str,
        colours: str | Sequence[str],
        **look: Any,
    ) -> None:
        """Draw a marker at each place."""
        style = MarkerStyle(marker)
        path = style.get_path().transformed(style.get_transform())
        offsets = np.stack([places[:, 0], self.height - places[:, 1]], 1)
        markers = PathCollection(
            [path],
            [size],
            offsets=offsets,
            offset_transform=self._inches,
            facecolors=colours,
            **look,
        )
        markers.set_transform(IdentityTransform())
        self._add(markers)

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
        """Draw a framed image below everything else. Small images, and those that are not photos
        (`smooth=False`), are drawn pixel by pixel."""
        x, y = round(left * self.dpi), round(top * self.dpi)
        size = (round(width * self.dpi), round(height * self.dpi))
        smooth = smooth and max(pixels.shape) >= _SMALL  # smoothing would blur small images
        way = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        framed = Image.new("RGB", (size[0] + 2, size[1] + 2), frame)
        framed.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, way), (1, 1))
        self._images.append((framed, (x - 1, y - 1)))

    def save(self, path: Path) -> None:
        """Write the figure as PNG."""
        self._figure.patch.set_visible(False)
        self._agg.draw()
        drawn = Image.fromarray(np.asarray(self._agg.buffer_rgba()))
        picture = Image.new("RGB", drawn.size, "white")
        for image, corner in self._images:
            picture.paste(image, corner)
        picture.paste(drawn, mask=drawn)
        picture.save(path, "PNG", compress_level=_COMPRESSION, dpi=(self.dpi, self.dpi))

    def _add(self, artist: Rectangle | PathCollection) -> None:
        self._figure.add_artist(artist)
