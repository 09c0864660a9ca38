"""The table of `gpu_check.py`: its rows, the time that each may take, and how they are printed."""

import sys
import textwrap
from dataclasses import dataclass, field
from typing import Any

START_S = 50.0
"""Seconds in which the process that measures must have imported torch and found the card."""
BUDGETS_S = {
    "environment": 5.0,
    "input": 20.0,
    "equal": 10.0,
    "train-ssl": 11.0,
    "train-ssl-simclr": 11.0,
    "train-ssl-moco": 11.0,
    "train-ssl-vicreg": 11.0,
    "train-ssl-dino": 11.0,
    "train-classify": 11.0,
    "train-fewshot": 11.0,
    "train-segment": 11.0,
    "byol": 50.0,
    "by-hand": 40.0,
    "augment": 8.0,
    "segment": 20.0,
    "compiled": 75.0,
    "concurrent": 35.0,
    "memory": 20.0,
    "killed": 20.0,
    "study": 39.0,
}
"""Check -> seconds that it may take at full size on an H100 with 16 cores. With the start they sum
to eight minutes."""
UNHURRIED_S = 120.0
"""Seconds that each check may take with `--quick`, or on a CPU, where other programs may run."""
REFUSED = 77
"""Exit code of the process that measures if the device is missing."""

COLUMNS = 78
WORDS = {True: "holds", False: "FAILS", None: "not judged"}


@dataclass
class Row:
    """One line of the table."""

    name: str
    claim: str
    measured: str
    holds: bool | None
    """True if the claim holds; None if it is not judged here."""
    seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)
    """Numbers of the row, for the JSON."""


def broken(name: str, why: str, seconds: float = 0.0) -> Row:
    """Return the row of a check that did not run to its end."""
    return Row(name, "runs to its end", why, False, seconds)


def show(row: Row) -> None:
    """Print a row: name, verdict and seconds, the measurement, the claim."""
    print(f"{row.name:<40} {WORDS[row.holds]:<12} {row.seconds:6.1f} s")
    for text in (row.measured, f"claim: {row.claim}"):
        print(textwrap.fill(text, COLUMNS, initial_indent="    ", subsequent_indent="    "))
    sys.stdout.flush()
