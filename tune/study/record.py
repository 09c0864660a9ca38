"""A study as its event log tells it: for reading beside a run, and after it. Nothing is locked and
nothing is written."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tune.experiments import EXPERIMENTS
from tune.study.events import EventLog
from tune.study.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

K = TypeVar("K")  # what names a configuration
CONCLUSIONS = ("verdict", "warm_start")
"""Tags of what is said at the end of a study."""


@dataclass
class Run:
    """A trial, or a repeat of one under another seed."""

    config: dict[str, Any] = field(default_factory=dict)
    started: int = 0
    """ms since the epoch."""
    ended: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    """Metrics of each epoch."""
    state: str = "open"
    value: float | None = None
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Final ones."""
    occupied_ms: int = 0
    """From each start to the last that was heard of it: training, validation, checkpoints; no
    interruption."""
    heard: int = 0
    """When that was, ms since the epoch."""

    @property
    def seconds(self) -> float:
        """Time of its epochs, training alone."""
        return float(sum(m.get("time/epoch_s") or 0.0 for m in self.history))

    @property
    def cpu_seconds(self) -> float:
        """Of CPU cores that it kept: its time, by threads and workers."""
        workers = max((m.get("time/workers") or 1.0 for m in self.history), default=1.0)
        return self.occupied_ms / 1000 * float(self.config.get("train.threads", 1)) * workers

    @property
    def gpu_seconds(self) -> float:
        """Of GPUs that it kept."""
        return (
            self.occupied_ms
            / 1000
            * max((m.get("time/gpus") or 0.0 for m in self.history), default=0.0)
        )


@dataclass
class Record:
    """Everything that a study has on record."""

    folder: Path
    manifest: Manifest
    trials: dict[int, Run] = field(default_factory=dict)
    repeats: dict[tuple[int, int], Run] = field(default_factory=dict)
    """(trial, seed) -> run."""
    summary: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    finished: bool = False
    """It has come to its end, and has not been gone on with since."""

    @property
    def top(self) -> int:
        """How many of the best configurations are repeated."""
        return (
            EXPERIMENTS[self.manifest.experiment].top
            if self.manifest.experiment in EXPERIMENTS
            else 1
        )

    @property
    def objective(self) -> str:
        return self.manifest.objective

    @property
    def completed(self) -> dict[int, float]:
        """Completed trials -> objective."""
        return {
            n: run.value
            for n, run in sorted(self.trials.items())
            if run.state == "COMPLETE" and run.value is not None
        }

    @property
    def epochs(self) -> int:
        """Of the trials; repeats are no part of the search."""
        return sum(len(run.history) for run in self.trials.values())

    @property
    def epochs_saved(self) -> tuple[int, int]:
        """Epochs that the trials which have ended did not run, and those that they would have run:
        what pruning and failures have saved. A trial that still runs has saved nothing yet."""
        ended = [run for run in self.trials.values() if run.state != "open"]
        whole = len(ended) * int(self.manifest.base["train.epochs"])
        return whole - sum(len(run.history) for run in ended), whole

    @property
    def saved(self) -> float:
        """Share of the epochs that pruning and failures have saved."""
        saved, whole = self.epochs_saved
        return saved / whole if whole else 0.0

    @cached_property
    def _frozen(self) -> "list[FrozenTrial]":
        from tune.study.journal import read_trials

        return read_trials(self.folder / "study.journal", self.manifest.name)

    def frozen_trials(self) -> "list[FrozenTrial]":
        """As Optuna keeps them, with the ranges that their parameters were drawn from."""
        return self._frozen

    def leaders(self) -> list[int]:
        """The trials that are repeated: the best, best first."""
        return leaders(self.completed, self.top)

    def best_number(self) -> int | None:
        """The study's answer (`chosen`)."""
        return chosen(self.completed, self.top, self.finals(), self.objective)

    def finals(self) -> dict[tuple[int, int], dict[str, float]]:
        """(trial, seed) -> final metrics of the repeats that ran to the end."""
        return {key: run.metrics for key, run in self.repeats.items() if run.state == "COMPLETE"}

    def departures(self, number: int) -> dict[str, Any]:
        """In what a trial departs from the default, by searched parameter."""
        config, base = self.trials[number].config, self.manifest.base
        return {
            name: config[name]
            for name in self.manifest.space
            if name in config and config[name] != base[name]
        }


def read_record(folder: Path) -> Record:
    """The record in a study's folder.

    Raises:
        UserError: there is no study.
    """
    record = Record(folder, read_manifest(folder / "study.json"))
    path = folder / "events.jsonl"
    for event in EventLog.read(path)[0] if path.exists() else []:
        kind = event["event"]
        if kind == "summary":
            record.summary |= event["metrics"]
            record.tags |= event["tags"]
        elif kind in ("start", "report", "end") and event.get("trial") is not None:
            if (seed := event.get("repeat")) is None:
                run = record.trials.setdefault(event["trial"], Run())
            else:
                run = record.repeats.setdefault((event["trial"], seed), Run())
            _tell(run, event)
            # with more trials or repeats: what was said at that end is about fewer
            if kind == "start" and record.finished:
                record.finished = False
                for said in CONCLUSIONS:
                    record.tags.pop(said, None)
        elif kind == "finish":
            record.finished = event["state"] == "FINISHED"
    return record


def _tell(run: Run, event: dict[str, Any]) -> None:
    if event["event"] == "start":
        run.config, run.started, run.heard = event["config"], run.started or event["t"], event["t"]
        return
    if run.heard:  # a process that was lost before it began has kept nothing
        run.occupied_ms += event["t"] - run.heard
    run.heard = event["t"]
    if event["event"] == "report":
        run.history.append(event["metrics"])
    else:
        run.state, run.value, run.reason, run.ended = (
            event["state"],
            event["value"],
            event["reason"],
            event["t"],
        )
        run.metrics = event.get("metrics") or {}


def leaders(completed: dict[int, float], top: int) -> list[int]:
    """The `top` best of the completed trials, best first; of equal ones the earlier. Beside the
    best none that is below the default: where most trials are stopped early few are left, and to
    train a poor one again says nothing."""
    ranked = sorted(completed, key=lambda number: (-completed[number], number))
    return [n for n in ranked[:top] if n == ranked[0] or completed[n] > completed.get(0, -math.inf)]


def table_of(
    finals: dict[tuple[K, int], dict[str, float]], numbers: list[K], metric: str
) -> tuple[list[K], np.ndarray]:
    """Numbers (those of `numbers` that were repeated) and their scores (numbers, seeds), over the
    seeds that all of them have."""
    seeds = {
        n: {seed for (m, seed), metrics in finals.items() if m == n and metric in metrics}
        for n in numbers
    }
    rows = [n for n in dict.fromkeys(numbers) if seeds[n]]
    common = sorted(set.intersection(*(seeds[n] for n in rows))) if rows else []
    return rows, np.array([[finals[n, seed][metric] for seed in common] for n in rows]).reshape(
        len(rows), len(common)
    )


def chosen(
    completed: dict[int, float],
    top: int,
    finals: dict[tuple[int, int], dict[str, float]],
    objective: str,
) -> int | None:
    """The leader whose repeats have the best mean of the *selecting* metric: a lucky seed of the
    search does not choose. Before there are repeats, the first leader; None where no trial ran to
    the end."""
    first = leaders(completed, top)
    rows, scores = table_of(finals, first, f"best/{objective}")
    if not scores.size:
        return first[0] if first else None
    return rows[int(scores.mean(axis=1).argmax())]
