"""Every sampler and pruner keeps the promises of a study: after a kill at any write it continues as
if never killed, a stop is on record, and a study keeps the method that it began with."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.made_up import EPOCHS, check_kills, play
from tests.toy import TOY
from tune.execution.local import search_locally
from tune.search.methods import make_sampler
from tune.search.rungs import rungs
from tune.study.rules import PRUNER_NAMES, SAMPLER_NAMES
from tune.study.study import Study
from tune.study.trials import Preview

SAMPLERS = [name for name in SAMPLER_NAMES if name != "grid"]


def space(trial: Any, preset: str) -> None:
    """A choice, a range that depends on it, a plain range, integers, a conditional range."""
    name = trial.suggest_categorical("optim.name", ["sgd", "adam"])
    low, high = {"sgd": (1e-3, 1.0), "adam": (1e-4, 1e-1)}[name]
    trial.suggest_float("optim.lr", low, high, log=True)
    trial.suggest_float("dropout", 0.0, 0.5)
    trial.suggest_int("train.batch_size", 10, 40)
    if trial.suggest_categorical("schedule.name", ["constant", "warmup_cosine"]) != "constant":
        trial.suggest_float("schedule.warmup_frac", 0.01, 0.5)


def small(trial: Any, preset: str) -> None:
    trial.suggest_categorical("optim.name", ["sgd", "adam"])
    trial.suggest_float("dropout", 0.0, 0.4)


WIDE = replace(TOY, space=space)
SMALL = replace(TOY, space=small)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: no machine loses power here, so the next process finds what was written."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


SLOW = {"gp"}
"""Samplers that take most of a second per suggestion."""


@pytest.mark.parametrize(
    "sampler",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SAMPLERS],
)
def test_the_study_of_each_sampler_equals_the_one_that_is_never_killed(
    tmp_path: Path, sampler: str
) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    rules = {"sampler": sampler, "rungs": "none"}
    trials = check_kills(tmp_path, WIDE, 14, play, range(5, 40, 7), rules=rules)
    assert len(trials) == 14
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({trial.params["optim.lr"] for trial in trials}) == 14


def test_the_study_of_a_grid_equals_the_one_that_is_never_killed(tmp_path: Path) -> None:
    rules = {"sampler": "grid", "rungs": "none"}
    trials = check_kills(tmp_path, SMALL, 20, play, range(5, 40, 7), rules=rules)
    names, rates = ["sgd", "adam"], [0.0, 0.1, 0.2, 0.3, 0.4]
    found = [(trial.params["optim.name"], trial.params["dropout"]) for trial in trials]
    assert found[0] == ("sgd", 0.2)  # the default, which lies on the grid
    assert sorted(found) == sorted(product(names, rates))
    assert found[1:] != sorted(found[1:])


@pytest.mark.parametrize("pruner", PRUNER_NAMES)
def test_the_study_of_each_pruner_equals_the_one_that_is_never_killed(
    tmp_path: Path, pruner: str
) -> None:
    rules = {"sampler": "random", "rungs": pruner}
    trials = check_kills(tmp_path, WIDE, 14, play, range(3, 40, 6), rules=rules)
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert trials[0].state == TrialState.COMPLETE
    assert bool(stopped) == (pruner != "none")
    for trial in stopped:
        last = max(trial.intermediate_values)
        where = "the median" if pruner == "median" else "its rung"
        assert trial.user_attrs["reason"] == f"below {where} at epoch {last}"
        assert trial.system_attrs["stopped_at_epoch"] == last
        assert last in rungs(EPOCHS, pruner) or pruner == "median"


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "pruner"), [("sobol", "halving"), ("tpe", "median")])
def test_a_trained_study_equals_the_one_that_is_never_killed(
    tmp_path: Path, sampler: str, pruner: str
) -> None:
    """Real trainings in this process."""

    def run(study: Study) -> None:
        search_locally(study, WIDE)

    rules = {"sampler": sampler, "rungs": pruner}
    check_kills(tmp_path, WIDE, 9, run, range(4, 40, 9), rules=rules)


@pytest.mark.slow
def test_a_draw_of_the_gaussian_process_leaves_nothing_behind() -> None:
    """Optuna's own sampler starts from the last kernel, which a restart loses."""
    study = optuna.create_study(direction="maximize", sampler=make_sampler("gp", 0, []))
    for number in range(11):
        trial = study.ask()
        WIDE.space(trial, "tiny")
        study.tell(trial, -abs(trial.params["dropout"] - 0.1) - number / 1000)

    def draw() -> dict[str, Any]:
        preview = Preview(study, 11)
        WIDE.space(preview, "tiny")
        return preview.said

    first = draw()
    assert draw() == first
    joint = study.sampler.infer_relative_search_space(study, study.trials[-1])
    # A range that depends on the optimizer is modelled too, a conditional range is not.
    assert set(joint) == {
        "optim.name",
        "optim.lr",
        "dropout",
        "train.batch_size",
        "schedule.name",
    }
