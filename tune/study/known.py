"""Answers about an open study, from its event log and from Optuna."""

from collections.abc import Collection

from optuna.trial import FrozenTrial

from tune.experiments import Experiment
from tune.study.log_state import LogState, Run
from tune.study.manifest import Manifest
from tune.study.objectives import Objective, front_of, points_of
from tune.study.rules import RepeatRule
from tune.study.trials import TrialDatabase
from tune.study.work import WorkId


class Known:
    """The read-only part of a `Study`."""

    experiment: Experiment
    manifest: Manifest
    _state: LogState
    _database: TrialDatabase
    _objectives: list[Objective]

    @property
    def objective(self) -> str:
        """Name of the metric that the search maximizes."""
        return self.manifest.objective

    @property
    def state(self) -> LogState:
        """State of the event log; it grows as the study runs."""
        return self._state

    @property
    def summary(self) -> dict[str, float]:
        """Metrics of the whole study, such as those of the untrained baseline."""
        return self._state.summary

    @property
    def epochs(self) -> int:
        """Epochs of a trial that runs to its end; 0 before a function has reported them."""
        return self._database.epochs()

    def frozen_trials(self) -> list[FrozenTrial]:
        """All trials as Optuna keeps them; do not change them."""
        return self._database.frozen()

    @property
    def completed(self) -> dict[int, float]:
        """Completed trials -> objective."""
        return self._database.completed()

    @property
    def distinct(self) -> dict[int, float]:
        """Completed trials of different configurations -> objective."""
        return self._database.distinct()

    @property
    def objectives(self) -> list[Objective]:
        """The objectives; the first one selects."""
        return self._objectives

    @property
    def points(self) -> dict[int, dict[str, float]]:
        """Completed trials -> value of each objective."""
        return points_of(self._state.trials, self._objectives)

    def _front(self, numbers: Collection[int]) -> list[int]:
        """Trials among these that no other one is better than; empty for a single objective."""
        if len(self._objectives) < 2:
            return []
        runs = {number: self._state.run(WorkId(number)) for number in numbers}
        return front_of(points_of(runs, self._objectives), self._objectives)

    @property
    def repeats(self) -> dict[tuple[int, int], Run]:
        """(trial, seed) -> run."""
        return self._state.repeats

    @property
    def repeat_rule(self) -> RepeatRule:
        """Rule that decides which trials are repeated and which one is the answer."""
        return RepeatRule(str(self.manifest.rules["repeats"]), self.experiment.top)

    @property
    def look(self) -> int:
        """Number of the verdict that the record allows now, from 1."""
        return self._state.look

    def best_number(self) -> int | None:
        """The trial that is the study's answer (`RepeatRule.answer`); with several objectives, the
        first of the front."""
        if len(self._objectives) > 1:
            return next(iter(front_of(self.points, self._objectives)), None)
        return self.repeat_rule.answer(self.distinct, self.finals(), self.objective)

    def finished(self) -> int:
        """Number of trials that have ended, in any state."""
        return self._database.ended()

    def finals(self) -> dict[tuple[int, int], dict[str, float]]:
        """(trial, seed) -> final metrics of the completed repeats."""
        return {
            key: run.metrics for key, run in self._state.repeats.items() if run.state == "COMPLETE"
        }
