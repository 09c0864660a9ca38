"""`--sampler` and `--pruner` on the command line: what is refused, kept and printed."""

from dataclasses import replace
from typing import Any

import pytest

from tests.commands import LOCAL_TOY, Call, to_resolve
from tests.studies import manifest
from tests.toy import TOY
from trainables.errors import UserError
from tune.cli.methods import check_grid, method_notes, method_rules
from tune.study.manifest import Manifest
from tune.study.rules import CURRENT, FIRST


def begun(**rules: Any) -> Manifest:
    return manifest(rules=CURRENT | rules)


def rules(there: Manifest | None = None, first: Manifest | None = None, **typed: Any) -> Any:
    options = to_resolve([], "tiny")
    options.sampler, options.pruner = typed.get("sampler"), typed.get("pruner")
    options.objective = typed.get("objective")
    return method_rules(options, "toy", there, first)


def test_a_new_study_has_the_methods_that_were_asked_for() -> None:
    assert rules() == rules(sampler="joint-tpe", pruner="rungs") == CURRENT
    assert rules(sampler="sobol", pruner="none") == CURRENT | {"sampler": "sobol", "rungs": "none"}


def test_a_study_keeps_the_methods_that_it_began_with() -> None:
    there = begun(sampler="sobol")
    assert rules(there) == rules(there, sampler="sobol", pruner="rungs") == there.rules
    first = manifest(rules=FIRST)
    assert rules(first, sampler="joint-tpe") == FIRST
    with pytest.raises(UserError) as refused:
        rules(there, sampler="gp")
    assert str(refused.value) == (
        "--sampler gp: study 'toy' began with --sampler sobol and keeps it; leave it out, or "
        "give this study its own name: --study toy-gp"
    )
    with pytest.raises(UserError, match=r"--pruner none: study 'toy' began with --pruner rungs"):
        rules(there, pruner="none")


def test_a_further_search_has_the_methods_of_the_first() -> None:
    first = begun(sampler="sobol", seeds=1)
    assert rules(first=first) == CURRENT | {"sampler": "sobol"}


def test_methods_of_one_objective_are_refused_for_several() -> None:
    several = ["top1", "-time/epoch_s"]
    found = rules(objective=several)
    assert found == rules(objective=several, pruner="none", sampler="tpe")
    assert found == CURRENT | {"sampler": "tpe", "rungs": "none"}
    with pytest.raises(UserError, match="--pruner halving compares trials by one objective"):
        rules(objective=several, pruner="halving")
    with pytest.raises(UserError, match="--sampler joint-tpe supports one objective"):
        rules(objective=several, sampler="joint-tpe")


def test_the_start_of_a_study_names_methods_of_its_own() -> None:
    assert method_notes(CURRENT) == ()
    sampler, pruner, note = method_notes(begun(sampler="gp", rungs="halving").rules)
    assert sampler.startswith("sampler: gp, Optuna's Gaussian process")
    assert pruner.startswith("pruner: halving, successive halving")
    assert note == "note: gp learns from trials that ran to the end; --pruner none gives it more"
    assert len(method_notes(begun(sampler="gp", rungs="none").rules)) == 2


def test_a_grid_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.cli.methods.LARGEST", 60)

    def wide(trial: Any, preset: str) -> None:
        for place in range(3):
            trial.suggest_float(f"p{place}", 0.0, 1.0)

    check_grid(CURRENT, replace(TOY, space=wide), "tiny", {})
    check_grid(CURRENT | {"sampler": "grid"}, TOY, "tiny", {})
    with pytest.raises(UserError, match="the grid of this space has more than 60 configurations"):
        check_grid(CURRENT | {"sampler": "grid"}, replace(TOY, space=wide), "tiny", {})


def test_a_grid_is_searched_to_its_end(call: Call) -> None:
    grid = ("--sampler", "grid", "--no-search", "all", "--space", "optim.name=sgd,adamw")
    said = call(*LOCAL_TOY, "9", *grid, "--pruner", "none")
    assert said.code == 0, said.err
    assert "sampler: grid, every combination" in said.out
    assert "the search ends after 2 trials, not 9" in said.out
    said = call(*LOCAL_TOY, "9", *grid, "--pruner", "halving")
    assert "--pruner halving: study 'toy' began with --pruner none" in said.line
