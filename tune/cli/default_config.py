"""Resolve the config of trial 0, the default, and the search around it: first a preset, then what
the study started with, then what was typed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainables.config import build, flatten, nearest
from trainables.errors import UserError
from tune.cli.methods import check_grid, method_notes
from tune.cli.option_values import parse_pins
from tune.cli.options import Options
from tune.cli.orientation import facing, oriented
from tune.cli.own_ranges import (
    check_default,
    check_drawn,
    left_out,
    notes_on,
    typed_ranges,
    with_ranges,
)
from tune.experiments import Experiment
from tune.search.ranges import Ranges
from tune.search.space import Nearest, fitted
from tune.study.manifest import Manifest, read_manifest

_KEPT = (
    "data.split",
    "data.group",
    "data.judged",
    "data.up",
    "data.layout",
    "train.objective",
    "train.rules",
)
"""Config values that a study keeps from its first start."""
_SHARED = ("data.split",)
"""Config values that all settings of a comparison share."""
_BY_OPTION = frozenset(
    [
        "seed",
        "data.name",
        "data.layout",
        "data.skip_corrupt",
        "data.transductive",
        "train.objective",
        "init.source",
        "init.file",
        "init.sha256",
        "init.origin",
    ]
)
"""Config values that options set at every start."""


@dataclass(frozen=True)
class Resolved:
    """The default and the search around it, resolved."""

    experiment: Experiment
    """Experiment with the search space of its setting, including the user's ranges."""
    preset: str
    base: dict[str, Any]
    """The complete flat config of trial 0."""
    pins: dict[str, Any]
    """Config values that no trial changes."""
    ranges: Ranges
    """The user's own ranges."""
    notes: tuple[str, ...]


def resolve_search(
    options: Options,
    experiment: Experiment,
    fixed: dict[str, Any],
    start: dict[str, Any],
    kept: Manifest | None,
    rules: Mapping[str, Any],
) -> Resolved:
    """Resolve options into the search that they request.

    Args:
        fixed: config values that define the setting; they are pinned too.
        start: config values of the backbone that trials start from.
        kept: manifest of the study, or of an earlier one whose default it shares; None for a new
            one.
        rules: rules of the study; its sampler may be a grid.
    Raises:
        UserError: as in `resolve`; also if drawn values are not a valid config, or the grid is too
            large.
    """
    experiment = with_presets_of(kept, experiment)
    preset, base, pins, notes = resolve(options, experiment, fixed, start, begun(kept))

    ranges = typed_ranges(options, experiment)
    experiment = with_ranges(facing(experiment, base), preset, ranges)
    if ranges:
        check_drawn(experiment, preset, base, pins)
    notes += notes_on(experiment, preset, pins, ranges)
    check_grid(rules, experiment, preset, pins)
    notes += method_notes(rules)
    return Resolved(experiment, preset, base, pins, ranges, notes)


def resolve(
    options: Options,
    experiment: Experiment,
    fixed: dict[str, Any],
    start: dict[str, Any],
    begun: dict[str, Any],
) -> tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Return the preset, the complete flat config of trial 0, the pins, and one note for each
    default value outside the range that a pin leaves.

    Args:
        fixed: config values that define the setting; they are pinned too.
        start: config values of the backbone that trials start from.
        begun: config values that the study keeps from its first start.
    Raises:
        UserError: a preset or key is unknown, a value is out of range, a pin contradicts the
            setting, or a range excludes the default.
    """
    pins = parse_pins(options.set)
    ranges = typed_ranges(options, experiment)
    for key in sorted(fixed.keys() & {*pins, *ranges}):
        option = "--set" if key in pins else "--space"
        raise UserError(
            f"{option} {key}: setting {options.setting} is {key}={fixed[key]}; leave it out, "
            "or choose another setting"
        )

    preset = preset_of(options, experiment)
    typed: dict[str, Any] = {"seed": options.seed}
    if experiment.function is None:
        typed |= _about_images(options, begun)

    flat = {**experiment.presets[preset], **typed, **fixed, **start, **pins}
    base = flatten(build(experiment.config, flat))
    base |= oriented(base, pins, experiment.name, begun)
    experiment = with_ranges(facing(experiment, base), preset, ranges)
    unsearched = left_out(options, experiment, preset, ranges)
    # If a key is searched anyway, `--set` gives its default.
    pinned = {key: base[key] for key in [*fixed, *pins, *unsearched] if key not in ranges}
    check_default(experiment, preset, base, pinned, ranges)

    # Adam's default rate may be out of range once `--set` has limited the search to SGD.
    default = Nearest(base, base)
    base |= fitted(default, experiment.space, preset, pinned)
    notes = tuple(f"note on the default: {note}" for note in default.notes)
    return preset, base, pinned, notes


def preset_of(options: Options, experiment: Experiment) -> str:
    """Return `--preset`, or the default one: `full` for a folder of images, otherwise `tiny`.

    Raises:
        UserError: there is no such preset.
    """
    on_folder = bool(options.data) and is_folder(str(options.data))
    preset = options.preset or ("full" if on_folder else "tiny")
    if options.preset is None and len(experiment.presets) == 1:
        (preset,) = experiment.presets

    if preset not in experiment.presets:
        raise UserError(f"unknown preset {preset!r}{nearest(preset, experiment.presets)}")
    return preset


def _about_images(options: Options, begun: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config values that options set for an image experiment."""
    typed: dict[str, Any] = {"data.skip_corrupt": options.skip_corrupt, **begun}
    if options.objective:
        typed["train.objective"] = _metric_name(options.objective[0])
    if options.transductive:
        typed["data.transductive"] = True
    if options.layout is not None:
        typed["data.layout"] = options.layout
    if options.data is not None:
        from trainables.data.named import data_name  # it imports torch

        typed["data.name"] = data_name(options.data)
    return typed


def begun(there: Manifest | None) -> dict[str, Any]:
    """Return the config values that a study keeps from its first start."""
    if there is None:
        return {}
    return {key: there.base[key] for key in _KEPT if there.base.get(key)}


def begun_beside(beside: Path | None) -> dict[str, Any]:
    """Return the config values that a study takes from another setting of its comparison.

    Args:
        beside: manifest of that setting's study; None if none has started.
    """
    if beside is None:
        return {}
    base = read_manifest(beside).base
    return {key: base[key] for key in _SHARED if key in base}


def with_presets_of(there: Manifest | None, experiment: Experiment) -> Experiment:
    """Return the experiment with the default that the study started with, even if the preset has
    changed since.

    Pins and values set by options are left to the current command: a different value there means a
    different study.
    """
    if there is None or there.preset not in experiment.presets:
        return experiment

    default = dict(experiment.presets[there.preset])
    for key, value in there.base.items():
        is_typed = key in there.pins and key not in there.unsearched
        if not is_typed and key not in _BY_OPTION:
            default[key] = value
    return replace(experiment, presets={**experiment.presets, there.preset: default})


def _metric_name(typed: str) -> str:
    """Return the full name of a metric, e.g. `val/macro_f1` for `macro_f1`."""
    return typed if "/" in typed else f"val/{typed}"


def is_folder(data: str) -> bool:
    """True if `--data` names no embedded data set."""
    from trainables.data import EMBEDDED  # imports torch, which a refusal need not wait for

    return data not in EMBEDDED
