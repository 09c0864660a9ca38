"""A training function, as a study uses it.

Its model, data and length are unknown before it runs. It reports everything through its `run`
argument (`tune/execution/function_run.py`).
"""

import hashlib
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data_summary import DataSummary
from trainables.errors import UserError, first_line

LENGTH = "train/epochs"
"""Metric in each report: the number of epochs of this trial, as given to `run.epochs(n)`."""
RESERVED = ("seed", "train.threads")
"""Config values that every function's experiment has but does not pass to the function."""
PRESET = "default"
"""The only preset of a function's experiment."""

_MINUS = "-"
_SUMMARY = DataSummary(layout="read by the function itself")
_MESSAGE = 100  # maximum length of an error message in a reason


class OwnData:
    """Stand-in for the data of a function, which reads the data itself.

    Args:
        named: the name that the function gives to its data; "" if it gives none.
    """

    def __init__(self, named: str = ""):
        self.name = named or "its own data"
        self.fingerprint = ""
        if named:
            self.fingerprint = hashlib.sha256(f"named {named}".encode()).hexdigest()

    summary = _SUMMARY
    train = val = test = ()
    classes: tuple[str, ...] = ()
    gallery = None

    def headline(self) -> str:
        """Describe the data in a few words."""
        return self.name


@dataclass(frozen=True)
class Function:
    """A function `train(config, run)` with its declared objective and data."""

    call: Callable[[dict[str, Any], Any], Any]
    objective: str
    """Metric that selects trials, `val/...`; larger is better. `val/-loss` is the negated loss."""
    data: str = ""
    """Name of its data and split; "" if it gives none."""

    def load_data(self, config: Any, progress: bool = False) -> OwnData:
        """Return a stand-in for the function's own data."""
        return OwnData(self.data)

    def chosen_objective(self, config: Any, data: Any) -> str:
        """Return the metric that selects trials."""
        return self.objective

    def check_startup(self, config: Any, data: Any) -> str:
        """Check nothing: only the function knows what it needs."""
        return ""

    def check_packages(self) -> None:
        """Check nothing: the function imports what it needs."""

    def max_workers(self, config: Any) -> int:
        """Return a practically unlimited number: a function divides its work among workers
        itself."""
        return sys.maxsize

    def needs_equal_shares(self) -> bool:
        """Return False: the function manages the shares itself."""
        return False

    @property
    def given_name(self) -> str:
        """The objective as the function reports it, e.g. `loss` for `val/-loss`."""
        return self.objective.removeprefix("val/").removeprefix(_MINUS)

    def named(self, part: str, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics of a report under their full names, including the objective.

        Args:
            part: val or test, the prefix for names without one.
            metrics: the metrics as the function reported them.
        Raises:
            TypeError: a value is not a number.
            ValueError: the objective is missing.
        """
        found = {}
        for name, value in metrics.items():
            full = name if "/" in name else f"{part}/{name}"
            found[full] = _number(name, value)

        given = f"{part}/{self.given_name}"
        if given not in found:
            there = ", ".join(metrics) or "nothing"
            raise ValueError(f"the objective {self.given_name} is missing among: {there}")
        if self.objective.startswith(f"val/{_MINUS}"):
            found[f"{part}/{_MINUS}{self.given_name}"] = -found[given]
        return found

    def reason(self, error: BaseException) -> str:
        """Say in one line what went wrong, and on which line of the function's own file."""
        message = first_line(error, _MESSAGE)
        kind = type(error).__name__
        text = kind if message == kind else f"{kind}: {message}"
        path = self.path
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == path
        ]
        if not lines:
            return text
        return f"{text} ({Path(path).name} line {lines[-1]})"

    @property
    def path(self) -> str:
        """File in which the function is defined; "" if unknown."""
        code = getattr(self.call, "__code__", None)
        return "" if code is None else str(code.co_filename)


def objective_name(typed: str) -> str:
    """Return the full name of an objective: `val/accuracy` for `accuracy`, `val/-loss` for `-loss`.

    Raises:
        UserError: it is not the name of a metric.
    """
    name = typed.removeprefix("val/")
    plain = name.removeprefix(_MINUS)
    if not plain or "/" in plain or plain != plain.strip():
        raise UserError(
            f"objective {typed!r} must be the name of a metric that the function reports, such as "
            "accuracy; a minus before it asks for a small one, as in -loss"
        )
    return f"val/{name}"


def _number(name: str, value: Any) -> float:
    """Convert a number of Python, NumPy or torch to a float; None becomes NaN."""
    if hasattr(value, "detach"):
        value = value.detach()  # torch warns about a loss that still has its graph
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"metric {name} must be a number, got {type(value).__name__} {str(value)[:40]}"
        ) from None
