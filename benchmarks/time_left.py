"""Accuracy of the displayed time left, on recorded event logs.

The logs are replayed as a run would have seen them, and its answers are compared with the times
that the run really took.

    python benchmarks/time_left.py
    python benchmarks/time_left.py --condense NAME STORAGE [GROUP]   # the logs of a run

A log is replayed by its own clock, from the start of the first trial; before that, the time for
imports, data and Ray cannot be known. At every tenth of the run the table shows the time left that
the run would have displayed and the true time left. The record also has the seconds that trials and
repeats occupied processes. The error of the end is relative to the whole
run; beside it is the same error relative to the time left. The claim: the first error is within 25
% from the second tenth on.
"""

import argparse
import itertools
import json
import lzma
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import add_record_option, record_speed, rounded
from tune.experiments import EXPERIMENTS
from tune.function import LENGTH
from tune.study.agenda import Agenda, Expected, Own, Seen, occupied_seconds
from tune.study.forecast import Amount, Forecast
from tune.study.log_state import LogState, apply_event
from tune.study.rules import FIRST, RepeatRule

DATA = Path(__file__).parent / "data" / "event_logs"
BOUND = 0.25
FROM = 2
"""First tenth of the run for which the claim must hold."""
_KILLED_MS = 60_000
"""Shortest silence before a second attempt that counts as a pause, in which nothing ran."""
_KEPT = ("t", "event", "trial", "repeat", "epoch", "attempt", "resumed_epoch", "state", "value")
_METRICS = ("baseline/", "test/")
_EVENTS = ("study", "start", "report", "end", "summary", "finish")

Event = dict[str, Any]


@dataclass
class Log:
    """The events of one study."""

    name: str
    kind: str
    amount: Amount
    events: list[Event]


@dataclass
class Told:
    """The answer of a run at one moment, in seconds."""

    at: float
    left: float | None
    true: float
    whole: float

    @property
    def error(self) -> float:
        """Error of the end, relative to the whole run."""
        if self.left is None:
            return float("inf")
        return (self.left - self.true) / self.whole

    @property
    def error_of_rest(self) -> float:
        """Error of the time left, relative to the time left."""
        if self.left is None:
            return float("inf")
        return self.left / self.true - 1


# -- recorded logs


def condense(name: str, storage: Path, group: str) -> Path:
    """Condense the logs of a study, or of all members of a group, to what the clock reads."""
    folders = sorted(path.parent for path in storage.glob(f"{group}*/study.json"))
    lines = [_condensed(folder, group) for folder in folders]
    path = DATA / f"{name}.jsonl.xz"
    path.parent.mkdir(exist_ok=True)
    text = "\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
    path.write_bytes(lzma.compress(text.encode()))
    return path


def _condensed(folder: Path, group: str) -> dict[str, Any]:
    manifest = json.loads((folder / "study.json").read_text())
    rules = {**FIRST, **manifest.get("rules", {})}
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    kept = [_condensed_event(event) for event in events if event["event"] in _EVENTS]
    starts = [event for event in events if event["event"] == "start"]
    repeated = {(event["trial"], event["repeat"]) for event in starts if "repeat" in event}
    of_each = Counter(trial for trial, _ in repeated)
    return {
        "name": folder.name,
        "kind": folder.name.removeprefix(group).partition("-r")[0],
        "trials": len({event["trial"] for event in starts}),
        "epochs": manifest["base"].get("train.epochs", 0),
        "seeds": max(of_each.values(), default=0),
        "top": max(1, len(of_each) - 1),
        "rules": rules,
        "function": bool(manifest.get("function")),
        "events": kept,
    }


def _condensed_event(event: Event) -> Event:
    short = {key: event[key] for key in _KEPT if key in event and event["event"] != "study"}
    short |= {"t": event["t"], "event": event["event"]}
    if event["event"] == "start":
        length = event["config"].get("train.epochs")
        short["config"] = {} if length is None else {"train.epochs": length}
    if event["event"] in ("report", "end", "summary"):
        names = [name for name in event["metrics"] if name.startswith(_METRICS)]
        short["metrics"] = dict.fromkeys(names, 0.0)
        if LENGTH in event["metrics"]:
            short["metrics"][LENGTH] = event["metrics"][LENGTH]
    if event["event"] == "summary":
        short["tags"] = {}
    if isinstance(short.get("value"), dict):  # not finite
        short["value"] = None
    return short


def read(path: Path) -> list[Log]:
    """Return the studies of one run."""
    logs = []
    for line in lzma.decompress(path.read_bytes()).decode().splitlines():
        about = json.loads(line)
        rules = about["rules"]
        amount = Amount(
            trials=about["trials"],
            epochs=about["epochs"],
            seeds=about["seeds"],
            rule=RepeatRule(rules["repeats"], about["top"]),
            rungs=rules["rungs"],
            function=about["function"],
        )
        logs.append(Log(about["name"], about["kind"], amount, about["events"]))
    return logs


# -- the replay


