"""A user's own ranges in an existing space, against that space: what replaces what."""

from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from tests.search_spaces.test_spaces import PRESETS
from tune.experiments import EXPERIMENTS
from tune.search.own_space import as_space, own_space, unused
from tune.search.ranges import Ranges, write_range
from tune.search.space import as_json, describe, ranges_of
from tune.search.space_files import read_ranges


def ready(trial: Any, preset: str) -> None:
    """A space whose optimizers have their own learning rates, and whose warm-up depends on the
    schedule."""
    ranges = {"sgd": (0.01, 1.0), "adam": (1e-4, 1e-2)}
    low, high = ranges[trial.suggest_categorical("optim", ["sgd", "adam"])]
    trial.suggest_float("lr", low, high, log=True)
    if trial.suggest_categorical("schedule", ["constant", "warm"]) == "warm":
        trial.suggest_float("warmup", 0.0, 0.2)


def with_own(*texts: str) -> dict[str, list[str]]:
    """The description of the ready space with these ranges."""
    space = own_space(ready, "tiny", read_ranges(list(texts)))
    found = ranges_of(space, "tiny", {})
    return {key: [write_range(one) for one in ranges] for key, ranges in found.items()}


READY = {
    "optim": ["sgd,adam"],
    "lr": ["0.01..1.0:log when optim=sgd", "0.0001..0.01:log when optim=adam"],
    "schedule": ["constant,warm"],
    "warmup": ["0.0..0.2 when schedule=warm"],
}


def test_without_ranges_the_space_is_the_ready_one() -> None:
    assert own_space(ready, "tiny", {}) is ready
    assert with_own("new=0..1")["lr"] == READY["lr"]


@pytest.mark.parametrize(
    ("texts", "changed"),
    [
        # one range for all optimizers
        (["lr=1e-3..1e-1:log"], {"lr": ["0.001..0.1:log"]}),
        # it is still asked for only where it applies
        (["warmup=0.1..0.5"], {"warmup": ["0.1..0.5 when schedule=warm"]}),
        (
            ["lr=0.1..0.5 when optim=sgd"],
            {"lr": ["0.1..0.5 when optim=sgd", "0.0001..0.01:log when optim=adam"]},
        ),
        # for a branch that had none
        (
            ["warmup=0.1..0.5 when schedule=constant"],
            {"warmup": ["0.1..0.5 when schedule=constant", "0.0..0.2 when schedule=warm"]},
        ),
        (["optim=adam"], {"optim": ["adam"], "lr": ["0.0001..0.01:log"]}),
        (["new=0..1"], {"new": ["0..1"]}),
        (["new=a,b when optim=sgd"], {"new": ["a,b when optim=sgd"]}),
        # new switches, and parameters that depend on them, in any order
        (
            ["beta=0.5..0.9 when by=x", "by=x,y"],
            {"by": ["x,y"], "beta": ["0.5..0.9 when by=x"]},
        ),
        # a choice that is new to the space, with ranges for what depends on it
        (
            ["new=0..1", "optim=sgd,lion", "lr=1e-5..1e-3:log when optim=lion"],
            {
                "new": ["0..1"],
                "optim": ["sgd,lion"],
                "lr": ["0.01..1.0:log when optim=sgd", "1e-05..0.001:log when optim=lion"],
            },
        ),
        # a choice that nothing depends on
        (["schedule=constant,step"], {"schedule": ["constant,step"], "warmup": []}),
    ],
)
def test_what_replaces_what(texts: list[str], changed: dict[str, list[str]]) -> None:
    expected = {key: ranges for key, ranges in (READY | changed).items() if ranges}
    found = with_own(*texts)
    assert {key: sorted(ranges) for key, ranges in found.items()} == {
        key: sorted(ranges) for key, ranges in expected.items()
    }


def test_a_new_choice_needs_ranges_for_what_depends_on_it() -> None:
    with pytest.raises(ValueError, match=r"optim=lion is new here, and lr depend on it") as refused:
        with_own("optim=sgd,lion")
    assert "--space 'lr=LOW..HIGH when optim=lion'" in str(refused.value)
    with_own("optim=sgd,lion", "lr=0.1..1")  # one range for all is one for lion too


