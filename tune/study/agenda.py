"""Estimate how long the studies of a comparison still take, including those of other processes."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from trainables.errors import UserError
from tune.study.lock import is_in_use
from tune.study.log_state import LogState, read_state

_LOOK_S = 10.0
"""Pause between two looks at the studies of other processes."""


@dataclass(frozen=True)
class Expected:
    """A study that belongs to a comparison."""

    name: str

    kind: str
    """Studies of one kind take similar times, for example the searches of one setting."""

    experiment: str = ""
    """Experiment of the study: kinds of one experiment take more similar times than others."""


@dataclass(frozen=True)
class Seen:
    """A study of the comparison, as its folder shows it."""

    state: Literal["waits", "runs", "done"]
    """`runs`: another process runs it."""

    seconds: float = 0.0
    """Time that its runs have taken so far."""


@dataclass(frozen=True)
class Own:
    """Times of the study that this process runs, in seconds."""

    left: float
    total: float
    """Time from its beginning to its end."""


def seen_in(folder: Path) -> Seen:
    """Return the state of a study that this process is not running."""
    log = folder / "events.jsonl"
    if not log.exists():
        return Seen("waits")
    state = read_state(log, keeps_history=False)
    if state.finished:
        return Seen("done", occupied_seconds(state))
    return Seen("runs" if is_in_use(folder) else "waits", occupied_seconds(state))


def occupied_seconds(state: LogState) -> float:
    """Seconds in which runs were active, without interruptions.

    If any run was resumed, the times of all runs are added up, even if they overlap.
    """
    if any(run.attempts > 1 for run in state.runs.values()):
        return sum(run.occupied_ms for run in state.runs.values()) / 1000

    total = 0
    end = 0
    for start, heard in sorted((run.started, run.heard) for run in state.runs.values()):
        total += max(0, heard - max(start, end))
        end = max(end, heard)
    return total / 1000


class Agenda:
    """Estimates the time that a comparison still needs.

    Args:
        studies: all studies, in the order in which they run.
        look: returns the state of the study of a given name.
    """

    def __init__(self, studies: Sequence[Expected], look: Callable[[str], Seen]):
        self._studies = list(studies)
        self._look = look
        self._seen: dict[str, Seen] = {}
        self._looked_at = -math.inf
        self._measured: dict[str, float] = {}
        """Study that this process has run from its beginning to its end -> seconds."""
        self._running: str | None = None
        self._began = 0.0
        self._is_whole = False

    @property
    def place(self) -> tuple[int, int]:
        """Number of the running study, from 1 (0: none runs), and number of all studies."""
        names = [study.name for study in self._studies]
        number = names.index(self._running) + 1 if self._running in names else 0
        return number, len(names)

    def begin(self, name: str, *, is_new: bool, now: float | None = None) -> None:
        """Note that this process runs the study from now on.

        Args:
            is_new: True if nothing of the study has run before.
        """
        self._running = name
        self._began = time.monotonic() if now is None else now
        self._is_whole = is_new

    def end(self, now: float | None = None) -> None:
        """Note that the study has ended."""
        if self._running is None:
            return
        moment = time.monotonic() if now is None else now
        if self._is_whole:
            self._measured[self._running] = moment - self._began
        self._running = None
        self._looked_at = -math.inf

    def left(self, own: Own | None, now: float | None = None) -> float | None:
        """Return the seconds until the last study ends; None while nothing is known.

        Args:
            own: times of the running study; None if they are not known.
        """
        moment = time.monotonic() if now is None else now
        self._look_around(moment)
        lengths = self._lengths(own)
        if not lengths:
            return None
        own_s = own.left if own is not None else self._own_by_kind(lengths, moment)
        others = 0
        rest = own_s
        for study in self._studies:
            if study.name == self._running:
                continue
            seen = self._seen.get(study.name, Seen("waits"))
            if seen.state == "done" or study.name in self._measured:
                continue
            others += seen.state == "runs"
            rest += max(0.0, self._length(study, lengths) - seen.seconds)
        return max(own_s, rest / (1 + others))

    def done(self) -> float:
        """Seconds that the other studies have taken so far."""
        return sum(
            self._measured.get(study.name, self._seen.get(study.name, Seen("waits")).seconds)
            for study in self._studies
            if study.name != self._running
        )

    def _length(self, study: Expected, lengths: dict[str, float]) -> float:
        """Expected seconds of a study: the mean of its kind, or else of its experiment's known
        kinds.

        If none of these is known, it is the shortest known kind: studies that others start from
        come first, and pre-training takes longest.
        """
        if study.kind in lengths:
            return lengths[study.kind]
        alike = {one.kind for one in self._studies if one.experiment == study.experiment}
        known = [lengths[kind] for kind in alike if kind in lengths]
        return mean(known) if known else min(lengths.values())

    def _own_by_kind(self, lengths: dict[str, float], now: float) -> float:
        """Seconds that the running study still needs, estimated from others of its kind."""
        for study in self._studies:
            if study.name == self._running:
                return max(0.0, self._length(study, lengths) - (now - self._began))
        return 0.0

    def _lengths(self, own: Own | None) -> dict[str, float]:
        """Kind -> mean seconds of its studies, for the kinds that are known."""
        known: dict[str, list[float]] = {}
        for study in self._studies:
            if study.name == self._running:
                if own is not None:
                    known.setdefault(study.kind, []).append(own.total)
                continue
            seen = self._seen.get(study.name)
            seconds = self._measured.get(study.name)
            if seconds is None and seen is not None and seen.state == "done":
                seconds = seen.seconds
            if seconds is not None:
                known.setdefault(study.kind, []).append(seconds)
        return {kind: mean(values) for kind, values in known.items()}

    def _look_around(self, now: float) -> None:
        if now - self._looked_at < _LOOK_S:
            return
        self._looked_at = now
        for study in self._studies:
            seen = self._seen.get(study.name)
            is_known = seen is not None and seen.state == "done"
            if study.name == self._running or study.name in self._measured or is_known:
                continue
            # A log that cannot be read makes the estimate worse; it must not end this run.
            with contextlib.suppress(UserError, OSError):
                self._seen[study.name] = self._look(study.name)
