"""Estimate the time that a study still needs, from its runs so far.

A run takes the time of its epochs, plus that of its beginning (data, compilation, features) and of
its end (the test split). The remaining runs are laid out on the processes in the order in which the
study will hand them out: trials, repeats of the default beside the last of them, then repeats of
the chosen trial.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tune.function import LENGTH
from tune.study.log_state import LogState, Run
from tune.study.rules import ATTEMPTS, RepeatRule
from tune.study.run_costs import Costs, measured
from tune.study.survival import Survival, survival
from tune.study.timetable import Timetable
from tune.study.work import WorkId

_UNKNOWN = -1
"""Number that stands for a trial that will be repeated but is not known yet."""
_RECENT_EPOCHS = 8
"""The current speed of the machine is measured over this many last epochs."""
_RECENT_STARTS = 32
"""The expected number of concurrent runs is the largest seen at this many last starts."""


@dataclass(frozen=True)
class Amount:
    """The work of a study from its beginning to its end."""

    trials: int
    """Trials in total."""

    epochs: int
    """Epochs of a trial that runs to its end; 0: each trial reports its own."""

    seeds: int
    """Repeats of each repeated trial."""

    rule: RepeatRule

    rungs: int | str
    """Version of the rungs, or name of another pruner."""

    points: int = 0
    """Further trials that are repeated if there are several objectives."""

    function: bool = False
    """A function trains, so there is no untrained network."""

    @property
    def repeats(self) -> int:
        """Repeats in total, if there are as many leaders as the rule allows."""
        return (self.rule.configurations + self.points) * self.seeds


class Forecast:
    """Estimates how long a study still runs. It observes the events of the study.

    Args:
        state: state of the study, which the study updates; it is only read here.
        processes: number of concurrent runs; None: as many as have been seen at once.
    """

    def __init__(self, state: LogState, amount: Amount, processes: int | None = None):
        self.state = state
        self.amount = amount
        self.processes = processes
        self._epochs = amount.epochs
        self._running: set[WorkId] = set()
        self._heard: dict[WorkId, int] = {}
        self._recent: deque[tuple[int, bool, float]] = deque(maxlen=_RECENT_EPOCHS)
        """(Trial, True for the first epoch of its run, seconds) of the last epochs."""
        self._at_a_time: deque[int] = deque(maxlen=_RECENT_STARTS)
        self._survival: Survival | None = None

    def on_event(self, event: dict[str, Any]) -> None:
        """Note which runs are active. The event is part of the state already."""
        kind = event["event"]
        if kind not in ("start", "report", "end") or event.get("trial") is None:
            return

        work_id = WorkId.from_event(event)
        if kind == "start":
            self._heard[work_id] = self.state.run(work_id).heard
            self._running.add(work_id)
            self._at_a_time.append(len(self._running) + self._runs_baseline())
        elif kind == "end":
            self._running.discard(work_id)
        else:
            self._note_epoch(work_id)
            self._epochs = max(self._epochs, int(event["metrics"].get(LENGTH) or 0))

    def _note_epoch(self, work_id: WorkId) -> None:
        run = self.state.run(work_id)
        before = self._heard.get(work_id)
        self._heard[work_id] = run.heard
        if before is not None and work_id.trial is not None:
            is_first = len(run.epochs) == 1
            self._recent.append((work_id.trial, is_first, (run.heard - before) / 1000))

    @property
    def at_a_time(self) -> int:
        """Number of concurrent runs."""
        seen = max(self._at_a_time, default=1)
        return max(seen, self.processes or 1)

    @property
    def trials_left(self) -> int:
        """Trials that have not begun."""
        return max(0, self.amount.trials - len(self.state.trials))

    @property
    def repeats(self) -> tuple[int, int]:
        """Repeats that have ended, and repeats in total."""
        ended = sum(not _is_due(run) for run in self.state.repeats.values())
        if self._is_searching():
            return ended, max(ended, self.amount.repeats)
        due = sum(self._due(number) for number in self._leaders())
        return ended, ended + due + len(self._open_repeats())

    def seconds_done(self) -> float:
        """Seconds that the runs so far would take on the current number of processes."""
        occupied = sum(run.occupied_ms for run in self.state.runs.values())
        return occupied / 1000 / self.at_a_time

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds until the last repeat ends; None before anything is known.

        Args:
            now: seconds since the epoch.
        """
        costs = self._costs()
        if costs is None or not self._epochs:
            return self._left_by_trials(now)
        return self._left_by_epochs(now, costs)

    def _left_by_epochs(self, now: float, costs: Costs) -> float:
        """Return the seconds left if the epochs of a trial and the costs of a run are known."""
        if self._survival is None or self._survival.epochs != self._epochs:
            self._survival = survival(self.amount.trials, self._epochs, self.amount.rungs)
        ended = {
            number: len(run.epochs)
            for number, run in self.state.trials.items()
            if run.outcome is not None
        }
        longer = self._survival.longer(ended)
        begun = len(self.state.trials)
        rest = [
            costs.opening + costs.of_epoch(number) * self._trial_epochs(number, 0, longer)
            for number in range(begun, begun + self.trials_left)
        ]
        return self._laid_out(now, costs, longer, rest)

    def _costs(self) -> Costs | None:
        """The costs of a run at the current speed of the machine."""
        costs = measured(self.state)
        if costs is None or not self._recent:
            return costs
        usual = sum(
            costs.of_epoch(number) + costs.opening * is_first
            for number, is_first, _ in self._recent
        )
        if usual <= 0:
            return costs
        return replace(costs, load=sum(seconds for *_, seconds in self._recent) / usual)

    def _trial_epochs(self, number: int, after: int, longer: float, own: int = 0) -> float:
        """Expected number of epochs that a trial runs after epoch `after`.

        Args:
            longer: factor by which trials of this study run longer than expected.
            own: epochs of this trial, if they are searched.
        """
        assert self._survival is not None
        most = float(max(0, (own or self._epochs) - after))
        if number == 0:
            return most
        expected = self._survival.expected(number, min(after, self._epochs)) - after
        return min(max(0.0, expected * longer), most)

    def _laid_out(self, now: float, costs: Costs, longer: float, rest: Sequence[float]) -> float:
        """Lay out the remaining runs on the processes; return the seconds until the last one ends.

        Args:
            rest: seconds of each trial that has not begun.
        """
        table = Timetable(self.at_a_time)
        waiting: list[float] = []
        for number, run in self.state.trials.items():
            if run.outcome is not None:
                continue
            seconds = self._rest_of_trial(number, run, costs, longer)
            if WorkId(number) in self._running:
                table.running(max(0.0, seconds - _quiet(run, now)))
            else:
                waiting.append(seconds)

        repeats_waiting: list[float] = []
        running_repeats: list[float] = []
        for (number, seed), run in self._open_repeats().items():
            seconds = self._rest_of_repeat(number, run, costs)
            if WorkId(number, seed) in self._running:
                running_repeats.append(max(0.0, seconds - _quiet(run, now)))
            else:
                repeats_waiting.append(seconds)

        table.all([*waiting, *rest])
        search_end = table.end
        table.beside(running_repeats)
        table.all(repeats_waiting)
        for number in self.amount.rule.certain():
            table.all([self._repeat_seconds(number, costs)] * self._due(number))
        table.not_before(search_end)
        for number in self._others():
            table.all([self._repeat_seconds(number, costs)] * self._due(number))
        return table.end

    def _rest_of_trial(self, number: int, run: Run, costs: Costs, longer: float) -> float:
        """Seconds that a trial needs after its last report."""
        own = int(run.config.get("train.epochs") or 0)
        epochs = self._trial_epochs(number, run.last_epoch or 0, longer, own)
        opening = 0.0 if run.epochs else costs.opening
        return opening + epochs * costs.of_epoch(number)

    def _rest_of_repeat(self, number: int, run: Run, costs: Costs) -> float:
        """Seconds that a repeat needs after its last report."""
        epochs = max(0, self._length_of(number) - (run.last_epoch or 0))
        opening = 0.0 if run.epochs else costs.opening
        return opening + epochs * costs.of_epoch(number) + costs.testing

    def _repeat_seconds(self, number: int, costs: Costs) -> float:
        """Seconds of a repeat of this trial."""
        epochs = self._length_of(number)
        return costs.opening + epochs * costs.of_epoch(number) + costs.testing

    def _length_of(self, number: int) -> int:
        config = self.state.run(WorkId(number)).config
        return int(config.get("train.epochs") or self._epochs)

    def _left_by_trials(self, now: float) -> float | None:
        """Return the seconds left if trials have no known number of epochs: each takes the mean of
        the runs that have ended."""
        runs = self.state.runs.values()
        ended = [run.occupied_ms / 1000 for run in runs if run.outcome is not None]
        if not ended:
            return None
        mean = sum(ended) / len(ended)
        table = Timetable(self.at_a_time)
        waiting = 0
        for work_id, run in self.state.runs.items():
            if run.outcome is not None:
                continue
            if work_id in self._running:
                spent = run.occupied_ms / 1000 + _quiet(run, now)
                table.running(max(0.0, mean - spent))
            else:
                waiting += 1
        table.all([mean] * (waiting + self.trials_left))
        table.all([mean] * sum(self._due(number) for number in self._leaders()))
        return table.end

    # -- repeats

    def _runs_baseline(self) -> bool:
        """True while the untrained network, which comes first, is evaluated beside the trials."""
        return not self.amount.function and not self.state.summary

    def _is_searching(self) -> bool:
        is_open = any(run.outcome is None for run in self.state.trials.values())
        return is_open or self.trials_left > 0

    def _open_repeats(self) -> dict[tuple[int, int], Run]:
        repeats = self.state.repeats
        return {key: run for key, run in repeats.items() if run.outcome is None}

    def _leaders(self) -> list[int]:
        """Trials that are repeated, as far as is known now."""
        return [*self.amount.rule.certain(), *self._others()]

    def _others(self) -> list[int]:
        """Trials that are repeated after the search: the current leaders, and `_UNKNOWN` for each
        that is still missing."""
        certain = self.amount.rule.certain()
        completed = {
            number: run.value
            for number, run in sorted(self.state.trials.items())
            if run.state == "COMPLETE" and run.value is not None
        }
        found = [number for number in self.amount.rule.repeated(completed) if number not in certain]
        if not self._is_searching():
            begun = [number for number, _ in self.state.repeats if number not in certain]
            return list(dict.fromkeys([*found, *begun]))
        wanted = self.amount.rule.configurations + self.amount.points - len(certain)
        found += [_UNKNOWN] * (wanted - len(found))
        return found[:wanted]

    def _due(self, number: int) -> int:
        """Number of repeats of this trial that must still begin, or begin again."""
        if self._tests_nothing() or self._has_failed(number):
            return 0
        begun = [run for (of, _), run in self.state.repeats.items() if of == number]
        settled = sum(run.outcome is None or not _is_due(run) for run in begun)
        return max(0, self.amount.seeds - settled)

    def _tests_nothing(self) -> bool:
        """True if a repeat has shown that the function reports no test metric: no more follow."""
        if not self.amount.function:
            return False
        complete = [run for run in self.state.repeats.values() if run.state == "COMPLETE"]
        return any(not _is_tested(run) for run in complete)

    def _has_failed(self, number: int) -> bool:
        """True if the trial has ended in a state that cannot be repeated."""
        run = self.state.run(WorkId(number))
        return run.outcome is not None and run.state != "COMPLETE"


def whole_seconds(amount: Amount, processes: int, costs: Costs) -> float | None:
    """Estimate the time of a study that has not begun.

    Args:
        processes: number of concurrent runs.
        costs: expected costs of a run.
    Returns:
        Seconds; None if the number of epochs is not known.
    """
    if not amount.epochs:
        return None
    untouched = Forecast(LogState(keeps_history=False), amount, processes)
    return untouched._left_by_epochs(0.0, costs)


def _quiet(run: Run, now: float) -> float:
    """Seconds since the last event of the run."""
    return max(0.0, now - run.heard / 1000)


def _is_due(run: Run) -> bool:
    """True for a repeat that must be trained (again)."""
    if run.outcome is None:
        return True
    return run.state == "FAIL" and run.attempts < ATTEMPTS


def _is_tested(run: Run) -> bool:
    return any(name.startswith("test/") for name in run.metrics)
