"""A study as its event log describes it, for reading beside a run and after it. Nothing is locked
and nothing is written."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tune.experiments import EXPERIMENTS
from tune.study.log_state import CONCLUSIONS, Run, read_state
from tune.study.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = [
    "CONCLUSIONS",
    "Record",
    "Run",
    "chosen",
    "leaders",
    "read_record",
    "table_of",
]

K = TypeVar("K")  # what names a configuration


@dataclass
class Record:
    """Everything that a study has on record."""

    folder: Path
    manifest: Manifest
    trials: dict[int, Run] = field(default_factory=dict)
    """Number -> run."""
    repeats: dict[tuple[int, int], Run] = field(default_factory=dict)
    """(trial, seed) -> run."""
    summary: dict[str, float] = field(default_factory=dict)
    """Metrics of the whole study."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tags of the whole study."""
    finished: bool = False
    """The study has ended, and has not been resumed since."""

    @property
    def top(self) -> int:
        """Number of best configurations that are repeated."""
        experiment = EXPERIMENTS.get(self.manifest.experiment)
        return 1 if experiment is None else experiment.top

    @property
    def objective(self) -> str:
        """Name of the metric that the search maximizes."""
        return self.manifest.objective

    @property
    def completed(self) -> dict[int, float]:
        """Completed trials -> objective."""
        return {
            number: run.value
            for number, run in sorted(self.trials.items())
            if run.state == "COMPLETE" and run.value is not None
        }

    @property
    def epochs(self) -> int:
        """Number of epochs of the trials; repeats are no part of the search."""
        return sum(len(run.history) for run in self.trials.values())

    @property
    def epochs_saved(self) -> tuple[int, int]:
        """(saved, total): epochs that pruning and failures saved, and those that the trials that
        have ended would have run. A trial that still runs has saved nothing yet."""
        ended = [run for run in self.trials.values() if run.state != "open"]
        total = len(ended) * int(self.manifest.base["train.epochs"])
        spent = sum(len(run.history) for run in ended)
        return total - spent, total

    @property
    def saved(self) -> float:
        """Share of the epochs that pruning and failures saved, in [0, 1]."""
        saved, total = self.epochs_saved
        return saved / total if total else 0.0

    @cached_property
    def _frozen(self) -> "list[FrozenTrial]":
        from tune.study.journal import read_trials

        return read_trials(self.folder / "study.journal", self.manifest.name)

    def frozen_trials(self) -> "list[FrozenTrial]":
        """All trials as Optuna keeps them, with the ranges that their parameters were drawn
        from."""
        return self._frozen

    def leaders(self) -> list[int]:
        """Numbers of the trials that are repeated, best first."""
        return leaders(self.completed, self.top)

    def best_number(self) -> int | None:
        """The study's answer (`chosen`)."""
        return chosen(self.completed, self.top, self.finals(), self.objective)

    def finals(self) -> dict[tuple[int, int], dict[str, float]]:
        """(trial, seed) -> final metrics of the completed repeats."""
        return {key: run.metrics for key, run in self.repeats.items() if run.state == "COMPLETE"}

    def departures(self, number: int) -> dict[str, Any]:
        """Searched parameters in which a trial differs from the default, with the trial's
        values."""
        config = self.trials[number].config
        base = self.manifest.base
        return {
            name: config[name]
            for name in self.manifest.space
            if name in config and config[name] != base[name]
        }


def read_record(folder: Path) -> Record:
    """The record in a study's folder.

    Raises:
        UserError: there is no study, or its log is damaged.
    """
    manifest = read_manifest(folder / "study.json")
    state = read_state(folder / "events.jsonl")
    return Record(
        folder,
        manifest,
        trials=state.trials,
        repeats=state.repeats,
        summary=state.summary,
        tags=state.tags,
        finished=state.finished,
    )


def leaders(completed: dict[int, float], top: int) -> list[int]:
    """The `top` best of the completed trials, best first; of equal ones the earlier comes first.

    Apart from the best, none that is below the default (trial 0) is among them: where most trials
    are stopped early few are left, and training a poor one again says nothing.

    Args:
        completed: trial -> objective.
    """
    ranked = sorted(completed, key=lambda number: (-completed[number], number))
    default = completed.get(0, -math.inf)
    return [number for number in ranked[:top] if number == ranked[0] or completed[number] > default]


def table_of(
    finals: dict[tuple[K, int], dict[str, float]], numbers: list[K], metric: str
) -> tuple[list[K], NDArray[np.float64]]:
    """The repeats as a table.

    Returns:
        Those of `numbers` that were repeated, and their values of `metric`, (numbers, seeds), over
        the seeds that all of them have.
    """
    seeds = {number: _seeds_of(finals, number, metric) for number in numbers}
    rows = [number for number in dict.fromkeys(numbers) if seeds[number]]
    if not rows:
        return [], np.zeros((0, 0))
    common = sorted(set.intersection(*(seeds[number] for number in rows)))
    values = [[finals[number, seed][metric] for seed in common] for number in rows]
    return rows, np.array(values).reshape(len(rows), len(common))


def _seeds_of(finals: dict[tuple[K, int], dict[str, float]], number: K, metric: str) -> set[int]:
    return {
        seed
        for (repeated, seed), metrics in finals.items()
        if repeated == number and metric in metrics
    }


def chosen(
    completed: dict[int, float],
    top: int,
    finals: dict[tuple[int, int], dict[str, float]],
    objective: str,
) -> int | None:
    """The leader whose repeats have the best mean of the *selecting* metric: a lucky seed of the
    search does not choose.

    Before there are repeats it is the first leader; None where no trial is complete.
    """
    candidates = leaders(completed, top)
    rows, scores = table_of(finals, candidates, f"best/{objective}")
    if scores.size:
        means = scores.mean(axis=1)
        return rows[int(means.argmax())]
    return candidates[0] if candidates else None
