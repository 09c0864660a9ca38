"""Fold the event log of a study into runs, as MLflow, TensorBoard, W&B and tables show them. This
module knows none of these.

`tune/study/` has its own fold, which computes the state of a study. This one is separate because it
maps events to changes of runs: params, metrics by step, tags and files. A replay must be able to
continue anywhere in the log, and must not depend on the study's current state.

The result depends only on the log, so a replay from the beginning gives exactly the same result as
the first one. There is one run for the study, with one child per trial, which has one child per
repeat of the trial under another seed. Names and values are those of the log; a destination that
accepts fewer characters changes them itself.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from trainables.data_summary import DataSummary
from tune.study.identity import GROUP, STUDY, study_id

__all__ = [
    "LOGARITHMIC",
    "Changes",
    "Event",
    "ProjectedRun",
    "Projection",
]

LOGARITHMIC = ("lr", "weight_decay")
"""Suffixes of parameters that are searched on a log scale."""

Event = dict[str, Any]


@dataclass(frozen=True)
class ProjectedRun:
    """A run as it is created."""

    key: str
    """Unique within the study: `study`, `trial/3` or `trial/3/repeat/1234`."""
    name: str
    """Display name: the study's name, `trial-003` or `trial-003-seed-1234`."""
    parent: str | None
    """Key of the parent run; GROUP if it is in another log."""
    started: int
    """Start time, ms since the epoch."""
    tags: dict[str, str]
    trial: int | None = None
    """Trial number; None for the study itself."""
    repeat: int | None = None
    """Seed of a repeat; None for the trial itself."""


@dataclass
class Changes:
    """Changes of one run by a chunk of the log. Later values replace earlier ones; metrics and
    files accumulate."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """Name, value, ms since the epoch, step."""
    tags: dict[str, str] = field(default_factory=dict)
    status: tuple[str, int] | None = None
    """RUNNING, FINISHED, FAILED or KILLED, and since when (ms since the epoch)."""
    data: dict[str, Any] | None = None
    """The data set of the study."""
    files: list[tuple[str, str]] = field(default_factory=list)
    """Path within the study's folder, and the subfolder in which it is shown."""
    texts: dict[str, str] = field(default_factory=dict)
    """Name of a text -> its content."""
    name: str | None = None
    """The run's new name, if it was renamed."""
    epoch: int | None = None
    """The last reported epoch, if the changes include a report."""


