"""Flat dicts to configs and back; one clear line for each kind of mistake."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from trainables.byol import BYOLConfig
from trainables.config import build, config, flatten
from trainables.errors import UserError
from tune.experiments import EXPERIMENTS


@config
class Inner:
    name: Literal["none", "sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0, le=10)] = 0.1
    crop: float | None = 0.5


@config
class Outer:
    inner: Inner = Inner()
    steps: int = 3
    on: bool = False

    def __post_init__(self) -> None:
        if self.steps > 5:
            raise ValueError(f"`steps <= 5` must hold, but got steps={self.steps}")


def test_strings_are_converted() -> None:
    built = build(Outer, {"inner.lr": "3e-2", "steps": "4", "on": "true"})
    assert flatten(built) == {
        "inner.name": "sgd",
        "inner.lr": 0.03,
        "inner.crop": 0.5,
        "steps": 4,
        "on": True,
    }


def test_none_is_a_name_where_it_is_one() -> None:
    built = build(Outer, {"inner.name": "none", "inner.crop": "none"})
    assert (built.inner.name, built.inner.crop) == ("none", None)


@pytest.mark.parametrize("preset", ["tiny", "full"])
def test_flatten_is_the_inverse_of_build(preset: str) -> None:
    for experiment in EXPERIMENTS.values():
        built = build(experiment.config, experiment.presets[preset])
        assert build(experiment.config, flatten(built)) == built


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"lr": 1}, "unknown config key 'lr'; did you mean 'inner.lr'?"),
        ({"inner.lrr": 1}, "unknown config key 'inner.lrr'; did you mean 'inner.lr'?"),
        ({"zzz": 1}, "unknown config key 'zzz'; valid: inner.crop, inner.lr"),
        ({"inner.lr": "-1"}, "inner.lr='-1' is not valid: must be greater than 0"),
        ({"inner.lr": "nan"}, "inner.lr='nan' is not valid: must be a finite number"),
        ({"inner.name": "sgdd"}, "inner.name='sgdd' is not valid: must be 'none' or 'sgd'"),
        ({"inner.name": None}, "inner.name=None is not valid"),
        ({"steps": "2.5"}, "steps='2.5' is not valid: must be a valid integer"),
        ({"steps": 7}, "`steps <= 5` must hold, but got steps=7"),
    ],
)
def test_mistakes(flat: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        build(Outer, flat)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_that_is_no_number_is_named_once() -> None:
    with pytest.raises(UserError) as error:
        build(Outer, {"inner.lr": "fast"})
    assert str(error.value) == "inner.lr='fast' is not valid: must be a valid number"


def test_two_mistakes_are_both_named() -> None:
    with pytest.raises(UserError, match=r"optim.lr=0 .*; train.epochs=0 "):
        build(BYOLConfig, {"optim.lr": 0, "train.epochs": 0})
