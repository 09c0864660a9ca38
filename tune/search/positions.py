"""Positions in ranges of real numbers, on the scale of the range: 0 at the low end, 1 at the high
end. Also the key that seeds a draw."""

import math
import zlib
from typing import TypeGuard

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

POSITION = FloatDistribution(0.0, 1.0)
"""The distribution of positions."""


def is_range(distribution: BaseDistribution) -> TypeGuard[FloatDistribution]:
    """True for a range of real numbers without steps."""
    return (
        isinstance(distribution, FloatDistribution)
        and distribution.step is None
        and distribution.low < distribution.high
    )


def values_of(range_: FloatDistribution | IntDistribution) -> int:
    """Number of values of a range with steps."""
    assert range_.step is not None
    return 1 + round((range_.high - range_.low) / range_.step)


def position_in(range_: FloatDistribution, value: float) -> float:
    """Position of a value. A value outside, which a user may enqueue, is at the nearer end."""
    low = range_.low
    high = range_.high
    value = min(max(value, low), high)
    if range_.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def value_at(position: float, range_: FloatDistribution) -> float:
    """The value at a position."""
    low = range_.low
    high = range_.high
    value: float
    if range_.log:
        value = low * (high / low) ** position
    else:
        value = low + position * (high - low)
    return min(max(value, low), high)


def draw_key(seed: int, number: int, name: str) -> list[int]:
    """Return the key of a generator whose draws depend only on seed, trial and parameter, on every
    machine.

    Args:
        number: number of the trial.
        name: name of the parameter; "" for what is drawn jointly.
    """
    return [seed, number, zlib.crc32(name.encode())]