@dataclass
class Replay:
    """One process that runs the studies of a group one after another and sees all of them."""

    logs: list[Log]
    states: dict[str, LogState] = field(default_factory=dict)
    forecasts: dict[str, Forecast] = field(default_factory=dict)
    own: str | None = None

    def __post_init__(self) -> None:
        for log in self.logs:
            self.states[log.name] = LogState(keeps_history=False)
            self._open(log)
        expected = [Expected(log.name, log.kind, _experiment(log.kind)) for log in self.logs]
        self.agenda = Agenda(expected, self._look)

    def _open(self, log: Log) -> None:
        self.forecasts[log.name] = Forecast(self.states[log.name], log.amount)

    def apply(self, log: Log, event: Event) -> None:
        """Apply an event at its time."""
        now = event["t"] / 1000
        begins = event["event"] == "study" or event.get("attempt", 1) > 1
        if self.own is None and begins and not self.states[log.name].finished:
            self.own = log.name
            self.agenda.begin(log.name, is_new=not self.states[log.name].runs, now=now)
        apply_event(self.states[log.name], event)
        self.forecasts[log.name].on_event(event)
        if event["event"] != "finish":
            return
        if event["state"] == "INTERRUPTED":
            self._open(log)  # the process that resumes has seen nothing run
        elif self.own == log.name:
            self.agenda.end(now)
            self.own = None

    def left(self, now: float) -> float | None:
        """Return the seconds that the process would display as left."""
        if self.own is None:
            return self.agenda.left(None, now)
        left = self.forecasts[self.own].seconds_left(now)
        if len(self.logs) == 1:
            return left
        if left is None:
            return self.agenda.left(None, now)
        total = self.forecasts[self.own].seconds_done() + left
        return self.agenda.left(Own(left, total), now)

    def _look(self, name: str) -> Seen:
        state = self.states[name]
        seconds = occupied_seconds(state)
        if state.finished:
            return Seen("done", seconds)
        return Seen("runs" if state.runs else "waits", seconds)


def _experiment(kind: str) -> str:
    """Return the experiment of a study. A source of backbones is its own; settings share one."""
    return kind if kind in EXPERIMENTS else "settings"


def replay(logs: list[Log]) -> Iterator[Told]:
    """Yield the answers of the run at each tenth of it. Pauses between two starts do not count."""
    merged = sorted(
        ((event["t"], place, event) for place, log in enumerate(logs) for event in log.events),
        key=lambda one: one[:2],
    )
    merged = merged[: 1 + _last_finish(merged)]
    begin = next(place for place, (*_, event) in enumerate(merged) if event["event"] == "start")
    pauses = _pauses(merged)
    whole = (merged[-1][0] - merged[begin][0] - sum(pauses.values())) / 1000
    run = Replay(logs)
    for _, place, event in merged[:begin]:
        run.apply(logs[place], event)
    merged = merged[begin:]
    marks = [whole * tenth / 10 for tenth in range(1, 10)]
    gone = 0.0
    for before, (moment, place, event) in zip([merged[0], *merged], merged, strict=False):
        step = (moment - before[0] - pauses.get(moment, 0)) / 1000
        while marks and gone + step > marks[0]:
            now = before[0] / 1000 + marks[0] - gone
            yield Told(marks[0], run.left(now), whole - marks[0], whole)
            marks.pop(0)
        gone += step
        run.apply(logs[place], event)


def _last_finish(merged: list[tuple[int, int, Event]]) -> int:
    """Return the index of the last end of a study. Drawing and sending after it do not count."""
    places = [place for place, (_, _, event) in enumerate(merged) if event["event"] == "finish"]
    return places[-1] if places else len(merged) - 1


def _pauses(merged: list[tuple[int, int, Event]]) -> dict[int, int]:
    """Return {moment at which an interrupted or killed run was resumed: ms since its end}."""
    found = {}
    for (ended, _, last), (resumed, _, first) in itertools.pairwise(merged):
        interrupted = last["event"] == "finish" and last["state"] == "INTERRUPTED"
        killed = first.get("attempt", 1) > 1 and resumed - ended > _KILLED_MS
        if interrupted or killed:
            found[resumed] = resumed - ended
    return found


def report(name: str, told: list[Told]) -> bool:
    """Print the table of a run; return True if the claim holds."""
    print(f"\n{name}: {told[0].whole:.0f} s")
    print("tenth     said left     truth   error of the end   of what is left")
    holds = True
    for tenth, one in enumerate(told, 1):
        said = "unknown" if one.left is None else f"{one.left:.0f} s"
        late = tenth >= FROM and abs(one.error) > BOUND
        holds = holds and not late
        mark = "  <- off" if late else ""
        print(
            f"{tenth:5} {said:>13} {one.true:8.0f} s {one.error:18.0%} {one.error_of_rest:17.0%}"
            f"{mark}"
        )
    return holds


def occupied(logs: list[Log]) -> float:
    """Return the seconds in which trials and repeats occupied a process, all of them together."""
    total = 0.0
    for log in logs:
        state = LogState(keeps_history=False)
        for event in log.events:
            apply_event(state, event)
        total += sum(run.occupied_ms for run in state.runs.values()) / 1000
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--condense", nargs="+", metavar="WORD")
    add_record_option(parser)
    parser.add_argument("logs", nargs="*", type=Path, help="default: all that are recorded")
    options = parser.parse_args()
    if options.condense:
        name, storage, *group = options.condense
        print(condense(name, Path(storage), group[0] if group else name))
        return

    paths = options.logs or sorted(DATA.glob("*.jsonl.xz"))
    logs = {path.name: read(path) for path in paths}
    told = {name: list(replay(own)) for name, own in logs.items()}
    results = {name: report(name, answers) for name, answers in told.items()}
    failed = [name for name, holds in results.items() if not holds]
    print(f"\nwithin {BOUND:.0%} from tenth {FROM} on: {len(paths) - len(failed)} of {len(paths)}")
    for name in failed:
        print(f"not: {name}")
    runs = [
        {
            "name": name.partition(".")[0],
            "whole": answers[0].whole,
            "occupied": round(occupied(logs[name]), 3),
            "left": [one.left for one in answers],
            "true": rounded(one.true for one in answers),
        }
        for name, answers in told.items()
    ]
    record_speed(options.record, {"runs": runs})


if __name__ == "__main__":
    main()
