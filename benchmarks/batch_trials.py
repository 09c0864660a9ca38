"""Time to equal regret of setting E (a frozen backbone): `--batch-trials` against the default.

Trials of several lengths are compared.

    python benchmarks/batch_trials.py                    # 48 trials, three seeds, batches of 24
    python benchmarks/batch_trials.py --trials 24 --seeds 1 --only letters
    python benchmarks/batch_trials.py --steps            # the steps alone

Each run is the command itself, `tune/run.py classify --setting E`, with a backbone that has
calibrated random weights (what it has learned does not matter here). The peer is the default: Ray
with one trial on each core. Before the timed runs, one run computes the features, which all runs
share. Times come from the event log and count from the first start of a trial; only the wall time
includes the startup of Ray and torch.

For each seed, `target` is the worse of the two final best values. The claim is about the ratio of
the seconds in which the two runs reach it: the median over seeds. The ratio for all trials is shown
beside it; it depends less on when the best trial happened to come. The length of a trial is
measured on the peer's trials that trained to their end. The ratios of all lengths show where
batches break even.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import add_record_option, record_speed

REPO = Path(__file__).resolve().parents[1]
CLAIM = 5
LENGTHS = {
    "digits": ["--data", "digits"],
    "letters": ["--data", "glyphs"],  # the default study
    "long": ["--data", "glyphs", "--set", "train.epochs=96"],
}
"""Name -> words of the command, from short trials to long ones."""


def make_backbone(path: Path, data: str) -> None:
    """Save the preset's backbone with calibrated random weights."""
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
    config = build(ClassifierConfig, {**preset, "data.name": data})
    torch.manual_seed(0)
    backbone = build_backbone(config.backbone)
    images = Classifier.load_data(config.data).train.batch(np.arange(512))
    calibrate_batchnorm(
        backbone, [evaluation_view(images, config.data.image_size, config.normalize)]
    )
    save_backbone(path, backbone, {})


def run(storage: Path, backbone: Path, seed: int, trials: int, extra: list[str]) -> dict[str, Any]:
    """Run one study; return its wall time and event log."""
    command = [sys.executable, "tune/run.py", "classify", "--setting", "E"]
    command += ["--backbone", str(backbone), "--trials", str(trials), "--repeats", "0"]
    command += ["--seed", str(seed), "--storage", str(storage), "--pictures", "none", *extra]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
    log = storage / "classify-E" / "events.jsonl"
    return {
        "wall": time.perf_counter() - began,
        "events": [json.loads(line) for line in log.read_text().splitlines()],
    }


