"""A small search beside what people would write instead: CPU and wall time of whole commands.

    python benchmarks/side_by_side.py                 # 4 and 12 trials, one run each
    python benchmarks/side_by_side.py --trials 12 --runs 3

The contenders train the same network (`tiny`, width 16) on the same digits at 28 px for the same
number of steps, on one thread each, without augmentation. They search optimizer, learning rate and
weight decay with Optuna's TPE, or at random, without pruning:

    plain loop     a function of 40 lines in `optuna.Study.optimize`, one trial after another
    tutorial       the wiring that Ray documents: Tune runs functions that call
                   `TorchTrainer(...).fit()`, two at a time
    --local        `tune/run.py --local`: also the untrained baseline, event log, checkpoints,
                   resume, MLflow
    vistune        the same on Ray, as many trials at a time as there are cores

Each runs in its own process, one after another. CPU is that of all processes of a command, Ray's
daemons included, until the last has ended. `behind` is the part of it after the command's end, such
as pictures. Wall is from Enter until the prompt is back.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from process_meter import MARK, Meter, kill, marked
from record_file import add_record_option, record_speed

REPO = Path(__file__).resolve().parents[1]
SIZE = 28
EPOCHS = 5
BATCH = 64
TRAINED = 1078  # number of images: 60 % of the digits, as vistune splits them
OPTIMIZERS = {"sgd": (0.01, 0.5), "adamw": (1e-4, 1e-2), "adam": (1e-5, 1e-2)}
PATIENCE_S = 600

PINS = {
    "train.epochs": EPOCHS,
    "train.epoch_images": TRAINED,
    "train.batch_size": BATCH,
    "schedule.name": "constant",
    "loss.label_smoothing": 0,
    "loss.mixup": 0,
    "loss.cutmix": 0,
    "aug.crop_scale_min": 1,
    "aug.rotate": 0,
}
SAME_SEARCH = ("--repeats", "0", "--pruner", "none", "--sampler", "tpe")
VISTUNE = (
    str(REPO / "tune/run.py"),
    *("pretrain", "--data", "digits", *SAME_SEARCH),
    *(word for key, value in PINS.items() for word in ("--set", f"{key}={value}")),
)
CONTENDERS: dict[str, tuple[str, ...]] = {
    "plain Optuna loop": (__file__, "--contender", "plain"),
    "Ray's tutorial wiring": (__file__, "--contender", "tutorial"),
    "vistune --local, no pictures": (*VISTUNE, "--local", "--pictures", "none"),
    "vistune --local": (*VISTUNE, "--local"),
    "vistune, no pictures": (*VISTUNE, "--pictures", "none"),
    "vistune": VISTUNE,
}
GOALS = (
    ("vistune --local, no pictures", "plain Optuna loop", 1.15),
    ("vistune --local", "plain Optuna loop", 1.3),
    ("vistune", "Ray's tutorial wiring", 0.35),
)
"""Contender, its peer, and the largest allowed ratio of CPU and wall time at 12 trials."""


# ------------------------------------------------------------------ code that people would write


def digits() -> Any:
    """Return images (n, 3, SIZE, SIZE) in [0, 1] and labels, for training and for validation."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional

    found = load_digits()
    images = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
    images = functional.interpolate(images, (SIZE, SIZE), mode="bilinear").repeat(1, 3, 1, 1)
    labels = torch.tensor(found.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, val = order[:TRAINED], order[TRAINED : TRAINED + 359]
    return images[train], labels[train], images[val], labels[val]


def train(params: dict[str, Any], report: Any) -> float:
    """Train one configuration; return the accuracy on the validation images."""
    import torch
    from torch import nn
    from torch.nn import functional

    from trainables.backbone.networks import BackboneConfig, build_backbone

    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels, val_images, val_labels = digits()
    backbone = build_backbone(BackboneConfig(name="tiny", width=16, pool=2))
    model = nn.Sequential(backbone, nn.Linear(backbone.feature_dim, 10))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = kinds[params["name"]](
        model.parameters(), lr=params["lr"], weight_decay=params["weight_decay"]
    )
    accuracy = 0.0
    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(labels)).split(BATCH)[: TRAINED // BATCH]:
            loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            guesses = model(val_images).argmax(1)
        accuracy = float((guesses == val_labels).float().mean())
        report(epoch, accuracy)
    return accuracy


def plain(trials: int, folder: Path) -> None:
    import optuna

    def objective(trial: Any) -> float:
        name = trial.suggest_categorical("name", sorted(OPTIMIZERS))
        low, high = OPTIMIZERS[name]
        params = {
            "name": name,
            "lr": trial.suggest_float(f"lr_{name}", low, high, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-3, log=True),
        }
        return train(params, lambda epoch, value: trial.report(value, epoch))

    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=trials)


