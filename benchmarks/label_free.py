"""Record measures without labels for random configurations of `ssl`, beside the truth from labels.

    apt-get download mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    for file in *.deb; do dpkg -x $file photos; done     # photographs, of Debian 12
    python benchmarks/label_free.py photos --out record --every 99 --only digits earth photos
    python benchmarks/label_free.py --out record --every 99 --only earth-long --runs 40
    python benchmarks/label_free.py --out record --every 99 --only digits-long

A line of `record/runs.jsonl` is one training: a random configuration of the space of preset `tiny`,
shorter than the preset, with its own seed, about 10 CPU seconds (letters: 60). The data sets take
turns, so that a partial record is useful too, and the script resumes where it ended.
`benchmarks/data/label_free.jsonl` contains the last epochs, which `label_free_report.py` reads.
"""

import argparse
import contextlib
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
from PIL import Image

from benchmarks.label_free_judge import Judged
from search_spaces.ssl import ssl
from trainables.augment.fixed_views import even_part
from trainables.config import build
from trainables.data import DataSet, load_dataset
from trainables.engine.fit import fit
from trainables.errors import TrialFailed
from tune.execution.runtimes import LocalRuntime
from tune.experiments import EXPERIMENTS

RUNS = 30
TILE = 64
"""Side of a tile in px, in a photograph scaled to `HEIGHT`."""
HEIGHT = 576
PHOTOS = (
    *("mate/nature/Aqua.jpg", "mate/nature/Blinds.jpg", "mate/nature/Dune.jpg"),
    *("mate/nature/FreshFlower.jpg", "mate/nature/Garden.jpg", "mate/nature/GreenMeadow.jpg"),
    *("mate/nature/LadyBird.jpg", "mate/nature/RainDrops.jpg", "mate/nature/Storm.jpg"),
    *("mate/nature/TwoWings.jpg", "mate/nature/Wood.jpg", "mate/nature/YellowFlower.jpg"),
    *("Bridge_by_Sander_Klootwijk.jpg", "Dragonfly_by_Bolly.jpg", "Kleiber_by_Lukas_Baubkus.jpg"),
    *("Picture_0B_by_freespace.jpg", "Picture_1A_by_freespace.jpg", "Wine_by_Jakkub_Mede.jpg"),
    *("aitzgorri_by_Aitzol_Berasategi.jpg", "free_by_Peter_Nerlich.jpg"),
    *("friends_by_Aitzol_Berasategi.jpg", "greentock_by_Peter_Nerlich.jpg"),
    *("life_by_Aitzol_Berasategi.jpg", "picosdeeuropa_by_Aitzol_Berasategi.jpg"),
    *("seeding_by_Clements_Engelhardt.jpg", "sunset_by_Aitzol_Berasategi.jpg"),
    "Infinite-Sea_by_Aury88.jpg",
)
"""Photographs in usr/share/backgrounds of the packages."""

_DIGITS: dict[str, Any] = {
    "data.up": "none",
    "data.image_size": 16,
    "backbone.width": 8,
    "train.epoch_images": 1024,
}
_SHORT: dict[str, Any] = {
    "train.epochs": 5,
    "train.rules": 1,
    "normalize": "policy",
    "val.collapse_epochs": 99,  # collapsed runs are part of the record
    "val.probe_steps": 50,
}
_EARTH: dict[str, Any] = {
    "data.up": "all",
    "data.image_size": 24,
    "backbone.width": 8,
    "train.epoch_images": 1024,
}
# Three times as long, under later rules: after short trainings the networks' kNN values differ too
# little to rank them (docs/notes/label_free.md).
_LONG: dict[str, Any] = {
    "train.epochs": 15,
    "train.rules": 3,
    "normalize": EXPERIMENTS["ssl"].presets["tiny"]["normalize"],
}
TASKS: dict[str, dict[str, Any]] = {
    "digits": _DIGITS,
    "earth": _EARTH,
    "photos": {
        "data.up": "horizontal",
        "data.image_size": 24,
        "backbone.width": 8,
        "train.epoch_images": 1024,
    },
    # Letters need a wider network and more training.
    "glyphs": {
        "data.up": "none",
        "data.image_size": 20,
        "train.epochs": 8,
        "train.epoch_images": 2560,
    },
    "earth-long": {**_EARTH, "data.name": "earth", **_LONG},
    "digits-long": {**_DIGITS, "data.name": "digits", **_LONG},
}
"""Data set -> values that differ from the preset `tiny`."""


_STREAMS = ("glyphs", "digits", "earth", "photos", "earth-long", "digits-long")


