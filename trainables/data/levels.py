"""Images with more than 8 bits per channel: the range of values that is mapped to 0 to 255.

The whole data set has one range, so that images stay comparable. For integers it is the range of 8,
10, 12, 14 or 16 bits, the fewest that cover the highest value in any image: 12-bit data in a 16-bit
file ends at 4,095. For floating-point values, or if some values are negative, it is the range from
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
        """Map values linearly to 0 to 255 and round them. Values outside the range are clipped, and
        NaN becomes 0."""
        step = max(self.high - self.low, np.finfo(np.float64).tiny) / 255
        numbers = np.nan_to_num(values.astype(np.float64), nan=self.low)
        scaled = (np.clip(numbers, self.low, self.high) - self.low) / step
        whole: np.ndarray = np.round(scaled).astype(np.uint8)
        return whole


SIXTEEN_BITS = Levels(0, 65535)
"""Range of integer values in an image without a data set."""
FLOATING = "F"
"""Pillow's mode of floating-point images."""


@dataclass(frozen=True)
class Found:
    """Values in one image with more than 8 bits per channel."""

    lowest: float
    highest: float
    floating: bool


@dataclass(frozen=True)
class DeepImages:
    """Images of a data set that have more than 8 bits per channel."""

    images: int
    lowest: float
    """Lowest value in any of them."""
    highest: float
    floating: bool
    """True if any of them has floating-point values."""

    @classmethod
    def of(cls, found: Sequence[Found]) -> "DeepImages | None":
        """Combine all such images of a data set; None if there are none."""
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
        """Range that is mapped to 0 to 255."""
        if self.floating or self.lowest < 0:
            return Levels(self.lowest, self.highest)
        for bits in _BITS:
            if self.highest < 2**bits:
                return Levels(0, 2**bits - 1)
        return SIXTEEN_BITS

    def describe(self) -> str:
        """One sentence for the data summary."""
        low = self.levels.low
        high = self.levels.high
        images = "image" if self.images == 1 else "images"
        return (
            f"{low:,g} to {high:,g} becomes 0 to 255 in {self.images:,} {images} of more than "
            "8 bits, the range found in all of them"
        )


def range_of(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest finite value of an image.

    Raises:
        CorruptImage: the image has no finite value.
    """
    finite = values
    if np.issubdtype(values.dtype, np.floating):
        finite = values[np.isfinite(values)]
    if not finite.size:
        raise CorruptImage("holds no finite value")
    return float(finite.min()), float(finite.max())
