"""The three suggest methods of an Optuna trial, for everything that stands in for one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune.search.native import native_literal


class Answering(ABC):
    """Stands in for an Optuna trial: every suggest call reaches `answer` as a distribution."""

    @abstractmethod
    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        """Return the value of this parameter."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> Any:
        return self.answer(name, FloatDistribution(low, high, log=log, step=step))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> Any:
        return self.answer(name, IntDistribution(low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.answer(name, CategoricalDistribution(native_literal(list(choices))))


def ask(trial: Any, name: str, distribution: BaseDistribution) -> Any:
    """Ask a trial, or its stand-in, for a value from this distribution."""
    if isinstance(trial, Answering):
        return trial.answer(name, distribution)
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, log = distribution.low, distribution.high, distribution.log
    method = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    # A trial of a test, or of another library, may not support steps.
    if distribution.step in (None, 1) and not isinstance(distribution.step, float):
        return method(name, low, high, log=log)
    return method(name, low, high, log=log, step=distribution.step)
