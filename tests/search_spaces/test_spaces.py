"""Search spaces: every point is a valid config, parameters that do not apply are not asked for, and
the recipes of the literature are inside."""

from functools import cache, partial
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from search_spaces.segment import segment, segment_from_backbone
from search_spaces.ssl import ssl
from tests.commands import to_resolve
from trainables.augment.view_config import PRESETS as AUGMENTATIONS
from trainables.config import build, flatten
from tune.cli.default_config import resolve
from tune.experiments import EXPERIMENTS
from tune.search.space import Pinned, asked_for, contains, describe, within

POINTS = 200
PRESETS = [
    (name, preset) for name, experiment in EXPERIMENTS.items() for preset in experiment.presets
]
CONDITIONAL = {
    "schedule.warmup_frac": "warmup_cosine",
    "schedule.step_gamma": "step",
    "schedule.power": "polynomial",
}
every_preset = pytest.mark.parametrize(("name", "preset"), PRESETS)


@cache
def points(name: str, preset: str) -> tuple[FrozenTrial, ...]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(POINTS):
        EXPERIMENTS[name].space(study.ask(), preset)
    return tuple(study.get_trials(deepcopy=False))


def default(name: str, preset: str) -> dict[str, Any]:
    experiment = EXPERIMENTS[name]
    return flatten(build(experiment.config, experiment.presets[preset]))


@every_preset
def test_every_point_is_a_valid_config(name: str, preset: str) -> None:
    base, experiment = default(name, preset), EXPERIMENTS[name]
    for point in points(name, preset):
        config: Any = build(experiment.config, base | point.params)
        # points use the config's own names
        assert {key: flatten(config)[key] for key in point.params} == point.params
        if name == "ssl":
            config.aug.views()


@every_preset
def test_the_default_is_inside(name: str, preset: str) -> None:
    base, space = default(name, preset), EXPERIMENTS[name].space
    asked = asked_for(space, preset, base, {})
    assert asked.keys() <= base.keys()
    for key, distribution in asked.items():
        assert within(distribution, base[key]), f"{key}={base[key]} is outside {distribution}"
    assert contains(space, preset, base)


@every_preset
def test_a_pin_takes_the_default_along(name: str, preset: str) -> None:
    """After `--set optim.name=sgd`, Adam's learning rate would lie outside SGD's range, where no
    trial could find it again."""
    experiment, moved = EXPERIMENTS[name], 0
    asked = asked_for(experiment.space, preset, default(name, preset), {})
    for key, choices in (
        (k, d.choices) for k, d in asked.items() if isinstance(d, CategoricalDistribution)
    ):
        for choice in choices:
            options = to_resolve([f"{key}={choice}"], preset)
            _, base, pins, notes = resolve(options, experiment, {}, {}, {})
            assert base[key] == pins[key] == choice
            left = asked_for(experiment.space, preset, base, pins)
            assert [k for k, d in left.items() if not within(d, base[k])] == []
            build(experiment.config, base)
            moved += len(notes)
            assert all(note.startswith("note on the default: ") for note in notes)
    assert moved or "optim.name" not in asked


@every_preset
def test_conditional_parameters_are_asked_only_where_they_apply(name: str, preset: str) -> None:
    for point in points(name, preset):
        for key, schedule in CONDITIONAL.items():
            assert (key in point.params) == (point.params["schedule.name"] == schedule)
    assert {p.params["schedule.name"] for p in points(name, preset)} >= set(CONDITIONAL.values())


@every_preset
def test_a_pinned_value_is_not_searched(name: str, preset: str) -> None:
    pins = {"schedule.name": "step", "optim.lr": 0.123}
    asked = asked_for(EXPERIMENTS[name].space, preset, default(name, preset), pins)
    assert not asked.keys() & {
        "schedule.name",
        "optim.lr",
        "schedule.warmup_frac",
        "schedule.power",
    }
    assert "schedule.step_gamma" in asked
    described = describe(EXPERIMENTS[name].space, preset, pins)
    assert described.keys() & {*pins, *CONDITIONAL} == {"schedule.step_gamma"}


def holds(condition: str, params: dict[str, Any]) -> bool:
    """True if a point meets the condition, such as `optim.name=adam|sgd`, or if there is none."""
    key, _, values = condition.partition("=")
    return not condition or str(params.get(key)) in values.split("|")


@every_preset
def test_description_says_what_is_asked_and_when(name: str, preset: str) -> None:
    described = describe(EXPERIMENTS[name].space, preset, {})
    met: set[tuple[str, BaseDistribution]] = set()
    for point in points(name, preset):
        said = {
            (key, d)
            for key, variants in described.items()
            for condition, d in variants
            if holds(condition, point.params)
        }
        asked = set(point.distributions.items())
        assert said == asked
        met |= asked
    assert met == {(key, d) for key, variants in described.items() for _, d in variants}


