"""What the event log of a study looks like in MLflow: a fold over the events, without MLflow.

`tune/study/` has a fold of its own, which says what a study knows. This one is apart because it
maps events to MLflow calls: runs with parents, params, metrics by step, tags and files, each as it
changes. A replay has to continue anywhere in the log, and must not ask what the study is now.

The result depends on the log alone, so a replay from the beginning says exactly what the first one
said. There is one run for the study, below it one per trial, below that one per repeat of the trial
under another seed.
"""

import hashlib
import json
import math
import posixpath
import re
from dataclasses import dataclass, field
from typing import Any

from tune.study.identity import GROUP, STUDY, study_id

__all__ = [
    "GROUP",
    "STUDY",
    "Changes",
    "Projection",
    "Run",
    "mlflow_key",
    "shared_view",
    "study_id",
]

PARAM_LIMIT, TAG_LIMIT, KEY_LIMIT = 6000, 8000, 250  # characters that MLflow keeps
# last words of parameters searched on a log scale: MLflow's axes are linear
LOGARITHMIC = ("lr", "weight_decay")

Event = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """How an MLflow run is created. `key` is unique within the study; `parent` is the key of the
    run above."""

    key: str
    name: str
    parent: str | None  # GROUP: the run of another log
    started: int  # ms since the epoch
    tags: dict[str, str]


@dataclass
class Changes:
    """What one run gains from a stretch of the log; later values replace earlier ones, metrics and
    files add up."""

    params: dict[str, str] = field(default_factory=dict)
    # key, value, ms since the epoch, step
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    # MLflow's RUNNING, FINISHED, FAILED or KILLED, and since when (ms)
    status: tuple[str, int] | None = None
    data: dict[str, Any] | None = None
    # path within the study's folder, artifact sub-folder
    files: list[tuple[str, str]] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)  # artifact name -> contents


