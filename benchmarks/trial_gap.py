"""Time from one trial's last training step to the next one's first: vistune, a plain Tune function,
a nested TorchTrainer.

    python benchmarks/trial_gap.py                    # 40, 6 and 3 trials, one at a time
    python benchmarks/trial_gap.py --nested 5

All three train the same trivial model on one CPU, report every step and record the time of every
step (vistune's pruner stops some of its trials early, as usual). Each runs in its own process, one
after the other, with Ray started as its users would start it: vistune through
`tune.execution.ray_tune`, the others with Tune's default settings. The nested one is the pattern
that Ray documents for distributed trials: a Tune function that calls `TorchTrainer(...).fit()` with
`TuneReportCallback`. The start of Ray is not counted.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import add_record_option, record_speed, rounded

REPO = Path(__file__).resolve().parents[1]
EPOCHS = 3  # reports of a trial, one step each
CLAIM = 50  # times shorter than with the nested pattern


def stamp(trial: str) -> None:
    """Append one line per training step, from whichever process trains."""
    with Path(os.environ["VISTUNE_BENCH_STAMPS"]).open("a") as file:
        file.write(json.dumps([trial, time.time()]) + "\n")


def train(report: Callable[[dict[str, float]], None]) -> None:
    """Train as the peers do: with the same steps as vistune's trial."""
    import torch

    trial, weight = uuid.uuid4().hex, torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for epoch in range(EPOCHS):
        stamp(trial)
        optimizer.zero_grad()
        (torch.zeros(64, 1) * weight).mean().backward()
        optimizer.step()
        report({"score": float(epoch)})


def run_vistune(trials: int, folder: Path) -> None:
    import ray.cloudpickle
    import thousand_trials
    from torch import Tensor

    from tune.execution.ray_tune import search

    ray.cloudpickle.register_pickle_by_value(thousand_trials)

    class Stamped(thousand_trials.Instant):
        def __init__(self, config: Any, data: Any):
            super().__init__(config, data)
            self.name = uuid.uuid4().hex

        def forward(self, batch: Any) -> Tensor:
            stamp(self.name)
            return super().forward(batch)

    experiment = replace(
        thousand_trials.EXPERIMENT, model=lambda: (Stamped, thousand_trials.BYOLConfig)
    )
    study = thousand_trials.open_study(folder, trials, EPOCHS)
    study.pins = {"train.batch_size": 64}  # one step an epoch
    search(study, experiment, concurrent=1, gpus_per_worker=None)


def run_plain(trials: int, folder: Path) -> None:
    import ray
    import ray.tune

    def trial(config: dict[str, Any]) -> None:
        train(ray.tune.report)

    ray.init(address="local", log_to_driver=False)
    _tune(trial, trials, folder)


def run_nested(trials: int, folder: Path) -> None:
    import ray
    import ray.train
    import ray.train.torch
    import ray.tune
    from ray.tune.integration.ray_train import TuneReportCallback

    def worker() -> None:
        train(ray.train.report)

    def trial(config: dict[str, Any]) -> None:
        ray.train.torch.TorchTrainer(
            worker,
            scaling_config=ray.train.ScalingConfig(num_workers=1, use_gpu=False),
            run_config=ray.train.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(folder / "train"),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    ray.init(address="local", log_to_driver=False)
    # A driver that holds a CPU while its worker waits for one can deadlock.
    _tune(
        ray.tune.with_resources(trial, {"cpu": 0, "node:__internal_head__": 0.001}), trials, folder
    )


def _tune(trainable: Any, trials: int, folder: Path) -> None:
    import ray.tune

    ray.tune.Tuner(
        trainable,
        tune_config=ray.tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
        run_config=ray.tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    ).fit()


CONTENDERS = {
    "vistune": run_vistune,
    "plain Tune function": run_plain,
    "nested TorchTrainer": run_nested,
}


def gaps(contender: str, trials: int) -> list[float]:
    """Return the seconds between the last step of a trial and the first step of the next."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=REPO) as folder:
        stamps = Path(folder) / "stamps"
        stamps.touch()
        command = [
            sys.executable,
            __file__,
            "--contender",
            contender,
            "--trials",
            str(trials),
            "--folder",
            folder,
        ]
        done = subprocess.run(
            command,
            env=os.environ | {"VISTUNE_BENCH_STAMPS": str(stamps)},
            capture_output=True,
            text=True,
        )
        spans: dict[str, list[float]] = {}
        for line in stamps.read_text().splitlines():
            trial, seconds = json.loads(line)
            spans.setdefault(trial, []).append(seconds)
    steps = [len(s) for s in spans.values()]
    if done.returncode or len(steps) != trials or max(steps) != EPOCHS:
        raise SystemExit(
            f"{contender}: exit {done.returncode}, steps per trial {steps}, wanted {trials} trials "
            f"of {EPOCHS}\n{done.stderr[-3000:]}"
        )
    ordered = sorted(spans.values())
    return [following[0] - trial[-1] for trial, following in itertools.pairwise(ordered)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vistune", type=int, default=40, metavar="TRIALS")
    parser.add_argument("--plain", type=int, default=6, metavar="TRIALS")
    parser.add_argument("--nested", type=int, default=3, metavar="TRIALS")
    add_record_option(parser)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    warnings.filterwarnings("ignore")
    if options.contender:
        CONTENDERS[options.contender](options.trials, options.folder)
        return
    print(
        f"{'last step of a trial to first step of the next':48}{'median s':>10}{'min s':>9}"
        f"{'max s':>9}{'gaps':>6}{'vistune is shorter by':>24}"
    )
    ours = None
    found = {}
    for name, trials in zip(
        CONTENDERS, (options.vistune, options.plain, options.nested), strict=True
    ):
        measured = gaps(name, trials)
        found[name] = rounded(measured)
        median = statistics.median(measured)
        ours = ours or median
        print(
            f"{name:48}{median:10.3f}{min(measured):9.3f}{max(measured):9.3f}{len(measured):6}"
            f"{median / ours:23.0f}x",
            flush=True,
        )
    print(
        f"claim: at least {CLAIM} times shorter than the nested pattern: "
        f"{'holds' if median / ours >= CLAIM else 'FAILS'}"
    )
    record_speed(options.record, {"gaps": found})


if __name__ == "__main__":
    main()
