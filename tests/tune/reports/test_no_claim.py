"""A study without a claim says why, and which command helps."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.commands import LOCAL_TOY, Call
from tests.studies import open_study
from tests.toy import Toy
from trainables.base import Batch
from tune.command_line import resume_command
from tune.reports.leaderboard import show_study
from tune.reports.verdict import claim
from tune.study.record import read_record
from tune.study.study import Study
from tune.study.work import Outcome, Work


def played(study: Study, outcomes: list[Outcome]) -> None:
    """Play the outcomes of the baseline and of the trials, in order."""
    for outcome in outcomes:
        work = study.next_work()
        assert isinstance(work, Work)
        study.started(work)
        if work.kind == "trial":
            study.reported(work, 1, {"val/top1": outcome.value or 0.1})
        study.ended(work, outcome)
    study.close()


BASELINE = Outcome("COMPLETE", metrics={"baseline/val/top1": 0.1})
LOST = Outcome("FAIL", reason="process lost")
PRUNED = Outcome("PRUNED", value=0.2, reason="below its rung at epoch 2")
RETRY = "the same command with --retry-failed trains them again"


def said(root: Path) -> str:
    return claim(read_record(root / "toy"), None)


def test_no_trial_at_all(tmp_path: Path) -> None:
    played(open_study(tmp_path, 3), [BASELINE, LOST, LOST, PRUNED])
    assert said(tmp_path) == (
        "No trial has run to the end, so there is nothing to claim: 2 failed (process lost), "
        f"1 was stopped (below its rung). Remedy: fix the cause, and {RETRY}; a larger "
        "--trials adds trials."
    )


def test_a_search_that_diverges_is_not_sent_to_more_trials_first(tmp_path: Path) -> None:
    nan, collapse = (Outcome("PRUNED", reason=reason) for reason in ("nan", "collapse"))
    played(open_study(tmp_path, 2), [BASELINE, nan, collapse])
    assert "2 were stopped (nan, collapse). Remedy: try lower learning rates" in said(tmp_path)


def test_only_the_default(tmp_path: Path) -> None:
    whole = Outcome("COMPLETE", value=0.4)
    played(open_study(tmp_path, 2), [BASELINE, whole, PRUNED])
    assert "nothing to compare: 1 was stopped (below its rung). Remedy: a larger" in said(tmp_path)
    assert "--retry-failed" not in said(tmp_path)


def test_the_default_has_failed(tmp_path: Path) -> None:
    played(open_study(tmp_path, 2), [BASELINE, LOST, Outcome("COMPLETE", value=0.4)])
    assert said(tmp_path) == (
        "No claim yet: trial 1 leads on the split that selects, but trial 0, the default, has "
        "failed (process lost): the same command with --retry-failed trains it again."
    )


@pytest.mark.parametrize(
    ("repeats", "remedy"),
    [(0, "as --repeats was 0: the same command with --repeats 6"), (3, "makes those")],
)
def test_repeats_are_missing(tmp_path: Path, repeats: int, remedy: str) -> None:
    outcomes = [BASELINE, Outcome("COMPLETE", value=0.3), Outcome("COMPLETE", value=0.4)]
    played(open_study(tmp_path, 2, repeats), outcomes)
    record = read_record(tmp_path / "toy")
    record.manifest = record.manifest.__class__(**{**vars(record.manifest), "repeats": repeats})
    assert remedy in claim(record, None)


def test_what_it_says_is_what_helps(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the command that the sentence names."""

    def broken(self: Toy, batch: Batch) -> None:
        raise ImportError("No module named 'imagined'")

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "forward", broken)
        found = call(*LOCAL_TOY, "2")
    assert found.code == 1
    assert "nothing to claim: 2 failed (ImportError)" in found.out
    assert read_record(Path("runs/toy")).trials[0].state == "FAIL"

    show_study(Path("runs/toy"), Console(width=300))
    shown = capsys.readouterr().out
    assert RETRY in shown
    assert f"its command: {resume_command()}" in shown

    assert call(*LOCAL_TOY, "2").code == 1  # as before: nothing is left to do
    again = call(*LOCAL_TOY, "2", "--retry-failed")
    assert again.code == 0
    assert "tried again: trial 0, trial 1" in again.out
    assert read_record(Path("runs/toy")).completed.keys() >= {0}
    show_study(Path("runs/toy"), Console(width=300))
    assert RETRY not in capsys.readouterr().out
