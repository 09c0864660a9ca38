"""Cost of many workers to the driver: a study of 500 instant trials on a simulated cluster, in
blocks of 50. The driver's CPU time per report and per trial must not grow with the number of
trials.

    python benchmarks/cluster_64.py  # 64 workers on 8 nodes, about 10 GB of memory
    python benchmarks/cluster_64.py --workers 8 --nodes 2 --trials 80 --block 10 --torch

The nodes are simulated with `ray.cluster_utils.Cluster`: this machine runs as many raylets and warm
processes as a cluster of that size and claims to have its processors. So wall times mean nothing,
but the driver's own CPU time does. The head has no processors, as in cluster.yaml. The study is
that of benchmarks/thousand_trials.py. Without --torch a trial sends the same messages as an instant
trial and imports nothing: 64 processes with torch do not fit into 23 GB. Two kinds of blocks are
left out: those with the first trial of each process, which include its startup, and those at the
end, where no new trial starts.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

from benchmarks.record_file import add_record_option, record_speed, rounded
from benchmarks.thousand_trials import EXPERIMENT, Meter, open_study
from tune.execution.ray_session import _loopback
from tune.execution.ray_tune import search

FLAT = 1.25
"""Allowed ratio of the last third of the blocks to the first third. More than that is growth."""


class WithoutTorch:
    """Takes the place of the experiment in `search`. To unpickle an experiment, processes would
    import torch."""


def say_what_an_instant_trial_says(
    _: WithoutTorch, patience_s: float, config: dict[str, Any], *, gpus: float = 0.0
) -> None:
    """Replace `tune.execution.ray_tune.run_in_tune`. As a function of this script it is pickled by
    value; its messages are those of `engine.fit` on `Instant`."""
    import json
    import math

    import ray.tune

    def send(kind: str, **fields: Any) -> None:
        ray.tune.report({"message": json.dumps({"kind": kind, **fields})})

    work = json.loads(config["work"])
    flat = work["config"]
    value = math.exp(-abs(math.log10(flat["optim.lr"]) + 2)) + 0.1 * flat["head.tau0"]
    metrics = {"val/score": value}
    if work["id"]["trial"] is None:  # the baseline
        metrics = {f"baseline/{name}": value for name in ("val/score", "test/score")}
    else:
        said = {
            "train/loss": 0.0,
            "train/lr": flat["optim.lr"],
            "time/epoch_s": 0.001,
            "time/images_per_s": 64000.0,
        }
        for epoch in range(1, flat["train.epochs"] + 1):
            send("report", epoch=epoch, metrics=said | metrics)
    send("end", state="COMPLETE", value=value, reason=None, metrics=metrics, error=None)


def start_cluster(nodes: int, workers: int) -> Any:
    """Start the cluster on loopback, with this repository on the path of its processes."""
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    node = {"object_store_memory": 80_000_000, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(
        initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(nodes):
        cluster.add_node(**node, num_cpus=workers // nodes)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    return cluster


def show(meter: Meter, workers: int, epochs: int) -> None:
    """Print a row for each block, without the first `workers` trials and the last."""
    filled = -(-workers // meter.block)
    marks = meter.marks[filled : len(meter.marks) - filled]  # all processes are warm and busy
    # (blocks,) ms of CPU a trial
    driver = np.diff([1000 * mark[1] for mark in marks]) / meter.block
    study = np.diff([1000 * mark[3] for mark in marks]) / meter.block
    first = filled * meter.block
    print(f"{'trials':>10}{'driver CPU ms/trial':>21}{'ms/report':>11}{'study CPU ms/trial':>20}")
    for i, (whole, own) in enumerate(zip(driver, study, strict=True)):
        print(
            f"{f'{first + i * meter.block}-{first + (i + 1) * meter.block}':>10}{whole:21.1f}"
            f"{whole / epochs:11.2f}{own:20.1f}"
        )
    third = max(1, len(driver) // 3)
    growth = driver[-third:].mean() / driver[:third].mean()
    print(
        f"{workers} workers: {driver.mean():.1f} ms of driver CPU a trial, "
        f"{driver.mean() / epochs:.2f} a report of {epochs}"
    )
    print(
        f"flat in N: last third of the blocks over the first {growth:.2f}, at most {FLAT}: "
        f"{'holds' if growth <= FLAT else 'FAILS'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=4, help="reports of one trial")
    parser.add_argument("--block", type=int, default=50)
    parser.add_argument(
        "--torch", action="store_true", help="trials of a real trainable, which trains nothing"
    )
    add_record_option(parser)
    options = parser.parse_args()
    if options.workers % options.nodes or options.trials < 4 * options.workers:
        parser.error(
            "--workers must be a multiple of --nodes, and --trials at least four times as many"
        )
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parents[1]
    with _loopback(), tempfile.TemporaryDirectory(prefix="bench-", dir=here) as folder:
        cluster = start_cluster(options.nodes, options.workers)
        study = open_study(Path(folder), options.trials, options.epochs)
        meter = Meter(study, options.block, None)
        try:
            if options.torch:
                search(study, EXPERIMENT, concurrent=None, gpus_per_worker=None)
            else:
                with mock.patch(
                    "tune.execution.ray_tune.run_in_tune", say_what_an_instant_trial_says
                ):
                    search(study, WithoutTorch(), concurrent=None, gpus_per_worker=None)  # type: ignore[arg-type]
            assert study.finished() == options.trials
            show(meter, options.workers, options.epochs)
            about = ("workers", "nodes", "trials", "epochs", "block", "torch")
            # CPU seconds of the driver and of the study's calls
            marks = [rounded((mark[1], mark[3])) for mark in meter.marks]
            found = {name: getattr(options, name) for name in about} | {"marks": marks}
            record_speed(options.record, found)
        finally:
            study.close()
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main()