class Projection:
    """Folds events into changes of runs. `feed` it all events from the first; `take` returns the
    changes by run.

    Args:
        logarithms: add the logarithms of parameters that are searched on a log scale as metrics,
            because MLflow's axes are linear.
    """

    def __init__(self, *, logarithms: bool = False) -> None:
        self.logarithms = logarithms
        self.study: Event | None = None
        self.study_id = ""
        self.runs: dict[str, ProjectedRun] = {}
        self._changes: dict[str, Changes] = {}
        self._live: dict[str, None] = {}  # started but not ended, in order of start
        # (run, metric) -> last step and value
        self._last: dict[tuple[str, str], tuple[int, float]] = {}
        self._epoch: dict[str, int] = {}
        self._best: dict[str, float] = {}
        self._tags: dict[str, str] = {}
        self._chosen: int | None = None

    def feed(self, event: Event) -> None:
        """Process one event; unknown event names are ignored."""
        handlers = {
            "study": self._on_study,
            "start": self._on_start,
            "report": self._on_report,
            "artifact": self._on_artifact,
            "end": self._on_end,
            "retry": self._on_retry,
            "summary": self._on_summary,
            "finish": self._on_finish,
            "rename": self._on_rename,
        }
        handler = handlers.get(event["event"])
        if handler:
            handler(event)

    def take(self) -> dict[str, Changes]:
        """Return the changes since the last call; a run comes after its parent."""
        changes, self._changes = self._changes, {}
        return dict(sorted(changes.items(), key=lambda item: item[0].count("/")))

    def _on_study(self, event: Event) -> None:
        if not self.study_id:
            self.study_id = study_id(event)
        self.study = event
        self._tags = self._common_tags(event)

        changes = self._run(STUDY, event)
        changes.params |= event["config"]
        changes.tags |= self._tags
        changes.tags["objective"] = event["objective"]
        changes.tags["direction"] = event["direction"]
        changes.tags["study.state"] = "RUNNING"
        changes.tags["searched"] = ", ".join(event["searched"])
        data = event.get("data") or {}
        if data.get("fingerprint"):
            changes.data = data
        summary = data.get("summary")
        if summary is not None:
            understood = DataSummary.from_json(summary)
            changes.tags["data.summary"] = "\n".join(understood.lines())
        changes.status = ("RUNNING", event["t"])

    def _common_tags(self, event: Event) -> dict[str, str]:
        """Return the tags that all runs of the study share."""
        tags = {"study": event["name"], "study.id": self.study_id}
        tags |= _strings(event.get("tags"))

        group = event.get("group")
        if group:
            tags |= {"group": group["name"], "group.id": group["id"]}

        data = event.get("data") or {}
        for name in ("name", "fingerprint", "contents"):
            if data.get(name):
                tags[f"data.{name}"] = str(data[name])

        return tags

    def _on_start(self, event: Event) -> None:
        key = _key(event)
        changes = self._run(key, event)
        config = event["config"]
        searched = [name for name in self._studied()["searched"] if name in config]

        # Params are shown in the order in which they were logged, so searched ones come first.
        changes.params |= {name: config[name] for name in [*searched, *config]}
        if self.logarithms:
            self._log_logarithms(key, {name: config[name] for name in searched}, event["t"])

        changes.tags["trial.state"] = "RUNNING"
        changes.tags["trial.attempt"] = str(event["attempt"])
        if event.get("enqueued"):
            changes.tags["trial.enqueued"] = "true"
        if event.get("resumed_epoch") is not None:
            changes.tags["trial.resumed_epoch"] = str(event["resumed_epoch"])

        changes.status = ("RUNNING", event["t"])
        self._live[key] = None

    def _log_logarithms(self, run: str, searched: dict[str, Any], t: int) -> None:
        for name, value in searched.items():
            if name.endswith(LOGARITHMIC) and isinstance(value, int | float) and value > 0:
                self._log(run, f"log10/{name}", math.log10(value), t, 0)

    def _on_report(self, event: Event) -> None:
        key = _key(event)
        epoch = int(event["epoch"])
        changes = self._run(key, event)
        self._epoch[key] = max(epoch, self._epoch.get(key, 0))
        changes.epoch = self._epoch[key]

        for name, value in event["metrics"].items():
            if value is not None:
                self._log(key, name, float(value), event["t"], epoch)

        objective = self._studied()["objective"]
        value = event["metrics"].get(objective)
        if value is not None and math.isfinite(value) and self._is_best(key, value):
            self._best[key] = value
            self._log(key, f"best/{objective}", float(value), event["t"], epoch)

    def _is_best(self, run: str, value: float) -> bool:
        best = self._best.get(run)
        if best is None:
            return True
        return value > best if self._studied()["direction"] == "maximize" else value < best

    def _on_artifact(self, event: Event) -> None:
        self._run(_key(event), event).files.append((event["path"], event["to"]))

    def _on_end(self, event: Event) -> None:
        key = _key(event)
        state = event["state"]
        changes = self._run(key, event)

        final = dict(event.get("metrics") or {})
        if state == "COMPLETE" and event.get("value") is not None:
            final.setdefault(f"best/{self._studied()['objective']}", event["value"])
        self._log_final(key, final, event["t"])

        changes.tags["trial.state"] = state
        changes.tags["trial.reason"] = str(event.get("reason") or "")
        if event.get("error"):
            error = str(event["error"])
            last_line = error.strip().rsplit("\n", 1)[-1]
            changes.tags["trial.error"] = last_line
            changes.texts["error.txt"] = error

        changes.status = ("FAILED" if state == "FAIL" else "FINISHED", event["t"])
        self._live.pop(key, None)

    def _on_retry(self, event: Event) -> None:
        """Restart a failed run: its epochs are logged again, and later values of a step count."""
        if event.get("trial") is None:
            return
        key = _key(event)
        changes = self._run(key, event)
        changes.tags |= {"trial.state": "OPEN", "trial.reason": "", "trial.error": ""}
        for run, name in list(self._last):
            if run == key:
                del self._last[run, name]
        self._epoch.pop(key, None)
        self._best.pop(key, None)

    def _on_summary(self, event: Event) -> None:
        metrics = event.get("metrics") or {}
        self._log_final(STUDY, metrics, event["t"])
        self._run(STUDY, event).tags.update(_strings(event.get("tags")))
        if "chosen/trial" in metrics:
            self._mark_chosen(int(metrics["chosen/trial"]), event)

    def _mark_chosen(self, trial: int, event: Event) -> None:
        """Tag the run of the chosen trial, and mark a previously chosen one as earlier."""
        if self._chosen is not None and self._chosen != trial:
            earlier = {"trial": self._chosen, "t": event["t"]}
            self._run(_key(earlier), earlier).tags["chosen"] = "earlier"
        self._chosen = trial
        chosen = {"trial": trial, "t": event["t"]}
        self._run(_key(chosen), chosen).tags["chosen"] = event["tags"].get("chosen", "")

    def _on_finish(self, event: Event) -> None:
        changes = self._run(STUDY, event)
        changes.tags["study.state"] = event["state"]
        changes.status = ("FINISHED" if event["state"] == "FINISHED" else "KILLED", event["t"])
        for key in self._live:
            left = self._run(key, event)
            left.tags["trial.state"] = "INTERRUPTED"
            left.status = ("KILLED", event["t"])
        self._live.clear()

    def _on_rename(self, event: Event) -> None:
        """Rename the study's run, and update the study's name in all runs."""
        name = event["name"]
        self._tags["study"] = name
        for key, run in self.runs.items():
            changes = self._run(key, event)
            changes.tags["study"] = name
            if key == STUDY:
                changes.name = name
                self.runs[key] = replace(run, name=name)

    def _studied(self) -> Event:
        if self.study is None:
            raise ValueError("the event log does not begin with a `study` event")
        return self.study

    def _run(self, key: str, event: Event) -> Changes:
        """Return the changes of a run. A new run is created together with its parents."""
        if key not in self.runs:
            self.runs[key] = self._new_run(key, event)
        return self._changes.setdefault(key, Changes())

    def _new_run(self, key: str, event: Event) -> ProjectedRun:
        if key == STUDY:
            study = self._studied()
            above = GROUP if study.get("group") else None
            tags = {"kind": study.get("kind", STUDY)}
            return ProjectedRun(key, study["name"], above, event["t"], self._tags | tags)

        trial, repeat = event["trial"], event.get("repeat")
        name, parent = f"trial-{trial:03d}", STUDY
        tags = {"kind": "trial", "trial.number": str(trial)}
        if repeat is not None:
            name, parent = f"{name}-seed-{repeat}", f"trial/{trial}"
            tags |= {"kind": "repeat", "repeat.seed": str(repeat)}

        self._run(parent, {"trial": trial, "t": event["t"]})
        return ProjectedRun(key, name, parent, event["t"], self._tags | tags, trial, repeat)

    def _log(self, run: str, name: str, value: float, t: int, step: int) -> None:
        """Log a value unless the run already has its step: a resumed trial reports its checkpoint's
        epoch a second time."""
        last, _ = self._last.get((run, name), (-1, math.nan))
        if step > last:
            self._last[run, name] = step, value
            self._run(run, {"t": t}).metrics.append((name, value, t, step))

    def _log_final(self, run: str, metrics: dict[str, Any], t: int) -> None:
        """Log the values that close a run after its last epoch, but only if they differ from the
        run's last values."""
        for name, value in metrics.items():
            step, last = self._last.get((run, name), (-1, math.nan))
            if value is not None and float(value) != last:
                self._log(run, name, float(value), t, max(self._epoch.get(run, 0), step + 1))


def _key(event: Event) -> str:
    if event.get("trial") is None:
        return STUDY
    key = f"trial/{event['trial']}"
    return key if event.get("repeat") is None else f"{key}/repeat/{event['repeat']}"


def _strings(values: dict[str, Any] | None) -> dict[str, str]:
    return {name: "none" if value is None else str(value) for name, value in (values or {}).items()}
