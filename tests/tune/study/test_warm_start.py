"""Warm start: which configurations are taken over, what overrides them, what the same command does
later, kills, and what is printed at the end."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.commands import LOCAL_TOY, Call, left_in
from tests.studies import POOR, finish, finished, manifest
from tests.toy import TOY
from trainables.errors import UserError
from tune.execution.local import search_locally
from tune.experiments import EXPERIMENTS
from tune.study.events import EventLog
from tune.study.manifest import Manifest, read_manifest
from tune.study.record import read_record
from tune.study.rules import CURRENT, leaders
from tune.study.study import Study
from tune.study.warm_start import POINTS, beginning, warm_start, worth
from tune.study.warm_turns import (
    FORGOTTEN,
    TURNS,
    enqueued,
    forgotten,
    next_point,
    warm_trials,
)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A storage with the study `toy` of ten trials, several of which beat the default."""
    finished(tmp_path, 10, base=POOR)
    return tmp_path


def points(storage: Path, space: Any = TOY.space, **pins: Any) -> dict[str, Any]:
    base = manifest(base=POOR).base | pins
    return warm_start(
        "toy", storage, storage / "new", replace(TOY, space=space), "tiny", base, pins
    )


def start(storage: Path, trials: int, name: str = "new") -> Study:
    changed: Manifest = replace(manifest(base=POOR), name=name, warm_start=points(storage))
    return Study.open(storage / name, TOY, changed, trials=trials, repeats=0)


def test_the_best_other_than_the_default_come_in_turn(earlier: Path) -> None:
    record = read_record(earlier / "toy")
    best = [n for n in leaders(record.completed, 9) if n != 0][:POINTS]
    assert [p["trial"] for p in points(earlier)["points"]] == best
    study = start(earlier, 7)
    search_locally(study, TOY)
    study.close()
    trials = study.frozen_trials()
    assert len(trials) == 7
    assert trials[0].params == {"optim.lr": 0.001, "schedule.name": "constant"}
    found = read_record(earlier / "toy").frozen_trials()
    taken = [trials[turn].params for turn in TURNS]
    # all of them beat POOR
    assert taken == [found[n].params for n in best]
    for number in (2, 4, 6):
        assert trials[number].params not in [t.params for t in found]


def trial_of(number: int, lr: float, value: float | None) -> FrozenTrial:
    """A completed trial, or a stopped one if it has no value."""
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    trial = optuna.trial.create_trial(
        state=state,
        value=value,
        params={"lr": lr},
        distributions={"lr": optuna.distributions.FloatDistribution(0, 1)},
    )
    trial.number = number
    return trial


def test_points_that_mislead_are_left() -> None:
    two = [{"params": {"lr": 0.9}}, {"params": {"lr": 0.8}}]
    begun = {"points": two, "turns": [1, 3, 5]}
    default = trial_of(0, 0.1, 0.5)
    assert next_point(begun, []) is None
    assert next_point(begun, [default]) == {"lr": 0.9}
    own = trial_of(2, 0.2, 0.6)  # the median of the study's own values is .55
    for value, expected in ((0.56, {"lr": 0.8}), (0.55, None), (None, None)):
        assert next_point(begun, [default, trial_of(1, 0.9, value), own]) == expected
    good = [default, trial_of(1, 0.9, 0.7), own, trial_of(3, 0.8, 0.7), own]
    good[4] = trial_of(4, 0.3, 0.1)
    assert next_point(begun, good) is None  # all points have been tried
    assert list(warm_trials(begun, good)) == [1, 3]
    assert next_point(begun, [default, own]) is None  # trial 2 is not among the turns


def test_the_sampler_forgets_what_was_taken_over() -> None:
    two = [{"params": {"lr": 0.9}}, {"params": {"lr": 0.8}}]
    begun = {"points": two, "turns": [1, 3, 5]}
    trials = [trial_of(number, 0.1, 0.5) for number in range(14)]
    trials[1] = trial_of(1, 0.9, 0.7)
    trials[3] = trial_of(3, 0.8, 0.1)
    assert not forgotten(begun, trials, FORGOTTEN - 1, 2)
    assert set(forgotten(begun, trials, FORGOTTEN, 2)) == {1, 3}
    assert not forgotten(begun, trials, FORGOTTEN, 1)
    assert not forgotten(None, trials, FORGOTTEN, 2)


