"""Driver time per trial over a study of 1,000 instant trials, in blocks of 100: flat in N, at most 25 ms, memory bounded.

    python benchmarks/thousand_trials.py               # through Ray Tune, two trials at a time
    python benchmarks/thousand_trials.py --local       # the study alone, in this process, without Ray

The search space is that of `ssl` (up to 15 parameters, TPE, pruning); the trainable does nothing, so that what is left is the price of
searching and recording. "study" is the time within the study's calls (what to run next, started, reported, ended: sampler, pruner, event
log and Optuna's journal with their fsyncs); "driver" is the CPU time of the whole driver process, Tune's controller included. The peer of
the flatness is the study itself when it was small: the last block against the second (the first warms up).
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
import torch
from torch import Tensor, nn

from trainables.base import Batch, Metrics, Trainable
from trainables.byol import BYOLConfig
from trainables.config import build, flatten
from tune.experiments import EXPERIMENTS, Experiment
from tune.manifest import Manifest
from tune.space import as_json, describe
from tune.study import Study

CLAIM_MS = 25.0
STUDY_CALLS = ("next_work", "started", "reported", "ended")


class Split(list):
    fingerprint, name, classes = "0" * 32, "nothing", ()

    @property
    def train(self) -> range:
        return range(128)


class Instant(Trainable):
    """One parameter, no data. Its objective is a smooth function of the learning rate, so that TPE has something to model."""

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
        lr = self.config.optim.lr
        return {"val/score": math.exp(-abs(math.log10(lr) + 2)) + 0.1 * self.config.head.tau0}

    def test(self) -> Metrics:
        return {"test/score": 0.0}

    def embeddings(self) -> tuple[np.ndarray, np.ndarray | None]:
        return np.zeros((1, 1), np.float32), None

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        path.touch()

    def load_export(self, path: Path) -> None:
        pass


SSL = EXPERIMENTS["ssl"]
EXPERIMENT = Experiment(
    name="instant", about="nothing", trainable=Instant, config=BYOLConfig, space=SSL.space, presets={"tiny": SSL.presets["tiny"]}
)


class Meter:
    """Wall and CPU time within the study's calls, and of the whole process, at every `block`-th end of a trial."""

    def __init__(self, study: Study, block: int):
        self.study, self.block = study, block
        self.wall = self.cpu = 0.0
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
                if self.ended % self.block == 0:
                    self.marks.append(self._mark())
            return result

        return timed

    def _mark(self) -> tuple[float, ...]:
        return time.perf_counter(), time.process_time(), self.wall, self.cpu, rss_mb()


def rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def open_study(folder: Path, trials: int, epochs: int) -> Study:
    base = flatten(build(BYOLConfig, SSL.presets["tiny"] | {"train.epochs": epochs, "train.epoch_images": 64}))
    manifest = Manifest(
        name="instant", experiment="instant", preset="tiny", objective="val/score", seed=0, base=base, pins={},
        space=as_json(describe(SSL.space, "tiny", {})), data={"name": "nothing", "fingerprint": "0", "path": "nothing", "images": 128},
    )  # fmt: skip
    return Study.open(folder / "instant", EXPERIMENT, manifest, trials=trials, repeats=0)


def show(meter: Meter, local: bool) -> None:
    print(f"{'trials':>12}{'study ms/trial':>18}{'(its CPU)':>12}{'driver CPU ms/trial':>22}{'trials/s':>10}{'RSS MB':>9}")
    rows = []
    for i, (before, after) in enumerate(itertools.pairwise(meter.marks)):
        passed, process, wall, cpu = (1000 * (b - a) / meter.block for a, b in zip(before[:4], after[:4], strict=True))
        rows.append((wall, cpu, process))
        span = f"{i * meter.block}-{(i + 1) * meter.block}"
        print(f"{span:>12}{wall:18.2f}{cpu:12.2f}{process:22.2f}{1000 / passed:10.1f}{after[4]:9.0f}")
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    print(f"{'mean':>12}{mean[0]:18.2f}{mean[1]:12.2f}{mean[2]:22.2f}")
    counted, name = (0, "study time") if local else (2, "driver CPU time")  # --local: the trials run in this very process
    print(f"{name} per trial: {mean[counted]:.1f} ms, limit {CLAIM_MS:.0f} ms, ratio {mean[counted] / CLAIM_MS:.2f}")
    print(f"flat in N: last block / second block = {rows[-1][counted] / rows[min(1, len(rows) - 1)][counted]:.2f} ({name})")
    grown = meter.marks[-1][4] - meter.marks[min(2, len(meter.marks) - 1)][4]
    print(f"memory: {grown:+.0f} MB after the second block, {meter.marks[-1][4]:.0f} MB at the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=1, help="reports of one trial")
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--local", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=here) as folder:  # a real disk: /tmp may be memory, where fsync is free
        study = open_study(Path(folder), options.trials, options.epochs)
        meter = Meter(study, options.block)
        if options.local:
            from tune.local import search_locally

            search_locally(study, EXPERIMENT)
        else:
            from tune.search import search

            search(study, EXPERIMENT, concurrent=2, gpus_per_worker=None)
        assert study.finished() == options.trials
        show(meter, options.local)
        study.close()


if __name__ == "__main__":
    main()
