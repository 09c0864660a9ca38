"""Recorded trainings under several seeds, and searches on them: drawn at random by the thousand, or
run by the product's own study, sampler and pruner.

The records are those of `record_seeds.py`. A training under a fresh seed is a draw from a smoothed
bootstrap of the ten recorded ones: ten points alone would be a distribution of their own, on which
a t test is liberal (.07 for .05). A configuration's true accuracy is the mean of the ten.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from optuna.trial import TrialState

from benchmarks.search_efficiency import OurStudy, race
from benchmarks.search_tables import Table

DATA = Path(__file__).parent / "data"
TASKS = ("digits", "letters")
UNTUNED = {"optim.name": "adam", "optim.lr": 5e-4, "schedule.name": "cosine"}
"""Trial 0 of `classify`, represented by the nearest recorded configuration."""

TrialSeeds = Literal["one", "each"]
""""one": all trials of a search train under one seed. "each": every trial has its own seed."""


@dataclass(frozen=True)
class Side:
    """A setting, with the accuracy of its configurations under each seed.

    C configurations, S recorded seeds, K seeds to draw from, E epochs, N test images.
    """

    name: str
    configurations: tuple[dict[str, Any], ...]
    chance: float
    curves: np.ndarray  # (C, S, E) validation
    right: np.ndarray  # (C, S, N) float32: 1 where a test image is classified right
    peaks: np.ndarray  # (C, K) validation of the best epoch
    test: np.ndarray  # (C, K)
    origin: np.ndarray  # (K,) the recorded seed from which a seed was derived

    @cached_property
    def truth(self) -> np.ndarray:  # (C,)
        """Test accuracy of every configuration, averaged over seeds."""
        return self.test.mean(1)

    @cached_property
    def default(self) -> int:
        """Row of the untuned default."""
        return nearest(self.configurations, UNTUNED)

    @cached_property
    def noise(self) -> float:
        """Standard deviation over seeds, pooled over the better half of the configurations."""
        better = self.truth >= np.median(self.truth)
        return float(np.sqrt(self.test[better].var(1, ddof=1).mean()))

    def part(self, name: str, rows: np.ndarray) -> "Side":
        """Return the setting with some of its configurations."""
        return replace(
            self,
            name=name,
            configurations=tuple(self.configurations[row] for row in rows),
            curves=self.curves[rows],
            right=self.right[rows],
            peaks=self.peaks[rows],
            test=self.test[rows],
        )

    def shifted(self, by: float) -> "Side":
        """Return the setting with a higher test accuracy."""
        return replace(self, test=self.test + by)

    def noisier(self, factor: float) -> "Side":
        """Return the setting with the noise of its test accuracy multiplied around every mean."""
        centre = self.test.mean(1, keepdims=True)
        return replace(self, test=centre + factor * (self.test - centre))

    def level(self) -> "Side":
        """Return the setting with all configurations made equally good, with their noise
        unchanged."""
        validation = self.peaks.mean(1)
        return replace(
            self,
            curves=self.curves + (validation.mean() - validation)[:, None, None],
            peaks=self.peaks + (validation.mean() - validation)[:, None],
            test=self.test + (self.truth.mean() - self.truth)[:, None],
        )

    def smoothed(self, rng: np.random.Generator, count: int = 2000) -> "Side":
        """Return the setting with many seeds: a smoothed bootstrap of the recorded ones.

        A seed is a recorded one, moved by a normal deviate with the covariance of the records and
        Silverman's bandwidth, then shrunk so that means and covariances stay (Silverman & Young
        1987). Whatever configurations share under one seed, and validation shares with test, stays
        shared.
        """
        recorded = self.test.shape[1]
        bandwidth = (4 / (3 * recorded)) ** 0.2
        origin = rng.integers(recorded, size=count)
        kernel = rng.normal(size=(recorded, count)) / math.sqrt(recorded)
        kernel = (np.eye(recorded)[:, origin] + bandwidth * kernel) / math.hypot(1, bandwidth)
        # the many draws estimate the variance, which ten points underestimate
        kernel *= math.sqrt(recorded / (recorded - 1))

        def smooth(values: np.ndarray) -> np.ndarray:
            mean = values.mean(1, keepdims=True)
            moved = (values - mean) @ kernel
            return mean + moved - moved.mean(1, keepdims=True)

        return replace(self, peaks=smooth(self.peaks), test=smooth(self.test), origin=origin)


@dataclass(frozen=True)
class Searches:
    """Searches of n trials each: rows of configurations, and the validation values seen."""

    rows: np.ndarray  # (..., n) int
    shown: np.ndarray  # (..., n) validation; -inf for a stopped trial

    @property
    def chosen(self) -> np.ndarray:
        """Row of the best trial; the first of several equal ones."""
        best = self.shown.argmax(-1)[..., None]
        return np.take_along_axis(self.rows, best, -1)[..., 0]

    @property
    def challenger(self) -> np.ndarray:
        """Row of the best trial other than trial 0, the default."""
        best = self.shown[..., 1:].argmax(-1)[..., None] + 1
        return np.take_along_axis(self.rows, best, -1)[..., 0]

    def pick(self, rng: np.random.Generator, shape: tuple[int, ...]) -> "Searches":
        """Draw some of these searches, with replacement."""
        index = rng.integers(len(self.rows), size=shape)
        return Searches(self.rows[index], self.shown[index])


def load(name: str) -> Side:
    """Load the record of a task. Its seeds are the recorded ones."""
    with np.load(DATA / f"seeds-{name}.npz") as file:
        images = len(file["test_labels"])
        right = np.unpackbits(file["test"], axis=2, count=images).astype(np.float32)
        curves = file["curves"].astype(float)
        return Side(
            name=name,
            configurations=tuple(json.loads(text) for text in file["configurations"]),
            chance=1 / len(np.unique(file["test_labels"])),
            curves=curves,
            right=right,
            peaks=np.nan_to_num(curves, nan=0.0).max(2),
            test=right.mean(2, dtype=float),
            origin=np.arange(curves.shape[1]),
        )


def nearest(configurations: Sequence[dict[str, Any]], wanted: dict[str, Any]) -> int:
    """Return the row of the nearest configuration: as many equal choices as possible, then the
    closest rate on a log scale."""

    def distance(found: dict[str, Any]) -> tuple[int, float]:
        unlike = sum(found[key] != wanted[key] for key in wanted if key != "optim.lr")
        return unlike, abs(math.log(found["optim.lr"] / wanted["optim.lr"]))

    return min(range(len(configurations)), key=lambda row: distance(configurations[row]))


def draw_searches(
    side: Side, rng: np.random.Generator, shape: tuple[int, ...], trials: int, seeds: TrialSeeds
) -> Searches:
    """Draw random searches whose first trial is the default, as in a study; no trial is stopped.

    From generators of one state, two sides get matching draws: the same relative rows and seeds.
    """
    configurations, known = side.peaks.shape
    rows = (rng.random((*shape, trials)) * configurations).astype(int)
    rows[..., 0] = side.default
    width = 1 if seeds == "one" else trials
    seed = rng.integers(known, size=(*shape, width))
    return Searches(rows, side.peaks[rows, seed])


def run_searches(
    side: Side, rng: np.random.Generator, count: int, trials: int, seeds: TrialSeeds
) -> tuple[Searches, float]:
    """Run searches with the product: `tune.study.study.Study` with its sampler and pruner, driven
    as in `search_efficiency.py`.

    Returns:
        The searches, and the mean number of epochs of one.
    """
    rows = np.zeros((count, trials), dtype=int)
    shown = np.full((count, trials), -np.inf)
    epochs = 0
    for number in range(count):
        table = NoisyTable.of(side, rng, seeds)
        searcher = OurStudy(table, int(rng.integers(2**31)), trials)
        race(searcher, table, trials, target=math.inf)
        for trial in searcher.study.frozen_trials():
            epochs += len(trial.intermediate_values)
            if trial.state == TrialState.COMPLETE:
                shown[number, trial.number] = trial.value
        rows[number] = table.asked
        searcher.study.close()
    return Searches(rows, shown), epochs / count


@dataclass(frozen=True)
class NoisyTable(Table):
    """A `Table` whose curve of a configuration is that of one recorded seed."""

    side: Side
    rng: np.random.Generator
    seeds: TrialSeeds
    seed: int
    asked: list[int]
    """Rows of the requested configurations, trial by trial."""

    @classmethod
    def of(cls, side: Side, rng: np.random.Generator, seeds: TrialSeeds) -> "NoisyTable":
        """Return the table for one search."""
        known = side.configurations
        optimizers = list(dict.fromkeys(c["optim.name"] for c in known))
        rates = {
            name: list(dict.fromkeys(c["optim.lr"] for c in known if c["optim.name"] == name))
            for name in optimizers
        }
        schedules = list(dict.fromkeys(c["schedule.name"] for c in known))
        axes = {"optim_name": optimizers, "optim_lr": rates, "schedule_name": schedules}
        default = {key.replace(".", "_"): value for key, value in UNTUNED.items()}
        curves: dict[tuple[int, ...], Sequence[float]] = {(0,): side.curves[0, 0]}
        seed = int(rng.integers(side.curves.shape[1]))
        return cls(side.name, axes, curves, default, side, rng, seeds, seed, [])

    def curve(self, params: dict[str, Any]) -> Sequence[float]:
        """Return the curve under the search's seed, or under a fresh one."""
        wanted = {key: params[key.replace(".", "_")] for key in UNTUNED}
        row = nearest(self.side.configurations, wanted)
        self.asked.append(row)
        seed = self.seed
        if self.seeds == "each":
            seed = int(self.rng.integers(self.side.curves.shape[1]))
        curve: list[float] = np.nan_to_num(self.side.curves[row, seed], nan=0.0).tolist()
        return curve
