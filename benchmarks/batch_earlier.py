"""A whole study of setting E (a frozen backbone) at an earlier commit, beside today's default and
today's `--batch-trials`.

    python benchmarks/batch_earlier.py                   # 5d3a9ec, digits and letters, two seeds
    python benchmarks/batch_earlier.py --trials 12 --seeds 1 --only digits

The earlier commit is checked out into a temporary worktree. It runs with the packages of this
environment, a cache of its own and a backbone with calibrated random weights that its own code
makes. The default is Ray with one trial on each core, then and today. Before the timed runs, one
run in each tree computes the features.

Splits, search spaces and defaults of the two trees differ, so their values cannot be compared. Each
run is timed until its last report, and until a trial has come within .01 of the run's own best
value. Times come from the event log and count from the first start of a trial. Runs of the earlier
tree are interrupted after their last trial, because they then draw pictures for a minute.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.batch_trials import LENGTHS, best_so_far, make_backbone, reached, run
from benchmarks.earlier_tree import earlier_tree
from benchmarks.record_file import add_record_option, record_speed

NEAR = 0.01
"""A trial is nearly the best within this difference of accuracy."""
_LOOK_S = 0.5
_MAKE_BACKBONE = """
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from trainables.augment import evaluation_view
from trainables.backbones import build_backbone, save_backbone
from trainables.classifier import Classifier, ClassifierConfig
from trainables.config import build
from trainables.metrics import calibrate_batchnorm
from tune.experiments import EXPERIMENTS

path, data = sys.argv[1:]
preset = EXPERIMENTS["classify"].presets["tiny"]
config = build(ClassifierConfig, {**preset, "data.name": data})
torch.manual_seed(0)
backbone = build_backbone(config.backbone)
images = Classifier.load_data(config.data).train.batch(np.arange(512))
view = evaluation_view(images, config.data.image_size, config.normalize)
calibrate_batchnorm(backbone, [view])
save_backbone(Path(path), backbone, {"backbone": asdict(config.backbone)})
"""
"""`make_backbone` in the names of 5d3a9ec."""


class Earlier:
    """An earlier tree, which runs studies of setting E.

    Args:
        tree: its checkout.
        folder: for its cache and backbone.
        data: name of the data set.
    """

    def __init__(self, tree: Path, folder: Path, data: str):
        self._tree = tree
        self._environment = os.environ | {
            "PYTHONPATH": str(tree),
            "VISTUNE_CACHE": str(folder / "earlier-cache"),
        }
        self._backbone = folder / "earlier-backbone.pt"
        words = [sys.executable, "-c", _MAKE_BACKBONE, str(self._backbone), data]
        done = subprocess.run(
            words, cwd=tree, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])

    def run(self, storage: Path, seed: int, trials: int, extra: list[str]) -> list[dict[str, Any]]:
        """Run one study until its last trial has ended; return its event log."""
        storage.mkdir()
        log = storage / "classify-E" / "events.jsonl"
        words = [sys.executable, "tune/run.py", "classify", "--setting", "E"]
        words += ["--backbone", str(self._backbone), "--trials", str(trials), "--repeats", "0"]
        words += ["--seed", str(seed), "--storage", str(storage), *extra]
        with (storage / "output").open("w+") as output:
            process = subprocess.Popen(
                words,
                cwd=self._tree,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            while process.poll() is None and ended(log) < trials:
                time.sleep(_LOOK_S)
            if ended(log) < trials:
                raise SystemExit((storage / "output").read_text()[-2000:])
            interrupt(process)
        return read(log)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """End a command as Ctrl-C does; a second one ends it at once."""
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def ended(log: Path) -> int:
    """Return the number of trials that have ended."""
    return log.read_text().count('"event":"end"') if log.exists() else 0


def times(events: list[dict[str, Any]]) -> dict[str, float]:
    curve = best_so_far(events)
    best = curve[-1][1]
    return {
        "all_trials": curve[-1][0],
        "near_own_best": reached(curve, best - NEAR),
        "own_best": best,
        "epochs": len(curve),
    }


def compare(
    name: str, options: argparse.Namespace, tree: Path, folder: Path
) -> list[dict[str, Any]]:
    """Run all three, seed by seed; print and return their times."""
    extra = LENGTHS[name]
    backbone = folder / "backbone.pt"
    make_backbone(backbone, extra[1])
    earlier = Earlier(tree, folder, extra[1])
    ray = ["--concurrent", str(os.cpu_count() or 1)]
    batched = ["--batch-trials", str(options.width)]

    def today(words: list[str]) -> Callable[[Path, int], list[dict[str, Any]]]:
        def study(storage: Path, seed: int) -> list[dict[str, Any]]:
            found = run(storage, backbone, seed, options.trials, words + extra)
            events: list[dict[str, Any]] = found["events"]
            return events

        return study

    sides = {
        "batched": today(batched),
        "one by one": today(ray),
        "earlier": lambda storage, seed: earlier.run(storage, seed, options.trials, ray + extra),
    }
    for side in ("batched", "earlier"):
        sides[side](folder / f"warm-{side}", 99)

    studies = []
    for seed in range(options.seeds):
        for side, study in sides.items():
            found = times(study(folder / f"{side}-{seed}", seed))
            studies.append({"length": name, "seed": seed, "side": side, **found})
            print(
                f"{name} seed {seed} {side:>10}: all {found['all_trials']:6.1f} s, within {NEAR} "
                f"of its best {found['own_best']:.4f} after {found['near_own_best']:6.1f} s, "
                f"{found['epochs']} epochs",
                flush=True,
            )
    return studies


def main() -> None:
    """Compare all requested data sets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--commit", default="5d3a9ec")
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--only", nargs="+", choices=LENGTHS, default=["digits", "letters"])
    add_record_option(parser)
    options = parser.parse_args()
    studies: list[dict[str, Any]] = []
    with earlier_tree(options.commit) as tree:
        for name in options.only:
            with tempfile.TemporaryDirectory(prefix="vistune-bench-") as scratch:
                studies += compare(name, options, tree, Path(scratch))
    about = {"earlier": options.commit, "width": options.width, "trials": options.trials}
    record_speed(options.record, about | {"cores": os.cpu_count(), "studies": studies})


if __name__ == "__main__":
    main()
