"""Resolve the options of a command into everything that a study needs to begin."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

from search_spaces.classify import BackboneSetting
from search_spaces.common import class_balance
from search_spaces.settings import Setting
from trainables.config import build
from trainables.errors import UserError
from trainables.plots.fonts import missing_note
from tune.backbones.resolve import DEFAULT_STUDY, choose, for_every_machine
from tune.backbones.seen import check_seen
from tune.cli.control import Length, control_length
from tune.cli.default_config import Resolved, resolve_search
from tune.cli.function_options import refuse_about_images
from tune.cli.manifest import make_manifest
from tune.cli.methods import method_rules
from tune.cli.options import Options
from tune.cli.starting_point import starting_point
from tune.cli.tries import own_configurations
from tune.cli.workers import check_shares, check_workers
from tune.experiments import Experiment, side_of
from tune.reports.marks import marks
from tune.search.space import describe
from tune.study.identity import STUDY_NAME
from tune.study.kept_files import retrained_value
from tune.study.manifest import Manifest, read_manifest
from tune.study.warm_start import warm_start
from tune.upkeep.kept import is_reserved


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to begin: everything that can be refused has been checked."""

    directory: Path
    experiment: Experiment
    """With the search space of its setting."""
    manifest: Manifest
    config: Any
    """Config of trial 0, a dataclass of `experiment.config`."""
    data: Any
    start: str
    """The start of trials, in one line; "" for random initialisation."""
    notes: tuple[str, ...] = ()
    """Lines to read before a run: values of the default that a pin has changed, facts about images
    and length."""
    own: tuple[dict[str, Any], ...] = ()
    """Configurations of `--try`: searched parameter -> value."""


def prepare(
    options: Options,
    experiment: Experiment,
    storage: Path,
    sources: Mapping[str, Path] | None = None,
    first: Path | None = None,
    before_data: Callable[[], None] = lambda: None,
    beside: Path | None = None,
) -> Prepared:
    """Resolve the options, read the data and check the backbone.

    Args:
        sources: experiment -> study that pre-trains, by which a control takes its length; default:
            the usual studies in `storage`.
        first: manifest of an earlier search of the same side of a comparison. A study that has not
            begun takes its default and its rules, which all searches share.
        before_data: is called when the options are known to be right, before data are read.
        beside: manifest of another side of the comparison, which has begun. All of them split the
            images by one version of the rules.
    Raises:
        UserError: wrong use.
    """
    asked = _asked_for(options, experiment, storage, first)
    resolved = asked.resolved
    program = resolved.experiment.program
    config: Any = build(resolved.experiment.config, resolved.base)
    before_data()
    data = program.load_data(getattr(config, "data", None), progress=True)

    control = None
    if isinstance(asked.setting, BackboneSetting) and asked.setting.long:
        usual = {study: storage / study for study in DEFAULT_STUDY.values()}
        control = _control(asked.there, resolved, len(data.train), sources or usual)
        resolved = _with_epochs(resolved, control.epochs)
        config = build(resolved.experiment.config, resolved.base)

    search = (resolved.experiment, resolved.preset, resolved.base, resolved.pins)
    own = own_configurations(options.enqueue, *search)
    _check_machine(options, resolved, config, data)
    start_line = program.check_startup(config, data)
    seen = check_seen(resolved.base, data, options.allow_seen)
    warm = None
    if options.warm_start is not None:
        warm = warm_start(options.warm_start, storage, asked.directory, *search)
    _check_average(resolved)

    manifest = make_manifest(
        options,
        asked.directory,
        resolved,
        data,
        asked.there,
        objective=program.chosen_objective(config, data),
        rules=asked.rules,
        seen=seen,
        warm_start=warm,
        control=None if control is None else control.as_json(),
    )
    return Prepared(
        directory=asked.directory,
        experiment=resolved.experiment,
        manifest=manifest,
        config=config,
        data=data,
        start=start_line,
        notes=(*resolved.notes, *_notes(manifest, data)),
        own=own,
    )


