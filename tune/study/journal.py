"""Optuna's journal file, written by the one process that runs the study. The records of one step
reach the disk in one write.

Optuna's own backend is made for many writers: for every parameter of a trial it takes a lock, opens
the file, waits for the disk and reads the file again. With 14 parameters that took two thirds of
the driver's time. The file format is the same, and Optuna's backend can read it.
"""

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal._base import BaseJournalBackend
from optuna.trial import FrozenTrial

from trainables.errors import UserError
from tune.study.disk import Patience
from tune.study.events import AppendOnlyFile
from tune.study.retries import with_retries

optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it logs every study and trial


def read_trials(path: Path, study: str) -> list[FrozenTrial]:
    """Read the trials in a journal, without a lock, while another process may write to it.

    A last line that is still being written is skipped. The list is empty if the journal does not
    have the study yet.
    """
    storage = JournalStorage(JournalReader(path))
    try:
        study_id = storage.get_study_id_from_name(study)
    except KeyError:  # there is no such study
        return []
    return storage.get_all_trials(study_id, deepcopy=False)


class JournalReader(BaseJournalBackend):
    """Backend of an Optuna `JournalStorage` that follows a journal written by another process."""

    def __init__(self, path: Path):
        self._path = path
        self._offset = 0
        self._logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]  # the last line may still be incomplete
            self._offset += len(whole)
            self._logs += _parsed(whole.splitlines(), self._path)
        return with_retries(self._logs)[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise RuntimeError("this journal is only read; it cannot be appended to")


class Journal(BaseJournalBackend):
    """Backend of an Optuna `JournalStorage` for one thread of one process; the study's lock keeps
    others out.

    Opening cuts off a torn last line, because Optuna would refuse everything after it.

    Raises:
        StorageFailed: the file cannot be written.
        UserError: a line is not JSON; this is found when a storage opens.
    """

    def __init__(self, path: Path):
        self._file = AppendOnlyFile(path)
        self._pending: list[bytes] = []
        self._open_groups = 0
        # records that the storage has written and may not have read yet
        self._recent: list[dict[str, Any]] = []
        self._recent_from = 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Put everything appended within the block on disk when the block ends, even by an
        exception. A kill leaves a prefix of it, usually nothing."""
        self._open_groups += 1
        try:
            yield
        finally:
            self._open_groups -= 1
            self._flush()

    def forget_unwritten(self) -> None:
        """Do not write what has been appended within the block so far. The storage knows it all
        the same, so a new one must read the file before anything is added."""
        self._pending = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        for log in logs:
            line = json.dumps(log, separators=(",", ":"))
            self._pending.append(line.encode() + b"\n")
            self._recent.append(json.loads(line))  # as a reader of the file would see it
        self._flush()

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        if log_number_from == 0:  # a storage opens
            lines = self._file.path.read_bytes().splitlines() + self._pending
            self._recent_from = 0
            self._recent = with_retries(_parsed(lines, self._file.path))
        del self._recent[: log_number_from - self._recent_from]
        self._recent_from = log_number_from
        return list(self._recent)

    def be_patient(self, patience: Patience) -> None:
        """Wait with `patience` if the disk of the file has gone away."""
        self._file.patience = patience

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        self._file.close()

    def _flush(self) -> None:
        if self._open_groups or not self._pending:
            return
        lines = self._pending
        self._pending = []
        try:
            self._file.append_lines(b"".join(lines))
        except BaseException:  # the file is as before
            self._pending = [*lines, *self._pending]
            raise


def _parsed(lines: list[bytes], path: Path) -> list[dict[str, Any]]:
    """Parse the lines of a journal.

    Raises:
        UserError: a line is not a record, which no crash of the writer can cause.
    """
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise damaged(path, f"line {number}: {error}") from None
        if not isinstance(record, dict):
            raise damaged(path, f"line {number} is not one of Optuna's records")
        records.append(record)
    return records


def damaged(path: Path, problem: str) -> UserError:
    """Return the error for a damaged journal, with the remedy."""
    return UserError(
        f"{path} is damaged ({problem}): restore it from a copy, or {move_aside(path)} and "
        "run the same command again, which rebuilds it from events.jsonl"
    )


def move_aside(path: Path) -> str:
    """Return the advice to move a journal aside, with the command."""
    return f"move it aside (mv {shlex.quote(str(path))} {shlex.quote(f'{path}.damaged')})"