def test_a_new_choice_of_what_not_all_trials_have() -> None:
    """The ready space fails on the new choice, in the branches that ask for it."""

    def conditional(trial: Any, preset: str) -> None:
        if trial.suggest_categorical("schedule", ["constant", "warm"]) == "warm":
            shape = trial.suggest_categorical("shape", ["linear", "cosine"])
            assert {"linear": 1, "cosine": 2}[shape]

    space = own_space(conditional, "tiny", read_ranges(["shape=linear,step"]))
    shapes = [write_range(one) for one in ranges_of(space, "tiny", {})["shape"]]
    assert shapes == ["linear,step when schedule=warm"]


def test_trials_draw_what_the_description_says() -> None:
    texts = ["optim=sgd,lion", "lr=1e-5..1e-3:log when optim=lion", "n=1..9:step=2", "k=a,b"]
    space = own_space(ready, "tiny", read_ranges(texts))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(40):
        space(study.ask(), "tiny")
    for trial in study.trials:
        lion = trial.params["optim"] == "lion"
        rates = FloatDistribution(1e-5, 1e-3, log=True) if lion else None
        assert rates is None or trial.distributions["lr"] == rates
        assert ("warmup" in trial.params) == (trial.params["schedule"] == "warm")
        assert trial.params["n"] in (1, 3, 5, 7, 9)
    assert {trial.params["optim"] for trial in study.trials} == {"sgd", "lion"}


@pytest.mark.parametrize(("most", "step"), [(4, 1), (6, 2), (90, 1)])
def test_a_space_is_walked_with_numbers_of_its_ranges_alone(most: int, step: int) -> None:
    """A space that looks something up by the number must not fail."""
    allowed = range(2, most + 1, step)

    def by_number(trial: Any, preset: str) -> None:
        if trial.suggest_int("n", 2, most, step=step) not in allowed:
            raise KeyError

    assert list(describe(by_number, "tiny", {})) == ["n"]


def test_of_a_long_range_only_the_end_is_entered() -> None:
    asked = []

    def long(trial: Any, preset: str) -> None:
        asked.append(trial.suggest_int("n", 1, 90))

    describe(long, "tiny", {})
    assert set(asked) == {1, 90}


def test_ranges_alone_are_a_space() -> None:
    space = as_space(read_ranges(["lr=1e-4..1:log", "opt=sgd,adam", "m=0.0..1 when opt=sgd"]))
    found = {key: [condition for condition, _ in one] for key, one in space_of(space).items()}
    assert found == {"lr": [""], "opt": [""], "m": ["opt=sgd"]}


def space_of(space: Any) -> Any:
    return describe(space, "tiny", {})


def test_ranges_that_no_trial_asks_for_are_named() -> None:
    ranges = read_ranges(["warmup=0.1..0.5", "lr=0.1..0.2 when optim=lion", "new=0..1"])
    space = own_space(ready, "tiny", ranges)
    assert unused(space, "tiny", {}, ranges) == ["lr"]
    assert unused(space, "tiny", {"schedule": "constant"}, ranges) == ["warmup", "lr"]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_space_that_is_written_and_read_again_is_the_same(name: str, preset: str) -> None:
    """This holds for every ready space: as a user's ranges in it, and as a space by themselves."""
    space = EXPERIMENTS[name].space
    described = ranges_of(space, preset, {})
    typed = [f"{key}={write_range(one)}" for key, ranges in described.items() for one in ranges]
    ranges: Ranges = read_ranges(typed)
    expected = as_json(describe(space, preset, {}))
    assert as_json(describe(own_space(space, preset, ranges), preset, {})) == expected
    assert as_json(describe(as_space(ranges), preset, {})) == expected
    assert any(
        isinstance(one.distribution, CategoricalDistribution) for one in described["optim.name"]
    )
