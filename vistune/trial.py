"""One trial of a study, read from its record."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tune.reports.trial_points import reached
from tune.study.record import Record
from tune.study.work import WorkId


@dataclass(frozen=True)
class Trial:
    """One trained configuration."""

    number: int
    state: str
    """`complete`, `pruned`, `fail` or `open` (running or interrupted)."""
    value: float | None
    """Objective of its best epoch; None if there is none yet."""
    epochs: int
    """Number of epochs on record."""
    params: dict[str, Any]
    """Searched parameter -> value, for the parameters that apply."""
    reason: str
    """Reason why the trial ended; "" if it completed."""
    enqueued: bool
    """True if a user enqueued the configuration instead of the search drawing it."""
    folder: Path = field(repr=False)
    """Folder of its files: `config.json`, `best.pt`, `plots/`."""
    config: dict[str, Any] = field(repr=False)
    """Config path -> value, for the complete config."""
    metrics: dict[str, float] = field(repr=False)
    """Final metrics; empty until it has ended."""


def trial_of(record: Record, number: int) -> Trial:
    """Return a trial of a record.

    Raises:
        UserError: there is no such trial.
    """
    run = record.trials.get(number)
    if run is None:
        numbers = sorted(record.trials)
        there = f"0 to {numbers[-1]}" if numbers else "none"
        raise UserError(
            f"study {record.folder.name!r} has no trial {number}; trials that have begun: {there}"
        )

    return Trial(
        number=number,
        state=run.state.lower(),
        value=reached(run, record.objective),
        epochs=len(run.epochs),
        params=searched_params(record, number),
        reason=run.reason or "",
        enqueued=run.enqueued,
        folder=WorkId(number).folder(record.folder),
        config=dict(run.config),
        metrics=dict(run.metrics),
    )


def searched_params(record: Record, number: int) -> dict[str, Any]:
    """Return the searched parameters that apply to a trial, with its values."""
    for frozen in record.frozen_trials():
        if frozen.number == number:
            return dict(frozen.params)

    # The journal lacks the trial. The event log has everything except which parameters applied.
    config = record.trials[number].config
    return {name: config[name] for name in record.manifest.space if name in config}