def best_so_far(events: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return (seconds since the first trial's start, best validation value so far) at every
    report."""
    began = min(e["t"] for e in events if e["event"] == "start")
    best, curve = -1.0, []
    for event in events:
        if event["event"] == "report":
            best = max(best, event["metrics"]["val/top1"])
            curve.append(((event["t"] - began) / 1000, best))
    return curve


def reached(curve: list[tuple[float, float]], target: float) -> float:
    return next(seconds for seconds, value in curve if value >= target)


def trial_seconds(events: list[dict[str, Any]]) -> float:
    """Return the median seconds from start to end of the trials that trained to their end."""
    starts = {e["trial"]: e["t"] for e in events if e["event"] == "start"}
    ends = {e["trial"]: e["t"] for e in events if e["event"] == "end" and e["state"] == "COMPLETE"}
    return statistics.median((ends[trial] - starts[trial]) / 1000 for trial in ends)


@dataclass(frozen=True)
class Compared:
    """Both runs under one seed; the seconds of {peer: ...}."""

    length: str
    seed: int
    target: float
    to_target: dict[str, float]
    all_trials: dict[str, float]
    wall: dict[str, float]
    trial_seconds: float
    """Seconds of a trial that trained to its end, one by one."""

    def times_shorter(self, seconds: dict[str, float]) -> float:
        return seconds["one by one"] / seconds["batched"]


def compare(name: str, options: argparse.Namespace, folder: Path) -> list[Compared]:
    """Run both, seed by seed, and print a table."""
    extra = LENGTHS[name]
    peers = {  # the batched run first: it pays for features that the warm-up did not compute
        "batched": ["--batch-trials", str(options.width)],
        "one by one": ["--concurrent", str(os.cpu_count() or 1)],
    }
    backbone = folder / "backbone.pt"
    make_backbone(backbone, extra[1])
    run(folder / "warm", backbone, 99, options.trials, [*peers["batched"], *extra[:2]])
    compared = []
    for seed in range(options.seeds):
        found = {
            peer: run(folder / f"{peer}-{seed}", backbone, seed, options.trials, words + extra)
            for peer, words in peers.items()
        }
        curves = {peer: best_so_far(result["events"]) for peer, result in found.items()}
        target = min(curve[-1][1] for curve in curves.values())
        seconds = {peer: reached(curve, target) for peer, curve in curves.items()}
        compared.append(
            Compared(
                length=name,
                seed=seed,
                target=target,
                to_target=seconds,
                all_trials={peer: curve[-1][0] for peer, curve in curves.items()},
                wall={peer: result["wall"] for peer, result in found.items()},
                trial_seconds=trial_seconds(found["one by one"]["events"]),
            )
        )
        for peer, result in found.items():
            print(
                f"{name} seed {seed} {peer:>10}: best {curves[peer][-1][1]:.4f}, "
                f"{target:.4f} after {seconds[peer]:6.1f} s, all {curves[peer][-1][0]:6.1f} s, "
                f"{result['wall']:6.1f} s wall",
                flush=True,
            )
    length = statistics.median(one.trial_seconds for one in compared)
    shown = ", ".join(f"{one.times_shorter(one.to_target):.1f}" for one in compared)
    all_trials = ", ".join(f"{one.times_shorter(one.all_trials):.1f}" for one in compared)
    print(
        f"{name}: trials of {length:.2f} s; {shown} times shorter to the target "
        f"(claim: {CLAIM}), {all_trials} for all trials",
        flush=True,
    )
    return compared


def medians(compared: list[Compared]) -> tuple[float, float, float]:
    """Return the seconds of a trial and the ratios to the target and for all trials."""
    return (
        statistics.median(one.trial_seconds for one in compared),
        statistics.median(one.times_shorter(one.to_target) for one in compared),
        statistics.median(one.times_shorter(one.all_trials) for one in compared),
    )


def break_even(points: list[tuple[float, float]]) -> str:
    """Say at which trial length the ratio is 1. Between two lengths, interpolate the logarithms by
    a line."""
    points = sorted(points)
    if points[0][1] >= 1:
        return f"pays from {points[0][0]:.2f} s a trial on, the shortest that was tried"
    for (short, less), (long, more) in itertools.pairwise(points):
        if more >= 1:
            part = -math.log(less) / (math.log(more) - math.log(less))
            seconds = short * (long / short) ** part
            return f"breaks even at about {seconds:.2f} s a trial"
    return f"does not pay up to {points[-1][0]:.2f} s a trial, the longest that was tried"


# -- the steps alone

STEPS = 120


def time_steps(width: int, turns: int) -> list[dict[str, Any]]:
    """Print and return CPU and wall seconds of STEPS steps of `width` heads of the default space on
    one core, one by one and all together, with 10 and with 209 classes."""
    found = []
    for data in ("digits", "glyphs"):
        for _ in range(turns):
            with tempfile.TemporaryDirectory(prefix="vistune-bench-") as scratch:
                found += time_steps_on(data, width, Path(scratch))
    return found


def time_steps_on(data: str, width: int, folder: Path) -> list[dict[str, Any]]:
    import torch

    torch.set_num_threads(1)
    backbone = folder / "backbone.pt"
    make_backbone(backbone, data)
    alone = 0.0
    found = []
    for name in ("one by one", "together"):
        members = some_members(width, data, backbone, folder / name)
        began, cpu = time.perf_counter(), time.process_time()
        train(members, together=name == "together")
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        alone = alone or cpu
        found.append({"data": data, "way": name, "cpu": cpu, "wall": wall})
        print(
            f"{data}, {width} heads, {STEPS} steps, {name:>10}: {wall:5.2f} s wall, "
            f"{cpu:5.2f} s CPU, "
            f"{1000 * cpu / STEPS / width:.3f} ms CPU a step of a head, "
            f"{alone / cpu:.1f} times less",
            flush=True,
        )
    return found


def some_members(width: int, data_name: str, backbone: Path, folder: Path) -> list[Any]:
    """Return heads as the search draws them at random: half are linear, half have two layers."""
    import random

    import torch

    from trainables.classifier import Classifier, ClassifierConfig
    from trainables.config import build
    from trainables.engine import checkpoint
    from trainables.engine.allocator import keep_freed_memory
    from trainables.engine.step import BatchSplitter
    from trainables.engine.together import member_of
    from trainables.optim import build_optimizer
    from tune.execution.runtimes import LocalRuntime
    from tune.experiments import EXPERIMENTS

    keep_freed_memory()
    choose = random.Random(0).choice
    preset = EXPERIMENTS["classify"].presets["tiny"] | {"data.name": data_name}
    fixed = {"freeze.policy": "all", "init.source": "ssl", "init.file": str(backbone)}
    data = Classifier.load_data(build(ClassifierConfig, preset).data)
    members = []
    for k in range(width):
        drawn = {
            "head.kind": ("linear", "mlp")[k % 2],
            "head.hidden": choose([128, 256]),
            "optim.name": choose(["sgd", "adam", "adamw"]),
            "optim.lr": 0.01,
            "train.batch_size": choose([32, 64]),
            "aug.crop_scale_min": choose([0.5, 0.8, 1.0]),
            "aug.rotate": choose([0.0, 10.0]),
        }
        config = build(ClassifierConfig, {**preset, **fixed, **drawn})
        runtime = LocalRuntime(folder / str(k), lambda epoch, metrics: True)
        runtime.directory.mkdir(parents=True)
        torch.manual_seed(config.seed)
        model = Classifier(config, data)
        optimizer = build_optimizer(model.param_groups(config.optim.weight_decay), config.optim)
        batches = BatchSplitter(model, config, runtime, model.sampler())
        state = checkpoint.restore(model, optimizer, batches, runtime)
        member = member_of(state, config, runtime, STEPS, 2 * STEPS)
        assert member is not None
        members.append(member)
    return members


def train(members: list[Any], *, together: bool) -> None:
    from trainables.engine.fit import train_epoch
    from trainables.engine.together import advance

    if together:
        advance(members)
        return
    for member in members:
        train_epoch(member.state, member.config, member.runtime, STEPS, 2 * STEPS)


def main() -> None:
    """Compare all requested lengths, or time the steps alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--only", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--turns", type=int, default=1, help="of --steps")
    add_record_option(parser)
    options = parser.parse_args()
    about = {"width": options.width}
    if options.steps:
        runs = time_steps(options.width, options.turns)
        record_speed(options.record, about | {"steps": STEPS, "runs": runs})
        return

    studies: list[Compared] = []
    points = []
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="vistune-bench-") as scratch:
            compared = compare(name, options, Path(scratch))
            studies += compared
            points.append(medians(compared))
    print("to the target:", break_even([(length, ratio) for length, ratio, _ in points]))
    print("for all trials:", break_even([(length, ratio) for length, _, ratio in points]))
    about |= {"trials": options.trials, "cores": os.cpu_count()}
    record_speed(options.record, about | {"studies": [asdict(one) for one in studies]})


if __name__ == "__main__":
    main()
