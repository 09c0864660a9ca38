"""A problem that every trial would meet, such as a missing package, ends the run and uses up no
trials. A failure of some configurations costs only those."""

from pathlib import Path

import pytest

from tests.studies import events, finish, finished, open_study, reports
from tests.toy import Toy
from trainables.base import Batch
from tune.study.early_failures import ALIKE, ALIKE_LATER, TrialsFailAlike
from tune.study.study import Study
from tune.study.work import Outcome, Work


def ends(root: Path) -> list[tuple[int, str]]:
    return [(e["trial"], e["state"]) for e in events(root) if e["event"] == "end"]


def broken(self: Toy, batch: Batch) -> None:
    raise ImportError("No module named 'imagined'")


def test_what_all_trials_would_meet_ends_the_run_and_costs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished(tmp_path / "whole", 6)
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "forward", broken)
        with pytest.raises(TrialsFailAlike, match=r"No module named 'imagined'.*run the same"):
            finish(tmp_path, 6)
    assert ends(tmp_path) == []
    assert len([e for e in events(tmp_path) if e["event"] == "start"]) == ALIKE

    study = finish(tmp_path, 6)
    assert [t.params for t in study.frozen_trials()] == [t.params for t in whole.frozen_trials()]
    assert reports(tmp_path) == reports(tmp_path / "whole")