def test_a_study_keeps_the_version_by_which_its_warm_start_fades(earlier: Path) -> None:
    """Both versions draw the same until one of them forgets, also if a study is resumed then."""
    drawn = {}
    for name, rules in (("new", CURRENT), ("old", CURRENT | {"warm_start": 1})):
        changed = replace(manifest(base=POOR, rules=rules), warm_start=points(earlier))
        for trials in (FORGOTTEN + 1, FORGOTTEN + 3):
            study = Study.open(earlier / name, TOY, changed, trials=trials, repeats=0)
            search_locally(study, TOY)
            study.close()
        assert read_manifest(earlier / name / "study.json").rules["warm_start"] == (
            2 if name == "new" else 1
        )
        drawn[name] = [trial.params for trial in study.frozen_trials()]
    whole = start(earlier, FORGOTTEN + 3, "whole")
    search_locally(whole, TOY)
    whole.close()
    assert drawn["new"] == [trial.params for trial in whole.frozen_trials()]
    assert drawn["new"][:FORGOTTEN] == drawn["old"][:FORGOTTEN]
    assert drawn["new"][FORGOTTEN] != drawn["old"][FORGOTTEN]


def test_a_manifest_without_a_version_has_the_first(tmp_path: Path) -> None:
    """Its other rules stay: studies had versions of those before a warm start had one."""
    rules = {name: version for name, version in CURRENT.items() if name != "warm_start"}
    manifest(rules=rules).write(tmp_path / "study.json")
    assert read_manifest(tmp_path / "study.json").rules == CURRENT | {"warm_start": 1}


def test_a_study_of_before_the_turns_enqueues_all() -> None:
    two = [{"params": {"lr": 0.9}}, {"params": {"lr": 0.8}}]
    assert enqueued({"points": two}) == [{"lr": 0.9}, {"lr": 0.8}]
    assert enqueued({"points": two, "turns": [1]}) == enqueued(None) == []
    assert next_point({"points": two}, [trial_of(0, 0.1, 0.5)]) is None
    trials = [trial_of(0, 0.1, 0.5), trial_of(1, 0.9, 0.7), trial_of(2, 0.8, 0.2)]
    assert list(warm_trials({"points": two}, trials)) == [1, 2]


def test_what_does_not_fit_is_clipped_or_dropped_and_said(earlier: Path) -> None:
    def narrower(trial: Any, preset: str) -> None:
        trial.suggest_float("optim.lr", 0.02, 0.021)
        trial.suggest_categorical("schedule.name", ["cosine"])

    found = points(earlier, narrower)
    assert all(0.02 <= p["params"]["optim.lr"] <= 0.021 for p in found["points"])
    assert all(p["params"]["schedule.name"] == "cosine" for p in found["points"])
    # points that clipping made equal come once
    assert len({p["params"]["optim.lr"] for p in found["points"]}) == len(found["points"])
    assert any("is clipped to 0.02 to 0.021" in note for note in found["notes"])
    assert any(
        "is dropped, because it is not a choice here; cosine takes its place" in note
        for note in found["notes"]
    )
    pinned = points(earlier, **{"optim.lr": 0.3})
    assert all("optim.lr" not in p["params"] for p in pinned["points"])
    assert any(
        note.startswith("toy/") and "optim.lr=" in note and "not searched here" in note
        for note in pinned["notes"]
    )


def test_what_is_recorded_stays_when_the_earlier_study_goes_on(earlier: Path) -> None:
    start(earlier, 2).close()
    before = read_manifest(earlier / "new/study.json").warm_start
    log = EventLog(earlier / "toy/events.jsonl")
    log.append(
        "start", trial=9, config=manifest().base | {"optim.lr": 0.7}, attempt=1, resumed_epoch=None
    )
    log.append("end", trial=9, state="COMPLETE", value=0.999, reason=None, metrics={}, error=None)
    assert points(earlier) == before
    fresh = warm_start(
        "toy", earlier, earlier / "another", TOY, "tiny", manifest(base=POOR).base, {}
    )
    assert fresh["points"][0] == {
        "trial": 9,
        "value": 0.999,
        "params": {"optim.lr": 0.7, "schedule.name": "constant"},
    }