class Projection:
    """Feed it events from the first on; `take` gives what they change, by run."""

    def __init__(self) -> None:
        self.study: Event | None = None
        self.study_id = ""
        self.runs: dict[str, Run] = {}
        self._changes: dict[str, Changes] = {}
        self._live: dict[str, None] = {}  # started and not ended, in that order
        # (run, metric) -> last step and value
        self._last: dict[tuple[str, str], tuple[int, float]] = {}
        self._epoch: dict[str, int] = {}
        self._best: dict[str, float] = {}
        self._tags: dict[str, str] = {}

    def feed(self, event: Event) -> None:
        """Fold one event in; events of names that are not in the schema are left for others."""
        handler = {
            "study": self._on_study,
            "start": self._on_start,
            "report": self._on_report,
            "artifact": self._on_artifact,
            "end": self._on_end,
            "summary": self._on_summary,
            "finish": self._on_finish,
        }.get(event["event"])
        if handler:
            handler(event)

    def take(self) -> dict[str, Changes]:
        """Changes since the last call; a run comes after the run above it."""
        changes, self._changes = self._changes, {}
        return dict(sorted(changes.items(), key=lambda item: item[0].count("/")))

    def _on_study(self, event: Event) -> None:
        if not self.study_id:
            self.study_id = study_id(event)
        self.study = event
        data = event.get("data") or {}
        self._tags = {"study": event["name"], "study.id": self.study_id} | _strings(
            event.get("tags"), TAG_LIMIT
        )
        if group := event.get("group"):
            self._tags |= {"group": group["name"], "group.id": group["id"]}
        self._tags |= {
            f"data.{name}": str(data[name])[:TAG_LIMIT]
            for name in ("name", "fingerprint")
            if name in data
        }
        changes = self._run(STUDY, event)
        changes.params |= _strings(event["config"], PARAM_LIMIT)
        changes.tags |= self._tags | {
            "objective": event["objective"],
            "direction": event["direction"],
            "study.state": "RUNNING",
        }
        changes.tags["searched"] = ", ".join(event["searched"])[:TAG_LIMIT]
        changes.data = event.get("data")
        changes.status = ("RUNNING", event["t"])

    def _on_start(self, event: Event) -> None:
        key, study = _key(event), self._studied()
        changes = self._run(key, event)
        config, searched = (
            event["config"],
            [name for name in study["searched"] if name in event["config"]],
        )
        changes.params |= _strings(
            {name: config[name] for name in [*searched, *config]}, PARAM_LIMIT
        )
        for name in searched:
            if (
                name.endswith(LOGARITHMIC)
                and isinstance(config[name], int | float)
                and config[name] > 0
            ):
                self._log(key, f"log10/{name}", math.log10(config[name]), event["t"], 0)
        changes.tags |= {"trial.state": "RUNNING", "trial.attempt": str(event["attempt"])}
        if event.get("resumed_epoch") is not None:
            changes.tags["trial.resumed_epoch"] = str(event["resumed_epoch"])
        changes.status = ("RUNNING", event["t"])
        self._live[key] = None

    def _on_report(self, event: Event) -> None:
        key, study, epoch = _key(event), self._studied(), int(event["epoch"])
        self._run(key, event)
        self._epoch[key] = max(epoch, self._epoch.get(key, 0))
        for name, value in event["metrics"].items():
            if value is not None:
                self._log(key, name, float(value), event["t"], epoch)
        value = event["metrics"].get(study["objective"])
        if value is None or not math.isfinite(value):
            return
        best = self._best.get(key)
        if best is None or (value > best if study["direction"] == "maximize" else value < best):
            self._best[key] = value
            self._log(key, f"best/{study['objective']}", float(value), event["t"], epoch)

    def _on_artifact(self, event: Event) -> None:
        self._run(_key(event), event).files.append((event["path"], event["to"]))

    def _on_end(self, event: Event) -> None:
        key, study, state = _key(event), self._studied(), event["state"]
        changes = self._run(key, event)
        final = dict(event.get("metrics") or {})
        if state == "COMPLETE" and event.get("value") is not None:
            final.setdefault(f"best/{study['objective']}", event["value"])
        self._log_final(key, final, event["t"])
        changes.tags |= {"trial.state": state, "trial.reason": str(event.get("reason") or "")}
        if event.get("error"):
            changes.tags["trial.error"] = (
                str(event["error"]).strip().rsplit("\n", 1)[-1][:TAG_LIMIT]
            )
            changes.texts["error.txt"] = str(event["error"])
        changes.status = ("FAILED" if state == "FAIL" else "FINISHED", event["t"])
        self._live.pop(key, None)

    def _on_summary(self, event: Event) -> None:
        self._log_final(STUDY, event.get("metrics") or {}, event["t"])
        self._run(STUDY, event).tags.update(_strings(event.get("tags"), TAG_LIMIT))

    def _on_finish(self, event: Event) -> None:
        changes = self._run(STUDY, event)
        changes.tags["study.state"] = event["state"]
        changes.status = ("FINISHED" if event["state"] == "FINISHED" else "KILLED", event["t"])
        for key in self._live:
            left = self._run(key, event)
            left.tags["trial.state"] = "INTERRUPTED"
            left.status = ("KILLED", event["t"])
        self._live.clear()

    def _studied(self) -> Event:
        if self.study is None:
            raise ValueError("the event log does not begin with a `study` event")
        return self.study

    def _run(self, key: str, event: Event) -> Changes:
        """Changes of a run, which is put on record with all runs above it when it is new."""
        if key not in self.runs:
            study = self._studied()
            name, tags, parent = (
                study["name"],
                {"kind": study.get("kind", STUDY)},
                GROUP if study.get("group") else None,
            )
            if key != STUDY:
                trial, repeat = event["trial"], event.get("repeat")
                name, tags, parent = (
                    f"trial-{trial:03d}",
                    {"kind": "trial", "trial.number": str(trial)},
                    STUDY,
                )
                if repeat is not None:
                    name, parent = f"{name}-seed-{repeat}", f"trial/{trial}"
                    tags |= {"kind": "repeat", "repeat.seed": str(repeat)}
                self._run(parent, {"trial": trial, "t": event["t"]})
            self.runs[key] = Run(key, name, parent, event["t"], self._tags | tags)
        return self._changes.setdefault(key, Changes())

    def _log(self, run: str, name: str, value: float, t: int, step: int) -> None:
        """A step that a run has is not logged again: a resumed trial reports its checkpoint's epoch
        a second time."""
        name = mlflow_key(name)
        last, _ = self._last.get((run, name), (-1, math.nan))
        if step > last:
            self._last[run, name] = step, value
            self._run(run, {"t": t}).metrics.append((name, value, t, step))

    def _log_final(self, run: str, metrics: dict[str, Any], t: int) -> None:
        """Values that close a run come after its last epoch, and only where they differ from what
        it has."""
        for name, value in metrics.items():
            step, last = self._last.get((run, mlflow_key(name)), (-1, math.nan))
            if value is not None and float(value) != last:
                self._log(run, name, float(value), t, max(self._epoch.get(run, 0), step + 1))