def test_trials_that_fail_once_more_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a space in which most configurations fail would never reach its end."""
    monkeypatch.setattr(Toy, "forward", broken)
    for _ in range(2):
        with pytest.raises(TrialsFailAlike):
            finish(tmp_path, 6)
    assert ends(tmp_path) == [(number, "FAIL") for number in range(ALIKE)]
    for _ in range(2):
        with pytest.raises(TrialsFailAlike):
            finish(tmp_path, 6)
    assert ends(tmp_path) == [(number, "FAIL") for number in range(6)]
    assert finish(tmp_path, 6).completed == {}


def test_the_last_failures_are_recorded_when_nothing_else_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "forward", broken)
    finish(tmp_path, ALIKE - 1)
    assert ends(tmp_path) == [(number, "FAIL") for number in range(ALIKE - 1)]


def played(study: Study, reasons: list[str | None]) -> None:
    """Play trials: each fails at once for its reason, or, if the reason is None, reports and
    completes."""
    for reason in (None, *reasons):  # the baseline, then the trials
        work = study.next_work()
        assert isinstance(work, Work)
        study.started(work)
        if reason is not None:
            study.ended(work, Outcome("FAIL", reason=reason))
            continue
        if work.kind == "trial":
            study.reported(work, 1, {"val/top1": 0.5})
        study.ended(work, Outcome("COMPLETE", value=0.5, metrics={"baseline/val/top1": 0.1}))


@pytest.mark.parametrize(
    "reasons",
    [
        ["ValueError", "ValueError", None, "ValueError", "ValueError", None],
        ["ValueError", "KeyError", "ValueError", "KeyError", None],
        ["oom"] * 5,
    ],
)
def test_other_failures_cost_only_themselves(tmp_path: Path, reasons: list[str | None]) -> None:
    study = open_study(tmp_path, len(reasons))
    played(study, reasons)
    assert study.next_work() is None
    study.close()
    states = ["COMPLETE" if reason is None else "FAIL" for reason in reasons]
    assert ends(tmp_path) == list(enumerate(states))


def test_after_a_trial_that_worked_more_must_fail_in_a_row(tmp_path: Path) -> None:
    """Half of the configurations may fail."""
    study = open_study(tmp_path, 9)
    with pytest.raises(TrialsFailAlike):
        played(study, ["KeyError", "KeyError", None, *["KeyError"] * ALIKE_LATER])
    study.close()
    assert ends(tmp_path) == [(0, "FAIL"), (1, "FAIL"), (2, "COMPLETE")]


def test_trials_that_may_still_work_are_waited_for(tmp_path: Path) -> None:
    """Trial 0 needs long for its first epoch while others fail at once, possibly through their own
    fault."""
    study = open_study(tmp_path, 9)
    played(study, [])
    first = study.next_work()
    assert isinstance(first, Work)
    study.started(first)
    for _ in range(ALIKE):
        work = study.next_work()
        assert isinstance(work, Work)
        study.ended(work, Outcome("FAIL", reason="KeyError"))
    assert study.next_work() == "wait"
    study.reported(first, 1, {"val/top1": 0.5})
    assert isinstance(study.next_work(), Work)
    study.close()
    assert ends(tmp_path) == [(number, "FAIL") for number in (1, 2, 3)]


def test_the_last_of_those_that_run_decides(tmp_path: Path) -> None:
    study = open_study(tmp_path, 9)
    played(study, [])
    begun = [study.next_work() for _ in range(ALIKE + 1)]
    for work in begun[:-1]:
        assert isinstance(work, Work)
        study.ended(work, Outcome("FAIL", reason="KeyError"))
    assert isinstance(begun[-1], Work)
    with pytest.raises(TrialsFailAlike):
        study.ended(begun[-1], Outcome("FAIL", reason="KeyError"))
    study.close()
    assert ends(tmp_path) == []


def test_a_study_that_has_worked_before_is_given_more_failures(tmp_path: Path) -> None:
    study = open_study(tmp_path, 9)
    played(study, [None])
    study.close()
    again = open_study(tmp_path, 9)
    for _ in range(ALIKE):
        work = again.next_work()
        assert isinstance(work, Work)
        again.ended(work, Outcome("FAIL", reason="KeyError"))
    again.close()


def fail_with(study: Study, errors: list[str]) -> None:
    for error in errors:
        work = study.next_work()
        assert isinstance(work, Work)
        study.ended(work, Outcome("FAIL", reason="ValueError", error=f"ValueError: {error}"))


def test_errors_of_one_class_may_differ_in_more_than_numbers(tmp_path: Path) -> None:
    study = open_study(tmp_path, 9)
    played(study, [])
    fail_with(study, ["no file trials/0001", "no file trials/0002", "shapes differ"])
    study.close()
    assert ends(tmp_path) == [(0, "FAIL"), (1, "FAIL")]


def test_of_errors_that_differ_in_numbers_the_last_is_told(tmp_path: Path) -> None:
    study = open_study(tmp_path, 9)
    played(study, [])
    with pytest.raises(TrialsFailAlike, match="no file trials/0003"):
        fail_with(study, [f"no file trials/000{number}" for number in (1, 2, 3)])
    study.close()


def begun(study: Study) -> Work:
    work = study.next_work()
    assert isinstance(work, Work)
    study.started(work)
    return work


def all_fail(study: Study, nodes: list[str | None]) -> None:
    """Begin one trial per machine, and let all of them fail in the same way."""
    works = [begun(study) for _ in nodes]
    for work, node in zip(works, nodes, strict=True):
        study.ended(work, Outcome("FAIL", reason="KeyError"), node)


def works_on(study: Study, node: str) -> None:
    work = begun(study)
    study.reported(work, 1, {"val/top1": 0.5}, node)
    study.ended(work, Outcome("COMPLETE", value=0.5), node)


def test_failures_are_counted_not_starts(tmp_path: Path) -> None:
    """A trial that Ctrl-C stopped before its first report has not failed."""
    study = open_study(tmp_path, 6)
    played(study, [])
    for work in [begun(study) for _ in range(ALIKE)]:
        study.requeue(work)
    study.close()

    again = open_study(tmp_path, 6)
    with pytest.raises(TrialsFailAlike):
        all_fail(again, [None] * ALIKE)
    again.close()
    assert ends(tmp_path) == []

    last = open_study(tmp_path, 6)
    with pytest.raises(TrialsFailAlike):
        all_fail(last, [None] * ALIKE)
    last.close()
    assert ends(tmp_path) == [(number, "FAIL") for number in range(ALIKE)]


def test_trials_that_diverge_before_they_report_have_ended(tmp_path: Path) -> None:
    study = open_study(tmp_path, ALIKE)
    played(study, [])
    for number in range(ALIKE):
        study.ended(begun(study), Outcome("PRUNED", reason="nan"))
        assert ends(tmp_path)[-1] == (number, "PRUNED")
    assert study.next_work() is None
    study.close()


def test_a_run_in_which_others_would_fail_ends_while_one_still_runs(tmp_path: Path) -> None:
    study = open_study(tmp_path, 12)
    played(study, [])
    study.reported(begun(study), 1, {"val/top1": 0.5})
    all_fail(study, [None] * (ALIKE_LATER - 1))
    with pytest.raises(TrialsFailAlike, match="the last 6 trials failed in the same way"):
        all_fail(study, [None])
    study.close()
    assert ends(tmp_path) == []


GOOD, BAD = "10.0.0.1", "10.0.0.2"


def test_a_machine_of_which_all_trials_fail_ends_the_run(tmp_path: Path) -> None:
    """Its GPU may be broken, for example, while trials on another machine work."""
    study = open_study(tmp_path, 12)
    played(study, [])
    works_on(study, GOOD)
    for _ in range(ALIKE - 1):
        all_fail(study, [BAD])
        works_on(study, GOOD)
    with pytest.raises(TrialsFailAlike, match=rf"the last 3 trials on {BAD} failed in .*repair"):
        all_fail(study, [BAD])
    study.close()
    assert {state for _, state in ends(tmp_path)} == {"COMPLETE"}

    again = open_study(tmp_path, 12)
    assert [begun(again).id.trial for _ in range(ALIKE)] == [1, 3, 5]
    again.close()


def test_failures_on_a_machine_that_works_are_those_of_configurations(tmp_path: Path) -> None:
    study = open_study(tmp_path, 12)
    played(study, [])
    for _ in range(ALIKE):
        all_fail(study, [GOOD])
        works_on(study, GOOD)
    study.close()
    assert [state for _, state in ends(tmp_path)] == ["FAIL", "COMPLETE"] * ALIKE


def test_where_no_machine_works_three_on_any_are_enough(tmp_path: Path) -> None:
    study = open_study(tmp_path, 12)
    played(study, [])
    with pytest.raises(TrialsFailAlike, match="the last 3 trials failed in the same way"):
        all_fail(study, ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    study.close()
    assert ends(tmp_path) == []


def test_what_runs_on_other_machines_comes_to_its_end(tmp_path: Path) -> None:
    study = open_study(tmp_path, 12)
    played(study, [])
    runs = begun(study)
    study.reported(runs, 1, {"val/top1": 0.5}, GOOD)
    all_fail(study, [BAD] * ALIKE)
    assert study.next_work() == "wait"
    study.reported(runs, 2, {"val/top1": 0.6}, GOOD)
    study.ended(runs, Outcome("COMPLETE", value=0.6), GOOD)
    with pytest.raises(TrialsFailAlike, match=f"the last 3 trials on {BAD}"):
        study.next_work()
    study.close()
    assert ends(tmp_path) == [(0, "COMPLETE")]


def test_a_machine_on_which_all_trials_fail_is_left_out(tmp_path: Path) -> None:
    """If the cluster has other machines, it costs no trial, and the order stays."""
    study = open_study(tmp_path, 8)
    said: list[str] = []
    asked: list[str] = []
    study._requeues.tell = said.append
    study.leave_out = lambda node: bool(asked.append(node) or True)
    played(study, [])
    works_on(study, GOOD)
    late = begun(study)
    all_fail(study, [BAD] * ALIKE)
    assert asked == [] == said  # one trial of that machine may still work
    study.ended(late, Outcome("FAIL", reason="KeyError"), BAD)
    assert asked == [BAD]
    assert said == [
        f"{BAD} gets no more trials of this run: the last 4 there failed before their first "
        "report (KeyError), while those of other machines work"
    ]
    assert [begun(study).id.trial for _ in range(4)] == [1, 2, 3, 4]

    waited = begun(study)  # it reached that machine while it was being left out
    study.ended(waited, Outcome("FAIL", reason="KeyError"), BAD)
    assert begun(study).id == waited.id
    study.close()
    assert ends(tmp_path) == [(0, "COMPLETE")]
    assert [e for e in events(tmp_path) if e["event"] == "early_failure"] == []
    assert finish(tmp_path, 8).finished() == 8


def test_other_machines_are_tried_before_a_run_ends(tmp_path: Path) -> None:
    """A warm process of one machine may take three trials before another has begun its first."""
    study = open_study(tmp_path, 8)
    said: list[str] = []
    study._requeues.tell = said.append
    study.leave_out = lambda node: node == BAD
    played(study, [])
    for _ in range(ALIKE):
        all_fail(study, [BAD])
    assert [line.rpartition(", ")[2] for line in said] == ["and other machines are tried"]

    all_fail(study, [GOOD] * (ALIKE - 1))
    with pytest.raises(TrialsFailAlike, match="the last 3 trials failed in the same way"):
        all_fail(study, [GOOD])
    study.close()
    assert ends(tmp_path) == []
