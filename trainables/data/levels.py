"""Images of more than 8 bits a channel: the range of values that becomes 0 to 255.

The range is one for the whole data set, so that images stay comparable. Of whole numbers it is that
of 8, 10, 12, 14 or 16 bits, the fewest that hold the highest value in any image: 12-bit data in a
16-bit file ends at 4,095. Of floating-point numbers, or where some are negative, it reaches from
the lowest to the highest value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.data.decoding import CorruptImage

_BITS = (8, 10, 12, 14)


@dataclass(frozen=True)
class Levels:
    """A range of values."""

    low: float
    high: float

    def to_bytes(self, values: np.ndarray) -> np.ndarray:  # uint8, of the same shape
        """The values as 0 to 255, linear and rounded; those outside of the range, and those that
        are no number, become its ends."""
        step = max(self.high - self.low, np.finfo(np.float64).tiny) / 255
        numbers = np.nan_to_num(values.astype(np.float64), nan=self.low)
        scaled = (np.clip(numbers, self.low, self.high) - self.low) / step
        whole: np.ndarray = np.round(scaled).astype(np.uint8)
        return whole


SIXTEEN_BITS = Levels(0, 65535)
"""Range of whole numbers in an image on its own."""
FLOATING = "F"
"""Pillow's mode of an image of floating-point numbers."""


@dataclass(frozen=True)
class Found:
    """Values in one image of more than 8 bits a channel."""

    lowest: float
    highest: float
    floating: bool


@dataclass(frozen=True)
class DeepImages:
    """The images of a data set that have more than 8 bits a channel."""

    images: int
    lowest: float
    """The lowest of all values in them."""
    highest: float
    floating: bool
    """Some of them hold floating-point numbers."""

    @classmethod
    def of(cls, found: Sequence[Found]) -> "DeepImages | None":
        """All such images of a data set together; None where there are none."""
        if not found:
            return None
        return cls(
            images=len(found),
            lowest=min(image.lowest for image in found),
            highest=max(image.highest for image in found),
            floating=any(image.floating for image in found),
        )

    @property
    def levels(self) -> Levels:
        """The range that becomes 0 to 255."""
        if self.floating or self.lowest < 0:
            return Levels(self.lowest, self.highest)
        for bits in _BITS:
            if self.highest < 2**bits:
                return Levels(0, 2**bits - 1)
        return SIXTEEN_BITS

    def describe(self) -> str:
        """One sentence for the summary of the data."""
        low = self.levels.low
        high = self.levels.high
        images = "image" if self.images == 1 else "images"
        return (
            f"{low:,g} to {high:,g} becomes 0 to 255 in {self.images:,} {images} of more than "
            "8 bits, the range found in all of them"
        )


def range_of(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value of an image, among its finite ones.

    Raises:
        CorruptImage: it has no finite value.
    """
    finite = values
    if np.issubdtype(values.dtype, np.floating):
        finite = values[np.isfinite(values)]
    if not finite.size:
        raise CorruptImage("holds no finite value")
    return float(finite.min()), float(finite.max())