@pytest.mark.parametrize("die_at", range(1, POINTS + 3))
def test_killed_while_it_is_begun(
    earlier: Path, die_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before the n-th trial, enqueued or asked for, reaches the journal."""
    whole = start(earlier, 6, "whole")
    search_locally(whole, TOY)
    whole.close()
    create: Callable[..., int] = optuna.storages.JournalStorage.create_new_trial
    count = 0

    def dying(self: Any, *args: Any, **kwargs: Any) -> int:
        nonlocal count
        count += 1
        if count == die_at:
            raise SystemExit("killed")
        return create(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.JournalStorage, "create_new_trial", dying)
        with pytest.raises(SystemExit):
            search_locally(start(earlier, 6), TOY)
    study = start(earlier, 6)
    search_locally(study, TOY)
    study.close()
    assert [(t.params, t.value) for t in study.frozen_trials()] == [
        (t.params, t.value) for t in whole.frozen_trials()
    ]


def test_fewer_trials_than_there_are_points_leave_the_others_for_more(earlier: Path) -> None:
    for trials in (2, 5):
        study = start(earlier, trials)
        search_locally(study, TOY)
        study.close()
        assert [t.number for t in study.frozen_trials() if t.state != TrialState.WAITING] == list(
            range(trials)
        )
        assert study.finished() == trials


def test_worth_compares_with_the_default_and_the_rest(earlier: Path) -> None:
    study = start(earlier, 20)
    search_locally(study, TOY)
    study.close()
    said = worth(study)
    values = study.completed
    warm = {n: v for n, v in values.items() if n in TURNS}
    best = max(warm, key=lambda n: (warm[n], -n))
    assert said is not None
    assert f"of trial {best} (trial " in said
    assert (
        f"is {warm[best]:.4f}, the best of {len(warm)} that ran to the end; "
        f"the default {values[0]:.4f}" in said
    )
    others = [v for n, v in values.items() if n and n not in TURNS]
    assert f"the best of the {len(others)} others that did {max(others):.4f}." in said
    assert worth(read_record(earlier / "new")) == said
    assert worth(read_record(earlier / "toy")) is None


@pytest.mark.heavy
def test_on_the_command_line(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        EXPERIMENTS, "toy", replace(TOY, presets={"tiny": TOY.presets["tiny"] | POOR})
    )
    assert call(*LOCAL_TOY, "10").code == 0
    new = (*LOCAL_TOY, "5", "--study", "new")
    said = call(*new, "--warm-start", "toy")
    assert said.code == 0
    assert "warm start: trials 1, 3, 5 are toy/" in said.out
    assert "Warm start from toy: val/top1 of trial " in said.out
    before = left_in(tmp_path / "runs/new")
    for words, shown in (
        ((), "warm start was toy, is absent"),
        (("--warm-start", "new"), "'new' is the study itself"),
    ):
        refused = call(*new, *words)
        assert (refused.code, shown in refused.line) == (2, True)
    refused = call(*LOCAL_TOY, "10", "--warm-start", "new")
    assert "warm start was absent, is new" in refused.line
    assert left_in(tmp_path / "runs/new") == before
    again = call(*new, "--warm-start", "toy")
    assert again.code == 0
    assert "trial 0 complete" not in again.out


def test_what_is_no_earlier_study_is_one_line(call: Call, tmp_path: Path) -> None:
    assert call(*LOCAL_TOY, "1", "--study", "broken", "--set", "fault=raise").code == 1
    for name, shown in (
        ("nothing", "is not a study in "),
        ("broken", "none of its trials has been completed"),
    ):
        said = call(*LOCAL_TOY, "2", "--warm-start", name)
        assert (said.code, shown in said.line) == (2, True)
    finish(tmp_path, 1)
    with pytest.raises(UserError, match="is a study of toy; name one of ssl"):
        warm_start("toy", tmp_path, tmp_path / "new", replace(TOY, name="ssl"), "tiny", {}, {})
    assert not (tmp_path / "runs/toy").exists()


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], "warm start: the best of earlier is the default, which is trial 0 anyway"),
        (
            [{"trial": 7}, {"trial": 3}],
            "warm start: after the default, trials 1 to 2 are earlier/7, earlier/3",
        ),
    ],
)
def test_a_start_says_what_it_takes_over(points: list[dict[str, int]], said: str) -> None:
    assert beginning({"study": "earlier", "points": points, "notes": []}) == [said]
