"""With `--retry-failed` a failed run is trained again under its number, and counts in its place."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.studies import events, finished, manifest, open_study
from tests.toy import TOY
from tune.execution.local import search_locally
from tune.execution.trial import run
from tune.study.journal import read_trials
from tune.study.mending import reopen_in_journal
from tune.study.record import read_record
from tune.study.study import Study
from tune.study.work import Outcome, WorkId
from tune.tracking.projection import Projection

TRIALS = 6


def now() -> int:
    return int(time.time() * 1000)


def search(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    failing: set[WorkId],
    retry: bool = False,
    repeats: int = 0,
) -> Study:
    """Run a study in which these runs fail after their second epoch."""

    def fails(experiment: Any, work: Any, runtime: Any) -> Outcome:
        outcome = run(experiment, work, runtime)
        if work.id not in failing:
            return outcome
        return Outcome("FAIL", reason="data", error="the disk of the images was away")

    monkeypatch.setattr("tune.execution.local.run", fails)
    study = Study.open(
        root / "toy",
        TOY,
        manifest(),
        trials=TRIALS,
        repeats=repeats,
        retry=now() if retry else None,
    )
    search_locally(study, TOY)
    study.close()
    return study


def states(root: Path) -> dict[int, str]:
    return {number: run.state for number, run in read_record(root / "toy").trials.items()}


def test_failed_trials_count_in_their_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {WorkId(number) for number in (0, 2, 3)}
    before = search(monkeypatch, tmp_path, failing)
    assert [t.state.name for t in before.frozen_trials()].count("FAIL") == 3
    drawn = [t.params for t in before.frozen_trials()]

    # without the option nothing is left to do
    assert search(monkeypatch, tmp_path, set()).finished() == TRIALS
    assert [n for n, state in states(tmp_path).items() if state == "FAIL"] == [0, 2, 3]

    after = search(monkeypatch, tmp_path, set(), retry=True)
    assert after.notes == ["tried again: trial 0, trial 2, trial 3"]
    assert [t.params for t in after.frozen_trials()] == drawn
    assert len(after.frozen_trials()) == TRIALS
    assert set(states(tmp_path).values()) <= {"COMPLETE", "PRUNED"}
    assert states(tmp_path)[0] == "COMPLETE"
    assert 0 in after.completed
    found = read_trials(tmp_path / "toy/study.journal", "toy")
    assert [t.state.name for t in found] == [states(tmp_path)[n] for n in range(TRIALS)]


def test_a_retry_equals_the_trial_that_never_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "whole", 2)
    monkeypatch.setattr("tests.tune.study.test_retries.TRIALS", 2)
    search(monkeypatch, tmp_path, {WorkId(0), WorkId(1)})
    search(monkeypatch, tmp_path, set(), retry=True)
    whole = read_record(tmp_path / "whole/toy")
    found = read_record(tmp_path / "toy")
    for number in range(2):
        assert found.trials[number].epochs == whole.trials[number].epochs
        assert found.trials[number].value == whole.trials[number].value
    journal = read_trials(tmp_path / "toy/study.journal", "toy")
    wanted = read_trials(tmp_path / "whole/toy/study.journal", "toy")
    for mine, theirs in zip(journal, wanted, strict=True):
        assert mine.params == theirs.params
        assert mine.intermediate_values == theirs.intermediate_values
        assert mine.value == theirs.value
        assert "reason" not in mine.user_attrs


@pytest.mark.parametrize("cut", range(4))
def test_a_retry_survives_a_kill_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """The log's `retry` events are written first, then the journal's records."""
    search(monkeypatch, tmp_path, {WorkId(1), WorkId(2)})
    journal = tmp_path / "toy/study.journal"
    before = journal.read_bytes()

    def kill(path: Path, state: Any) -> None:
        reopen_in_journal(path, state)
        added = journal.read_bytes()[len(before) :].splitlines(keepends=True)
        assert len(added) == 2
        journal.write_bytes(before + b"".join(added)[: cut * len(added[0]) // 2 + 1])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tune.study.study.reopen_in_journal", kill)
        with pytest.raises(KeyboardInterrupt):
            search(monkeypatch, tmp_path, set(), retry=True)

    study = search(monkeypatch, tmp_path, set())  # the option need not be given again
    assert study.finished() == TRIALS
    assert "FAIL" not in states(tmp_path).values()
    retries = [e["trial"] for e in events(tmp_path) if e["event"] == "retry"]
    assert retries == [1, 2]


def test_a_trial_may_fail_and_be_tried_again_any_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for retry in (False, True, True):
        search(monkeypatch, tmp_path, {WorkId(1)}, retry=retry)
        assert states(tmp_path)[1] == "FAIL"
    study = search(monkeypatch, tmp_path, set(), retry=True)
    assert states(tmp_path)[1] in ("COMPLETE", "PRUNED")
    assert len(study.frozen_trials()) == TRIALS
    again = search(monkeypatch, tmp_path, set(), retry=True)
    assert again.notes == ["--retry-failed: nothing has failed"]


def test_failed_repeats_are_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(tmp_path, TRIALS, 2)
    seeds = study.repeat_seeds()
    study.close()
    failing = {WorkId(0, seed) for seed in seeds}
    search(monkeypatch, tmp_path, failing, repeats=2)
    found = read_record(tmp_path / "toy")
    assert [found.repeats[0, seed].state for seed in seeds] == ["FAIL", "FAIL"]
    assert [found.repeats[0, seed].attempts for seed in seeds] == [3, 3]
    search(monkeypatch, tmp_path, set(), retry=True, repeats=2)
    found = read_record(tmp_path / "toy")
    assert [found.repeats[0, seed].state for seed in seeds] == ["COMPLETE", "COMPLETE"]


def test_a_failed_baseline_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(monkeypatch, tmp_path, {WorkId(None)})
    before = read_record(tmp_path / "toy")
    assert str(before.summary["baseline/val/top1"]) == "nan"
    study = search(monkeypatch, tmp_path, set(), retry=True)
    assert study.notes == ["tried again: the untrained baseline"]
    assert 0 <= study.summary["baseline/val/top1"] <= 1
    assert "baseline.reason" not in read_record(tmp_path / "toy").tags


def test_optunas_own_backend_reads_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows the trial as failed, because it takes that state for final. The others are equal."""
    search(monkeypatch, tmp_path, {WorkId(2)})
    search(monkeypatch, tmp_path, set(), retry=True)
    path = tmp_path / "toy/study.journal"
    storage = JournalStorage(JournalFileBackend(str(path)))
    theirs = optuna.load_study(study_name="toy", storage=storage).trials
    mine = read_trials(path, "toy")
    assert theirs[2].state == TrialState.FAIL
    assert mine[2].state in (TrialState.COMPLETE, TrialState.PRUNED)
    for number in (0, 1, 3, 4, 5):
        assert theirs[number].value == mine[number].value
        assert theirs[number].params == mine[number].params


