"""What was typed on the command line, checked and resolved: options -> everything that a study
needs to begin."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.classify import Setting
from trainables.config import build, flatten, nearest
from trainables.errors import UserError
from tune.backbones.resolve import (
    choose,
    for_every_machine,
    from_backbone,
    in_setting,
    start_values,
)
from tune.experiments import Experiment
from tune.search.space import Nearest, as_json, describe, fitted
from tune.study.manifest import Manifest
from tune.study.warm_start import warm_start

_FILE = dict.fromkeys(("init.file", "init.sha256", "init.origin"), "backbone")
_OPTIONS = {"data.name": "data", "seed": "seed", "init.source": "setting"} | _FILE
"""Config values that have an option of their own."""


@dataclass(frozen=True)
class Options:
    """What was typed."""

    experiment: str
    data: str | None
    trials: int
    study: str | None
    storage: str
    seed: int
    time_budget: str | None
    set: list[str]
    preset: str | None
    workers: int
    gpus_per_worker: float | None
    concurrent: int | None
    repeats: int
    skip_corrupt: bool
    setting: str | None
    backbone: str | None
    local: bool
    trial: str | None
    plan: bool
    warm_start: str | None = None
    compare: str | None = None


@dataclass(frozen=True)
class Prepared:
    """A study that could begin: all that can be refused has been looked at."""

    directory: Path
    experiment: Experiment
    """With the space of its setting."""
    manifest: Manifest
    config: Any
    data: Any
    start: str
    """What trials start from, in one line; "" for a random initialisation."""
    notes: tuple[str, ...] = ()
    """What of the default configuration gave way to a pin."""


def prepare(options: Options, experiment: Experiment, storage: Path) -> Prepared:
    """Resolve the options, read the data and prove the backbone.

    Raises:
        UserError: wrong use.
    """
    setting = choose(experiment, options.setting, options.backbone)
    name = study_name(options, experiment)
    fixed = {} if setting is None else setting.values
    start: dict[str, Any] = {}
    if isinstance(setting, Setting):
        experiment = in_setting(experiment, setting)
        start = start_values(
            setting,
            options.backbone,
            storage,
            storage / name,
            _before(options),
            _architecture(options, experiment),
        )
    elif options.backbone is not None:
        experiment, start = from_backbone(
            experiment,
            options.backbone,
            storage,
            storage / name,
            _architecture(options, experiment),
        )
    preset, base, pins, notes = resolve(
        options, experiment, fixed, for_every_machine(start, storage)
    )
    config: Any = build(experiment.config, base)
    data = experiment.trainable.load_data(config.data, progress=True)
    if options.workers > 1:
        _check_workers(options.workers, experiment.trainable.max_workers(config), data)
    proof = experiment.trainable.check_startup(config, data)
    earlier = options.warm_start
    warm = (
        None
        if earlier is None
        else warm_start(earlier, storage, storage / name, experiment, preset, base, pins)
    )
    manifest = Manifest(
        name=name,
        experiment=experiment.name,
        preset=preset,
        objective=experiment.trainable.objective_for(data),
        seed=options.seed,
        base=base,
        pins=pins,
        space=as_json(describe(experiment.space, preset, pins)),
        data={
            "name": data.name,
            "fingerprint": data.fingerprint,
            "path": str(config.data.name),
            "images": len(data.train),
        },
        warm_start=warm,
    )
    return Prepared(storage / name, experiment, manifest, config, data, proof, notes)


def _check_workers(workers: int, most: int, data: Any) -> None:
    if (few := min(most, len(data.val), len(data.test))) < workers:
        each = (
            "2 images of a batch (few-shot: an episode) and 1 of the validation and the test split"
        )
        raise UserError(
            f"--workers {workers}: each needs {each}; use at most {few}, or a larger train.batch_size"
        )


def study_name(options: Options, experiment: Experiment) -> str:
    """--study, or the experiment's name; a setting adds its letter to the latter."""
    name = options.study or (
        experiment.name if options.setting is None else f"{experiment.name}-{options.setting}"
    )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(
            f"--study {name!r} must be letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return name


def resolve(
    options: Options, experiment: Experiment, fixed: dict[str, Any], start: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Preset, base config of trial 0 (flat, whole), pins, and what of the default lies outside of
    the ranges that a pin leaves.

    Args:
        fixed: values that make the setting; pins too.
        start: values of what trials start from.
    Raises:
        UserError: unknown preset, unknown key, a value out of range, a pin against the setting.
    """
    pins = parse_pins(options.set)
    for key in sorted(fixed.keys() & pins.keys()):
        raise UserError(
            f"--set {key}: setting {options.setting} is {key}={fixed[key]}; leave it out, or choose another setting"
        )
    preset = _preset(options, experiment)
    flat = {
        **experiment.presets[preset],
        "seed": options.seed,
        "data.skip_corrupt": options.skip_corrupt,
    }
    if options.data is not None:
        flat["data.name"] = (
            str(Path(options.data).expanduser().resolve())
            if _is_folder(options.data)
            else options.data
        )
    base = flatten(build(experiment.config, flat | fixed | start | pins))
    pinned = {key: base[key] for key in [*fixed, *pins]}
    # Adam's rate is no default of a search that --set has limited to SGD
    default = Nearest(base, base)
    base |= fitted(default, experiment.space, preset, pinned)
    return preset, base, pinned, tuple(f"note: of the default, {note}" for note in default.notes)


def _preset(options: Options, experiment: Experiment) -> str:
    preset = options.preset or ("full" if options.data and _is_folder(options.data) else "tiny")
    if preset not in experiment.presets:
        raise UserError(f"unknown preset {preset!r}{nearest(preset, experiment.presets)}")
    return preset


def _architecture(options: Options, experiment: Experiment) -> str:
    """`backbone.name`, before the config can be built: what it starts from is part of it."""
    return str(
        parse_pins(options.set).get(
            "backbone.name", experiment.presets[_preset(options, experiment)]["backbone.name"]
        )
    )


def parse_pins(settings: list[str]) -> dict[str, Any]:
    """["optim.lr=0.1"] -> {"optim.lr": "0.1"}; names are checked and values converted by
    `build`."""
    pins = {}
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UserError(f"--set {setting!r} must be KEY=VALUE, such as --set optim.lr=0.1")
        if key in _OPTIONS:
            raise UserError(f"--set {key}: use --{_OPTIONS[key]} {value}")
        pins[key] = value
    return pins


def parse_duration(text: str | None) -> float | None:
    """ "90s", "30m", "2h", "1.5h" -> seconds."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UserError(
            f"--time-budget {text!r} must be a number with s, m or h, such as 90s, 30m or 2h"
        )
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def _before(options: Options) -> str:
    """The options that the study whose backbone is missing should be run with."""
    data = (
        f" --data {shlex.quote(options.data)}" if options.data and _is_folder(options.data) else ""
    )
    return data + (
        "" if options.storage == "runs" else f" --storage {shlex.quote(options.storage)}"
    )


def _is_folder(data: str) -> bool:
    from trainables.data import EMBEDDED  # here: it takes torch, for which a refusal need not wait

    return data not in EMBEDDED
