"""Learning curves of our own trainables on complete grids, recorded once, so that searches can be
compared on them in seconds.

    python benchmarks/record_curves.py  # about 25 CPU-minutes; writes benchmarks/data/
    python benchmarks/record_curves.py head-digits

Every configuration of a grid is trained to its last epoch, without pruning, with the trainable's
own code and one seed. A line contains the configuration and the objective (validation top-1) of
every epoch. The values of the learning rate depend on the optimizer, as in the search spaces.
"""

import argparse
import contextlib
import csv
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from search_spaces.classify import SETTINGS
from trainables.backbone.weights import content_hash
from trainables.base import Trainable
from trainables.config import build
from trainables.engine.fit import fit
from trainables.errors import TrialFailed
from trainables.files import BEST
from tune.execution.runtimes import LocalRuntime
from tune.experiments import EXPERIMENTS

DATA = Path(__file__).parent / "data"
DIVERGED = 0.0  # value of an epoch after divergence
SPLIT = {"data.split": 1}
"""The version of the split with which the curves were recorded, so that they can be recorded
again."""
RECORDED_WITH = {
    "optim.name": "adam",
    "optim.lr": 5e-4,
    "optim.weight_decay": 1e-6,
    "schedule.name": "cosine",
}
"""The default of that time, for values that a grid does not set."""


@dataclass(frozen=True)
class Task:
    """A grid over an experiment's config."""

    experiment: str
    base: dict[str, Any]
    """Values that differ from the preset `tiny`."""
    axes: dict[str, list[Any]]
    rates: dict[str, list[float]]
    """Optimizer -> learning rates."""

    def grid(self) -> list[dict[str, Any]]:
        """Return every configuration, flat."""
        rest = [
            dict(zip(self.axes, values, strict=True))
            for values in itertools.product(*self.axes.values())
        ]
        return [
            {"optim.name": name, "optim.lr": lr, **more}
            for name, rates in self.rates.items()
            for lr in rates
            for more in rest
        ]


def logspace(low: float, high: float, count: int) -> list[float]:
    return [float(f"{x:.3g}") for x in np.geomspace(low, high, count)]


# The head of a frozen backbone, as in settings D and E: the ranges of search_spaces/classify.py.
_HEAD_AXES: dict[str, list[Any]] = {
    "optim.weight_decay": [1e-6, 1e-3],
    "schedule.name": ["constant", "cosine"],
    "head.kind": ["linear", "mlp"],
    "train.batch_size": [32, 64],
}
_HEAD_RATES = {"adam": logspace(1e-4, 0.1, 9), "sgd": logspace(1e-3, 1.0, 9)}
TASKS = {
    "head-glyphs": Task(
        "classify", SETTINGS["D"].values | {"init.file": "given"}, _HEAD_AXES, _HEAD_RATES
    ),
    "head-digits": Task(
        "classify",
        SETTINGS["D"].values | {"init.file": "given", "data.name": "digits"},
        _HEAD_AXES,
        _HEAD_RATES,
    ),
    # A whole network, a few hundred steps from scratch: the ranges of search_spaces/pretrain.py.
    "scratch-digits": Task(
        "classify",
        {
            "data.name": "digits",
            "data.image_size": 12,
            "backbone.width": 8,
            "train.epoch_images": 480,
        },
        {
            "schedule.name": ["constant", "cosine"],
            "aug.rotate": [0.0, 10.0],
            "loss.mixup": [0.0, 0.2],
            "train.batch_size": [32, 64],
        },
        {"adam": logspace(1e-5, 1e-2, 9), "sgd": logspace(3e-3, 0.3, 7)},
    ),
    # The next two were recorded for reporting; nothing is chosen with them.
    "scratch-earth": Task(
        "classify",
        {
            "data.name": "earth",
            "data.image_size": 16,
            "backbone.width": 8,
            "train.epoch_images": 192,
        },
        {
            "schedule.name": ["constant", "cosine"],
            "loss.mixup": [0.0, 0.2],
            "train.batch_size": [16, 32],
        },
        {"adam": logspace(1e-4, 1e-2, 5), "sgd": logspace(3e-3, 0.3, 5)},
    ),
    "fewshot-glyphs": Task(
        "fewshot",
        {
            "data.image_size": 16,
            "backbone.width": 8,
            "train.epoch_images": 600,
            "val.episodes": 200,
            # the default of that time
            "head.scale": 10.0,
            "aug.crop_scale_min": 0.8,
            "episode.every_support": False,
        },
        {
            "schedule.name": ["constant", "cosine"],
            "head.distance": ["euclidean", "cosine", "parametric"],
        },
        {"adam": logspace(1e-4, 3e-2, 6), "sgd": logspace(1e-3, 0.3, 6)},
    ),
    # A third data set of its grid, from which priors are chosen.
    "head-earth": Task(
        "classify",
        SETTINGS["D"].values | {"init.file": "given", "data.name": "earth"},
        _HEAD_AXES,
        {name: rates[::2] for name, rates in _HEAD_RATES.items()},
    ),
}