@dataclass(frozen=True)
class _Asked:
    """The study that the options ask for, before its data are read."""

    directory: Path
    setting: Setting | None
    there: Manifest | None
    """The manifest that it began with; None: it is new."""
    rules: dict[str, Any]
    resolved: Resolved


def _asked_for(
    options: Options, experiment: Experiment, storage: Path, first: Path | None
) -> _Asked:
    """Find the study, and resolve the options into its search.

    Args:
        first: as of `prepare`.
    """
    if experiment.function is not None:
        refuse_about_images(options, experiment.name)
    setting = choose(experiment, options.setting, options.backbone)
    name = study_name(options, experiment, storage)
    directory = storage / name

    experiment = side_of(experiment, setting)
    experiment, start = starting_point(options, experiment, setting, directory)
    if options.balance:
        experiment = with_balance(experiment)
    start = for_every_machine(start, storage)

    path = directory / "study.json"
    there = read_manifest(path) if path.exists() else None
    earlier = None if first is None else read_manifest(first)
    rules = method_rules(options, name, there, earlier)
<<<<<<< HEAD
    fixed = {} if setting is None else setting.values
    resolved = resolve_search(options, experiment, fixed, start, there or earlier, rules)
    return _Asked(directory, setting, there, rules, resolved)
=======
    begun = _begun(kept) or _begun_beside(beside)
    experiment = _with_presets_of(kept, experiment)
    preset, base, pins, notes = resolve(options, experiment, fixed, start, begun)
    ranges = typed_ranges(options, experiment)
    experiment = with_ranges(facing(experiment, base), preset, ranges)
    if ranges:
        check_drawn(experiment, preset, base, pins)
    notes += notes_on(experiment, preset, pins, ranges)
    check_grid(rules, experiment, preset, pins)
    notes += method_notes(rules)
>>>>>>> acf56f1 (Near-duplicates: thumbnails at a third of their cost for new studies, frames at night compared by sketches)


def _notes(manifest: Manifest, data: Any) -> Iterator[str]:
    """Yield lines to read before a run, about weights, fonts and data."""
    yield from _retrained(manifest.base)
    undrawn = missing_note(getattr(data, "classes", ()))
    if undrawn:
        yield f"note: {undrawn}"
    for mark in marks(manifest):
        yield f"note: {mark}"


def _check_machine(options: Options, resolved: Resolved, config: Any, data: Any) -> None:
    """Refuse workers that have no share of the work, and a device that is not there."""
    program = resolved.experiment.program
    if options.workers > 1:
        check_workers(options.workers, program.max_workers(config), data)
        if program.needs_equal_shares():
            check_shares(
                options.workers,
                resolved.experiment,
                resolved.preset,
                resolved.base,
                resolved.pins,
            )

    if options.local or options.batch_trials:
        _check_device(resolved.base)


def _control(
    there: Manifest | None, resolved: Resolved, images: int, sources: Mapping[str, Path]
) -> Length:
    """Return the length of a control, or that which the study began with."""
    if there is None or there.control is None:
        return control_length(resolved.base, images, sources, resolved.preset)
    return Length(there.base["train.epochs"], **there.control)


def _with_epochs(resolved: Resolved, epochs: int) -> Resolved:
    length = {"train.epochs": epochs}
    return replace(resolved, base=resolved.base | length, pins=resolved.pins | length)


