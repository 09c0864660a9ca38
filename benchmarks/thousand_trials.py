"""Driver time per trial over a study of 1,000 instant trials, in blocks of 100: at most 25 ms, flat
in N, with bounded memory.

    python benchmarks/thousand_trials.py               # through Ray Tune, two trials at a time
    python benchmarks/thousand_trials.py --local  # without Ray, against Optuna alone

The search has fifteen parameters, as many as `ssl` asks for at most, TPE, and pruning at the first
of two reports. The trainable does nothing, so the time is the price of searching and recording.
"study" is the time within the study's calls (what to run next, started, reported, ended: sampler,
pruner, event log and Optuna's journal, including waits for the disk). "driver" is the CPU time of
the whole driver process, including Tune's controller and Ray's threads. With --local the peer takes
a turn after every trial: the same space asked and told through Optuna's own journal backend, TPE
and pruner, which records less (no event log).
"""

import argparse
import itertools
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import numpy as np
import optuna
import torch
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch import Tensor, nn

from benchmarks.record_file import add_record_option, record_speed, rounded
from search_spaces.common import Suggest
from trainables.base import Batch, Metrics, Trainable
from trainables.byol import BYOLConfig
from trainables.config import build, flatten
from tune.experiments import Experiment
from tune.search.space import as_json, describe
from tune.study.manifest import Manifest
from tune.study.study import Study

CLAIM_MS = 25.0
STUDY_CALLS = ("next_work", "started", "reported", "ended")


class Split(list):
    fingerprint, name, classes = "0" * 32, "nothing", ()

    @property
    def train(self) -> range:
        return range(128)


def score(lr: float, tau0: float) -> float:
    """A smooth objective, so that TPE has something to model."""
    return math.exp(-abs(math.log10(lr) + 2)) + 0.1 * tau0


class Instant(Trainable):
    """A trainable with one parameter and no data."""

    def __init__(self, config: BYOLConfig, data: Split):
        super().__init__()
        self.config, self.data = config, data
        self.weight = nn.Parameter(torch.zeros(1))

    @classmethod
    def load_data(cls, config: Any, progress: bool = False) -> Split:
        return Split()

    @classmethod
    def objective_for(cls, data: Split) -> str:
        return "val/score"

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        return Batch(torch.zeros(len(positions), 1), ())

    def forward(self, batch: Batch) -> Tensor:
        return (batch.images * self.weight).mean()

    def validate(self) -> Metrics:
        return {"val/score": score(self.config.optim.lr, self.config.head.tau0)}

    def test(self) -> Metrics:
        return {"test/score": 0.0}

    def embeddings(self, part: str) -> tuple[np.ndarray, np.ndarray | None]:
        return np.zeros((1, 1), np.float32), None

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        path.touch()

    def load_export(self, path: Path) -> None:
        pass


DEFAULT = {
    "optim.name": "sgd",
    "optim.lr": 0.1,
    "optim.weight_decay": 1e-4,
    "schedule.name": "cosine",
    "schedule.warmup_frac": 0.1,
    "schedule.step_gamma": 0.1,
    "schedule.power": 0.9,
    "head.tau0": 0.99,
    "head.projection_size": 128,
    "head.hidden_size": 256,
    "head.simplicial": False,
    "aug.crop_scale_min": 0.5,
    "aug.blur": 0.5,
    "aug.strength": 0.5,
    "train.batch_size": 64,
}


def space(trial: Suggest, preset: str) -> None:
    """Ask for all parameters unconditionally. The branches that a search takes are luck, and each
    parameter of a branch costs the sampler another model; so trials of two commits cost the
    same."""
    trial.suggest_categorical("optim.name", ["adamw", "lars", "sgd"])
    trial.suggest_float("optim.lr", 1e-3, 1.0, log=True)
    trial.suggest_float("optim.weight_decay", 1e-7, 1e-1, log=True)
    trial.suggest_categorical("schedule.name", ["constant", "cosine", "warmup_cosine"])
    trial.suggest_float("schedule.warmup_frac", 0.01, 0.2)
    trial.suggest_float("schedule.step_gamma", 0.1, 0.5, log=True)
    trial.suggest_float("schedule.power", 0.5, 2.0)
    trial.suggest_float("head.tau0", 0.9, 0.995)
    trial.suggest_categorical("head.projection_size", [64, 128, 256])
    trial.suggest_categorical("head.hidden_size", [256, 512, 1024])
    trial.suggest_categorical("head.simplicial", [False, True])
    trial.suggest_float("aug.crop_scale_min", 0.08, 0.9)
    trial.suggest_float("aug.blur", 0.0, 1.0)
    trial.suggest_float("aug.strength", 0.3, 1.5)
    trial.suggest_categorical("train.batch_size", [32, 64])


EXPERIMENT = Experiment(
    name="instant",
    about="nothing",
    model=lambda: (Instant, BYOLConfig),
    space=space,
    presets={"tiny": DEFAULT},
)


class Peer:
    """Optuna as it comes: each call runs one trial of the same space, with a report and an end."""

    def __init__(self, folder: Path):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / "peer.journal"))),
            direction="maximize",
            sampler=TPESampler(seed=0, multivariate=True),
            pruner=SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
        )

    def run_trial(self) -> None:
        trial = self.study.ask()
        space(trial, "tiny")
        value = score(trial.params["optim.lr"], trial.params["head.tau0"])
        trial.report(value, 1)
        stopped = trial.should_prune()
        self.study.tell(
            trial, None if stopped else value, optuna.trial.TrialState.PRUNED if stopped else None
        )