def read_options(about: str | None, tasks: Iterable[str]) -> argparse.Namespace:
    """Return the command line of a recorder: `tasks` and `limit`."""
    known = list(tasks)
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", default=known, help=f"of {', '.join(known)}")
    parser.add_argument("--limit", type=int, help="the first so many configurations, for a try")
    return parser.parse_args()


def main() -> None:
    options = read_options(__doc__, TASKS)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="curves-") as folder:
        for name in options.tasks:
            began = time.process_time()
            curves = record(TASKS[name], Path(folder), options.limit)
            write(DATA / f"curves-{name}.csv", curves)
            print(
                f"{name}: {len(curves)} curves, {time.process_time() - began:.0f} s CPU", flush=True
            )


def record(task: Task, folder: Path, limit: int | None) -> list[tuple[dict[str, Any], list[float]]]:
    """Return (configuration, objective of every epoch) for the whole grid."""
    experiment = EXPERIMENTS[task.experiment]
    base = base_of(task, folder)
    data = experiment.trainable.load_data(build(experiment.config, base).data)
    curves = []
    for flat in task.grid()[:limit]:
        config: Any = build(experiment.config, base | flat)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _, curve = train(experiment.trainable, config, data, Path(scratch))
        curve += [DIVERGED] * (config.train.epochs - len(curve))
        curves.append((flat, curve))
    return curves


def base_of(task: Task, folder: Path) -> dict[str, Any]:
    """Return the values that all configurations of a task share, flat. A backbone is trained into
    `folder` first."""
    base = EXPERIMENTS[task.experiment].presets["tiny"] | RECORDED_WITH | SPLIT | task.base
    if not base.get("init.file"):
        return base

    file = _pretrained(folder)
    origin = {"init.sha256": content_hash(file), "init.origin": "pretrain"}
    return base | {"init.file": str(file)} | origin


def train(
    trainable: type[Trainable[Any, Any]], config: Any, data: Any, scratch: Path
) -> tuple[Trainable[Any, Any], list[float]]:
    """Train one configuration to its last epoch.

    Returns:
        The trained network, and the objective of every epoch up to the last, or until divergence.
    """
    curve: list[float] = []

    def keep(epoch: int, metrics: dict[str, float]) -> bool:
        curve.append(metrics[trainable.objective_for(data)])
        return True

    torch.manual_seed(config.seed)
    model = trainable(config, data)
    with contextlib.suppress(TrialFailed):
        fit(model, config, LocalRuntime(scratch, keep))
    return model, curve


def _pretrained(folder: Path) -> Path:
    """Return a backbone pre-trained with labels on other letters: the default of `pretrain` except
    for its learning rate."""
    path = folder / BEST
    if not path.exists():
        experiment = EXPERIMENTS["pretrain"]
        flat = experiment.presets["tiny"] | RECORDED_WITH | SPLIT | {"optim.lr": 3e-3}
        config: Any = build(experiment.config, flat)
        torch.manual_seed(config.seed)
        trainable = experiment.trainable(config, experiment.trainable.load_data(config.data))
        fit(trainable, config, LocalRuntime(folder, lambda epoch, metrics: True))
    return path


def write(path: Path, curves: list[tuple[dict[str, Any], list[float]]]) -> None:
    """Write one line for each configuration."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*curves[0][0], *(f"epoch {n}" for n in range(1, len(curves[0][1]) + 1))])
        writer.writerows(
            [*flat.values(), *(f"{value:.4g}" for value in curve)] for flat, curve in curves
        )


if __name__ == "__main__":
    main()
