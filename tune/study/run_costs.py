"""The time that the parts of a run have taken so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tune.study.log_state import LogState, Run

_RECENT_OPENINGS = 8
"""The beginning of a run is measured over this many last runs: the first ones find caches empty."""


@dataclass(frozen=True)
class Costs:
    """Seconds of the parts of a run."""

    opening: float
    """Extra time that the first epoch takes."""

    epoch: float
    """An epoch: training, validation, checkpoint."""

    testing: float
    """Time from the last report of a repeat to its end, in which the test split is evaluated."""

    epochs: Mapping[int, float] = field(default_factory=dict)
    """Trial -> an epoch of it and of its repeats, if one has been measured."""

    load: float = 1.0
    """Factor by which an epoch takes longer now than on average."""

    def of_epoch(self, number: int) -> float:
        """Seconds of an epoch of this trial or of its repeats, now."""
        return self.load * self.epochs.get(number, self.epoch)


def measured(state: LogState) -> Costs | None:
    """Return the costs of a run, measured over all runs so far; None before the first report."""
    runs = [run for run in state.runs.values() if run.epochs]
    if not runs:
        return None

    trials = [run for run in state.trials.values() if run.epochs] or runs
    epoch = _epoch_seconds(trials)
    if epoch is None:
        epoch = _mean([run.opening_ms / 1000 for run in trials])

    of_trial: dict[int, list[Run]] = {}
    for work_id, run in state.runs.items():
        if work_id.trial is not None:
            of_trial.setdefault(work_id.trial, []).append(run)
    own = {number: _epoch_seconds(same) for number, same in of_trial.items()}
    epochs = {number: seconds for number, seconds in own.items() if seconds is not None}

    openings = [
        max(0.0, run.opening_ms / 1000 - epochs.get(work_id.trial or 0, epoch))
        for work_id, run in state.runs.items()
        if run.opening_ms
    ]
    closing = [run.closing_ms / 1000 for run in trials if run.state == "COMPLETE"]
    testing = [run.closing_ms / 1000 for run in state.repeats.values() if run.state == "COMPLETE"]
    return Costs(
        opening=median(openings[-_RECENT_OPENINGS:]) if openings else 0.0,
        epoch=epoch,
        testing=_mean(testing or closing),
        epochs=epochs,
    )


def _epoch_seconds(runs: Sequence[Run]) -> float | None:
    """Mean seconds of an epoch of these runs, without the first of each; None if there is none."""
    steady = [run for run in runs if len(run.epochs) > 1]
    count = sum(len(run.epochs) - 1 for run in steady)
    if not count:
        return None
    spent = sum(run.occupied_ms - run.opening_ms - run.closing_ms for run in steady)
    return max(0, spent) / 1000 / count


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
