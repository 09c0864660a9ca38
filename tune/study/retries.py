"""Failed trials that are handed out again (`--retry-failed`).

Optuna has no way back from FAIL, and a journal only grows. So a retry is a record of its own in the
journal: a user attribute of the study. Our readers then leave out what the trial's failed attempt
had written before it. To them the trial is running, with its number and its parameters. Optuna's
own backend treats the attribute like any other, and shows the trial as failed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

__all__ = ["retries_in", "retry_record", "with_retries"]

Log = dict[str, Any]

_RETRY = "vistune:retry:"
_FAIL = int(TrialState.FAIL)
_KEPT = ("fixed_params",)
"""System attributes of a trial that do not come from an attempt."""


def retry_record(number: int, count: int) -> Log:
    """The record that hands a trial out again.

    Args:
        count: number of the retry, from 1.
    """
    return {
        "op_code": int(JournalOperation.SET_STUDY_USER_ATTR),
        "worker_id": "vistune",
        "study_id": 0,
        "user_attr": {f"{_RETRY}{number}": count},
    }


def retries_in(path: Path) -> dict[int, int]:
    """Trial -> number of retries in a journal; {} if there is no journal."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    found: dict[int, int] = {}
    for line in whole.splitlines():
        if _RETRY.encode() in line:
            number, count = _retry(json.loads(line))
            found[number] = count
    return found


def with_retries(logs: Sequence[Log]) -> list[Log]:
    """Return the records of a journal as our storages see them: a failed attempt that was retried
    has left nothing. The number of records stays the same, because storages count them."""
    last: dict[int, int] = {}
    for position, log in enumerate(logs):
        if _is_retry(log):
            last[_retry(log)[0]] = position

    return [_seen(log, position, last, logs) for position, log in enumerate(logs)]


def _seen(log: Log, position: int, last: dict[int, int], logs: Sequence[Log]) -> Log:
    """Return the record itself, or the retry that makes it void."""
    number = log.get("trial_id")
    if number is None or position > last.get(number, -1):
        return log
    return logs[last[number]] if _is_of_an_attempt(log) else log


def _is_of_an_attempt(log: Log) -> bool:
    """True for an epoch's value, a place on a rung or the end of an attempt; parameters stay."""
    operation = log["op_code"]
    if operation == JournalOperation.SET_TRIAL_STATE_VALUES:
        return bool(log["state"] == _FAIL)
    if operation == JournalOperation.SET_TRIAL_USER_ATTR:
        return "reason" in log["user_attr"]
    if operation == JournalOperation.SET_TRIAL_SYSTEM_ATTR:
        return not set(_KEPT) & log["system_attr"].keys()
    return bool(operation == JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE)


def _is_retry(log: Log) -> bool:
    if log.get("op_code") != JournalOperation.SET_STUDY_USER_ATTR:
        return False
    return any(str(name).startswith(_RETRY) for name in log["user_attr"])


def _retry(log: Log) -> tuple[int, int]:
    """Trial, and number of its retry."""
    ((name, count),) = log["user_attr"].items()
    return int(name.removeprefix(_RETRY)), int(count)
