"""The rules for what is repeated, under which seeds, and what the answer is."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tests.studies import POOR, events, finished, manifest, open_study
from tests.toy import TOY
from trainables.errors import UserError
from tune.execution.local import search_locally
from tune.reports.verdict import claim, judge_study
from tune.study.manifest import read_manifest
from tune.study.record import read_record
from tune.study.rules import (
    CURRENT,
    FINALISTS,
    FIRST,
    PAIR,
    WINNER,
    RepeatRule,
    derived_seed,
    leaders,
)
from tune.study.study import Study
from tune.study.work import Outcome, Work


def test_leaders_below_the_default_are_left_out() -> None:
    """The best is always repeated, others only if they beat the default."""
    assert leaders({0: 0.5, 1: 0.7, 2: 0.6, 3: 0.4}, 3) == [1, 2]
    assert leaders({0: 0.5, 1: 0.7, 2: 0.5}, 3) == [1]  # a tie does not beat the default
    assert leaders({0: 0.9, 1: 0.7, 2: 0.6}, 3) == [0]
    assert leaders({1: 0.3, 2: 0.3, 3: 0.2}, 2) == [1, 2]  # trial 0, the default, has not completed
    assert leaders({}, 3) == []


def test_finalists_are_chosen_by_their_repeats() -> None:
    """Repeats of a leader below the default, from a study with another `top`, do not count."""
    rule = RepeatRule(FINALISTS, top=3)
    completed = {0: 0.5, 1: 0.7, 2: 0.4, 3: 0.6}
    finals = {(1, 1000): {"best/val": 0.6}, (2, 1000): {"best/val": 0.9}}
    assert rule.answer(completed, finals, "val") == 1
    finals = {(1, 1000): {"best/val": 0.6}, (3, 1000): {"best/val": 0.65}}
    assert rule.answer(completed, finals, "val") == 3
    # a seed that one finalist lacks does not count for the others either
    finals[1, 1001] = {"best/val": 0.9}
    assert rule.answer(completed, finals, "val") == 3
    assert rule.repeated(completed) == [0, 1, 3]
    # means, whatever their sign: a loss is an objective times -1
    losses = {1: -0.6, 3: -0.4}
    finals = {(number, seed): {"best/val": losses[number]} for number in losses for seed in (7, 8)}
    assert rule.answer(completed, finals, "val") == 3


def test_a_pair_is_the_default_and_the_best_other_trial() -> None:
    """Validation chooses the trial, its repeats never do."""
    rule = RepeatRule(PAIR)
    completed = {0: 0.5, 1: 0.7, 2: 0.6}
    luckier = {(2, 7): {"best/val": 0.9}, (1, 7): {"best/val": 0.1}}
    assert rule.answer(completed, luckier, "val") == 1
    assert rule.repeated(completed) == [0, 1]
    # if the default leads on validation, it is still repeated beside the best other trial
    default_leads = {0: 0.8, 1: 0.7, 2: 0.6}
    assert rule.answer(default_leads, {}, "val") == 0
    assert rule.repeated(default_leads) == [0, 1]
    assert rule.repeated({0: 0.8}) == [0]


def test_a_winner_is_repeated_alone() -> None:
    rule = RepeatRule(WINNER)
    assert rule.certain() == []
    assert rule.repeated({0: 0.5, 1: 0.7}) == [1]
    assert rule.repeated({0: 0.8, 1: 0.7}) == [0]


@pytest.mark.parametrize(
    ("rule", "configurations"),
    [(RepeatRule(FINALISTS, top=3), 4), (RepeatRule(PAIR), 2), (RepeatRule(WINNER), 1)],
)
def test_a_rule_knows_how_many_trials_it_repeats_at_most(
    rule: RepeatRule, configurations: int
) -> None:
    completed = {0: 0.1, 1: 0.7, 2: 0.6, 3: 0.5, 4: 0.4}
    assert rule.configurations == configurations == len(rule.repeated(completed))


def test_seeds_of_different_studies_never_meet() -> None:
    seeds = [
        derived_seed(f"{name} {seed}", role, index)
        for name in ("ssl", "classify-A", "classify-B")
        for seed in (0, 1, 2)
        for role in ("repeat", "search")
        for index in range(50)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    # SHA-256 of "ssl 0", "repeat", "0", one per line, computed by `sha256sum`
    assert derived_seed("ssl 0", "repeat", 0) == 0xE5432445


def test_a_new_study_repeats_the_pair_and_keeps_its_number(tmp_path: Path) -> None:
    study = finished(tmp_path, 5, repeats=2, base=POOR)
    answer = study.best_number()
    assert answer not in (0, None)
    expected = {(number, seed) for number in (0, answer) for seed in study.repeat_seeds()}
    assert set(study.finals()) == expected == set(read_record(tmp_path / "toy").repeats)

    verdict = judge_study(study)
    assert verdict is not None
    assert (verdict.number, verdict.is_answer, verdict.seeds) == (answer, True, 2)
    gains = [
        study.finals()[answer, seed]["test/top1"] - study.finals()[0, seed]["test/top1"]
        for seed in study.repeat_seeds()
    ]
    assert verdict.gain.mean == pytest.approx(np.mean(gains))


def test_studies_keep_the_rules_that_they_began_with(tmp_path: Path) -> None:
    """A manifest without rules comes from the first version: repeats of three finalists under seeds
    from 1000 on."""
    path = tmp_path / "toy" / "study.json"
    path.parent.mkdir()
    old = asdict(manifest())
    del old["rules"], old["repeats"]
    path.write_text(json.dumps(old))
    there = read_manifest(path)
    assert there.rules == FIRST
    assert manifest().rules == CURRENT != FIRST

    study = open_study(tmp_path, 3, repeats=2)
    assert study.manifest.rules == FIRST
    assert study.repeat_seeds() == [1000, 1001]
    assert study.repeat_rule.rule == FINALISTS
    study.close()


def test_rules_of_a_later_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    for rules in (
        {**CURRENT, "repeats": "triple"},
        {**CURRENT, "seeds": 3},
        {**CURRENT, "more": 1},
    ):
        path.write_text(json.dumps(asdict(manifest(rules=rules))))
        with pytest.raises(UserError, match=r"study 'toy' follows rule .* does not know"):
            read_manifest(path)


def test_more_repeats_are_a_second_look(tmp_path: Path) -> None:
    """The same runs give the same verdict, however often it is stated. More runs give another one,
    at a stricter level."""

    def concluded(trials: int, repeats: int) -> Study:
        study = open_study(tmp_path, trials, repeats, base=POOR)
        search_locally(study, TOY)
        study.emit("finish", state="FINISHED")
        study.close()
        return study

    first = concluded(3, 2)
    assert first.look == 1
    again = concluded(3, 2)
    assert again.look == 1
    more = concluded(3, 4)
    assert more.look == 2
    verdicts = [judge_study(study) for study in (first, more)]
    assert [verdict.level for verdict in verdicts if verdict] == pytest.approx([0.04, 0.002])
    assert read_record(tmp_path / "toy").look == 2
    assert concluded(4, 4).look == 3


def test_a_search_without_repeats_is_no_look(tmp_path: Path) -> None:
    study = open_study(tmp_path, 2, 0)
    search_locally(study, TOY)
    study.emit("finish", state="FINISHED")
    study.close()
    assert read_record(tmp_path / "toy").look == 1


def _finish_by_hand(study: Study, fate: dict[int, list[Outcome]]) -> None:
    """Run a study whose repeats end as given, trial by trial, in the order of their starts."""
    while True:
        work = study.next_work()
        if not isinstance(work, Work):
            return
        if work.kind == "baseline":
            study.ended(
                work,
                Outcome(
                    "COMPLETE",
                    metrics={f"baseline/{study.objective}": 0.3, "baseline/test/top1": 0.3},
                ),
            )
            continue
        study.started(work)
        number = work.id.trial
        assert number is not None
        if work.kind == "trial":
            study.reported(work, 1, {study.objective: 0.5 + number / 10})
            study.ended(work, Outcome("COMPLETE", value=0.5 + number / 10))
        else:
            study.ended(work, fate[number].pop(0))


def _scored(score: float) -> Outcome:
    return Outcome("COMPLETE", value=score, metrics={"test/top1": score, "best/val/top1": score})


def test_a_repeat_that_fails_is_trained_again(tmp_path: Path) -> None:
    lost = Outcome("FAIL", reason="RuntimeError")
    study = open_study(tmp_path, 2, 2)
    default = [_scored(0.5), lost, lost, _scored(0.51)]
    other = [_scored(0.6), lost, lost, lost]
    _finish_by_hand(study, {0: default, 1: other})
    study.close()
    # a repeat that fails three times is given up, and the claim says so instead of judging on less
    record = read_record(tmp_path / "toy")
    states = [run.state for (number, _), run in record.repeats.items() if number == 1]
    assert sorted(states) == ["COMPLETE", "FAIL"]
    assert judge_study(record) is None
    assert "fewer than two repeats" in claim(record, None)
    scores = [run.metrics["test/top1"] for (number, _), run in record.repeats.items() if not number]
    assert scores == [0.5, 0.51]


@pytest.mark.parametrize(
    "diverged",
    [
        Outcome("PRUNED", reason="nan"),
        Outcome("COMPLETE", 0.95, "nan", {"best/val/top1": 0.95, "test/top1": 0.95}),
    ],
    ids=["at once", "after its best epoch"],
)
def test_a_repeat_that_diverges_counts_as_the_untrained_network(
    tmp_path: Path, diverged: Outcome
) -> None:
    study = open_study(tmp_path, 2, 3)
    default = [_scored(0.5), _scored(0.52), _scored(0.51)]
    other = [_scored(0.9), diverged, _scored(0.92)]
    _finish_by_hand(study, {0: default, 1: other})
    study.close()
    verdict = judge_study(read_record(tmp_path / "toy"))
    assert verdict is not None
    assert verdict.trial.mean == pytest.approx((0.9 + 0.3 + 0.92) / 3)
    assert verdict.seeds == 3
    assert not verdict.decided


def test_a_test_metric_that_is_no_number_decides_nothing(tmp_path: Path) -> None:
    study = open_study(tmp_path, 2, 2)
    nan = float("nan")
    _finish_by_hand(study, {0: [_scored(0.5), _scored(0.6)], 1: [_scored(nan), _scored(0.9)]})
    study.close()
    record = read_record(tmp_path / "toy")
    assert judge_study(record) is None
    assert "nan" not in claim(record, None)
    assert [e["event"] for e in events(tmp_path)].count("end") == 6


def test_a_loser_that_loses_a_seed_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """The verdict does not rest on the remaining pairs but on all runs of both sides (Welch)."""
    lost = Outcome("FAIL", reason="RuntimeError")
    study = open_study(tmp_path, 2, 3)
    default = [_scored(0.50), _scored(0.52), lost, lost, lost]
    other = [_scored(0.60), _scored(0.61), _scored(0.62)]
    _finish_by_hand(study, {0: default, 1: other})
    study.close()
    verdict = judge_study(read_record(tmp_path / "toy"))
    assert verdict is not None
    assert verdict.trial.mean == pytest.approx(0.61)
    assert verdict.gain.mean == pytest.approx(0.61 - 0.51)


@pytest.mark.parametrize(
    ("scores", "outcome"),
    [
        ([0.80, 0.81, 0.83], "Trial 1 beats the default"),
        ([0.20, 0.21, 0.23], "Trial 1 is worse than the default"),
        ([0.20, 0.82, 0.51], "Not decided"),
    ],
)
def test_a_verdict_names_the_better_one(tmp_path: Path, scores: list[float], outcome: str) -> None:
    study = open_study(tmp_path, 2, 3)
    default = [_scored(0.50), _scored(0.52), _scored(0.51)]
    _finish_by_hand(study, {0: default, 1: [_scored(score) for score in scores]})
    study.close()
    record = read_record(tmp_path / "toy")
    verdict = judge_study(record)
    assert verdict is not None
    assert verdict.outcome == outcome
    assert claim(record, verdict).startswith(f"{outcome}: test/top1 of trial 1 is ")


@pytest.mark.parametrize(("lead", "is_told"), [(0.0263, True), (0.0363, False), (0.0163, False)])
def test_an_interval_without_0_that_decides_nothing_says_what_is_asked(
    tmp_path: Path, lead: float, is_told: bool
) -> None:
    """With three pairs, t is lead / (0.01 / sqrt 3), and p is 0.045, 0.024 or 0.106."""
    study = open_study(tmp_path, 2, 3)
    default = [0.50, 0.52, 0.51]
    trial = [0.50 + lead - 0.01, 0.52 + lead, 0.51 + lead + 0.01]
    _finish_by_hand(study, {0: [_scored(s) for s in default], 1: [_scored(s) for s in trial]})
    study.close()
    record = read_record(tmp_path / "toy")
    verdict = judge_study(record)
    assert verdict is not None
    assert ("p = 0.045, where this look asks for less than 0.04" in verdict.sentence) == is_told
    assert ("asks for" in verdict.sentence) == is_told


_DIVERGED = Outcome("PRUNED", reason="nan")


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([_scored(0.6), _DIVERGED], "but a repeat of it or of the default diverged"),
        ([_DIVERGED, _DIVERGED], "but 2 repeats of it or of the default diverged"),
        ([_scored(0.6), _scored(0.6)], "but all repeats of a configuration give the same result"),
    ],
)
def test_a_functions_study_without_a_verdict_says_why(
    tmp_path: Path, scores: list[Outcome], said: str
) -> None:
    study = open_study(tmp_path, 2, 2, function=True)
    _finish_by_hand(study, {0: [_scored(0.5), _scored(0.5)], 1: scores})
    study.close()
    record = read_record(tmp_path / "toy")
    assert judge_study(record) is None
    assert said in claim(record, None)


def test_a_function_with_one_repeat_lacks_repeats(tmp_path: Path) -> None:
    """One value each says nothing about the noise. It does not mean that there is none."""
    study = open_study(tmp_path, 2, 1, function=True)
    _finish_by_hand(study, {0: [_scored(0.5)], 1: [_scored(0.6)]})
    study.close()
    record = read_record(tmp_path / "toy")
    assert judge_study(record) is None
    assert "give the same result" not in claim(record, None)
