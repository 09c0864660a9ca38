"""Time to equal regret: setting E (a frozen backbone) with `--batch-trials`, and as it runs
otherwise.

    python benchmarks/batch_trials.py                    # 48 trials, three seeds, batches of 24
    python benchmarks/batch_trials.py --trials 24 --seeds 1

Each run is the command itself, `tune/run.py classify --setting E` on handwritten digits, from a
backbone with calibrated random weights (what it has learnt does not matter here). The peer is the
default: Ray with one trial on each core. Before the timed runs one run computes the features, which
all share. Times are those of the event log, from the first start of a trial: what Ray and torch
take to start is not counted, for neither.

For each seed: `target`, the worse of the two final best values; the seconds in which each run has
reached it; their ratio. The claim is the median ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]
CLAIM = 5


def make_backbone(path: Path) -> None:
    """Calibrated random weights of the preset's backbone."""
    import numpy as np
    import torch

    from trainables.augment.views import evaluation_view
    from trainables.backbone.export import save_backbone
    from trainables.backbone.networks import build_backbone
    from trainables.classifier import Classifier, ClassifierConfig
    from trainables.config import build
    from trainables.metrics import calibrate_batchnorm
    from tune.experiments import EXPERIMENTS

    preset = EXPERIMENTS["classify"].presets["tiny"]
    config = build(ClassifierConfig, {**preset, "data.name": "digits"})
    torch.manual_seed(0)
    backbone = build_backbone(config.backbone)
    images = Classifier.load_data(config.data).train.batch(np.arange(512))
    calibrate_batchnorm(
        backbone, [evaluation_view(images, config.data.image_size, config.normalize)]
    )
    save_backbone(path, backbone, {})


def run(storage: Path, backbone: Path, seed: int, trials: int, extra: list[str]) -> dict[str, Any]:
    """One study; its wall time, CPU time, and event log."""
    command = [sys.executable, "tune/run.py", "classify", "--setting", "E", "--data", "digits"]
    command += ["--backbone", str(backbone), "--trials", str(trials), "--repeats", "0"]
    command += ["--seed", str(seed), "--storage", str(storage), "--pictures", "none", *extra]
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    log = storage / "classify-E" / "events.jsonl"
    return {
        "wall": time.perf_counter() - began,
        "cpu": sum(after[2:4]) - sum(before[2:4]),
        "events": [json.loads(line) for line in log.read_text().splitlines()],
    }


def best_so_far(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """(seconds since the first trial's start, best validation value), at every report."""
    began = min(e["t"] for e in events if e["event"] == "start")
    best, curve = -1.0, []
    for event in events:
        if event["event"] == "report":
            best = max(best, event["metrics"]["val/top1"])
            curve.append(((event["t"] - began) / 1000, best))
    return curve


def reached(curve: list[tuple[float, float]], target: float) -> float:
    return next(seconds for seconds, value in curve if value >= target)


def main() -> None:
    """Run both, seed by seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=0, help="0: the preset's")
    options = parser.parse_args()

    peers = {  # the batched run first: it pays for features that the warm-up has not met
        "batched": ["--batch-trials", str(options.width)],
        "one by one": ["--concurrent", str(os.cpu_count() or 1)],
    }
    length = ["--set", f"train.epochs={options.epochs}"] if options.epochs else []
    ratios = []
    with tempfile.TemporaryDirectory(prefix="vistune-bench-") as scratch:
        folder = Path(scratch)
        backbone = folder / "backbone.pt"
        make_backbone(backbone)
        run(folder / "warm", backbone, 99, options.trials, [*peers["batched"], *length])
        for seed in range(options.seeds):
            found = {
                name: run(folder / f"{name}-{seed}", backbone, seed, options.trials, extra + length)
                for name, extra in peers.items()
            }
            curves = {name: best_so_far(result["events"]) for name, result in found.items()}
            target = min(curve[-1][1] for curve in curves.values())
            seconds = {name: reached(curve, target) for name, curve in curves.items()}
            ratios.append(seconds["one by one"] / seconds["batched"])
            for name, result in found.items():
                print(
                    f"seed {seed} {name:>10}: best {curves[name][-1][1]:.4f}, "
                    f"{target:.4f} after {seconds[name]:6.1f} s, all {curves[name][-1][0]:6.1f} s, "
                    f"{result['wall']:6.1f} s wall, {result['cpu']:6.1f} s CPU",
                    flush=True,
                )
            print(f"seed {seed}: {ratios[-1]:.1f} times shorter to {target:.4f}", flush=True)
    median = statistics.median(ratios)
    print(f"median {median:.1f} (claim: {CLAIM})")


if __name__ == "__main__":
    main()
