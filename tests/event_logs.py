"""Event logs of studies that never ran, for tests of code that reads logs."""

import random

from tune.study.events import EventLog

BASE = {"optim.lr": 0.1, "optim.name": "sgd", "data.batch_size": 64, "aug.crop": None}
SEARCHED = ["optim.lr", "optim.name"]


def begin(storage, name="ssl-1", **changes):
    log = EventLog(storage / name / "events.jsonl")
    data = {"name": "glyphs", "fingerprint": "f00d", "path": "embedded", "images": 1530}
    study = {
        "name": name,
        "experiment": "ssl",
        "objective": "val/knn_top1",
        "direction": "maximize",
        "config": BASE,
    }
    log.append(
        "study",
        **(study | {"searched": SEARCHED, "data": data, "tags": {"git.commit": "abc"}} | changes),
    )
    return log


def start(log, trial, lr=0.1, attempt=1, resumed_epoch=None, **more):
    log.append(
        "start",
        trial=trial,
        config=BASE | {"optim.lr": lr},
        attempt=attempt,
        resumed_epoch=resumed_epoch,
        **more,
    )


def report(log, trial, epoch, value, **more):
    log.append(
        "report",
        trial=trial,
        epoch=epoch,
        metrics={"val/knn_top1": value, "train/loss": 1 / epoch},
        **more,
    )


def end(log, trial, state="COMPLETE", value=None, reason=None, error=None, metrics=None, **more):
    log.append(
        "end",
        trial=trial,
        state=state,
        value=value,
        reason=reason,
        metrics=metrics or {},
        error=error,
        **more,
    )


def study_of(storage, trials=4, epochs=5, seed=0, name="ssl-1", finish="FINISHED"):
    """Write a finished study with every kind of event. The values are irregular, so that a mix-up
    shows."""
    rng, log = random.Random(seed), begin(storage, name)
    for trial in range(trials):
        start(log, trial, lr=10 ** rng.uniform(-4, 0))
        for epoch in range(1, epochs + 1):
            report(log, trial, epoch, rng.random())
        end(
            log,
            trial,
            **({"state": "PRUNED", "reason": "rung"} if trial % 2 else {"state": "COMPLETE"}),
        )
    log.append("summary", metrics={"baseline/knn_top1": 0.11}, tags={"verdict": "tuning helps"})
    if finish:
        log.append("finish", state=finish)
    return log
