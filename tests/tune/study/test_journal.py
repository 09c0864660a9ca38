"""The journal against Optuna's own backend, and against kills in the middle of a write."""

import contextlib
import os
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.studies import finish, finished, open_study, reports
from tests.toy import TOY
from trainables.errors import UserError
from tune.execution.local import search_locally
from tune.study.events import AppendOnlyFile
from tune.study.journal import Journal, read_trials


def trials_of(storage: JournalStorage) -> list[optuna.trial.FrozenTrial]:
    return storage.get_all_trials(0, deepcopy=False)


def search(storage: JournalStorage) -> optuna.Study:
    """Make every kind of record: queue, parameters of each type, values, attributes, pruning,
    failure."""
    study = optuna.create_study(
        storage=storage,
        study_name="s",
        sampler=optuna.samplers.TPESampler(seed=0),
        load_if_exists=True,
    )
    study.enqueue_trial({"x": 0.5})
    for _ in range(6):
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        y = trial.suggest_categorical("y", ["a", "b", None]), trial.suggest_int("n", 1, 9, log=True)
        trial.report(float("nan") if trial.number == 3 else x, 1)
        trial.set_user_attr("why", {"tuple": y, 1: "int key"})
        state = {2: optuna.trial.TrialState.PRUNED, 3: optuna.trial.TrialState.FAIL}.get(
            trial.number
        )
        study.tell(trial, None if state else x, state)
    return study


def without_times(trial: optuna.trial.FrozenTrial) -> tuple[object, ...]:
    values = tuple((step, repr(value)) for step, value in trial.intermediate_values.items())
    return (
        trial.number,
        trial.state,
        trial.params,
        trial.distributions,
        trial.values,
        values,
        trial.user_attrs,
        trial.system_attrs,
    )


def test_the_same_search_as_on_optunas_backend_and_the_same_file(tmp_path: Path) -> None:
    peer = search(JournalStorage(JournalFileBackend(str(tmp_path / "peer"))))
    journal = Journal(tmp_path / "ours")
    with journal.together():
        ours = search(JournalStorage(journal))
    assert [without_times(t) for t in ours.get_trials()] == [
        without_times(t) for t in peer.get_trials()
    ]
    for backend in (JournalFileBackend(str(tmp_path / "ours")), Journal(tmp_path / "ours")):
        assert [repr(t) for t in trials_of(JournalStorage(backend))] == [
            repr(t) for t in ours.get_trials()
        ]
    assert [line.count(b'"op_code"') for line in (tmp_path / "ours").read_bytes().splitlines()] == [
        1
    ] * len((tmp_path / "peer").read_bytes().splitlines())


def test_on_disk_when_the_block_ends_and_without_a_block_at_once(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append_logs([{"a": 1}])
    assert path.read_bytes() == b'{"a":1}\n'
    with journal.together():
        with journal.together():
            journal.append_logs([{"b": 2}])
        assert path.read_bytes() == b'{"a":1}\n'
        assert journal.read_logs(0) == [{"a": 1}, {"b": 2}]
        assert journal.read_logs(1) == [{"b": 2}]
    assert path.read_bytes() == b'{"a":1}\n{"b":2}\n'
    with contextlib.suppress(ZeroDivisionError), journal.together():
        journal.append_logs([{"c": 3}])
        _ = 1 / 0
    assert path.read_bytes().endswith(b'{"c":3}\n')


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j")
    journal.append_logs([{"a": 1}])

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(UserError, match="No space left on device"):
            journal.append_logs([{"b": 2}])
    assert (tmp_path / "j").read_bytes() == b'{"a":1}\n'
    journal.append_logs([{"c": 3}])  # there is room again: all records, in order
    assert (tmp_path / "j").read_bytes() == b'{"a":1}\n{"b":2}\n{"c":3}\n'


def test_memory_does_not_grow_with_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    search(JournalStorage(journal))
    assert len(journal._recent) <= 1


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("die_at", [3, 4, 8, 9, 13])
def test_killed_in_the_middle_of_a_write(
    tmp_path: Path, die_at: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the beginning of a write has reached the disk, torn anywhere. The study then ends as if
    nothing had happened."""
    whole = finished(tmp_path / "whole", 3)
    original, count = AppendOnlyFile.append_lines, 0

    def dying(self: AppendOnlyFile, lines: bytes) -> None:
        nonlocal count
        count += self.path.name == "study.journal"
        if count < die_at:
            return original(self, lines)
        if count == die_at and self.path.name == "study.journal":
            with self.path.open("ab") as file:
                file.write(lines[: int(share * len(lines))])
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(AppendOnlyFile, "append_lines", dying)
        study = None
        with contextlib.suppress(SystemExit):
            study = open_study(tmp_path / "killed", 3)
            search_locally(study, TOY)
    assert count >= die_at
    if study is not None:
        study.close()
    killed = finish(tmp_path / "killed", 3)
    assert reports(tmp_path / "killed") == reports(tmp_path / "whole")
    assert [(t.state, t.params, t.value) for t in killed.frozen_trials()] == [
        (t.state, t.params, t.value) for t in whole.frozen_trials()
    ]


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    path = tmp_path / "toy/study.journal"
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    for read in (lambda: finish(tmp_path, 2), lambda: read_trials(path, "toy")):
        with pytest.raises(
            UserError, match=r"study.journal is damaged \(.*\): restore it from a copy"
        ):
            read()
