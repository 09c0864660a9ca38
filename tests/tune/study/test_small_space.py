"""Spaces with few configurations, against products of the choices. Each configuration is tried
once, the search stops when none is left, and equal configurations are one result."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.studies import events, manifest
from tests.toy import TOY
from tune.execution.local import search_locally
from tune.experiments import Experiment
from tune.search.small_space import countable, draw_new
from tune.search.space import as_json, asked_for, describe, within
from tune.study.record import read_record
from tune.study.rules import CURRENT, FIRST, distinct
from tune.study.study import Study

RATES = [0.01, 0.03, 0.1, 0.3, 1.0]


def by_rate(trial: Any, preset: str) -> None:
    trial.suggest_categorical("optim.lr", RATES)


def nothing(trial: Any, preset: str) -> None:
    pass


def with_conditions(trial: Any, preset: str) -> None:
    if trial.suggest_categorical("a", ["x", "y"]) == "x":
        trial.suggest_int("b", 2, 4)
    trial.suggest_float("c", 0.5, 0.5)


def in_space(space: Any) -> Experiment:
    return replace(TOY, space=space)


def open_small(root: Path, space: Any, trials: int, repeats: int = 0, **changes: Any) -> Study:
    described = as_json(describe(space, "tiny", {}))
    about = manifest(space=described, **changes)
    return Study.open(root / "toy", in_space(space), about, trials=trials, repeats=repeats)


def run(root: Path, space: Any, trials: int, repeats: int = 0, **changes: Any) -> Study:
    study = open_small(root, space, trials, repeats, **changes)
    search_locally(study, in_space(space))
    study.close()
    return study


def rates(study: Study) -> list[float]:
    return [trial.params["optim.lr"] for trial in study.frozen_trials()]


def values(space: Any, most: int, **pins: Any) -> list[str] | None:
    found = countable(space, "tiny", pins, most)
    return None if found is None else sorted(map(str, found.configurations))


def test_configurations_are_the_product_of_the_choices_along_each_branch() -> None:
    expected = [{"a": "x", "b": b, "c": 0.5} for b in (2, 3, 4)] + [{"a": "y", "c": 0.5}]
    assert values(with_conditions, 10) == sorted(map(str, expected))
    assert values(with_conditions, 3) is None
    assert values(with_conditions, 1, a="y", c=1) == ["{}"]

    def wide(trial: Any, preset: str) -> None:
        for name in "abc":
            trial.suggest_int(name, 0, 3)

    found = countable(wide, "tiny", {}, most=64)
    assert found is not None
    assert found.is_all
    assert {tuple(one.values()) for one in found.configurations} == set(product(range(4), repeat=3))
    assert countable(wide, "tiny", {}, most=63) is None


def test_branches_with_real_numbers_are_not_counted() -> None:
    assert countable(TOY.space, "tiny", {}, most=64) is None
    found = countable(TOY.space, "tiny", {"optim.lr": 0.1}, most=64)
    assert found is not None
    assert found.configurations == [{"schedule.name": "constant"}]
    assert not found.is_all


def test_a_branch_of_few_configurations_is_not_drawn_twice(tmp_path: Path) -> None:
    """One of the two schedules has a warm-up, a real number. The other is only the default."""
    pins = {"optim.lr": 0.1}
    described = as_json(describe(TOY.space, "tiny", pins))

    def schedules(root: Path, rules: dict[str, Any]) -> list[str]:
        about = manifest(pins=pins, space=described, rules=rules)
        study = Study.open(root / "toy", TOY, about, trials=12, repeats=0)
        search_locally(study, TOY)
        study.close()
        assert len(study.frozen_trials()) == 12
        assert not study.is_exhausted
        return [trial.params["schedule.name"] for trial in study.frozen_trials()]

    assert schedules(tmp_path, CURRENT).count("constant") == 1
    assert schedules(tmp_path / "earlier", {**CURRENT, "sampler": 1}).count("constant") > 2


def test_a_preview_is_what_the_next_trial_draws(tmp_path: Path) -> None:
    study = Study.open(tmp_path / "toy", TOY, manifest(), trials=9, repeats=0)
    search_locally(study, TOY)
    database = study._database
    for _ in range(4):
        preview = database.preview()
        TOY.space(preview, "tiny")
        trial = database.ask()
        TOY.space(trial, "tiny")
        assert trial.params == preview.said
    study.close()


def test_random_draws_lie_in_the_space() -> None:
    tried: list[dict[str, Any]] = []
    for seed in range(30):
        new = draw_new(with_conditions, "tiny", {}, tried, seed)
        if new is None:
            break
        assert str(new) in (values(with_conditions, 9) or [])
        assert new not in tried
        tried.append(new)
    assert len(tried) == 4
    drawn = [draw_new(TOY.space, "tiny", {}, [], seed) for seed in range(50)]
    for one in drawn:
        assert one is not None
        asked = asked_for(TOY.space, "tiny", one, {})
        assert asked.keys() == one.keys()
        assert all(within(distribution, one[name]) for name, distribution in asked.items())


def test_each_configuration_is_tried_once_and_then_the_search_ends(tmp_path: Path) -> None:
    study = run(tmp_path, by_rate, trials=12)
    # the default, then the order that studies of earlier builds continue with
    assert rates(study) == [0.01, 0.03, 0.1, 1.0, 0.3]
    assert sorted(rates(study)) == RATES
    assert study.is_exhausted

    # a few first, then more: nothing is repeated, and the order is the same
    begun = run(tmp_path / "again", by_rate, trials=2)
    assert not begun.is_exhausted
    assert rates(run(tmp_path / "again", by_rate, trials=12)) == rates(study)
    other = run(tmp_path / "other", by_rate, trials=12, seed=5)
    assert rates(other) != rates(study)


def test_a_space_without_choice_is_its_default(tmp_path: Path) -> None:
    study = run(tmp_path, nothing, trials=4)
    assert len(study.frozen_trials()) == 1
    assert study.is_exhausted
    assert study.best_number() == 0


def test_a_study_that_began_without_this_rule_continues_as_it_began(tmp_path: Path) -> None:
    study = run(tmp_path, by_rate, trials=7, rules={**CURRENT, "sampler": 1})
    assert len(study.frozen_trials()) == 7
    assert not study.is_exhausted


def test_interrupted_before_the_draw_nothing_is_lost(tmp_path: Path) -> None:
    """If a kill comes after enqueueing and before the trial, the waiting configuration is next."""
    study = open_small(tmp_path, by_rate, trials=12)
    study._database.enqueue_next({"optim.lr": 0.3})
    study.close()
    study = run(tmp_path, by_rate, trials=12)
    assert rates(study)[:2] == [0.01, 0.3]
    assert sorted(rates(study)) == RATES


@pytest.mark.parametrize("rules", [FIRST, {**CURRENT, "sampler": 1}], ids=["finalists", "pair"])
def test_equal_configurations_are_one_result(tmp_path: Path, rules: dict[str, Any]) -> None:
    study = run(tmp_path, nothing, trials=4, repeats=2, rules=rules)
    assert len(study.completed) == 4
    assert list(study.distinct) == [0]
    assert {number for number, _ in study.repeats} == {0}
    assert list(read_record(tmp_path / "toy").distinct) == [0]
    assert len([e for e in events(tmp_path) if e["event"] == "end" and "repeat" in e]) == 2


def test_distinct_keeps_the_first_of_equal_ones() -> None:
    parameters = {0: {"a": 1}, 1: {"a": 2}, 2: {"a": 1}, 3: {"b": 1}, 4: {"a": 2, "b": 1}}
    completed = {4: 0.4, 3: 0.3, 2: 0.2, 0: 0.1}
    assert distinct(completed, parameters) == {0: 0.1, 3: 0.3, 4: 0.4}
