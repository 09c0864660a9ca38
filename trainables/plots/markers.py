"""Markers of scatter plots: small pictures, made once, that are pasted at each point."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageColor

_SAMPLES = 6  # per pixel and direction
_PHASES = 4  # positions within a pixel, per direction
_DIAGONAL = math.sqrt(0.5)
_STEEP = math.sqrt(0.8)
# Normals of the sides, y upwards, and their distances from the centre, for a marker of side 1.
_SIDES: dict[str, list[tuple[float, float, float]]] = {
    "s": [(1, 0, 0.5), (-1, 0, 0.5), (0, 1, 0.5), (0, -1, 0.5)],
    "D": [(x * _DIAGONAL, y * _DIAGONAL, 0.5) for x in (1, -1) for y in (1, -1)],
    "^": [(0, -1, 0.5), *((x * _STEEP, _STEEP / 2, _STEEP / 4) for x in (1, -1))],
}


@dataclass(frozen=True)
class Marker:
    """Shape and size of a point. Lengths are in pixels."""

    shape: str
    """"o", "s", "D" or "^": circle, square, diamond, triangle."""
    side: float
    edge: float = 0
    """Width of the white line around it, half of which lies within."""
    opacity: float = 1


def stamp(
    picture: Image.Image,
    places: np.ndarray,  # (n, 2), pixels from the upper left corner
    marker: Marker,
    colours: Sequence[str],  # n
) -> None:
    """Draw a marker at each place, one over the other."""
    pixels, phases = np.divmod(np.rint(places * _PHASES).astype(int), _PHASES)
    corners = pixels - _reach(marker)
    stamps = {colour: _stamps(marker, colour) for colour in set(colours)}
    for corner, (right, down), colour in zip(
        corners.tolist(), phases.tolist(), colours, strict=True
    ):
        drawn = stamps[colour][down * _PHASES + right]
        picture.paste(drawn, corner, drawn)


def _reach(marker: Marker) -> int:
    """Pixels from the centre's pixel to the border of the small picture."""
    return math.ceil(0.75 * marker.side + marker.edge) + 1


@functools.cache
def _stamps(marker: Marker, colour: str) -> list[Image.Image]:
    """The marker in a colour ("RGBA"), for each position of its centre within a pixel: x runs
    first."""
    whole, inner = _coverages(marker)
    face = np.array(ImageColor.getrgb(colour), np.float32)
    share = (inner / whole.clip(1e-6))[..., None]  # of the face; the rest is the white line
    rgb = share * face + (1 - share) * 255
    alpha = 255 * marker.opacity * whole
    rgba = np.concatenate([rgb, alpha[..., None]], -1).round().astype(np.uint8)
    return [Image.fromarray(one) for one in rgba]


@functools.cache
def _coverages(marker: Marker) -> tuple[np.ndarray, np.ndarray]:  # both (phases, s, s)
    """Shares of each pixel that lie in the marker with its line, and within the line."""
    reach = _reach(marker)
    size = 2 * reach + 1
    samples = (np.arange(size * _SAMPLES) + 0.5) / _SAMPLES - reach
    centres = np.arange(_PHASES) / _PHASES
    along = samples - centres[:, None]  # (phases, samples), from the centre
    x = along[None, :, None, :]
    y = -along[:, None, :, None]  # upwards
    distance = _distance(marker, x, y)

    pixels = (_PHASES**2, size, _SAMPLES, size, _SAMPLES)
    whole, inner = (
        (distance <= line).reshape(pixels).mean((2, 4), dtype=np.float32)
        for line in (marker.edge / 2, -marker.edge / 2)
    )
    return whole, inner


def _distance(marker: Marker, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from the marker's outline, negative within it."""
    if marker.shape == "o":
        return np.asarray(np.hypot(x, y) - marker.side / 2)
    sides = [
        across * x + upwards * y - offset * marker.side
        for across, upwards, offset in _SIDES[marker.shape]
    ]
    return np.asarray(np.maximum.reduce(np.broadcast_arrays(*sides)))
