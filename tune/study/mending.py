"""Repair of two records that disagree, when a study is opened.

The event log and Optuna's journal say the same about every trial, and the log is written first. A
kill leaves the log ahead by one record. Anything else is damage: a line was deleted, or a file was
restored from an older copy. Each record gets back what only the other one knows.

    retry_failed      --retry-failed: open failed runs again
    mend_log          restore ends, epochs and starts that only the journal has
    mend_journal      restore trials and epochs that only the log has
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from tune.search.space import Pinned, asked_for
from tune.study.events import AppendOnlyFile
from tune.study.journal import damaged, move_aside
from tune.study.log_state import LogState, Run, read_state
from tune.study.manifest import Manifest
from tune.study.retries import retries_in, retry_record
from tune.study.trials import TrialDatabase
from tune.study.work import WorkId

__all__ = ["mend_journal", "mend_log", "reopen_in_journal", "retry_failed"]

Emit = Callable[..., None]
JOURNAL = "study.journal"
_SHOWN = 5
_BEHIND = 2
"""An open trial of which the journal lacks this many epochs is damaged; a kill explains only
one."""


def retry_failed(state: LogState, objective: str, before: int, emit: Emit) -> str:
    """Open failed runs again, record that, and return a line that names them.

    Args:
        before: time of the start, ms since the epoch. Runs that failed later are left alone:
            another process of the same comparison has just tried them again. A time in the future
            comes from a wrong clock and does not count as later.
    """
    now = int(time.time() * 1000)
    numbers: list[str] = []
    for work_id, run in list(state.runs.items()):
        if run.state != "FAIL" or before < run.ended <= now:
            continue
        repeat = {} if work_id.repeat is None else {"repeat": work_id.repeat}
        emit("retry", trial=work_id.trial, **repeat)
        named = "" if work_id.repeat is None else f" with seed {work_id.repeat}"
        numbers.append(f"trial {work_id.trial}{named}")

    recorded = state.summary.get(f"baseline/{objective}")
    if recorded is not None and recorded != recorded:  # NaN: it has failed
        emit("retry", trial=None)
        numbers.append("the untrained baseline")
    if not numbers:
        return "--retry-failed: nothing has failed"
    return f"tried again: {', '.join(numbers)}"


def reopen_in_journal(path: Path, state: LogState) -> None:
    """Add the retries of the log that the journal lacks, before a storage opens the journal."""
    known = retries_in(path)
    missing = [
        (number, count)
        for number, run in state.trials.items()
        for count in range(known.get(number, 0) + 1, run.retries + 1)
    ]
    if not missing:
        return
    lines = [json.dumps(retry_record(*one), separators=(",", ":")) + "\n" for one in missing]
    file = AppendOnlyFile(path)
    file.append_lines("".join(lines).encode())
    file.close()


def mend_log(
    state: LogState, trials: list[FrozenTrial], manifest: Manifest, emit: Emit
) -> list[str]:
    """Write back to the log what only the journal has of trials; return notes for the user."""
    added: Counter[str] = Counter()
    for trial in trials:
        if trial.state == TrialState.WAITING:
            continue
        _write_back(state.run(WorkId(trial.number)), trial, manifest, emit, added)
    if not added:
        return []

    counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(added.items()))
    return [
        f"events.jsonl lacked what study.journal has ({counts}): restored, but of each epoch only "
        f"{manifest.objective}; other metrics of these epochs are lost"
    ]


def _write_back(
    run: Run, trial: FrozenTrial, manifest: Manifest, emit: Emit, added: Counter[str]
) -> None:
    """Emit the events of one trial that the log lacks."""
    values = trial.intermediate_values
    known = set(run.epochs)
    missing = [epoch for epoch in sorted(values) if epoch not in known]
    has_ended = trial.state.is_finished() and run.outcome is None
    end = _end(trial, manifest.objective) if has_ended else {}

    if not run.attempts and (missing or has_ended or run.heard):
        if run.outcome is not None:  # a start comes before the end
            end = run.outcome.to_event()
        config = {**manifest.base, **trial.params}
        emit("start", trial=trial.number, config=config, attempt=1, resumed_epoch=None)
        added["start"] += 1
    for epoch in missing:
        metrics = {manifest.objective: values[epoch]}
        emit("report", trial=trial.number, epoch=epoch, metrics=metrics)
        added["report"] += 1
    if end:
        emit("end", trial=trial.number, **end)
        added["end"] += 1


def _end(trial: FrozenTrial, objective: str) -> dict[str, Any]:
    """Fields of an `end` event, as far as Optuna knows them."""
    values = trial.intermediate_values.values()
    best = trial.value
    if best is None:
        best = max(values, default=None)
    return {
        "state": trial.state.name,
        "value": best,
        "reason": trial.user_attrs.get("reason"),
        "metrics": {} if best is None else {f"best/{objective}": best},
        "error": None,
    }


def mend_journal(
    path: Path,
    state: LogState,
    database: TrialDatabase,
    manifest: Manifest,
    space: Callable[..., Any],
) -> list[str]:
    """Write back to the journal what only the log has of trials; return notes for the user.

    Args:
        path: path of the event log.
        space: search space of the study.
    """
    journal = path.with_name(JOURNAL)
    _check_parameters(journal, state, database, manifest)
    holes = _holes(state, database, manifest, space)
    lacks = [number for number, run in state.trials.items() if _lacks(database, number, run)]
    if not lacks:
        return [] if not holes else [_told_holes(journal, holes)]

    whole = read_state(path).trials  # with every epoch's metrics
    for number in range(database.begun(), max(lacks) + 1):
        _begin_again(database, manifest, space, whole.get(number))
    for number in sorted(lacks):
        _report_again(database, number, whole[number], manifest.objective)

    named = ", ".join(str(number) for number in sorted(lacks))
    notes = [f"study.journal lacked what events.jsonl has of trial {named}: restored"]
    if holes:
        notes.append(_told_holes(journal, holes))
    return notes


def _check_parameters(
    journal: Path, state: LogState, database: TrialDatabase, manifest: Manifest
) -> None:
    """Check that trials have the parameters that they were trained with. Otherwise a repeat would
    train with others, and the sampler would learn from them.

    Raises:
        UserError: the journal lacks some, or has others.
    """
    for trial in database.frozen():
        run = state.trials.get(trial.number)
        if run is None or not run.config or trial.state == TrialState.WAITING:
            continue
        was = _searched(run.config, manifest)
        now = _searched({**manifest.base, **trial.params}, manifest)
        others = [name for name, value in was.items() if now.get(name) != value]
        if others:
            problem = f"trial {trial.number} has another {', '.join(others)} than in events.jsonl"
            raise damaged(journal, problem)


def _holes(
    state: LogState, database: TrialDatabase, manifest: Manifest, space: Callable[..., Any]
) -> list[int]:
    """Ended trials of which the journal lacks an epoch, a rung or a parameter. Their results are
    right, but later draws and stops depend on everything that Optuna has."""
    found = []
    for trial in database.frozen():
        run = state.trials.get(trial.number)
        if run is None or trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        lacks_epochs = set(run.epochs) - trial.intermediate_values.keys()
        asked = asked_for(space, manifest.preset, run.config, manifest.pins) if run.config else ()
        lacks_parameters = set(asked) - trial.params.keys()
        if lacks_epochs or lacks_parameters or database.lacks_rungs(trial):
            found.append(trial.number)
    return found


def _told_holes(journal: Path, numbers: Sequence[int]) -> str:
    named = ", ".join(str(number) for number in numbers[:_SHOWN])
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return (
        f"study.journal lacks epochs, rungs or parameters of trial {named}{more} that events.jsonl "
        f"has, and later draws depend on them: {move_aside(journal)}, and the next start "
        "rebuilds it"
    )


def _lacks(database: TrialDatabase, number: int, run: Run) -> bool:
    """True if the journal lacks a trial, or epochs of it that no kill explains."""
    trials = database.frozen()
    if number >= len(trials) or trials[number].state == TrialState.WAITING:
        return True
    if trials[number].state.is_finished():
        return False
    missing = len(set(run.epochs) - trials[number].intermediate_values.keys())
    return missing >= _BEHIND or (missing > 0 and run.outcome is not None)


def _begin_again(
    database: TrialDatabase, manifest: Manifest, space: Callable[..., Any], run: Run | None
) -> None:
    """Begin the next trial with the parameters that the log has of it; without them, draw again."""
    with database.one_write():
        if run is not None and run.config and not database.is_waiting():
            database.enqueue_next(_searched(run.config, manifest), own=run.enqueued)
        trial: Trial = database.ask()
        space(Pinned(trial, manifest.pins), manifest.preset)


def _searched(config: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    return {name: config[name] for name in manifest.space if name in config}


def _report_again(database: TrialDatabase, number: int, run: Run, objective: str) -> None:
    """Report the epochs of an open trial to the journal."""
    database.reopen(number)
    for epoch, metrics in zip(run.epochs, run.history, strict=True):
        if objective in metrics:
            database.report(number, epoch, metrics[objective])
