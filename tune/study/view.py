"""Interface of a study for the code that judges it."""

from typing import Protocol

from optuna.trial import FrozenTrial

from tune.study.log_state import Run
from tune.study.manifest import Manifest
from tune.study.objectives import Objective
from tune.study.rules import RepeatRule


class StudyView(Protocol):
    """A running study (`tune.study.study.Study`) or its record (`tune.study.record.Record`)."""

    manifest: Manifest

    @property
    def objective(self) -> str:
        """Name of the metric that the search maximizes."""
        ...

    @property
    def summary(self) -> dict[str, float]:
        """Metrics of the whole study, such as those of the untrained baseline."""
        ...

    def frozen_trials(self) -> list[FrozenTrial]:
        """All trials as Optuna keeps them."""
        ...

    @property
    def completed(self) -> dict[int, float]:
        """Completed trials -> objective."""
        ...

    @property
    def objectives(self) -> list[Objective]:
        """The objectives; the first one selects."""
        ...

    @property
    def points(self) -> dict[int, dict[str, float]]:
        """Completed trials -> value of each objective."""
        ...

    @property
    def distinct(self) -> dict[int, float]:
        """Completed trials of different configurations -> objective."""
        ...

    @property
    def repeats(self) -> dict[tuple[int, int], Run]:
        """(trial, seed) -> run."""
        ...

    @property
    def repeat_rule(self) -> RepeatRule:
        """Rule that decides which trials are repeated and which one is the answer."""
        ...

    @property
    def look(self) -> int:
        """Number of the verdict that the record allows now, from 1."""
        ...

    def best_number(self) -> int | None:
        """Number of the trial that is the study's answer."""
        ...

    def finals(self) -> dict[tuple[int, int], dict[str, float]]:
        """(trial, seed) -> final metrics of the completed repeats."""
        ...
