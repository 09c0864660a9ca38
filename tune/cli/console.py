"""What the person at the terminal sees: a live table there, one line an event in a pipe."""

import math
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tune.formatting import duration, plain_console

_ROWS = 12  # finished trials kept in sight, best first


class Row:
    """A trial as the table shows it."""

    def __init__(self, number: int):
        self.number = number
        self.state = "running"
        self.epoch = 0
        self.value: float | None = None
        self.best: float | None = None
        self.images_per_s: float | None = None
        self.reason = ""
        self.started = time.time()


class Console:
    """An observer of the study's events. Use as a context manager around the run."""

    def __init__(
        self, objective: str, epochs: int, trials: int, *, interactive: bool | None = None
    ):
        self.out = plain_console()
        self.objective, self.epochs, self.trials = objective, epochs, trials
        self.interactive = self.out.is_terminal if interactive is None else interactive
        self.rows: dict[int, Row] = {}
        self.epochs_run = 0
        self.repeats: dict[tuple[int, int], int] = {}
        self.started = time.time()
        self._ended_before = 0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self.interactive:
            self._live = Live(
                get_renderable=self.render, console=self.out, refresh_per_second=4, transient=False
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def know(self, number: int, state: str, epoch: int, best: float | None, reason: str) -> None:
        """A trial of an earlier start."""
        row = self.rows[number] = Row(number)
        row.state, row.epoch, row.best, row.reason = state, epoch, best, reason
        self._ended_before += state != "running"

    def line(self, text: str) -> None:
        """Print above the table."""
        self.out.print(text)

    def on_event(self, event: dict[str, Any]) -> None:
        """Update the table, or print a line."""
        kind = event["event"]
        if kind == "summary" and "baseline/" + self.objective in event["metrics"]:
            value, spread = (
                event["metrics"].get(f"{name}/{self.objective}", 0.0)
                for name in ("baseline", "baseline_std")
            )
            if math.isnan(value):
                self.line(
                    f"no untrained baseline ({event['tags'].get('baseline.reason', '')}); the study goes on without"
                )
            else:
                self.line(
                    f"untrained baseline, BatchNorm calibrated: {self.objective} {value:.4f} +- {spread:.4f} over seeds"
                )
        if kind not in ("start", "report", "end") or event["trial"] is None:
            return
        if "repeat" in event:
            self._on_repeat(kind, event)
            return
        row = self.rows.setdefault(event["trial"], Row(event["trial"]))
        text = getattr(self, f"_on_{kind}")(row, event)
        if self._live is None:
            self.line(text)

    def _on_start(self, row: Row, event: dict[str, Any]) -> str:
        row.state, row.started = "running", time.time()
        again = (
            f" goes on after epoch {event['resumed_epoch']}"
            if event["resumed_epoch"]
            else " starts"
        )
        return f"trial {row.number}{again}"

    def _on_report(self, row: Row, event: dict[str, Any]) -> str:
        metrics = event["metrics"]
        row.epoch, row.value = event["epoch"], metrics.get(self.objective)
        if row.value is not None:
            row.best = row.value if row.best is None else max(row.best, row.value)
        row.images_per_s = metrics.get("time/images_per_s")
        self.epochs_run += 1
        return (
            f"trial {row.number} epoch {row.epoch}/{self.epochs} {self.objective} {row.value:.4f}"
            if row.value is not None
            else ""
        )

    def _on_end(self, row: Row, event: dict[str, Any]) -> str:
        row.state, row.reason = event["state"].lower(), event["reason"] or ""
        if event["value"] is not None:
            row.best = event["value"]
        best = "" if row.best is None else f" best {row.best:.4f}"
        return f"trial {row.number} {row.state}{best}{f' ({row.reason})' if row.reason else ''} | {self._progress()}"

    def _on_repeat(self, kind: str, event: dict[str, Any]) -> None:
        key = event["trial"], event["repeat"]
        self.repeats[key] = event.get("epoch", self.repeats.get(key, 0))
        if kind == "end":
            del self.repeats[key]
            if self._live is None:
                test = {
                    k: v
                    for k, v in event["metrics"].items()
                    if k == "test/" + self.objective.removeprefix("val/")
                }
                shown = " ".join(f"{k} {v:.4f}" for k, v in test.items()) or event["reason"]
                self.line(f"trial {event['trial']} repeated with seed {event['repeat']}: {shown}")

    def _progress(self) -> str:
        ended = sum(row.state != "running" for row in self.rows.values())
        done = [
            row for row in self.rows.values() if row.state == "complete" and row.best is not None
        ]
        best = max(done, key=lambda row: row.best or 0.0, default=None)
        text = f"{ended}/{self.trials} trials"
        if best is not None:
            text += f", best trial {best.number} {best.best:.4f}"
        here = ended - self._ended_before
        if here > 0 and ended < self.trials:
            text += f", about {duration((time.time() - self.started) / here * (self.trials - ended))} of search left"
        return text

    def render(self) -> RenderableType:
        """The live table: running trials, then the best of the finished ones."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("trial", "state", "epoch", self.objective, "best", "images/s"):
            table.add_column(name, justify="left" if name == "state" else "right")
        running = [row for row in self.rows.values() if row.state == "running"]
        ended = sorted(
            (row for row in self.rows.values() if row.state != "running"),
            key=lambda r: -(r.best or -1.0),
        )
        style = {"running": "cyan", "complete": "green", "pruned": "dim", "fail": "red"}
        for row in running + ended[:_ROWS]:
            state = Text(
                row.state + (f": {row.reason}" if row.state == "fail" else ""),
                style=style[row.state],
            )
            speed = f"{row.images_per_s:.0f}" if row.images_per_s and row.state == "running" else ""
            table.add_row(
                str(row.number),
                state,
                f"{row.epoch}/{self.epochs}",
                _number(row.value),
                _number(row.best),
                speed,
            )
        lines: list[RenderableType] = [table]
        if len(ended) > _ROWS:
            lines.append(Text(f"... and {len(ended) - _ROWS} more", style="dim"))
        if self.repeats:
            repeated = ", ".join(
                f"trial {n} seed {seed} epoch {e}/{self.epochs}"
                for (n, seed), e in sorted(self.repeats.items())
            )
            lines.append(Text(f"repeats for the verdict: {repeated}", style="cyan"))
        lines.append(
            Text(f"{self._progress()}, {duration(time.time() - self.started)} so far", style="bold")
        )
        return Group(*lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