def mlflow_key(name: str) -> str:
    """`name` with what MLflow forbids in keys replaced by `_`: characters such as `[` and `@`, and
    a path that is not normal.

    >>> mlflow_key("/val/top@1"), mlflow_key("../x"), mlflow_key("val/knn_top1")
    ('val/top_1', '_/x', 'val/knn_top1')
    """
    name = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", name).lstrip("/")).replace("..", "_")
    if len(name) > KEY_LIMIT:
        name = name[: KEY_LIMIT - 9] + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return "_" if name == "." else name


def shared_view(study: Event, study_id: str) -> str:
    """State of MLflow's run table and charts that shows the trials of one study or group, best
    first, as the JSON of a shared view.

    The format is the UI's own and not documented; it was read from MLflow 3.17.
    """
    objective, best = mlflow_key(study["objective"]), f"best/{mlflow_key(study['objective'])}"
    searched = [mlflow_key(name) for name in study["searched"]]
    logs = [f"log10/{name}" for name in searched if name.endswith(LOGARITHMIC)]
    plain = [name for name in searched if not name.endswith(LOGARITHMIC)]
    ascending = study["direction"] == "minimize"
    section = "vistune"
    charts: list[dict[str, Any]] = [
        {
            "type": "PARALLEL",
            "selectedParams": plain[:6],
            "selectedMetrics": [*logs[:3], best],
            "showAllRuns": True,
        },
        *({"type": "SCATTER", "xaxis": _axis(name), "yaxis": _axis(best)} for name in logs[:2]),
        {
            "type": "LINE",
            "metricKey": objective,
            "selectedMetricKeys": [objective],
            "xAxisKey": "step",
            "selectedXAxisMetricKey": "",
        }
        | {"xAxisScaleType": "linear", "scaleType": "linear", "lineSmoothness": 0},
        {"type": "BAR", "metricKey": best},
    ]
    common = {
        "runsCountToCompare": 100,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
    }
    group = study.get("kind") == GROUP
    columns = [
        f"metrics.`{best}`",
        *["tags.study"] * group,
        *(f"params.`{name}`" for name in searched),
    ]
    columns += ["tags.`trial.state`", "tags.`trial.reason`"]
    state = {
        "searchFilter": (
            f"tags.kind = 'trial' and tags.`{'group' if group else 'study'}.id` = '{study_id}'"
        ),
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "SHOWALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "compareRunSections": [
            {
                "uuid": section,
                "name": f"Study {study['name']}",
                "display": True,
                "isReordered": True,
            }
        ],
        "compareRunCharts": [
            {"uuid": f"{section}-{i}"} | chart | common for i, chart in enumerate(charts)
        ],
    }
    return json.dumps(state)


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _key(event: Event) -> str:
    if event.get("trial") is None:
        return STUDY
    key = f"trial/{event['trial']}"
    return key if event.get("repeat") is None else f"{key}/repeat/{event['repeat']}"


def _strings(values: dict[str, Any] | None, limit: int) -> dict[str, str]:
    return {
        mlflow_key(name): "none" if value is None else str(value)[:limit]
        for name, value in (values or {}).items()
    }
