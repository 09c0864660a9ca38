"""What many workers cost the driver: a study of 500 instant trials on a simulated cluster, in blocks of 50. The driver's CPU time per
report and per trial must not grow with the number of trials.

    python benchmarks/cluster_64.py                   # 64 workers on 8 nodes: needs more than 23 GB of memory
    python benchmarks/cluster_64.py --workers 8       # fewer processes

The nodes are those of `ray.cluster_utils.Cluster`: as many raylets and warm processes as a cluster of that size has, all on this
machine, which pretends to have the processors. So wall times say nothing; the driver's own CPU time does. The head has no processors, as
in cluster.yaml. Trials and study are those of benchmarks/thousand_trials.py. The first trial of each process costs its start: those blocks
are left out.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

from benchmarks.thousand_trials import EXPERIMENT, Meter, open_study
from tune.search import _loopback, search

FLAT = 1.25
"""The last third of the blocks against the first third: more than that is growth."""


def start_cluster(nodes: int, workers: int) -> Any:
    """On loopback; the processes find this repository."""
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    node = {"object_store_memory": 80_000_000, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(**node, num_cpus=workers // nodes)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    return cluster


def show(meter: Meter, workers: int, epochs: int) -> None:
    """A row a block; trials of the first `workers` are left out."""
    marks = meter.marks[-(-workers // meter.block) :]  # from the first block that begins with all processes warm
    driver = np.diff([1000 * mark[1] for mark in marks]) / meter.block  # (blocks,) ms of CPU a trial
    study = np.diff([1000 * mark[3] for mark in marks]) / meter.block
    first = meter.ended - meter.block * len(driver)
    print(f"{'trials':>10}{'driver CPU ms/trial':>21}{'ms/report':>11}{'study CPU ms/trial':>20}")
    for i, (whole, own) in enumerate(zip(driver, study, strict=True)):
        print(f"{f'{first + i * meter.block}-{first + (i + 1) * meter.block}':>10}{whole:21.1f}{whole / epochs:11.2f}{own:20.1f}")
    third = max(1, len(driver) // 3)
    growth = driver[-third:].mean() / driver[:third].mean()
    print(f"{workers} workers: {driver.mean():.1f} ms of driver CPU a trial, {driver.mean() / epochs:.2f} a report of {epochs}")
    print(f"flat in N: last third of the blocks over the first {growth:.2f}, at most {FLAT}: {'holds' if growth <= FLAT else 'FAILS'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=4, help="reports of one trial")
    parser.add_argument("--block", type=int, default=50)
    options = parser.parse_args()
    if options.workers % options.nodes or options.trials < 2 * options.workers:
        parser.error("--workers must be a multiple of --nodes, and --trials at least twice as many")
    torch.set_num_threads(1)
    here = Path(__file__).resolve().parents[1]
    with _loopback(), tempfile.TemporaryDirectory(prefix="bench-", dir=here) as folder:
        cluster = start_cluster(options.nodes, options.workers)
        study = open_study(Path(folder), options.trials, options.epochs)
        meter = Meter(study, options.block, None)
        try:
            search(study, EXPERIMENT, concurrent=None, gpus_per_worker=None)
            assert study.finished() == options.trials
            show(meter, options.workers, options.epochs)
        finally:
            study.close()
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main()
