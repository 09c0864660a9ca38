"""Each doubt about a study's answer, at the threshold where it begins."""

from pathlib import Path

import pytest

from tests.studies import open_study
from tune.reports.doubts import doubts
from tune.study.study import Study
from tune.study.work import Outcome, Work

UNTRAINED = 0.1


def study_of_curves(
    root: Path, curves: list[list[float] | None], untrained: float = UNTRAINED
) -> Study:
    """A study whose trials report these objectives, one per epoch. None stands for a trial that
    fails."""
    epochs = max(len(curve) for curve in curves if curve)
    study = open_study(root, len(curves), base={"train.epochs": epochs})
    baseline = next_work(study)
    study.ended(baseline, Outcome("COMPLETE", metrics={"baseline/val/top1": untrained}))
    for curve in curves:
        run(study, next_work(study), curve)
    return study


def next_work(study: Study) -> Work:
    work = study.next_work()
    assert isinstance(work, Work)
    study.started(work)
    return work


def run(study: Study, work: Work, curve: list[float] | None) -> None:
    if curve is None:
        study.reported(work, 1, {"val/top1": 0.3})
        study.ended(work, Outcome("FAIL", reason="nan"))
        return
    for epoch, value in enumerate(curve, start=1):
        study.reported(work, epoch, {"val/top1": value})
    best = max(curve)
    study.ended(work, Outcome("COMPLETE", best, None, {"best/val/top1": best}))


def said(study: Study, words: str) -> list[str]:
    """The doubts that contain these words."""
    found = [doubt for doubt in doubts(study, study.directory.parent) if words in doubt]
    study.close()
    return found


@pytest.mark.parametrize(
    ("curve", "rises"),
    [
        ([0.2, 0.3, 0.4, 0.5], True),
        ([0.2, 0.3, 0.5], False),  # too short for a trend
        ([0.2, 0.6, 0.4, 0.5], False),  # its best epoch is not the last
        ([0.2, 0.3, 0.495, 0.5], False),  # the last epoch gains 1 %
        ([0.2, 0.3, 0.485, 0.5], True),  # it gains 3 %
    ],
)
def test_a_curve_that_still_rises_asks_for_more_epochs(
    tmp_path: Path, curve: list[float], rises: bool
) -> None:
    found = said(study_of_curves(tmp_path, [curve]), "still rising")
    assert len(found) == rises
    if rises:
        assert "--set train.epochs=" in found[0]


@pytest.mark.parametrize(("best", "learned"), [(0.1, False), (0.11, True)])
def test_no_better_than_the_untrained_network_is_nothing_learned(
    tmp_path: Path, best: float, learned: bool
) -> None:
    found = said(study_of_curves(tmp_path, [[best]]), "nothing was learned")
    assert len(found) == (not learned)


def test_an_untrained_network_without_a_value_leaves_it_open(tmp_path: Path) -> None:
    found = said(study_of_curves(tmp_path, [[0.5]], untrained=float("nan")), "unknown whether")
    assert len(found) == 1


def test_a_gain_within_the_noise_says_what_a_second_look_would_ask_for(tmp_path: Path) -> None:
    study = open_study(tmp_path, 2, 2, base={"train.epochs": 1})
    tested = {0: [0.5, 0.6], 1: [0.55, 0.65]}
    study.ended(next_work(study), Outcome("COMPLETE", metrics={"baseline/val/top1": 0.1}))
    for _ in range(6):
        work = next_work(study)
        number = work.id.trial or 0
        if work.kind == "trial":
            run(study, work, [0.5 + number / 10])
        else:
            score = tested[number].pop()
            study.ended(work, Outcome("COMPLETE", score, None, {"test/top1": score}))
    (doubt,) = said(study, "cannot tell")
    assert doubt.endswith("at a p-value below 0.002 instead of 0.04")


def test_a_quarter_of_failures_is_no_doubt(tmp_path: Path) -> None:
    study = study_of_curves(tmp_path, [[0.5], [0.5], [0.5], None])
    assert said(study, "trials failed;") == []


def test_more_than_a_quarter_of_failures_is_told(tmp_path: Path) -> None:
    study = study_of_curves(tmp_path, [[0.5], [0.5], [0.5], [0.5], None, None])
    (doubt,) = said(study, "trials failed;")
    assert doubt.startswith("2 of 6 trials failed; `")
    assert "report.py show toy" in doubt


@pytest.mark.parametrize(("trials", "is_few"), [(11, True), (12, False)])
def test_a_search_of_few_trials_says_little(tmp_path: Path, trials: int, is_few: bool) -> None:
    curves = [[0.5 - 0.01 * number] for number in range(trials)]
    assert len(said(study_of_curves(tmp_path, curves), "fewer than 12")) == is_few


def test_where_all_trials_failed_more_trials_are_not_the_remedy(tmp_path: Path) -> None:
    study = open_study(tmp_path, 1)
    study.ended(next_work(study), Outcome("COMPLETE", metrics={"baseline/val/top1": UNTRAINED}))
    run(study, next_work(study), None)
    assert said(study, "fewer than 12") == []


def test_a_study_without_a_completed_trial_has_no_best_one(tmp_path: Path) -> None:
    study = open_study(tmp_path, 1)
    next_work(study)
    assert len(said(study, "no trial ran to the end, so there is no best one")) == 1


@pytest.mark.parametrize(
    ("lr", "is_at_edge"),
    [
        (1.0e-3, True),
        (1.1e-3, True),  # a fiftieth of three powers of ten is a factor of 1.148
        (1.2e-3, False),
        (0.99, True),
        (0.1, False),
    ],
)
def test_a_best_value_at_the_edge_of_its_range_asks_for_a_wider_one(
    tmp_path: Path, lr: float, is_at_edge: bool
) -> None:
    study = open_study(tmp_path, 2, base={"train.epochs": 1})
    study.ended(next_work(study), Outcome("COMPLETE", metrics={"baseline/val/top1": 0.1}))
    run(study, next_work(study), [0.3])
    study.enqueue([{"optim.lr": lr}])
    run(study, next_work(study), [0.5])
    found = said(study, "the best optim.lr=")
    assert len(found) == is_at_edge
    if is_at_edge:
        assert f"optim.lr={lr:g} lies at the edge of its range (0.001 to 1)" in found[0]
