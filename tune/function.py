"""A function that trains, as a study sees it.

Nothing is known of its model, its data or its length before it runs: it says all that counts
through the `run` that it is given (`tune/execution/function_run.py`).
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
"""Metric of each report: the epochs of this trial, as `run.epochs(n)` has said."""
RESERVED = ("seed", "train.threads")
"""Config values that every experiment of a function has, and that it is not given."""
PRESET = "default"
"""The only preset of a function's experiment."""

_MINUS = "-"
_SUMMARY = DataSummary(layout="read by the function itself")
_MESSAGE = 100  # characters of an error's message in a reason


class OwnData:
    """Stands for the data of a function, which reads them itself.

    Args:
        named: the name that the function has given to them; "" where it has not.
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
        """The data in a few words."""
        return self.name


@dataclass(frozen=True)
class Function:
    """A function `train(config, run)` and what is known of it."""

    call: Callable[[dict[str, Any], Any], Any]
    objective: str
    """Metric that selects, `val/...`; larger is better: `val/-loss` is the loss with its sign
    changed."""
    data: str = ""
    """Name of its data and split; "" where it gives none."""

    def load_data(self, config: Any, progress: bool = False) -> OwnData:
        """Return what stands for the function's own data."""
        return OwnData(self.data)

    def chosen_objective(self, config: Any, data: Any) -> str:
        """Return the metric that selects."""
        return self.objective

    def check_startup(self, config: Any, data: Any) -> str:
        """Check nothing: only the function knows what it needs."""
        return ""

    def check_packages(self) -> None:
        """Check nothing: the function imports what it needs."""

    def max_workers(self, config: Any) -> int:
        """Return any number: a function shares its work among its workers itself."""
        return sys.maxsize

    def needs_equal_shares(self) -> bool:
        """Return False: shares are the function's own matter."""
        return False

    @property
    def given_name(self) -> str:
        """The objective as the function reports it: `loss` of `val/-loss`."""
        return self.objective.removeprefix("val/").removeprefix(_MINUS)

    def named(self, part: str, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Metrics of a report under their full names, the objective among them.

        Args:
            part: val or test, for names without a part.
            metrics: as the function gave them.
        Raises:
            TypeError: a value is no number.
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
        """Say in a line what went wrong, and where in the function's own file."""
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
        """File that the function was defined in; "" where Python does not know."""
        code = getattr(self.call, "__code__", None)
        return "" if code is None else str(code.co_filename)


def objective_name(typed: str) -> str:
    """Return the full name of an objective: `accuracy` is `val/accuracy`, `-loss` is `val/-loss`.

    Raises:
        UserError: it is no name of a metric.
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
    """A number of Python, NumPy or torch as a float."""
    if hasattr(value, "detach"):
        value = value.detach()  # torch warns about a loss that still has its graph
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"metric {name} must be a number, got {type(value).__name__} {str(value)[:40]}"
        ) from None
