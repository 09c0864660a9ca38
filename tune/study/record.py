"""A study as its event log describes it, to be read during a run or after it. Reading takes no lock
and writes nothing."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from tune.experiments import EXPERIMENTS
from tune.study.log_state import CONCLUSIONS, Run, read_state
from tune.study.manifest import Manifest, read_manifest
from tune.study.objectives import Objective, front_of, objectives_of, points_of
from tune.study.rules import RepeatRule, distinct

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = [
    "CONCLUSIONS",
    "Record",
    "Run",
    "check_whole",
    "lost_trials",
    "read_record",
]


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
    """The study has ended and has not been resumed since."""
    look: int = 1
    """Number of the verdict that the record allows, from 1. It grows by one whenever the study has
    grown after a verdict."""

    @property
    def repeat_rule(self) -> RepeatRule:
        """Rule that decides which trials are repeated and which one is the answer."""
        experiment = EXPERIMENTS.get(self.manifest.experiment)
        code = self.manifest.code or {}
        top = code.get("top", 1) if experiment is None else experiment.top
        return RepeatRule(str(self.manifest.rules["repeats"]), top)

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
    def objectives(self) -> list[Objective]:
        """The objectives; the first one selects."""
        return objectives_of(self.manifest)

    @property
    def points(self) -> dict[int, dict[str, float]]:
        """Completed trials -> value of each objective."""
        return points_of(self.trials, self.objectives)

    @property
    def distinct(self) -> dict[int, float]:
        """Completed trials of different configurations -> objective."""
        # a log of an earlier version may lack configs
        configs = {number: run.config or {"": number} for number, run in self.trials.items()}
        return distinct(self.completed, configs)

    @property
    def epochs(self) -> int:
        """Number of epochs of the trials; repeats are not part of the search."""
        return sum(len(run.history) for run in self.trials.values())

    @property
    def epochs_saved(self) -> tuple[int, int]:
        """(saved, total): epochs saved by pruning and failures, and epochs that the ended trials
        would have run in full. A trial that still runs has saved nothing yet."""
        ended = [run for run in self.trials.values() if run.state != "open"]
        total = sum(self.planned(run) for run in ended)
        spent = sum(len(run.history) for run in ended)
        return total - spent, total

    def planned(self, run: Run) -> int:
        """Epochs of a run, had it run to its end. For a function that did not announce its length,
        the epochs that it has run."""
        if not self.manifest.function:
            return int(self.manifest.base["train.epochs"])
        return run.length or len(run.history)

    @property
    def length(self) -> int:
        """Epochs of a trial that runs to its end; 0 if no function has announced them."""
        if not self.manifest.function:
            return int(self.manifest.base["train.epochs"])
        return max((run.length for run in self.trials.values()), default=0)

    @property
    def saved(self) -> float:
        """Share of the epochs that pruning and failures saved, in [0, 1]."""
        saved, total = self.epochs_saved
        return saved / total if total else 0.0

    @cached_property
    def _frozen(self) -> "list[FrozenTrial]":
        from tune.study.journal import read_trials

        return read_trials(self.folder / "study.journal", self.manifest.identity)

    def frozen_trials(self) -> "list[FrozenTrial]":
        """All trials as Optuna keeps them, with the ranges that their parameters were drawn
        from."""
        return self._frozen

    def best_number(self) -> int | None:
        """The study's answer (`RepeatRule.answer`); with several objectives, the first of the
        front."""
        if len(self.objectives) > 1:
            return next(iter(front_of(self.points, self.objectives)), None)
        return self.repeat_rule.answer(self.distinct, self.finals(), self.objective)

    def finals(self) -> dict[tuple[int, int], dict[str, float]]:
        """(trial, seed) -> final metrics of the completed repeats."""
        return {key: run.metrics for key, run in self.repeats.items() if run.state == "COMPLETE"}

    def differences(self, number: int) -> dict[str, Any]:
        """Searched parameters of a trial that differ from the default -> the trial's value."""
        config = self.trials[number].config
        base = self.manifest.base
        return {
            name: config[name]
            for name in self.manifest.space
            if name in config and config[name] != base[name]
        }


def lost_trials(record: Record) -> list[int]:
    """Trials that are complete in the journal but not in the log. No kill causes this, and the
    answer may be another trial."""
    return [
        trial.number
        for trial in record.frozen_trials()
        if trial.state.name == "COMPLETE" and trial.number not in record.completed
    ]


def check_whole(record: Record) -> None:
    """Check that the log of a record has lost no trials.

    Raises:
        UserError: it has.
    """
    lost = lost_trials(record)
    if lost:  # the study may be running: the journal was read later than the log
        now = read_record(record.folder).completed
        lost = [number for number in lost if number not in now]
    if lost:
        named = ", ".join(str(number) for number in lost)
        raise UserError(
            f"{record.folder}/events.jsonl lacks what study.journal has of trial {named}, so "
            "another trial may be the answer: run the study's command again, which restores it"
        )


def read_record(folder: Path) -> Record:
    """Read the record in a study's folder.

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
        look=state.look,
    )
