"""Flips and quarter turns that fit the data (`data.up`): which of them a search may draw, and which
the default configuration uses."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tune.experiments import Experiment

UP = "data.up"
UNSET = "unset"
"""The policies and presets decide, as in studies made before this option existed."""

_ADMITTED = {
    "none": (),
    "horizontal": ("aug.hflip",),
    "all": ("aug.hflip", "aug.vflip", "aug.rot90"),
}
_BY_VIEWS = frozenset({"ssl", "ssl-simclr", "ssl-moco", "ssl-vicreg", "ssl-dino"})
"""Experiments whose named view policies have flips of their own."""
_EMBEDDED = {"glyphs": "none", "digits": "none", "earth": "all"}


def oriented(
    base: Mapping[str, Any],
    pins: Mapping[str, Any],
    experiment: str,
    begun: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the values of `base` that follow from `data.up`: `data.up` itself, and 0 for
    everything that it does not allow.

    Args:
        base: flat config.
        pins: typed values, which stay unchanged.
        begun: values that the study keeps from its first start.
    """
    if UP not in base:
        return {}
    up = base[UP]
    if up == UNSET and UP not in begun:
        up = _default(experiment, str(base["data.name"]))
    values: dict[str, Any] = {UP: up}
    if up == UNSET:
        return values

    admitted = _ADMITTED[up]
    for key in _ADMITTED["all"]:
        if key not in base or key in pins:
            continue
        own = base[key] is None  # the policy's own value, which is 0.5 for most of `ssl`
        if key in admitted and own:
            flips = key == "aug.hflip" and experiment in _BY_VIEWS
            values[key] = 0.5 if flips else 0.0
        # Most policies of `ssl` flip; in the other experiments the default policy does not.
        stays = own and UP not in pins and experiment not in _BY_VIEWS
        if key not in admitted and not stays:
            values[key] = 0.0
    return values


def _default(experiment: str, data: str) -> str:
    """Return the orientations of a data set. A folder is assumed to contain photographs, for which
    the named policies of `ssl` keep their own flips, as published."""
    otherwise = UNSET if experiment in _BY_VIEWS else "horizontal"
    if data in _EMBEDDED:
        return _EMBEDDED[data]

    from trainables.data.named_torchvision import up_of  # it imports torch

    return up_of(data) or otherwise


def facing(experiment: Experiment, base: Mapping[str, Any]) -> Experiment:
    """Return the experiment whose space draws the orientations that `base` allows, under the rules
    with which the study started."""
    known = inspect.signature(experiment.space).parameters
    given: dict[str, Any] = {}

    up = base.get(UP, UNSET)
    if up != UNSET and "up" in known:
        given["up"] = up
    if "rules" in known:
        given["rules"] = base["train.rules"]

    if not given:
        return experiment
    return replace(experiment, space=partial(experiment.space, **given))
