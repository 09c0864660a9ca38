"""The content of an MLflow database, read through SQL, and what it should be according to an event
log."""

import sqlite3
from pathlib import Path
from typing import Any

from tune.study.events import EventLog
from tune.tracking.database import ensure_database


def begin_store(storage: Path) -> None:
    """Give a storage an MLflow database without runs."""
    ensure_database(storage / "mlflow.db")


def rows(database: Path, query: str) -> list[Any]:
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def store(storage: Path) -> dict[str, dict[str, Any]]:
    """Everything in the store: {run name: {status, parent, tags, params, metrics: rows (key, step,
    value, ms, is_nan)}}."""
    database = storage / "mlflow.db"
    runs: dict[str, dict[str, Any]] = {}
    for run_id, name, status, stage, end_time in rows(
        database, "SELECT run_uuid, name, status, lifecycle_stage, end_time FROM runs"
    ):
        if stage == "active":
            assert name not in runs, f"two runs named {name}"
            tags = dict(rows(database, f"SELECT key, value FROM tags WHERE run_uuid = '{run_id}'"))
            params = dict(
                rows(database, f"SELECT key, value FROM params WHERE run_uuid = '{run_id}'")
            )
            metrics = rows(
                database,
                "SELECT key, step, value, timestamp, is_nan FROM metrics "
                f"WHERE run_uuid = '{run_id}'",
            )
            runs[name] = {
                "id": run_id,
                "status": status,
                "end": end_time,
                "tags": tags,
                "params": params,
                "metrics": sorted(metrics),
            }
    names = {run["id"]: name for name, run in runs.items()}
    for run in runs.values():
        run["parent"] = names.get(run["tags"].get("mlflow.parentRunId"))
    return runs


def reported(log: EventLog) -> dict[str, list[tuple[Any, ...]]]:
    """The rows that follow from the reports in the log, by run name: the first value of each
    (metric, epoch)."""
    wanted: dict[str, dict[Any, Any]] = {}
    for event in EventLog.read(log.path)[0]:
        if event["event"] == "report":
            run = wanted.setdefault(
                f"trial-{event['trial']:03d}"
                + (f"-seed-{event['repeat']}" if "repeat" in event else ""),
                {},
            )
            for key, value in event["metrics"].items():
                run.setdefault((key, event["epoch"]), (value, event["t"]))
    return {
        name: sorted((key, step, value, t, 0) for (key, step), (value, t) in run.items())
        for name, run in wanted.items()
    }
