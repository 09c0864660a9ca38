"""Terminal view of a study: leaderboard, claims, and failure reasons."""

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tune.clusters.joining import FOLDER, not_joined
from tune.formatting import counted, line_width, print_prose
from tune.reports.budget import rung_lines
from tune.reports.disk import disk_use
from tune.reports.front import front_rows, has_front
from tune.reports.marks import marks
from tune.reports.selection import MARK, configuration, selection
from tune.reports.verdict import judge_study
from tune.study.early_failures import LEFT_OUT
from tune.study.lock import is_in_use, last_command
from tune.study.record import CONCLUSIONS, Record, lost_trials, read_record
from tune.study.rules import WINNER

_SHOWN = 20  # trials of the leaderboard; trials named per failure
_MACHINES = 3  # machines that could not join; a spot fleet keeps adding some


def show_study(folder: Path, out: Console) -> None:
    """Print the results of a study so far.

    Raises:
        UserError: there is no study in the folder.
    """
    record = read_record(folder)
    manifest = record.manifest
    out.print(
        f"study {folder.name}: {manifest.experiment} on {manifest.data['name']}, "
        f"preset {manifest.preset}, seed {manifest.seed}"
    )

    if manifest.data_summary is not None:
        for line in manifest.data_summary.lines(line_width(out)):
            out.print(line)

    ranked = _ranked(record)
    out.print(_table(record, ranked[:_SHOWN]))
    if len(ranked) > _SHOWN:
        out.print(f"... and {len(ranked) - _SHOWN} more")
    if has_front(record):
        out.print(_front_table(record))
    for line in [*_findings(record), *_troubles(folder, record), *_notes(record)]:
        print_prose(out, line)

    if not record.finished:
        out.print(f"the study has not ended{_how_to_resume(folder)}")
    for name in CONCLUSIONS:
        if name in record.tags and name != "chosen":  # the current choice is printed above
            print_prose(out, record.tags[name])
    if record.finished and _lacks_a_claim(record):
        for typed in _typed(folder):
            out.print(f"its command: {typed}")


def _findings(record: Record) -> Iterator[str]:
    """Yield the findings: totals, rung quality, the chosen trial."""
    yield _totals(record)
    ranks = rung_lines(record)
    if ranks:
        yield f"rank correlation of rungs with later values: {'; '.join(ranks)}"
    chosen = selection(record, len(record.trials))
    if chosen is not None:
        yield f"{MARK} {chosen.sentence}"


def _troubles(folder: Path, record: Record) -> Iterator[str]:
    """Yield failures, missing machines, and disk usage."""
    yield from _failures(record)
    yield from _machines_missing(folder, record.manifest.created)
    yield disk_use(folder).sentence


def _notes(record: Record) -> Iterator[str]:
    """Yield notes on the study and on gaps in its record."""
    for mark in marks(record.manifest):
        yield f"note: {mark}"
    lost = lost_trials(record)
    if lost:
        named = ", ".join(str(number) for number in lost)
        yield (
            f"note: events.jsonl lacks what study.journal has of trial {named}; the study's "
            "command, run again, restores it"
        )
    left_out = record.tags.get(LEFT_OUT)
    if left_out:
        yield f"note: {left_out}"
    commits = record.tags.get("commits")
    if commits:
        yield f"note: run by the code of several commits: {commits}"


def _machines_missing(folder: Path, created: str) -> list[str]:
    """Describe the last machines that could not join the cluster since the study started, and count
    the earlier ones."""
    since = datetime.fromisoformat(created).timestamp()
    storages = (folder.parent, folder.parent.parent)  # studies of a comparison lie deeper
    notes = [note for storage in storages for note in not_joined(storage, since)]

    notes.sort(key=lambda note: note.at)
    lines = []
    for note in notes[-_MACHINES:]:
        at = datetime.fromtimestamp(note.at).isoformat(" ", "minutes")
        lines.append(f"machine {note.host} could not join the cluster ({at}): {note.reason}")

    more = len(notes) - len(lines)
    if more:
        lines.append(f"and {more} more before: {FOLDER} in the folder of the studies has them")
    return lines


def _how_to_resume(folder: Path) -> str:
    """Return the text that tells how to resume a study; "" if it is running or no command is
    known."""
    return "".join(f"; resume with: {typed}" for typed in _typed(folder))


def _typed(folder: Path) -> list[str]:
    """Return the command that last ran a study; empty if it is running or no command is known."""
    typed = last_command(folder)
    return [typed] if typed and not is_in_use(folder) else []


def _lacks_a_claim(record: Record) -> bool:
    """True if a standalone study has too little to compare. Its verdict then refers to options of
    its command."""
    return record.repeat_rule.rule != WINNER and judge_study(record) is None


def _ranked(record: Record) -> list[int]:
    """Return the trial numbers, completed trials first, best first."""

    def key(number: int) -> tuple[bool, float]:
        trial = record.trials[number]
        value = -math.inf if trial.value is None else trial.value
        return trial.state != "COMPLETE", -value

    return sorted(record.trials, key=key)


def _table(record: Record, numbers: list[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("epochs", justify="right", no_wrap=True)
    table.add_column(record.objective, justify="right", no_wrap=True)
    table.add_column("differs from default", overflow="fold")

    best = record.best_number()
    for number in numbers:
        trial = record.trials[number]
        mark = f"{MARK} " if number == best else ""
        table.add_row(
            f"{mark}{number}",
            trial.state,
            str(len(trial.history)),
            "" if trial.value is None else f"{trial.value:.4f}",
            configuration(record, number),
        )
    return table


def _front_table(record: Record) -> Table:
    """Build a table of the trials that no other trial dominates."""
    header, rows = front_rows(record.points, record.objectives)
    table = Table(
        box=None, pad_edge=False, header_style="bold", title="front", title_justify="left"
    )
    for column in header:
        table.add_column(column, justify="left" if column == "point" else "right")
    for row in rows[:_SHOWN]:
        table.add_row(*row)
    return table


def _totals(record: Record) -> str:
    if not record.trials:
        return "no trial yet"
    work = f"{counted(len(record.trials), 'trial')}, {counted(record.epochs, 'epoch')}"
    return f"{work}; pruning saved {record.saved:.0%}"


def _failures(record: Record) -> list[str]:
    """Return one line per failure reason."""
    failed: dict[str | None, list[int]] = {}
    for number, trial in sorted(record.trials.items()):
        if trial.state == "FAIL":
            failed.setdefault(trial.reason, []).append(number)

    lines = []
    for reason, numbers in failed.items():
        named = ", ".join(str(number) for number in numbers[:_SHOWN])
        if len(numbers) > _SHOWN:
            named += ", ..."
        lines.append(f"{len(numbers)} failed: {reason} (trial {named})")
    return lines
