"""Resolve the options of a command into everything that a study needs to start."""

import os
import sys
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
from tune.cli.default_config import Resolved, begun_beside, resolve_search
from tune.cli.function_options import refuse_about_functions, refuse_about_images
from tune.cli.manifest import make_manifest
from tune.cli.methods import method_rules
from tune.cli.options import Options
from tune.cli.starting_point import starting_point
from tune.cli.tries import own_configurations
from tune.cli.workers import check_shares, check_workers
from tune.experiments import Experiment, side_of
from tune.reports.marks import marks
from tune.search.space import describe
from tune.study.identity import check_study_name
from tune.study.kept_files import retrained_value
from tune.study.manifest import Manifest, read_manifest
from tune.study.warm_start import warm_start
from tune.upkeep.kept import is_reserved


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to start: everything that could be refused has been checked."""

    directory: Path
    experiment: Experiment
    """Experiment with the search space of its setting."""
    manifest: Manifest
    config: Any
    """Config of trial 0, a dataclass of `experiment.config`."""
    data: Any
    start: str
    """Description of what trials start from, in one line; "" for random initialization."""
    notes: tuple[str, ...] = ()
    """Lines to print before a run: default values that a pin has changed, facts about images and
    training length."""
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
        sources: experiment -> its pre-training study, which determines a control's length; default:
            the default studies in `storage`.
        first: manifest of an earlier search of the same setting. A study that has not started takes
            its default and rules from there, because all searches share them.
        before_data: called after the options are checked and before data is read.
        beside: manifest of another setting of the comparison that has started. All settings split
            the images under the same version of the rules.
    Raises:
        UserError: wrong use.
    """
    asked = _asked_for(options, experiment, storage, first, beside)
    resolved = asked.resolved
    program = resolved.experiment.program
    config: Any = build(resolved.experiment.config, resolved.base)
    if _trains_here(options):
        _check_device(resolved.base)
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
    _check_shares_of_work(options, resolved, config, data)
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
    """The requested study, before its data is read."""

    directory: Path
    setting: Setting | None
    there: Manifest | None
    """Manifest with which it started; None if it is new."""
    rules: dict[str, Any]
    resolved: Resolved


def _asked_for(
    options: Options,
    experiment: Experiment,
    storage: Path,
    first: Path | None,
    beside: Path | None,
) -> _Asked:
    """Find the study, and resolve the options into its search.

    Args:
        first: as in `prepare`.
        beside: as in `prepare`.
    """
    if experiment.function is not None:
        refuse_about_images(options, experiment)
    else:
        refuse_about_functions(options, experiment)
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
    if there is None and earlier is None:
        start |= begun_beside(beside)
    rules = method_rules(options, name, there, earlier)
    fixed = {} if setting is None else setting.values
    resolved = resolve_search(options, experiment, fixed, start, there or earlier, rules)
    return _Asked(directory, setting, there, rules, resolved)


def _notes(manifest: Manifest, data: Any) -> Iterator[str]:
    """Yield lines to print before a run, about weights, fonts and data."""
    yield from _retrained(manifest.base)
    undrawn = missing_note(getattr(data, "classes", ()))
    if undrawn:
        yield f"note: {undrawn}"
    for mark in marks(manifest):
        yield f"note: {mark}"


def _check_shares_of_work(options: Options, resolved: Resolved, config: Any, data: Any) -> None:
    """Refuse workers that would get no share of the work."""
    program = resolved.experiment.program
    if options.workers > 1:
        if resolved.experiment.function is None:
            check_workers(options.workers, program.max_workers(config), data)
        if program.needs_equal_shares():
            check_shares(
                options.workers,
                resolved.experiment,
                resolved.preset,
                resolved.base,
                resolved.pins,
            )


def _control(
    there: Manifest | None, resolved: Resolved, images: int, sources: Mapping[str, Path]
) -> Length:
    """Return the length of a control, or the one with which the study started."""
    if there is None or there.control is None:
        return control_length(resolved.base, images, sources, resolved.preset)
    return Length(there.base["train.epochs"], **there.control)


def _with_epochs(resolved: Resolved, epochs: int) -> Resolved:
    length = {"train.epochs": epochs}
    return replace(resolved, base=resolved.base | length, pins=resolved.pins | length)


def _retrained(base: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note if the weights that a study starts from are not the recorded ones."""
    value = retrained_value(Path(base.get("init.file") or "."))
    if value is None:
        return ()
    return (
        f"note: the weights of {base['init.origin']} were not kept and have been trained again "
        f"(best value {value:.4f}); they differ from its record",
    )


def _trains_here(options: Options) -> bool:
    """True if trials, or the steps that `--plan` times, are on this machine and not on a cluster.
    Asked before Ray is started here."""
    if options.local or options.batch_trials or options.plan:
        return True
    ray = sys.modules.get("ray")
    is_connected = ray is not None and ray.is_initialized()
    return not is_connected and not os.environ.get("RAY_ADDRESS")


def _check_device(base: Mapping[str, Any]) -> None:
    """Refuse a missing device before there is a study, which would keep it."""
    device = str(base.get("train.device", "auto"))
    if device not in ("auto", "cpu"):
        from trainables.devices import check_device  # it imports torch

        check_device(device)


def _check_average(resolved: Resolved) -> None:
    """Refuse a search over `train.ema` that would also determine which metric selects."""
    searched = describe(resolved.experiment.space, resolved.preset, resolved.pins)
    if "train.ema" in searched and not resolved.base["train.objective"]:
        raise UserError(
            "--space train.ema: trials with it are judged by averaged weights and others are not; "
            "name the metric of all with --objective, or give one value with --set train.ema"
        )


def with_balance(experiment: Experiment) -> Experiment:
    """Return the experiment with a space that also asks how to balance classes of different sizes.

    Raises:
        UserError: it does not train a classifier.
    """
    if experiment.name not in ("pretrain", "classify"):
        raise UserError(
            f"--balance is for pretrain and classify, which learn from labels; {experiment.name} "
            "has nothing to balance by: leave it out"
        )

    @wraps(experiment.space)  # keeps the parameters, from which `facing` sees what to pass
    def space(trial: Any, preset: str, **given: Any) -> None:
        experiment.space(trial, preset, **given)
        class_balance(trial)

    return replace(experiment, space=space)


def study_name(options: Options, experiment: Experiment, storage: Path) -> str:
    """Return `--study`, or the experiment's name, to which a setting appends its own.

    Raises:
        UserError: the name is not a plain file name, or is reserved by the storage.
    """
    name = experiment.name
    if options.study:
        name = options.study
    elif options.setting is not None:
        name = f"{experiment.name}-{options.setting}"

    check_study_name(name, "--study")
    if is_reserved(name) and not (storage / name / "study.json").exists():
        raise UserError(f"--study {name!r} belongs to the storage itself; choose another name")
    return name
