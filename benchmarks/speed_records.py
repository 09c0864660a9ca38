"""Records of speed in docs/results/speed, and how their figures are written."""

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.figure_text import decimal, without_zeros
from benchmarks.record_file import SPEED, NotRecordedError

Record = dict[str, Any]


def speed(name: str) -> Record:
    """Return a record of `docs/results/speed`.

    Raises:
        NotRecordedError: there is none.
    """
    try:
        found: Record = json.loads((SPEED / f"{name}.json").read_text())
    except FileNotFoundError:
        raise NotRecordedError(f"record_speed.py {name}") from None
    return found


def command(record: Record) -> str:
    """Return the command of a record without its option `--record`."""
    return f"`{record['command'].partition(' --record')[0]}`"


# ---------------------------------------------------------------- numbers


def number(value: float) -> str:
    """Format with three digits: .0423, 7.1, 2,212."""
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return without_zeros(f"{value:.3g}")


def seconds(value: float) -> str:
    """Format a time in s or ms."""
    return f"{number(value)} s" if value >= 0.1 else f"{number(1000 * value)} ms"


def times(ratio: float) -> str:
    """Format a ratio of times: 1/7.1 below one half, else 1.019."""
    return inverse(ratio) if ratio < 0.5 else decimal(ratio, 3)


def inverse(ratio: float) -> str:
    """Format as 1/7.1 or 1/272."""
    return f"1/{1 / ratio:,.{0 if ratio < 0.02 else 1}f}"


def percent(share: float) -> str:
    """Format a share: 6 %, with no sign for what rounds to zero."""
    return f"{round(100 * share)} %"


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Return ours over theirs, turn by turn."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def quartiles(found: Sequence[float]) -> str:
    """Format the median of ratios with their quartiles."""
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    show = inverse if middle < 0.5 else lambda ratio: decimal(ratio, 3)
    return f"{show(middle)} ({show(low)} to {show(high)})"