class Draw:
    """Answers a search space with uniform random draws (log-uniform where the space asks for
    it)."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.params: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if log:
            value = float(np.exp(self.rng.uniform(np.log(low), np.log(high))))
        else:
            value = float(self.rng.uniform(low, high))
        self.params[name] = float(f"{value:.4g}")
        return self.params[name]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.params[name] = int(self.rng.integers(low, high + 1))
        return self.params[name]

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.params[name] = choices[int(self.rng.integers(len(choices)))]
        return self.params[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="?", help="folder of the unpacked packages")
    parser.add_argument("--out", type=Path, default=Path("label_free"), help="folder of the record")
    parser.add_argument("--runs", type=int, default=RUNS, help="configurations a data set")
    parser.add_argument("--only", nargs="*", choices=TASKS, help="these data sets")
    parser.add_argument("--every", type=int, default=1, help="judge every so many epochs")
    parser.add_argument("--known", action="store_true", help="one good configuration, for a try")
    options = parser.parse_args()

    torch.set_num_threads(1)
    tiles = options.out / "tiles"
    chosen = options.only or list(TASKS)
    if "photos" in chosen and not tiles.exists():
        if options.photos is None:
            parser.error("photographs are cut from packages: give the folder they were unpacked in")
        cut_photographs(options.photos / "usr/share/backgrounds", tiles)
    (options.out / "features").mkdir(parents=True, exist_ok=True)

    record = options.out / "runs.jsonl"
    done = {(run["data"], run["number"]) for run in read(record)}
    loaded: dict[str, DataSet] = {}
    inputs: dict[str, Any] = {}
    for number in range(1 if options.known else options.runs):
        for data in chosen:
            if (data, number) in done and not options.known:
                continue
            params = KNOWN if options.known else configuration(data, number)
            run = train(
                data, number, params, tiles, loaded, inputs, options.out / "features", options.every
            )
            print(data, number, run["cpu_s"], run["epochs"][-1]["truth"], flush=True)
            if options.known:
                print(json.dumps(run, indent=1))
                continue
            with record.open("a") as file:
                file.write(json.dumps(run) + "\n")


KNOWN: dict[str, Any] = {
    "optim.name": "adamw",
    "optim.lr": 1.5e-3,
    "optim.weight_decay": 1e-2,
    "schedule.name": "warmup_cosine",
    "head.tau0": 0.955,
    "aug.policy": "glyphs",
    "aug.crop_scale_min": 0.6,
    "train.batch_size": 32,
}


def read(record: Path) -> list[dict[str, Any]]:
    """Return the finished trainings. The last line may be cut off by a kill."""
    runs = []
    if record.exists():
        for line in record.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                runs.append(json.loads(line))
    return runs


def configuration(data: str, number: int) -> dict[str, Any]:
    """Return a random configuration of the space, flat."""
    draw = Draw(10_000 * _STREAMS.index(data) + number)
    ssl(draw, "tiny", up=TASKS[data]["data.up"])
    return draw.params


def train(
    data: str,
    number: int,
    params: dict[str, Any],
    tiles: Path,
    loaded: dict[str, DataSet],
    inputs: dict[str, Any],
    features: Path,
    every: int,
) -> dict[str, Any]:
    """Train one configuration and judge it after every `every`-th epoch and the last."""
    experiment = EXPERIMENTS["ssl"]
    name = str(tiles) if data == "photos" else TASKS[data].get("data.name", data)
    fixed = _SHORT | TASKS[data] | {"data.name": name, "seed": 1000 + number}
    flips = {} if TASKS[data]["data.up"] != "none" else {"aug.hflip": 0.0}
    config: Any = build(experiment.config, experiment.presets["tiny"] | fixed | flips | params)
    if data not in loaded:
        loaded[data] = capped(load_dataset(config.data, task="ssl"), data)

    torch.manual_seed(config.seed)
    model = Judged(config, loaded[data], TASKS[data]["data.up"], inputs.setdefault(data, {}), every)
    began = time.process_time()
    if every == 1:
        model.judge()  # the untrained network
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(TrialFailed):
        fit(model, config, LocalRuntime(Path(scratch), lambda epoch, metrics: True))

    variants = model.compare_weights()
    np.savez(features / f"{data}-{number}.npz", **model.features)
    return {
        "data": data,
        "number": number,
        "config": params,
        "fixed": {key: value for key, value in fixed.items() if key != "data.name"} | flips,
        "cpu_s": round(time.process_time() - began, 1),
        "epochs": model.history,
        "weights": variants,
    }


def capped(data: DataSet, name: str) -> DataSet:
    """Return the data with fewer images in gallery, val and test, chosen at even steps. Letters
    have small classes, so they keep the whole gallery."""

    limit = 1100 if name == "glyphs" else 500
    assert data.gallery is not None
    return replace(
        data,
        gallery=even_part(data.gallery, limit),
        val=even_part(data.val, limit),
        test=even_part(data.test, limit),
    )


def cut_photographs(packages: Path, root: Path) -> None:
    """Write non-overlapping tiles as <part>/<photograph>/. Of every five columns three are for
    training, one for val and one for test."""
    for name in PHOTOS:
        with Image.open(packages / name) as image:
            width = round(image.width * HEIGHT / image.height)
            picture = image.convert("RGB").resize((width, HEIGHT), Image.Resampling.LANCZOS)
        for column in range(width // TILE):
            part = ("train", "val", "train", "test", "train")[column % 5]
            for row in range(HEIGHT // TILE):
                left, top = column * TILE, row * TILE
                tile = picture.crop((left, top, left + TILE, top + TILE))
                folder = root / part / Path(name).stem
                folder.mkdir(parents=True, exist_ok=True)
                tile.save(folder / f"{column:02d}-{row:02d}.png")


if __name__ == "__main__":
    main()
