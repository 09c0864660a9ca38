"""Everything in the outcome of a study that a kill must not change."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.crash.tiny import Home
from tests.mlflow_store import store
from tune.study.events import EventLog
from tune.tracking.runs import OFFSET_TAG

_OF_STARTS = (OFFSET_TAG, "trial.attempt", "trial.resumed_epoch")
"""Tags that depend on how often a trial was started, as the length of the log does."""

Facts = dict[str, Any]
"""Name of a fact -> its value, as JSON."""


def facts_of(home: Home) -> Facts:
    """The facts of a study: its log, Optuna's trials, its files, and MLflow's runs."""
    found: Facts = {}
    for log in sorted(home.storage.glob("*/events.jsonl")):
        study = log.parent.name
        found |= {f"{study}: {name}": fact for name, fact in _of_log(log)}
    for journal in sorted(home.storage.glob("*/study.journal")):
        study = journal.parent.name
        found |= {f"{study}: {name}": fact for name, fact in _of_journal(journal)}
    for path in sorted(home.path.rglob("*")):
        if path.is_file():
            name = str(path.relative_to(home.path))
            found[f"file {_without_ids(name)}"] = hashlib.sha256(_content(path)).hexdigest()
    if home.study.mlflow:
        found |= dict(_of_mlflow(home.storage))
    return found


def _content(path: Path) -> bytes:
    """The content of a file, without the time at which its study began."""
    content = path.read_bytes()
    if path.name == "study.json":
        return re.sub(rb'"created": "[^"]*"', b"", content)
    return content


def constant(first: Facts, second: Facts) -> set[str]:
    """Names of the facts that are equal in two undisturbed studies. The others are times and the
    like, and only their presence counts."""
    return {name for name in first.keys() & second.keys() if first[name] == second[name]}


def differences(wanted: Facts, found: Facts, same: set[str]) -> list[str]:
    """One line for each fact that is missing, additional, or different."""
    lines = [f"missing: {name}" for name in wanted.keys() - found.keys()]
    lines += [f"left over: {name}" for name in found.keys() - wanted.keys()]
    for name in same & found.keys():
        if wanted[name] != found[name]:
            lines.append(f"{name} is {_short(found[name])} instead of {_short(wanted[name])}")
    return sorted(lines)


def _of_log(path: Path) -> Iterator[tuple[str, Any]]:
    """Facts of the event log: each event once, starts excepted. A summary that is written several
    times counts with its last values."""
    events, _ = EventLog.read(path)
    yield "studies", sum(event["event"] == "study" for event in events)
    yield "first event", events[0]["event"] if events else None
    yield "last event", (events[-1]["event"], events[-1].get("state")) if events else None

    tags: dict[str, Any] = {}
    for kind in ("report", "end"):
        yield f"order of {kind}s", [_key(event) for event in events if event["event"] == kind]
    for event in events:
        name = f"{event['event']} {_key(event)}"
        if event["event"] == "start":
            yield f"config {_key(event)}", event["config"]
        elif event["event"] in ("report", "end"):
            fields = {key: value for key, value in event.items() if key not in ("t", "metrics")}
            yield name, json.dumps([fields, _timeless(event["metrics"])], sort_keys=True)
        elif event["event"] == "artifact":
            yield f"artifact {event['path']}", event["to"]
        elif event["event"] == "summary":
            tags |= event["tags"] | _timeless(event["metrics"])
    for name, value in tags.items():
        yield f"summary {name}", value


def _key(event: dict[str, Any]) -> list[Any]:
    return [event.get(name) for name in ("trial", "repeat", "epoch")]


def _timeless(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def _of_journal(path: Path) -> Iterator[tuple[str, Any]]:
    """Trials, read by Optuna's own backend."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(path)))
    studies = storage.get_all_studies()
    yield "Optuna's studies", [study.study_name for study in studies]
    for study in studies:
        for trial in storage.get_all_trials(study._study_id):
            yield (
                f"Optuna's trial {trial.number}",
                [
                    trial.state.name,
                    trial.params,
                    trial.values,
                    trial.intermediate_values,
                    trial.user_attrs,
                ],
            )


def _of_mlflow(storage: Path) -> Iterator[tuple[str, Any]]:
    """Runs, with their params, metrics and tags."""
    for name, run in store(storage).items():
        yield f"run {name}", [run["status"], run["parent"], run["params"]]
        metrics = [row[:3] for row in run["metrics"] if not row[0].startswith("time/")]
        yield f"metrics of run {name}", metrics
        for tag, value in run["tags"].items():
            if tag not in _OF_STARTS:
                yield f"tag {tag} of run {name}", value


def _without_ids(name: str) -> str:
    """The path of a file, without the random ids of MLflow's runs and the times in TensorBoard's
    names."""
    timeless = re.sub(r"tfevents\.\d+", "tfevents.TIME", name)
    return re.sub(r"\b[0-9a-f]{32}\b", "ID", timeless)


def _short(fact: Any) -> str:
    text = str(fact)
    return text if len(text) < 200 else f"{text[:200]}..."