def tutorial(trials: int, folder: Path) -> None:
    import ray
    import ray.train
    import ray.train.torch
    import ray.tune
    from ray.tune.integration.ray_train import TuneReportCallback

    def worker(config: dict[str, Any]) -> None:
        train(config, lambda _, value: ray.train.report({"accuracy": value}))

    def trial(config: dict[str, Any]) -> None:
        ray.train.torch.TorchTrainer(
            worker,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(num_workers=1, use_gpu=False),
            run_config=ray.train.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(folder / "train"),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    ray.init(address="local", log_to_driver=False)
    space = {
        "name": ray.tune.choice(sorted(OPTIMIZERS)),
        "lr": ray.tune.loguniform(1e-4, 1e-2),
        "weight_decay": ray.tune.loguniform(1e-6, 1e-3),
    }
    # A driver that holds a CPU while its worker waits for one can deadlock.
    drivers = ray.tune.with_resources(trial, {"cpu": 0, "node:__internal_head__": 0.001})
    ray.tune.Tuner(
        drivers,
        param_space=space,
        tune_config=ray.tune.TuneConfig(
            num_samples=trials, max_concurrent_trials=2, metric="accuracy", mode="max"
        ),
        run_config=ray.tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    ).fit()


WRITTEN = {"plain": plain, "tutorial": tutorial}


# ------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class Measured:
    """One run of a contender."""

    cpu: float
    wall: float
    behind: float
    """CPU seconds of the processes that run on after the command's end."""


def measure(words: tuple[str, ...], trials: int, cache: Path) -> Measured:
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="side-", ignore_cleanup_errors=True) as folder:
        environment = os.environ | {
            MARK: mark,
            "VISTUNE_CACHE": str(cache),
            "PYTHONPATH": str(REPO),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PYTHONWARNINGS": "ignore",
        }
        environment.pop("RAY_ADDRESS", None)
        with (Path(folder) / "out").open("w+") as out, Meter(mark) as meter:
            began = time.monotonic()
            ended = subprocess.run(
                [sys.executable, *words, "--trials", str(trials)],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                check=False,
            )
            wall = time.monotonic() - began
            until_then = sum(meter.roles().values())
            try:
                _await_end(mark)
            finally:
                kill(mark)
            if ended.returncode:
                out.seek(0)
                sys.exit(f"{' '.join(words)} failed:\n{out.read()[-3000:]}")
    cpu = sum(meter.roles().values())
    return Measured(cpu, wall, cpu - until_then)


def _await_end(mark: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.2)


Found = dict[tuple[str, int], list[Measured]]
"""Contender and number of trials -> its runs."""


def run_all(trials: list[int], runs: int, only: list[str]) -> Found:
    cache = Path(tempfile.mkdtemp(prefix="side-cache-"))
    found: Found = {}
    try:
        measure(CONTENDERS["vistune --local, no pictures"], 1, cache)
        for number in trials:
            for run in range(runs):
                for name in only[:: 1 if run % 2 == 0 else -1]:
                    one = measure(CONTENDERS[name], number, cache)
                    found.setdefault((name, number), []).append(one)
                    print(f"{name}, {number} trials: {one}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
    show(found, trials, only)
    return found


def show(found: Found, trials: list[int], names: list[str]) -> None:
    print(f"medians; load {os.getloadavg()[0]:.1f}; {os.cpu_count()} cores")
    head = "".join(f"{f'{n}: CPU s':>12}{'wall s':>9}{'behind':>8}" for n in trials)
    print(f"{'trials':30}{head}")
    for name in names:
        cells = ""
        for number in trials:
            cpu, wall, behind = _median(found[name, number])
            cells += f"{cpu:12.1f}{wall:9.1f}{behind:8.1f}"
        print(f"{name:30}{cells}")

    most = max(trials)
    print(f"\nratios at {most} trials")
    for name, peer, limit in GOALS:
        if name not in names or peer not in names:
            continue
        ours, theirs = _median(found[name, most]), _median(found[peer, most])
        of_cpu, of_wall = ours[0] / theirs[0], ours[1] / theirs[1]
        verdict = "holds" if max(of_cpu, of_wall) <= limit else "FAILS"
        line = f"{name} / {peer}"
        print(f"{line:56} CPU {of_cpu:.2f}, wall {of_wall:.2f}, goal {limit}: {verdict}")


def _median(runs: list[Measured]) -> tuple[float, float, float]:
    return (
        statistics.median(run.cpu for run in runs),
        statistics.median(run.wall for run in runs),
        statistics.median(run.behind for run in runs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, action="append", help="repeatable; default: 4 and 12")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="repeatable")
    add_record_option(parser)
    parser.add_argument("--contender", choices=WRITTEN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        WRITTEN[options.contender](options.trials[0], Path.cwd())
        return
    found = run_all(options.trials or [4, 12], options.runs, options.only or list(CONTENDERS))
    measured = [
        {"contender": name, "trials": trials} | asdict(one)
        for (name, trials), runs in found.items()
        for one in runs
    ]
    record_speed(options.record, {"runs": measured})


if __name__ == "__main__":
    main()