def _retrained(base: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note where the weights that a study starts from are not those on record."""
    value = retrained_value(Path(base.get("init.file") or "."))
    if value is None:
        return ()
    return (
        f"note: the weights of {base['init.origin']} were not kept and have been trained again "
        f"(best value {value:.4f}); they differ from its record",
    )


def _check_device(base: Mapping[str, Any]) -> None:
    """Refuse a device that this process, which is to train, does not have."""
    if "train.device" in base:
        from trainables.devices import choose_device  # it imports torch

        choose_device(str(base["train.device"]))


def _check_average(resolved: Resolved) -> None:
    """Refuse a search of `train.ema` in which it would choose the metric that selects, too."""
    searched = describe(resolved.experiment.space, resolved.preset, resolved.pins)
    if "train.ema" in searched and not resolved.base["train.objective"]:
        raise UserError(
            "--space train.ema: trials with it are judged by averaged weights and others are not; "
            "name the metric of all with --objective, or give one value with --set train.ema"
        )


def with_balance(experiment: Experiment) -> Experiment:
    """Return the experiment with a space that also asks how classes of different sizes are
    balanced.

    Raises:
        UserError: it trains no classifier.
    """
    if experiment.name not in ("pretrain", "classify"):
        raise UserError(
            f"--balance is for pretrain and classify, which learn from labels; {experiment.name} "
            "has nothing to balance by: leave it out"
        )

    @wraps(experiment.space)  # whose parameters say what `facing` may give it
    def space(trial: Any, preset: str, **given: Any) -> None:
        experiment.space(trial, preset, **given)
        class_balance(trial)

    return replace(experiment, space=space)


def study_name(options: Options, experiment: Experiment, storage: Path) -> str:
    """Return `--study`, or the experiment's name, to which a setting adds its own.

    Raises:
        UserError: a name that is no plain file name, or one that a storage has for itself.
    """
    name = experiment.name
    if options.study:
        name = options.study
    elif options.setting is not None:
        name = f"{experiment.name}-{options.setting}"

    if not re.fullmatch(STUDY_NAME, name):
        raise UserError(
            f"--study {name!r} must be letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    if is_reserved(name) and not (storage / name / "study.json").exists():
        raise UserError(f"--study {name!r} belongs to the storage itself; choose another name")
    return name
<<<<<<< HEAD
=======


def resolve(
    options: Options,
    experiment: Experiment,
    fixed: dict[str, Any],
    start: dict[str, Any],
    begun: dict[str, Any],
) -> tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Return the preset, the complete flat config of trial 0, the pins, and one note for each
    default value that lies outside the range that a pin leaves.

    Args:
        fixed: config values that define the setting; they are pinned too.
        start: config values of the backbone that trials start from.
        begun: config values that the study keeps from its first start.
    Raises:
        UserError: unknown preset, unknown key, a value out of range, a pin that contradicts the
            setting, or a range that leaves out the default.
    """
    pins = parse_pins(options.set)
    ranges = typed_ranges(options, experiment)
    for key in sorted(fixed.keys() & {*pins, *ranges}):
        option = "--set" if key in pins else "--space"
        raise UserError(
            f"{option} {key}: setting {options.setting} is {key}={fixed[key]}; leave it out, "
            "or choose another setting"
        )

    preset = _preset(options, experiment)
    typed: dict[str, Any] = {"seed": options.seed}
    if experiment.function is None:
        typed |= _about_images(options, begun)

    flat = {**experiment.presets[preset], **typed, **fixed, **start, **pins}
    base = flatten(build(experiment.config, flat))
    base |= oriented(base, pins, experiment.name, begun)
    experiment = with_ranges(facing(experiment, base), preset, ranges)
    unsearched = left_out(options, experiment, preset, ranges)
    # A key that is searched all the same has its default from `--set`.
    pinned = {key: base[key] for key in [*fixed, *pins, *unsearched] if key not in ranges}
    check_default(experiment, preset, base, pinned, ranges)

    # Adam's default rate may be out of range once `--set` has limited the search to SGD.
    default = Nearest(base, base)
    base |= fitted(default, experiment.space, preset, pinned)
    notes = tuple(f"note: of the default, {note}" for note in default.notes)
    return preset, base, pinned, notes


def _about_images(options: Options, begun: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config values that options give to an experiment of images."""
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


def _check_device(base: Mapping[str, Any]) -> None:
    """Refuse a device that this process, which is to train, does not have."""
    if "train.device" in base:
        from trainables.devices import choose_device  # it imports torch

        choose_device(str(base["train.device"]))


def _begun(there: Manifest | None) -> dict[str, Any]:
    """Return the config values that a study keeps from its first start."""
    if there is None:
        return {}
    return {key: there.base[key] for key in _KEPT if there.base.get(key)}


def _begun_beside(beside: Path | None) -> dict[str, Any]:
    """Return the config values that a study takes from another side of its comparison."""
    if beside is None:
        return {}
    begun = read_manifest(beside).base
    return {key: begun[key] for key in ("data.split",) if key in begun}


def _with_presets_of(there: Manifest | None, experiment: Experiment) -> Experiment:
    """Return the experiment with the default that the study began with, whatever the preset has
    become since.

    What was pinned, and what options give, is left to the command at hand: another value of it is
    another study.
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
    """Return the full name of a metric: `macro_f1` is `val/macro_f1`."""
    return typed if "/" in typed else f"val/{typed}"


def _starting_point(
    options: Options, experiment: Experiment, setting: Setting | None, directory: Path
) -> tuple[Experiment, dict[str, Any]]:
    """Return the experiment with the search space for what trials start from, and the config values
    of that start."""
    storage = directory.parent

    if isinstance(setting, BackboneSetting):
        start = start_values(
            setting,
            options.backbone,
            storage,
            directory,
            _options_of_source_study(options),
            _architecture(options, experiment),
        )
        return in_setting(experiment, setting), start

    if options.backbone is not None:
        architecture = _architecture(options, experiment)
        return from_backbone(experiment, options.backbone, storage, directory, architecture)

    return experiment, {}


def _check_workers(workers: int, max_workers: int, data: Any) -> None:
    most = min(max_workers, len(data.val), len(data.test))
    if workers <= most:
        return

    each = "2 images of a batch (few-shot: an episode) and 1 of the validation and the test split"
    raise UserError(
        f"--workers {workers}: each needs {each}; use at most {most}, or a larger train.batch_size"
    )


def check_shares(
    workers: int,
    experiment: Experiment,
    preset: str,
    base: Mapping[str, Any],
    pins: Mapping[str, Any],
) -> None:
    """Check that workers can share every batch size equally, that of the default and those of the
    space.

    Raises:
        UserError: one is no multiple of the workers.
    """
    key = "train.batch_size"
    variants = describe(experiment.space, preset, pins).get(key, [])

    sizes = {base[key]}
    for _, distribution in variants:
        sizes |= set(_values(distribution))

    uneven = [size for size in sorted(sizes) if size % workers]
    if uneven:
        raise UserError(
            f"--workers {workers}: {key} can be {uneven[0]}, and the loss of {experiment.name} "
            f"needs equal shares; use another number of workers, or --set {key}=N with a multiple "
            f"of {workers}"
        )


def _values(distribution: Any) -> Collection[Any]:
    """Return the values that a searched whole number can have."""
    choices: Collection[Any] | None = getattr(distribution, "choices", None)
    if choices is not None:
        return choices
    return range(distribution.low, distribution.high + 1, distribution.step)


def _preset(options: Options, experiment: Experiment) -> str:
    on_folder = bool(options.data) and _is_folder(str(options.data))
    preset = options.preset or ("full" if on_folder else "tiny")
    if options.preset is None and len(experiment.presets) == 1:
        (preset,) = experiment.presets

    if preset not in experiment.presets:
        raise UserError(f"unknown preset {preset!r}{nearest(preset, experiment.presets)}")
    return preset


def _architecture(options: Options, experiment: Experiment) -> str:
    """Return `backbone.name`, which is needed before the config can be built."""
    default = experiment.presets[_preset(options, experiment)]["backbone.name"]
    return str(parse_pins(options.set).get("backbone.name", default))


def _options_of_source_study(options: Options) -> str:
    """Return the options that a missing source study should be run with."""
    text = ""
    if options.data and _is_folder(options.data):
        text += f" --data {shlex.quote(options.data)}"
    if options.storage != "runs":
        text += f" --storage {shlex.quote(options.storage)}"
    return text


def _is_folder(data: str) -> bool:
    from trainables.data import EMBEDDED  # it imports torch, for which a refusal should not wait

    return data not in EMBEDDED
>>>>>>> acf56f1 (Near-duplicates: thumbnails at a third of their cost for new studies, frames at night compared by sketches)
