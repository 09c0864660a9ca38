"""Driver time per report: vistune's event log (with fsync) against Ray's `MLflowLoggerCallback`.

    python benchmarks/tracking.py            # 200 reports of 12 metrics each
    python benchmarks/tracking.py --reports 50

Both record the same reports in the same SQLite store on the same disk. They take turns report by
report, so other load on the machine affects both equally. Measured is the wall time for which one
report holds up the driver's loop. The replay into MLflow is off in those turns, because it would
slow the callback down. Then it catches up while vistune appends as many reports again.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import add_record_option, record_speed, rounded

METRICS = [
    "val/knn_top1",
    "val/probe_top1",
    "val/std",
    "val/rankme",
    "train/loss",
    "train/lr",
    "train/tau",
    "time/epoch_s",
]
METRICS += ["time/images_per_s", "time/eval_s", "memory/peak_mb", "train/grad_norm"]


class RayTrial:
    """The attributes of a `ray.tune` trial that the callback reads."""

    def __init__(self, config: dict[str, float]):
        self.config = config


def measure(reports: int, folder: Path) -> tuple[list[float], list[float], list[float]]:
    """Return seconds per report: vistune's, vistune's while its thread replays into MLflow,
    Ray's."""
    from mlflow import MlflowClient
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    from tune.study.events import EventLog
    from tune.tracking.tracker import Tracker

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(uri).create_experiment("peer", artifact_location=(folder / "peer").as_uri())
    callback, trial = (
        MLflowLoggerCallback(tracking_uri=uri, experiment_name="peer"),
        RayTrial({"optim.lr": 0.1}),
    )
    callback.setup()
    callback.log_trial_start(trial)

    log = EventLog(folder / "bench" / "events.jsonl")
    study = {
        "experiment": "ssl",
        "objective": METRICS[0],
        "direction": "maximize",
        "config": trial.config,
        "searched": ["optim.lr"],
    }
    log.append("study", name="bench", data={"name": "none", "fingerprint": "0"}, tags={}, **study)
    log.append("start", trial=0, config=trial.config, attempt=1, resumed_epoch=None)

    def append(epoch: int) -> float:
        began = time.perf_counter()
        log.append("report", trial=0, epoch=epoch, metrics=values(epoch))
        return time.perf_counter() - began

    ours, meanwhile, peer = [], [], []
    for epoch in range(1, reports + 1):
        ours.append(append(epoch))
        began = time.perf_counter()
        callback.log_trial_result(epoch, trial, values(epoch) | {"training_iteration": epoch})
        peer.append(time.perf_counter() - began)
    tracker = Tracker(folder / "bench", uri)
    tracker.start()
    for epoch in range(reports + 1, 2 * reports + 1):
        meanwhile.append(append(epoch))
        time.sleep(0.02)
    if not tracker.close(60):
        raise SystemExit(f"MLflow did not get every report: {tracker.problem}")
    client = MlflowClient(uri)
    # without this check the comparison would mean nothing
    for experiment, wanted in {"peer": reports, "ssl": 2 * reports}.items():
        runs = client.search_runs(
            [client.get_experiment_by_name(experiment).experiment_id], "params.`optim.lr` = '0.1'"
        )
        held = max(len(client.get_metric_history(run.info.run_id, METRICS[0])) for run in runs)
        assert held == wanted, f"{experiment} holds {held} of {wanted} reports"
    return ours, meanwhile, peer


def values(epoch: int) -> dict[str, float]:
    return {name: epoch + i / 10 for i, name in enumerate(METRICS)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=int, default=200)
    add_record_option(parser)
    options = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    here = Path(__file__).resolve().parents[1]
    # a real disk: /tmp may be in memory, where fsync is free
    with tempfile.TemporaryDirectory(prefix="bench-", dir=here) as folder:
        ours, meanwhile, peer = measure(options.reports, Path(folder))
    rows = {
        "EventLog.append": ours,
        "EventLog.append, MLflow catching up": meanwhile,
        "MLflowLoggerCallback.log_trial_result (Ray)": peer,
    }
    for name, seconds in rows.items():
        ordered = sorted(1000 * s for s in seconds)
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        print(
            f"{name:44} median {statistics.median(ordered):8.2f} ms   p95 {p95:8.2f} ms   total "
            f"{sum(ordered):9.1f} ms"
        )
    for name in list(rows)[:2]:
        ratio, totals = (
            statistics.median(peer) / statistics.median(rows[name]),
            sum(peer) / sum(rows[name]),
        )
        print(f"{name:44} is {ratio:.0f} times cheaper by the medians, {totals:.0f} by the totals")
    record_speed(options.record, {"seconds": {name: rounded(row) for name, row in rows.items()}})


if __name__ == "__main__":
    main()