def test_description_of_a_known_space() -> None:
    def space(trial: Any, preset: str) -> None:
        if trial.suggest_categorical("kind", ["a", "b", "c"]) == "c":
            trial.suggest_int("depth", 1, 5)
            if trial.suggest_categorical("deep", [False, True]):
                trial.suggest_float("rate", 0.0, 1.0)
        else:
            trial.suggest_float("rate", 1e-3, 1.0, log=True)

    described = {
        key: [(condition, repr(d)) for condition, d in variants]
        for key, variants in describe(space, "tiny", {}).items()
    }
    assert [condition for condition, _ in described["kind"]] == [""]
    assert [condition for condition, _ in described["depth"]] == ["kind=c"]
    assert [condition for condition, _ in described["deep"]] == ["kind=c"]
    assert [condition for condition, _ in described["rate"]] == ["kind=a|b", "deep=True"]


def test_pinned_answers_every_kind_of_question() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    pinned = Pinned(trial, {"a": 0.5, "b": 3, "c": "x"})
    assert (
        pinned.suggest_float("a", 0, 1),
        pinned.suggest_int("b", 1, 2),
        pinned.suggest_categorical("c", ["y"]),
    ) == (0.5, 3, "x")
    assert (pinned.suggest_categorical("d", ["z"]), trial.params) == ("z", {"d": "z"})


