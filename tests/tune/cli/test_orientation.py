"""`data.up` bounds the flips and quarter turns that a search draws."""

from typing import Any

import pytest

from search_spaces.classify import SETTINGS
from tests.commands import to_resolve
from trainables.augment.view_config import ViewConfig
from trainables.config import build
from tune.backbones.resolve import in_setting
from tune.cli.default_config import resolve
from tune.cli.orientation import facing
from tune.cli.prepare import with_balance
from tune.experiments import EXPERIMENTS, Experiment
from tune.search.space import asked_for, within

FLIPS = ("aug.hflip", "aug.vflip", "aug.rot90")


def resolved(
    experiment: str | Experiment,
    data: str,
    *typed: str,
    preset: str = "tiny",
    begun: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The base of a study, and the distributions of the flips that its space asks for."""
    if isinstance(experiment, str):
        experiment = EXPERIMENTS[experiment]
    options = to_resolve(list(typed), preset)
    kept = {"data.name": data, **(begun or {})}
    _, base, pins, _ = resolve(options, experiment, {}, {}, kept)
    space = facing(experiment, base).space
    asked = asked_for(space, preset, base, pins)
    assert all(within(distribution, base[key]) for key, distribution in asked.items())
    build(experiment.config, base)
    return base, {key: asked[key] for key in FLIPS if key in asked}


@pytest.mark.parametrize(
    ("name", "preset", "data", "up", "drawn"),
    [
        ("segment", "tiny", "earth", "all", FLIPS),
        ("segment", "full", "/photographs", "horizontal", FLIPS[:1]),
        ("classify", "full", "/photographs", "horizontal", FLIPS[:1]),
        ("classify", "tiny", "/photographs", "horizontal", FLIPS[:1]),
        ("pretrain", "full", "glyphs", "none", ()),
        ("pretrain", "tiny", "glyphs", "none", ()),
        ("fewshot", "tiny", "digits", "none", ()),
        ("ssl", "tiny", "glyphs", "none", ()),
        ("ssl", "tiny", "earth", "all", FLIPS),
        ("ssl", "full", "/photographs", "unset", ()),
    ],
)
def test_defaults_fit_the_data(
    name: str, preset: str, data: str, up: str, drawn: tuple[str, ...]
) -> None:
    base, asked = resolved(name, data, preset=preset)
    assert base["data.up"] == up
    assert tuple(asked) == drawn
    for distribution in asked.values():
        assert 0.0 in distribution.choices
    for key in set(FLIPS) - set(drawn):
        assert not base.get(key)


@pytest.mark.parametrize("up", ["none", "horizontal", "all"])
@pytest.mark.parametrize("name", ["segment", "classify", "ssl"])
def test_a_typed_value_rules(name: str, up: str) -> None:
    data = "earth" if name == "segment" else "glyphs"
    base, asked = resolved(name, data, f"data.up={up}")
    drawn = {"none": (), "horizontal": FLIPS[:1], "all": FLIPS}[up]
    assert tuple(asked) == drawn
    for key in set(FLIPS) - set(drawn):
        assert base[key] == 0.0


def test_a_pin_of_a_flip_stays() -> None:
    base, asked = resolved("segment", "earth", "data.up=none", "aug.vflip=0.3")
    assert base["aug.vflip"] == 0.3
    assert not asked


def test_no_policy_mirrors_letters() -> None:
    base, _ = resolved("ssl", "glyphs", "aug.policy=byol")
    views = ViewConfig(policy="byol", hflip=base["aug.hflip"]).views()
    assert [view.hflip for view in views] == [0.0, 0.0]

    begun, _ = resolved("ssl", "glyphs", begun={"data.up": "unset"})
    assert begun["aug.hflip"] is None


def test_a_study_from_before_keeps_its_space() -> None:
    base, asked = resolved("segment", "earth", begun={"data.up": "unset"})
    assert base["data.up"] == "unset"
    assert tuple(asked) == FLIPS
    assert (asked["aug.rot90"].low, asked["aug.rot90"].high) == (0.0, 0.75)
    assert base["aug.rot90"] == 0.75


def test_spaces_with_balanced_classes_draw_the_same_flips() -> None:
    pretrain = EXPERIMENTS["pretrain"]
    setting_a = in_setting(EXPERIMENTS["classify"], SETTINGS["A"])
    for experiment in (pretrain, setting_a):
        base, asked = resolved(experiment, "glyphs", "data.up=all")
        balanced_base, balanced = resolved(with_balance(experiment), "glyphs", "data.up=all")
        assert tuple(asked) == FLIPS
        assert balanced == asked
        assert balanced_base == base