class Meter:
    """Measures wall and CPU time within the study's calls and of the whole process, at every
    `block`-th end of a trial."""

    def __init__(self, study: Study, block: int, peer: Peer | None):
        self.study, self.block, self.peer = study, block, peer
        self.wall = self.cpu = self.peer_wall = self.peer_cpu = 0.0
        self.ended = 0
        self.marks = [self._mark()]
        for name in STUDY_CALLS:
            setattr(study, name, self._timed(getattr(study, name), last=name == "ended"))

    def _timed(self, call: Callable[..., Any], last: bool) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.thread_time()
            result = call(*args, **kwargs)
            self.wall += time.perf_counter() - wall
            self.cpu += time.thread_time() - cpu
            if last and args[0].kind == "trial":
                self.ended += 1
                if self.peer:
                    wall, cpu = time.perf_counter(), time.thread_time()
                    self.peer.run_trial()
                    self.peer_wall += time.perf_counter() - wall
                    self.peer_cpu += time.thread_time() - cpu
                if self.ended % self.block == 0:
                    self.marks.append(self._mark())
            return result

        return timed

    def _mark(self) -> tuple[float, ...]:
        return (
            time.perf_counter(),
            time.process_time(),
            self.wall,
            self.cpu,
            self.peer_wall,
            self.peer_cpu,
            rss_mb(),
        )


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def open_study(folder: Path, trials: int, epochs: int) -> Study:
    # one step an epoch, whatever the preset says
    length = {"train.epochs": epochs, "train.epoch_images": 64}
    base = flatten(build(BYOLConfig, DEFAULT | length))
    manifest = Manifest(
        name="instant",
        experiment="instant",
        preset="tiny",
        objective="val/score",
        seed=0,
        base=base,
        pins={},
        space=as_json(describe(space, "tiny", {})),
        data={"name": "nothing", "fingerprint": "0", "path": "nothing", "images": 128},
    )
    return Study.open(folder / "instant", EXPERIMENT, manifest, trials=trials, repeats=0)


def show(meter: Meter) -> None:
    last = "Optuna alone: ms/trial   (its CPU)" if meter.peer else "driver CPU ms/trial"
    print(
        f"{'trials':>10}{'study ms/trial':>17}{'(its CPU)':>11}{last:>37}{'trials/s':>10}"
        f"{'RSS MB':>8}"
    )
    rows = []
    for i, (before, after) in enumerate(itertools.pairwise(meter.marks)):
        passed, *row = (
            1000 * (b - a) / meter.block for a, b in zip(before[:-1], after[:-1], strict=True)
        )
        rows.append(row)
        print(
            f"{f'{i * meter.block}-{(i + 1) * meter.block}':>10}{columns(row, meter)}"
            f"{1000 / passed:10.1f}{after[-1]:8.0f}"
        )
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    print(f"{'mean':>10}{columns(mean, meter)}")
    early = min(2, len(rows) - 1)
    if meter.peer:
        name, counted = "study CPU time", 2
        print(
            f"study CPU per trial against Optuna's: {mean[2] / mean[4]:.2f} over all, "
            f"{rows[-1][2] / rows[-1][4]:.2f} in the last block"
        )
    else:
        name, counted = "driver CPU time", 0
        print(
            f"driver CPU time per trial {mean[0]:.1f} ms, at most {CLAIM_MS:.0f} claimed: "
            f"{'holds' if mean[0] <= CLAIM_MS else 'FAILS'}"
        )
    print(
        f"flat in N: {name} of the last block is {rows[-1][counted] / rows[early][counted]:.2f} "
        f"times that of block {early + 1}"
    )
    grown = (meter.marks[-1][-1] - meter.marks[early][-1]) / (meter.block * (len(rows) - early))
    print(f"memory: {1000 * grown:.0f} kB a trial, {meter.marks[-1][-1]:.0f} MB at the end")


def columns(row: list[float], meter: Meter) -> str:
    process, wall, cpu, peer_wall, peer_cpu = row
    return f"{wall:17.2f}{cpu:11.2f}" + (
        f"{peer_wall:25.2f}{peer_cpu:12.2f}" if meter.peer else f"{process:37.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2, help="reports of one trial")
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--local", action="store_true")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parents[1]
    # a real disk: /tmp may be in memory, where fsync is free
    with tempfile.TemporaryDirectory(prefix="bench-", dir=here) as folder:
        study = open_study(Path(folder), options.trials, options.epochs)
        meter = Meter(study, options.block, Peer(Path(folder)) if options.local else None)
        if options.local:
            from tune.execution.local import search_locally

            search_locally(study, EXPERIMENT)
        else:
            from tune.execution.ray_tune import search

            search(study, EXPERIMENT, concurrent=2, gpus_per_worker=None)
        assert study.finished() == options.trials
        show(meter)
        study.close()
    about = {"trials": options.trials, "epochs": options.epochs, "block": options.block}
    # wall and CPU seconds of the process, of the study's calls, and of the peer; MB
    marks = [rounded(mark) for mark in meter.marks]
    record_speed(options.record, about | {"marks": marks})


if __name__ == "__main__":
    main()
