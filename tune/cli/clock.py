"""Estimate the time that a command still takes, as text and as a bar."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.cli.glimpse import Glimpse
from tune.study.agenda import Agenda, Expected, Own, seen_in
from tune.study.forecast import Amount, Forecast
from tune.study.study import Study

_FRESH_S = 1.0
"""Minimum seconds between two estimates, because trials of a fast study report constantly."""
_SHARE = 0.01
"""Maximum fraction of the driver's time to spend on estimates."""


@dataclass(frozen=True)
class Progress:
    """The part of a command that is done, and the part that is left."""

    elapsed_s: float
    """Time since the command was started, in seconds."""

    left_s: float | None
    """Time until all its studies have ended; None if not known yet."""

    done_s: float
    """Work done so far, including that of earlier starts."""

    budget_s: float | None = None
    """Rest of the time budget; None if there is none."""

    @property
    def share(self) -> float | None:
        """Fraction of the command that is done, in [0, 1]; None if unknown."""
        if self.left_s is None:
            return None
        left = self.left_s
        done = self.done_s
        if self.budget_s is not None and self.budget_s < left:
            left = self.budget_s
            done = self.elapsed_s
        return done / (done + left) if done + left > 0 else 1.0

    @property
    def words(self) -> str:
        """The time left as text, such as `about 5 min left`; "" if it is unknown, and at the
        end."""
        if not self.left_s:
            return ""
        about = f"about {rough_duration(self.left_s)}"
        if self.budget_s is not None and self.budget_s < self.left_s:
            return f"the time budget ends in {rough_duration(self.budget_s)}, of {about}"
        return f"{about} left"


class Clock:
    """Tracks the progress of a command, as an observer of its studies' events.

    The time left is estimated at events, in the study's thread. Between events it counts down, so
    that a drawing thread can ask at any time. Before the first epoch has ended, the estimate comes
    from training steps. Times are measured on a monotonic clock.

    Args:
        budget_s: time for all studies; None: no limit.
    """

    def __init__(self, budget_s: float | None = None):
        self._budget_s = budget_s
        self._started = time.monotonic()
        self._study_started = self._started
        self._agenda: Agenda | None = None
        self._name = ""
        self._told_at = 0.0
        self._pause_s = 0.0
        self._left: float | None = None
        self._done = 0.0
        self._glimpse: Glimpse | None = None
        self.forecast: Forecast | None = None
        """Forecast for the running study."""

    def expect(self, studies: Sequence[Expected], storage: Path) -> None:
        """Announce the studies that the command runs, possibly together with other processes that
        do the same."""
        self._agenda = Agenda(studies, lambda name: seen_in(storage / name))

    def begin(self, study: Study, processes: int | None) -> None:
        """Start tracking a study.

        Args:
            processes: number of runs at a time, if known.
        """
        amount = amount_of(study)
        self.forecast = Forecast(study.state, amount, processes)
        self._glimpse = Glimpse(study.directory, amount)
        self._name = study.manifest.name
        self._study_started = time.monotonic()
        if self._agenda is not None:
            self._agenda.begin(self._name, is_new=not study.state.runs)
        self._work_out(self._study_started)

    def end(self) -> None:
        """Note that the study has ended."""
        if self._agenda is not None:
            self._agenda.end()

    def on_event(self, event: dict[str, Any]) -> None:
        """Record what is running, and update the estimate unless that was done recently."""
        if self.forecast is None:
            return
        self.forecast.on_event(event)
        if self._glimpse is not None and event["event"] == "start":
            self._glimpse.at_a_time = self.forecast.at_a_time
        now = time.monotonic()
        if now - self._told_at > self._pause_s:
            self._work_out(now)

    @property
    def place(self) -> str:
        """Position of the running study, such as `study 3 of 35: classify-B-r1`; "" if there is
        only one."""
        if self._agenda is None:
            return ""
        number, total = self._agenda.place
        return f"study {number} of {total}: {self._name}" if number else ""

    @property
    def progress(self) -> Progress:
        """Current progress of the command."""
        now = time.monotonic()
        elapsed = now - self._started
        passed = now - self._told_at
        left = self._before_first_epoch(now)
        if self._left is not None:
            left = max(0.0, self._left - passed)
        budget = None if self._budget_s is None else max(0.0, self._budget_s - elapsed)
        return Progress(elapsed, left, max(self._done + passed, elapsed), budget)

    def _before_first_epoch(self, now: float) -> float | None:
        """Estimate the seconds left from the study's first steps; None if no trial has reported
        any."""
        if self._left is not None or self._glimpse is None:
            return None
        left = self._glimpse.left(now)
        if left is None or self._agenda is None:
            return left
        return self._agenda.left(Own(left, now - self._study_started + left), now)

    def _work_out(self, now: float) -> None:
        assert self.forecast is not None
        left = self.forecast.seconds_left(time.time())
        done = self.forecast.seconds_done()
        if self._agenda is not None:
            own = None
            if left is not None:
                own = Own(left, max(done, now - self._study_started) + left)
            left = self._agenda.left(own, now)
            done += self._agenda.done()
        took = time.monotonic() - now
        self._pause_s = 0.0 if left is None else max(_FRESH_S, took / _SHARE)
        self._told_at = now
        self._left = left
        self._done = done


def amount_of(study: Study) -> Amount:
    """Return the amount of work of a study."""
    manifest = study.manifest
    return Amount(
        trials=study.trials,
        epochs=study.epochs,
        seeds=study.repeat_count,
        rule=study.repeat_rule,
        rungs=manifest.rules["rungs"],
        points=int(manifest.objectives is not None),
        function=manifest.function,
    )


def rough_duration(seconds: float) -> str:
    """Format an estimated duration: `40 s`, `5 min`, `1 h 20 min`."""
    if seconds < 55:
        return f"{max(5, 5 * math.ceil(seconds / 5))} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {rest:02d} min" if rest else f"{hours} h"
