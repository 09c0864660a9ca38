"""Candidate defaults of `classify`, compared on letters that no such study judges.

    python benchmarks/classify_default.py               # about 20 CPU minutes
    python benchmarks/classify_default.py --settings AD --seed 2

`classify` uses Cyrillic, Armenian and Georgian letters, `ssl` and `pretrain` use Latin and Greek
ones. Here the task is 209 of the latter, as many as `classify` has, with five drawings each for
training and two for validation. Backbones are trained on the other letters only. Every line is the
validation top-1 of one training: after half of its epochs, after the last, and at its best.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.record_curves import train
from search_spaces.classify import SETTINGS
from trainables.backbone.weights import content_hash
from trainables.config import build
from trainables.data import DataSet, Split
from trainables.files import BEST
from tune.experiments import EXPERIMENTS

CLASSES = 209
TRAIN, VAL = 5, 2  # drawings of a letter
PRETRAINED_BY = {"supervised": "pretrain", "ssl": "ssl"}

_ADAMW = {
    "optim.name": "adamw",
    "optim.weight_decay": 0.05,
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
}
_ADAM = {
    "optim.name": "adam",
    "optim.weight_decay": 1e-6,
    "schedule.name": "cosine",
}
CANDIDATES: list[dict[str, Any]] = [
    *(_ADAM | {"optim.lr": lr} for lr in (5e-4, 1.5e-3, 5e-3)),
    *(_ADAMW | {"optim.lr": lr} for lr in (2e-3, 5e-3, 1e-2)),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", default="ABCDE")
    parser.add_argument("--seed", type=int, default=1, help="which letters and drawings")
    options = parser.parse_args()
    torch.set_num_threads(1)

    task, others = letters(options.seed)
    print(f"{'setting':9}{'optimizer':11}{'rate':>7}{'half':>7}{'last':>7}{'best':>7}")
    with tempfile.TemporaryDirectory(prefix="default-") as folder:
        for setting in options.settings:
            start = SETTINGS[setting].values | backbone(setting, others, Path(folder))
            for candidate in CANDIDATES:
                curve = one_training(start | candidate, task)
                half, last = curve[len(curve) // 2 - 1], curve[-1]
                name, rate = candidate["optim.name"], candidate["optim.lr"]
                print(
                    f"{setting:9}{name:11}{rate:7.2g}{half:7.3f}{last:7.3f}{max(curve):7.3f}",
                    flush=True,
                )


def letters(seed: int) -> tuple[DataSet, DataSet]:
    """Return the chosen letters as a task of `classify`, and all others for pre-training."""
    experiment = EXPERIMENTS["pretrain"]
    config: Any = build(experiment.config, experiment.presets["tiny"])
    data = experiment.trainable.load_data(config.data)
    labels = data.train.labels
    assert labels is not None

    generator = np.random.default_rng(seed)
    drawings = {
        letter: data.train.indices[labels[data.train.indices] == letter]
        for letter in range(len(data.classes))
    }
    enough = [letter for letter, rows in drawings.items() if len(rows) >= TRAIN + VAL]
    chosen = generator.permutation(enough)[:CLASSES]

    ours = np.full(len(labels), -1)
    rows_train: list[int] = []
    rows_val: list[int] = []
    for position, letter in enumerate(chosen):
        rows = generator.permutation(drawings[letter])
        ours[rows] = position
        rows_train += list(rows[:TRAIN])
        rows_val += list(rows[TRAIN : TRAIN + VAL])
    train_split = Split(data.train.images, ours, np.array(rows_train))
    val_split = Split(data.train.images, ours, np.array(rows_val))
    task = replace(
        data,
        classes=tuple(data.classes[letter] for letter in chosen),
        train=train_split,
        gallery=train_split,
        val=val_split,
        test=val_split,
    )

    def without_ours(split: Split) -> Split:
        return replace(split, indices=split.indices[~np.isin(labels[split.indices], chosen)])

    assert data.gallery is not None
    others = replace(
        data,
        train=without_ours(data.train),
        gallery=without_ours(data.gallery),
        val=without_ours(data.val),
        test=without_ours(data.test),
    )
    return task, others


def backbone(setting: str, others: DataSet, folder: Path) -> dict[str, Any]:
    """Return config values that load the setting's backbone, training it first if needed. A setting
    from scratch has none."""
    kind = SETTINGS[setting].init
    if kind == "scratch":
        return {}

    file = folder / kind / BEST
    if not file.exists():
        file.parent.mkdir()
        validation_curve(PRETRAINED_BY[kind], {}, others, file.parent)
    origin = {"init.sha256": content_hash(file), "init.origin": PRETRAINED_BY[kind]}
    return {"init.file": str(file)} | origin


def one_training(values: dict[str, Any], task: DataSet) -> list[float]:
    """Train the task once, from the beginning; return the objective of every epoch."""
    with tempfile.TemporaryDirectory(prefix="default-") as folder:
        return validation_curve("classify", values, task, Path(folder))


def validation_curve(name: str, values: dict[str, Any], data: DataSet, folder: Path) -> list[float]:
    """Train in a folder without a checkpoint; return the objective of every epoch."""
    experiment = EXPERIMENTS[name]
    config: Any = build(experiment.config, experiment.presets["tiny"] | values)
    _, curve = train(experiment.trainable, config, data, folder)
    return curve


if __name__ == "__main__":
    main()
