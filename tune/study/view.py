"""The face of a study towards those who judge it."""

from typing import Protocol

from optuna.trial import FrozenTrial

from tune.study.manifest import Manifest


class StudyView(Protocol):
    """A study that is running (`tune.study.study.Study`) or its record
    (`tune.study.record.Record`)."""

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

    def leaders(self) -> list[int]:
        """Numbers of the trials that are repeated, best first."""
        ...

    def best_number(self) -> int | None:
        """Number of the trial that is the study's answer."""
        ...

    def finals(self) -> dict[tuple[int, int], dict[str, float]]:
        """(trial, seed) -> final metrics of the completed repeats."""
        ...