# Recipes of the literature and of the course reports (docs/architecture.md, "Search spaces"), each
# with the batch size that it is for.
LONG = {"schedule.name": "warmup_cosine", "schedule.warmup_frac": 0.1}  # 10 of 100 epochs
BYOL_VIEWS = {
    "aug.policy": "byol",
    "aug.crop_scale_min": 0.08,
    "aug.crop_ratio": 4 / 3,
    "aug.strength": 1.0,
    "aug.grayscale": 0.2,
}
LARS = {"optim.name": "lars", "head.tau0": 0.996, **LONG, **BYOL_VIEWS}
SGD, ADAMW, ADAM = ({"optim.name": name} for name in ("sgd", "adamw", "adam"))
R0_STRENGTHS = {
    "aug.crop_scale_min": 0.08,
    "aug.crop_ratio": 4 / 3,
    "aug.strength": 1.0,
    "aug.grayscale": 0.2,
}
R1_STRENGTHS = R0_STRENGTHS | {"aug.grayscale": 0.0}
RECIPES: dict[str, dict[str, Any]] = {
    "BYOL, LARS .2 x B/256, B 256": LARS
    | {"optim.lr": 0.2, "optim.weight_decay": 1.5e-6, "train.batch_size": 256},
    "BYOL, LARS .2 x B/256, B 64": LARS
    | {"optim.lr": 0.05, "optim.weight_decay": 1e-6, "train.batch_size": 64},
    "BYOL, LARS 2 x B/256, B 256": LARS
    | {"optim.lr": 2.0, "optim.weight_decay": 1e-5, "train.batch_size": 256},
    "SGD .03": SGD | LONG | {"optim.lr": 0.03, "optim.weight_decay": 1e-5, "head.tau0": 0.99},
    "SGD .3": SGD | LONG | {"optim.lr": 0.3, "optim.weight_decay": 5e-4, "head.tau0": 0.996},
    "AdamW 3e-4": ADAMW | LONG | {"optim.lr": 3e-4, "head.tau0": 0.97},
    "AdamW 4e-3": ADAMW | LONG | {"optim.lr": 4e-3, "head.tau0": 0.996},
    "report R0": ADAM
    | LONG
    | {"optim.lr": 1e-5, "train.batch_size": 256, "aug.policy": "reports-r0"}
    | R0_STRENGTHS,
    "report R1, Adam 5e-4": ADAM
    | {"optim.lr": 5e-4, "train.batch_size": 128, "aug.policy": "reports-r1"}
    | R1_STRENGTHS,
    "report R1, Adam 1e-2": ADAM
    | {"optim.lr": 1e-2, "train.batch_size": 256, "aug.policy": "reports-r1"}
    | R1_STRENGTHS,
    "report R1, TrivialAugment": ADAM
    | {"optim.lr": 5e-4, "train.batch_size": 256, "aug.policy": "trivial", "aug.exact": True},
    "report R2": ADAM
    | {
        "optim.lr": 1e-4,
        "train.batch_size": 64,
        "schedule.name": "constant",
        "aug.policy": "none",
        "aug.exact": True,
    },
    "report R3": ADAM
    | {"optim.lr": 3e-4, "train.batch_size": 64, "aug.policy": "reports-r0"}
    | R0_STRENGTHS,
    "simplicial embeddings": {"head.simplicial": True},
    "no simplicial embeddings": {"head.simplicial": False},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_full_space_contains_the_recipe(recipe: dict[str, Any]) -> None:
    asked = asked_for(ssl, "full", default("ssl", "full") | recipe, {})
    # all of it is searched, so `contains` checks all of it
    assert recipe.keys() <= asked.keys()
    for key, value in recipe.items():
        assert within(asked[key], value), f"{key}={value} is outside {asked[key]}"
    assert contains(ssl, "full", recipe)


# DeepLab's recipe (Chen et al. 2017, section 4.1), and the networks of the reports, which state
# neither learning rate nor augmentation.
NADIR = {
    "aug.scale_min": 0.5,
    "aug.scale_max": 2.0,
    "aug.hflip": 0.5,
    "aug.vflip": 0.5,
    "aug.rot90": 0.75,
}
POLY = SGD | {"optim.weight_decay": 1e-4, "schedule.name": "polynomial", "schedule.power": 0.9}
FCN = {"loss.name": "ce", "train.batch_size": 8} | SGD
SEGMENT_RECIPES: dict[str, dict[str, Any]] = {
    "DeepLab": POLY
    | NADIR
    | {
        "model.name": "deeplabv3-resnet101",
        "optim.lr": 0.01,
        "loss.name": "ce",
        "loss.aux_weight": 0.4,
    },
    "DeepLab, lr .02, weighted": POLY
    | NADIR
    | {
        "model.name": "deeplabv3-resnet50",
        "optim.lr": 0.02,
        "loss.name": "weighted_ce",
        "loss.class_power": 0.5,
        "loss.aux_weight": 0.5,
    },
    "DeepLab, no auxiliary head, Dice": POLY
    | {
        "model.name": "deeplabv3-resnet50",
        "optim.lr": 0.03,
        "loss.name": "ce_dice",
        "loss.dice_weight": 1.0,
        "loss.aux_weight": 0.0,
    },
    "report R0, R1: 7x7 convolution": FCN | {"model.name": "fcn32s-vgg16", "model.head": "conv7"},
    "report R2: five doublings": FCN | {"model.name": "fcn32s-vgg16", "model.head": "deconv5"},
    "report R4, baseline": FCN | {"model.name": "fcn32s-vgg16", "model.head": "conv2"},
    "report R4, VGG19": FCN | {"model.name": "fcn32s-vgg19", "model.head": "conv7"},
    "report R1, DeepLabV3": SGD | {"model.name": "deeplabv3-resnet50", "optim.lr": 1e-3},
    "report R2, DeepLabV3": SGD | {"model.name": "deeplabv3-resnet101", "optim.lr": 1e-3},
}


@pytest.mark.parametrize("recipe", SEGMENT_RECIPES.values(), ids=SEGMENT_RECIPES.keys())
def test_full_space_of_segmentation_contains_the_recipe(recipe: dict[str, Any]) -> None:
    flat = default("segment", "full") | recipe
    config: Any = build(EXPERIMENTS["segment"].config, flat)
    asked = asked_for(segment, "full", flat, {})
    assert recipe.keys() <= asked.keys()
    for key, value in recipe.items():
        assert within(asked[key], value), f"{key}={value} is outside {asked[key]}"
    assert ("model.head" in asked) == config.model.name.startswith("fcn32s")
    assert ("loss.aux_weight" in asked) == config.model.name.startswith("deeplabv3")
    assert contains(segment, "full", recipe)


def test_a_smaller_rate_of_the_backbone_is_for_one_that_has_learned() -> None:
    base = default("segment", "full")
    key = "freeze.backbone_lr"
    assert key not in asked_for(segment, "full", base, {})
    assert key in asked_for(partial(segment, rules=1), "full", base, {})  # in earlier studies
    loaded = asked_for(segment_from_backbone, "full", base, {})
    assert within(loaded[key], 0.1)  # DeepLab's value


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("report")])
def test_the_views_of_a_report_are_its_policy(name: str) -> None:
    """Crops, blur and other settings of the untuned default must not leak into them."""
    config: Any = build(EXPERIMENTS["ssl"].config, default("ssl", "full") | RECIPES[name])
    assert config.aug.views() == AUGMENTATIONS[config.aug.policy]


@pytest.mark.parametrize(
    "outside",
    [
        {"optim.name": "sgd", "optim.lr": 4.0},
        {"optim.name": "adam", "optim.lr": 0.3},
        {"train.batch_size": 8},
        {"aug.policy": "no such"},
    ],
)
def test_contains_refuses(outside: dict[str, Any]) -> None:
    assert not contains(ssl, "full", outside)


def test_the_asymmetric_views_of_byol_are_not_overridden() -> None:
    """Grill et al. 2020, table 6: blur 1 / .1, solarize 0 / .2."""
    flat = default("ssl", "full") | BYOL_VIEWS
    assert not {"aug.blur", "aug.solarize"} & asked_for(ssl, "full", flat, {}).keys()
    config: Any = build(EXPERIMENTS["ssl"].config, flat)
    one, two = config.aug.views()
    assert (one.blur, two.blur, one.solarize, two.solarize) == (1.0, 0.1, 0.0, 0.2)
