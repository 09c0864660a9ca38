"""Learning curves under several seeds: every configuration of a small grid, trained under ten
seeds, with the images that the weights of its best epoch classify right.

    python benchmarks/record_seeds.py  # about 25 CPU-minutes; writes benchmarks/data/
    python benchmarks/record_seeds.py digits --limit 2  # a try, which is printed and not kept

`verdict_calibration.py` draws searches and repeats from the records. A seed drives training as
`seed` does in a study: initialisation, order of images, augmentation. The split stays the same. A
record, `seeds-<task>.npz`, contains for C configurations, S seeds and E epochs:

    configurations   (C,) JSON of the values in which they differ
    curves           (C, S, E) validation top-1, NaN from divergence on
    val, test        (C, S, images / 8) packed bits: images that the best epoch gets right
    val_labels, test_labels   (images,)
    about            JSON: task, base config, commit, version of torch, CPU seconds
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.record_curves import DATA, Task, base_of, logspace, read_options, train
from benchmarks.record_file import commit
from search_spaces.classify import SETTINGS
from trainables.config import build
from trainables.data import Split
from trainables.files import BEST
from trainables.finetune import labels_of
from tune.experiments import EXPERIMENTS

SEEDS = 10
_SCHEDULES: dict[str, list[Any]] = {"schedule.name": ["cosine", "constant"]}
TASKS = {
    # The head of a frozen backbone on letters, as in setting D: many classes, little noise.
    "letters": Task(
        "classify",
        SETTINGS["D"].values | {"init.file": "given"},
        _SCHEDULES,
        {"adam": logspace(1e-4, 0.1, 8), "sgd": logspace(1e-3, 1.0, 8)},
    ),
    # A small network from scratch, for 84 steps: few classes, much noise.
    "digits": Task(
        "classify",
        {
            "data.name": "digits",
            "data.image_size": 12,
            "backbone.width": 8,
            "train.epoch_images": 240,
        },
        _SCHEDULES,
        {"adam": logspace(1e-4, 1e-2, 8), "sgd": logspace(1e-2, 0.5, 8)},
    ),
}


def main() -> None:
    options = read_options(__doc__, TASKS)
    torch.set_num_threads(1)
    for name in options.tasks:
        with tempfile.TemporaryDirectory(prefix="seeds-") as folder:
            recorded = record(name, Path(folder), options.limit)
        peaks = np.nanmax(recorded["curves"], axis=2)
        print(f"{name}: {recorded['about']}")
        print(
            f"  mean {peaks.mean(1).round(3)}\n  sd   {peaks.std(1, ddof=1).round(3)}", flush=True
        )
        if options.limit is None:
            np.savez_compressed(DATA / f"seeds-{name}.npz", **recorded)


def record(name: str, folder: Path, limit: int | None) -> dict[str, Any]:
    """Train a task and return the arrays of its record."""
    began = time.process_time()
    task = TASKS[name]
    experiment = EXPERIMENTS[task.experiment]
    base = base_of(task, folder)
    data = experiment.trainable.load_data(build(experiment.config, base).data)
    grid = task.grid()[:limit]
    epochs = build(experiment.config, base).train.epochs

    curves = np.full((len(grid), SEEDS, epochs), np.nan, dtype=np.float32)
    right: dict[str, list[np.ndarray]] = {"val": [], "test": []}
    for number, flat in enumerate(grid):
        for seed in range(SEEDS):
            config: Any = build(experiment.config, base | flat | {"seed": seed})
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                model, curve = train(experiment.trainable, config, data, Path(scratch))
                if curve:
                    model.load_export(Path(scratch) / BEST)
            curves[number, seed, : len(curve)] = curve
            right["val"].append(right_images(model, data.val))
            right["test"].append(right_images(model, data.test))
        print(f"{name} {number + 1} of {len(grid)}", file=sys.stderr, flush=True)

    shape = (len(grid), SEEDS, -1)
    return {
        "configurations": np.array([json.dumps(flat) for flat in grid]),
        "curves": curves,
        "val": np.packbits(np.array(right["val"]).reshape(shape), axis=2),
        "test": np.packbits(np.array(right["test"]).reshape(shape), axis=2),
        "val_labels": labels_of(data.val),
        "test_labels": labels_of(data.test),
        "about": np.array(json.dumps(_about(name, base, time.process_time() - began))),
    }


@torch.no_grad()
def right_images(model: Any, split: Split) -> np.ndarray:  # (images,) bool
    """Return True for each image whose class is predicted right."""
    model.eval()
    predicted = model.head(model.split_features(split)).argmax(1).numpy()
    right: np.ndarray = predicted == labels_of(split)
    return right


def _about(name: str, base: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "task": name,
        "base": {key: value for key, value in base.items() if key != "init.file"},
        "commit": commit(),
        "torch": torch.__version__,
        "cpu_seconds": round(seconds),
    }


if __name__ == "__main__":
    main()
