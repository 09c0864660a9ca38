"""Candidate defaults of `fewshot`, compared on letters that its study does not test on.

    python benchmarks/fewshot_default.py                       # about 9 CPU minutes
    python benchmarks/fewshot_default.py adamw adamw+scale30   # these two beside the earlier one
    python benchmarks/fewshot_default.py adamw10+scale30+every+whole --digits

Trainings are those of the study on splits of other seeds (`--splits`), judged on their validation
letters without those on which the study of `data.seed=0` tests. `--digits` trains on handwritten
digits instead, which share nothing with letters. A candidate is the earlier default with some
PARTS, joined by "+". Printed are its best validation accuracies, one per split and seed, its CPU
seconds beside the earlier default's, and the mean difference from it with a 95 % interval over the
pairs.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.record_curves import train
from trainables.config import build
from trainables.data import FewShotData
from tune.experiments import EXPERIMENTS
from tune.reports.statistics import paired

FEWSHOT = EXPERIMENTS["fewshot"]
EARLIER: dict[str, Any] = {
    "optim.name": "adam",
    "optim.lr": 1e-3,
    "optim.weight_decay": 1e-6,
    "schedule.name": "step",
    "schedule.step_gamma": 0.5,
    "schedule.step_every_frac": 0.2,
    "head.distance": "cosine",
    "head.scale": 10.0,
    "backbone.pool": 2,
    "episode.way": 20,
    "episode.query": 5,
    "episode.every_support": False,
    "aug.crop_scale_min": 0.8,
    "backbone.zero_init_residual": False,
}
"""The default before this comparison, as far as PARTS or today's preset change it."""
_WARM = {"schedule.name": "warmup_cosine", "schedule.warmup_frac": 0.1}
PARTS: dict[str, dict[str, Any]] = {
    "earlier": {},
    "adamw": {"optim.name": "adamw", "optim.lr": 5e-3, "optim.weight_decay": 0.05} | _WARM,
    "adamw10": {"optim.name": "adamw", "optim.lr": 1e-2, "optim.weight_decay": 0.05} | _WARM,
    "scale30": {"head.scale": 30.0},
    "every": {"episode.every_support": True},
    "whole": {"aug.crop_scale_min": 1.0},
    "pool4": {"backbone.pool": 4},
    "way40": {"episode.way": 40, "episode.query": 2},
    "euclidean": {"head.distance": "euclidean"},
    "parametric": {"head.distance": "parametric"},
    "zero": {"backbone.zero_init_residual": True},
}
CANDIDATES = [
    "adamw",
    "adamw+scale30",
    "adamw+scale30+pool4",
    "adamw+scale30+whole",
    "adamw+scale30+every",
    "adamw+scale30+every+whole",
    "adamw+scale30+every+whole+zero",
    "adamw+scale30+every+whole+way40",
    "adamw10+scale30+every+whole",
]
DIGITS: dict[str, Any] = {
    "data.name": "digits",
    "val.way": 2,
    "episode.way": 4,
    "train.epochs": 6,
    "train.epoch_images": 1200,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("candidates", nargs="*", default=CANDIDATES)
    parser.add_argument("--splits", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--known", type=Path, help="file with trainings, read and extended")
    options = parser.parse_args()
    torch.set_num_threads(1)

    known = read(options.known)
    earlier: list[dict[str, Any]] = []
    for name in dict.fromkeys(["earlier", *options.candidates]):
        trained = []
        for split in options.splits:
            for seed in options.seeds:
                key = f"{'digits' if options.digits else 'glyphs'} {split} {seed} {name}"
                if key not in known:
                    known[key] = one_training(name, split, seed, digits=options.digits)
                    keep(options.known, key, known[key])
                trained.append(known[key])
        earlier = earlier or trained
        print(described(name, trained, earlier), flush=True)


def one_training(name: str, split: int, seed: int, *, digits: bool) -> dict[str, Any]:
    """Train a candidate; return the accuracy of every epoch and the CPU seconds."""
    values = dict(FEWSHOT.presets["tiny"]) | EARLIER
    for part in name.split("+"):
        values |= PARTS[part]
    values |= {"data.seed": split, "seed": seed}
    if digits:
        values |= DIGITS
    config: Any = build(FEWSHOT.config, values)
    data = FEWSHOT.trainable.load_data(config.data)
    if not digits:
        data = without_tested_letters(data)

    began = time.process_time()
    with tempfile.TemporaryDirectory(prefix="default-") as folder:
        _, curve = train(FEWSHOT.trainable, config, data, Path(folder))
    return {"curve": curve, "seconds": time.process_time() - began}


def without_tested_letters(data: FewShotData) -> FewShotData:
    """Leave out of val the letters on which the study of `data.seed=0` tests."""
    config: Any = build(FEWSHOT.config, FEWSHOT.presets["tiny"])
    study = FEWSHOT.trainable.load_data(config.data)
    tested = {study.classes[label] for label in np.unique(study.test.targets())}
    allowed = [number for number, name in enumerate(data.classes) if name not in tested]
    val = data.val
    kept = val.indices[np.isin(val.targets(), allowed)]
    return replace(data, val=replace(val, indices=kept))


def read(path: Path | None) -> dict[str, Any]:
    """Read earlier trainings, one line each."""
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line.pop("key"): line for line in lines}


def keep(path: Path | None, key: str, trained: dict[str, Any]) -> None:
    """Append a training to the file, if there is one."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps({"key": key} | trained) + "\n")


def described(name: str, trained: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> str:
    """One line of the table."""
    best = np.array([max(one["curve"]) for one in trained])
    reference = np.array([max(one["curve"]) for one in earlier])
    seconds = sum(one["seconds"] for one in trained) / sum(one["seconds"] for one in earlier)
    values = " ".join(f"{value:.3f}" for value in best)
    line = f"{name:40} {best.mean():.4f}  {values}  time {seconds:.2f}"
    if name == "earlier" or len(best) < 2:
        return line
    gain = paired(best, reference)
    return f"{line}  gain {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


if __name__ == "__main__":
    main()
