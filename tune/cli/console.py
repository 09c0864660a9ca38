"""Console output of a run: a live table on a terminal, one line per event in a pipe."""

import math
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune.cli.clock import Clock, Progress
from tune.formatting import counted, duration, failure, plain_console
from tune.function import LENGTH
from tune.reports.selection import repeats_label
from tune.study.configurations import REFUSED

_MAX_ENDED = 12  # ended trials in the table, best first
_MAX_REPEATS = 4  # running repeats listed
_BAR = 24  # characters
_LOOK_S = 1.0  # seconds between two attempts at a first estimate
_STYLES = {"running": "cyan", "complete": "green", "pruned": "dim", "fail": "red"}


@dataclass
class LiveRow:
    """A trial as the table shows it."""

    number: int
    state: str = "running"
    epoch: int = 0
    value: float | None = None
    best: float | None = None
    images_per_s: float | None = None
    reason: str = ""

    @property
    def running(self) -> bool:
        return self.state == "running"


class LiveTable(Protocol):
    """A table that is redrawn from time to time."""

    def start(self) -> None:
        """Draw the table for the first time."""

    def stop(self) -> None:
        """Draw the table for the last time."""


class Console:
    """An observer of the study's events. Use it as a context manager around the run.

    Args:
        objective: metric by which trials are ranked.
        epochs: epochs of a complete trial; 0 if trials report that themselves.
        trials: trials of a complete study.
        interactive: show the live table; None: only if the output is a terminal.
        quiet: print nothing.
        clock: estimates the time left; receives every event first. None: no estimate.
    """

    def __init__(
        self,
        objective: str,
        epochs: int,
        trials: int,
        *,
        interactive: bool | None = None,
        quiet: bool = False,
        clock: Clock | None = None,
    ):
        self.out = plain_console()
        self.out.quiet = quiet
        self.objective = objective
        self.epochs = epochs
        self.trials = trials
        self.interactive = self.out.is_terminal if interactive is None else interactive
        self.rows: dict[int, LiveRow] = {}
        self.repeats: dict[tuple[int, int], int] = {}
        """(Trial, seed) of each running repeat -> its last epoch."""
        self.repeated: dict[int, list[float]] = {}
        """Trial -> objectives of its finished repeats."""
        self.clock = clock
        self._said_estimate = False
        self._saying = threading.Lock()
        self._is_over = threading.Event()
        self._live: LiveTable | None = None
        self._draws = False

    def __enter__(self) -> Self:
        if self.interactive:
            self._live = self._new_table()
            self._live.start()
            self._draws = True
        elif self.clock is not None and not self.out.quiet:
            threading.Thread(target=self._await_estimate, name="estimate", daemon=True).start()
        return self

    def _await_estimate(self) -> None:
        """Print the estimate of the total time during the first epoch, which may take long."""
        while not self._said_estimate and not self._is_over.wait(_LOOK_S):
            self._say_estimate()

    def _new_table(self) -> "LiveTable":
        return Live(
            get_renderable=self.render, console=self.out, refresh_per_second=4, transient=False
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        if self._live is not None:
            self._live.stop()
            self._draws = False

    def know(self, number: int, state: str, epoch: int, best: float | None, reason: str) -> None:
        """Add a trial of an earlier start."""
        self.rows[number] = LiveRow(number, state, epoch, best=best, reason=reason)

    def line(self, text: str) -> None:
        """Print a line; above a live table it is wrapped at words."""
        self.out.print(text, soft_wrap=not self._draws)

    # -- events

    def on_event(self, event: dict[str, Any]) -> None:
        """Update the table, or print a line."""
        kind = event["event"]

        if self.clock is not None:
            self.clock.on_event(event)
        if kind == "summary":
            self._on_summary(event)

        if kind not in ("start", "report", "end") or event["trial"] is None:
            return

        if "repeat" in event:
            self._on_repeat(kind, event)
            return

        row = self.rows.setdefault(event["trial"], LiveRow(event["trial"]))
        handlers = {"start": self._on_start, "report": self._on_report, "end": self._on_end}
        text = handlers[kind](row, event)
        if self._live is None:
            self.line(text)
            self._say_estimate()
        elif kind == "end" and event["state"] == "FAIL":
            self.line(f"trial {row.number} failed: {_failure(event)}")

    def _say_estimate(self) -> None:
        """Print the estimate of the total time once, as soon as it is known."""
        with self._saying:
            progress = self._time()
            if self._said_estimate or progress is None or not progress.words:
                return
            self._said_estimate = True
        self.line(f"{self._whole_work()}: {progress.words}")

    def _whole_work(self) -> str:
        """Describe the work of the whole study, such as `16 trials and 12 repeats`."""
        forecast = None if self.clock is None else self.clock.forecast
        work = counted(self.trials, "trial")
        if forecast is not None and forecast.amount.repeats:
            work += f" and {counted(forecast.amount.repeats, 'repeat')}"
        place = self.clock.place if self.clock is not None else ""
        return f"{place}; {work}" if place else work

    def _on_summary(self, event: dict[str, Any]) -> None:
        """Print the untrained baseline, and configurations that cannot be tried."""
        metrics = event["metrics"]
        if REFUSED in event["tags"]:
            self.line(f"note: not tried: {event['tags'][REFUSED]}")
        value = metrics.get(f"baseline/{self.objective}")
        if value is None:
            return

        if math.isnan(value):
            tags = event["tags"]
            reason = failure(tags.get("baseline.reason", ""), tags.get("baseline.error"))
            self.line(f"no untrained baseline ({reason}); the study continues without it")
            return

        spread = metrics.get(f"baseline_std/{self.objective}", 0.0)
        self.line(
            f"untrained baseline, BatchNorm calibrated: {self.objective} {value:.4f} "
            f"+- {spread:.4f} over seeds"
        )

    def _on_start(self, row: LiveRow, event: dict[str, Any]) -> str:
        row.state = "running"
        if event["resumed_epoch"]:
            return f"trial {row.number} resumes after epoch {event['resumed_epoch']}"
        own = " (enqueued)" if event.get("enqueued") else ""
        return f"trial {row.number} starts{own}"

    def _on_report(self, row: LiveRow, event: dict[str, Any]) -> str:
        metrics = event["metrics"]
        row.epoch = event["epoch"]
        row.value = metrics.get(self.objective)
        row.images_per_s = metrics.get("time/images_per_s")
        self.epochs = int(metrics.get(LENGTH) or self.epochs)

        if row.value is None:
            return ""

        row.best = row.value if row.best is None else max(row.best, row.value)
        epoch = self._of_all(row.epoch)
        return f"trial {row.number} epoch {epoch} {self.objective} {row.value:.4f}"

    def _on_end(self, row: LiveRow, event: dict[str, Any]) -> str:
        row.state = event["state"].lower()
        row.reason = event["reason"] or ""
        if event["value"] is not None:
            row.best = event["value"]

        best = "" if row.best is None else f" best {row.best:.4f}"
        reason = f" ({_failure(event)})" if row.reason else ""
        return f"trial {row.number} {row.state}{best}{reason} | {self._progress()}"

    def _on_repeat(self, kind: str, event: dict[str, Any]) -> None:
        key = (event["trial"], event["repeat"])
        if kind != "end":
            self.repeats[key] = event.get("epoch", self.repeats.get(key, 0))
            return

        self.repeats.pop(key, None)
        objective = event["metrics"].get(f"best/{self.objective}")
        if objective is not None:
            self.repeated.setdefault(event["trial"], []).append(objective)
        if self._live is not None:
            return

        name = "test/" + self.objective.removeprefix("val/")
        value = event["metrics"].get(name)
        shown = _failure(event) or "no result on the test split"
        if value is not None:
            shown = f"{name} {value:.4f}"
        ended, total = self._repeat_counts()
        place = f"repeat {ended} of {total}: " if total else ""
        left = self._words_left()
        self.line(
            f"{place}trial {event['trial']} repeated with seed {event['repeat']}: {shown}{left}"
        )

    # -- the table

    def render(self) -> RenderableType:
        """Draw the live table: running trials, then the best of the ended ones."""
        running = [row for row in self.rows.values() if row.running]
        ended = sorted(self._ended(), key=_by_best)
        lines: list[RenderableType] = [self._table(running + ended[:_MAX_ENDED])]

        if len(ended) > _MAX_ENDED:
            lines.append(Text(f"... and {len(ended) - _MAX_ENDED} more", style="dim"))

        if self.repeats:
            lines.append(_wrapped(self._running_repeats(), "cyan"))

        lines.append(_wrapped(self._progress(), "bold"))
        progress = self._time()
        if progress is not None:
            lines.append(self._bar(progress))
        return Group(*lines)

    def _running_repeats(self) -> str:
        """Describe the running repeats, such as `repeat 3 of 12: trial 0, epoch 4/12`."""
        ended, total = self._repeat_counts()
        of_all = f" of {total}" if total else ""
        shown = [
            f"repeat {ended + place}{of_all}: trial {number}, epoch {self._of_all(epoch)}"
            for place, ((number, _), epoch) in enumerate(self.repeats.items(), 1)
        ]
        hidden = len(shown) - _MAX_REPEATS
        more = [f"{hidden} more"] if hidden > 0 else []
        return "; ".join([*shown[:_MAX_REPEATS], *more])

    def _bar(self, progress: Progress) -> RenderableType:
        """Draw one bar for the whole run, with the time as text."""
        share = progress.share
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=_BAR)
        line.add_column(justify="right")
        line.add_column(overflow="fold")
        bar = ProgressBar(total=1.0, completed=share or 0.0, width=_BAR)
        percent = "" if share is None else f"{share:.0%}"
        words = f"{duration(progress.elapsed_s)} so far"
        if progress.words:
            words += f", {progress.words}"
        line.add_row(bar, percent, words)
        place = self.clock.place if self.clock is not None else ""
        return Group(_wrapped(place, ""), line) if place else line

    def _table(self, rows: list[LiveRow]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        names = ["trial", "state", "epoch", self.objective, "best"]
        if any(row.images_per_s for row in rows):  # a function need not report it
            names.append("images/s")
        for name in names:
            table.add_column(name, justify="left" if name == "state" else "right")

        for row in rows:
            failure = f": {row.reason}" if row.state == "fail" else ""
            speed = f"{row.images_per_s:.0f}" if row.images_per_s and row.running else ""
            cells = (
                str(row.number),
                Text(row.state + failure, style=_STYLES[row.state]),
                self._of_all(row.epoch),
                _number(row.value),
                _number(row.best),
                speed,
            )
            table.add_row(*cells[: len(names)])
        return table

    def _of_all(self, epoch: int) -> str:
        """Format an epoch with the trial's total, if that is known."""
        return f"{epoch}/{self.epochs}" if self.epochs else str(epoch)

    def _progress(self) -> str:
        """Describe how far the search is, its best trial, and in a pipe the time left."""
        ended = self._ended()
        text = f"{len(ended)}/{counted(self.trials, 'trial')}"

        complete = {
            row.number: row.best
            for row in ended
            if row.state == "complete" and row.best is not None
        }
        if complete:
            best = max(complete, key=lambda number: complete[number])
            text += f", best trial {best} {complete[best]:.4f}"
            text += (
                f" (of {counted(len(ended), 'single run')}{self._repeats_of(best, complete[best])})"
            )

        if self._live is None:
            text += self._words_left()
        return text

    def _words_left(self) -> str:
        """Return the time left for the end of a line; "" if it is unknown."""
        progress = self._time()
        return "" if progress is None or not progress.words else f", {progress.words}"

    def _time(self) -> Progress | None:
        """Return the progress of the whole run; None without a clock."""
        return None if self.clock is None else self.clock.progress

    def _repeat_counts(self) -> tuple[int, int]:
        """Return the number of finished repeats and of all repeats; 0 if unknown."""
        forecast = None if self.clock is None else self.clock.forecast
        return (0, 0) if forecast is None else forecast.repeats

    def _repeats_of(self, number: int, value: float) -> str:
        label = repeats_label(value, tuple(self.repeated.get(number, ())))
        return f"; {label}" if label else ""

    def _ended(self) -> list[LiveRow]:
        return [row for row in self.rows.values() if not row.running]


def _wrapped(text: str, style: str) -> Text:
    """Return text that is wrapped at the edge of the terminal, because a live table counts its own
    lines."""
    return Text(text, style=style, no_wrap=False, overflow="fold")


def _by_best(row: LiveRow) -> float:
    """Return the sort key of a trial, best first."""
    return math.inf if row.best is None else -row.best


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _failure(event: dict[str, Any]) -> str:
    return failure(event["reason"] or "", event.get("error"))