def test_a_journal_only_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copy in an object store can only be appended to."""
    search(monkeypatch, tmp_path, {WorkId(2)})
    before = (tmp_path / "toy/study.journal").read_bytes()
    search(monkeypatch, tmp_path, set(), retry=True)
    after = (tmp_path / "toy/study.journal").read_bytes()
    assert after.startswith(before)
    assert json.loads(after[len(before) :].splitlines()[0])["user_attr"] == {"vistune:retry:2": 1}


def test_the_projection_shows_the_last_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(monkeypatch, tmp_path, {WorkId(0)})
    search(monkeypatch, tmp_path, set(), retry=True)
    projection = Projection()
    for event in events(tmp_path):
        projection.feed(event)
    changes = projection.take()["trial/0"]
    assert changes.tags["trial.state"] == "COMPLETE"
    assert changes.tags["trial.reason"] == ""
    assert changes.status is not None
    assert changes.status[0] == "FINISHED"


def test_a_copy_of_the_folder_continues_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a retry another machine would draw the same."""
    search(monkeypatch, tmp_path, {WorkId(1)})
    shutil.copytree(tmp_path / "toy", tmp_path / "other/toy")
    found = []
    for root in (tmp_path, tmp_path / "other"):
        search(monkeypatch, root, set(), retry=True)
        study = open_study(root, TRIALS + 3)
        search_locally(study, TOY)
        study.close()
        found.append([t.params for t in study.frozen_trials()])
    assert found[0] == found[1]
    assert len(found[0]) == TRIALS + 3


def test_epochs_of_the_failed_attempt_are_not_those_of_the_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(monkeypatch, tmp_path, {WorkId(0)})
    study = Study.open(tmp_path / "toy", TOY, manifest(), trials=TRIALS, repeats=0, retry=now())
    assert study._state.trials[0].epochs == []
    assert study.frozen_trials()[0].intermediate_values == {}
    study.close()


def test_a_second_process_of_a_comparison_tries_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began together with the first, which has retried the trials. They failed again."""
    began = now()
    search(monkeypatch, tmp_path, {WorkId(1)})
    study = Study.open(tmp_path / "toy", TOY, manifest(), trials=TRIALS, repeats=0, retry=began - 1)
    assert study.notes == ["--retry-failed: nothing has failed"]
    study.close()
