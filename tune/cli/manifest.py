"""Build the manifest of the study that a command requests, from its options and, where these leave
something open, from the record of an earlier start."""

from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tune.cli.default_config import Resolved
from tune.cli.options import Options
from tune.cli.own_ranges import as_record, left_out
from tune.experiment_file import AnnouncedExperiment, OwnExperiment
from tune.experiments import Experiment
from tune.function_source import source_of
from tune.object_store import s3
from tune.search.space import as_json, describe
from tune.study.manifest import Manifest
from tune.study.objectives import measured, parse_objective, parse_objectives
from tune.study.rules import CURRENT, REPEATS


def make_manifest(
    options: Options,
    directory: Path,
    resolved: Resolved,
    data: Any,
    there: Manifest | None,
    *,
    objective: str,
    rules: dict[str, Any],
    seen: Any,
    warm_start: Any,
    control: Any,
) -> Manifest:
    """Return the manifest of a study.

    Args:
        directory: the study's folder.
        there: manifest with which the study started; None if it is new.
        objective: metric that selects trials.
    Raises:
        UserError: several objectives are given and one is invalid, or `--keep` is given where there
            is no choice.
    """
    experiment = resolved.experiment
    preset = resolved.preset
    pins = resolved.pins
    return Manifest(
        name=directory.name,
        experiment=experiment.name,
        preset=preset,
        objective=objective,
        objectives=_objectives(options, experiment, there, objective),
        seed=options.seed,
        base=resolved.base,
        pins=pins,
        space=as_json(describe(experiment.space, preset, pins)),
        ranges=as_record(resolved.ranges),
        unsearched=left_out(options, experiment, preset, resolved.ranges),
        data=_data(data, resolved.base),
        warm_start=warm_start,
        rules=rules,
        seen=seen,
        keep=_keep(options, there, directory.parent),
        repeats=_repeats(options, there),
        control=control,
        function=experiment.function is not None,
        code=_code(options, experiment, there),
        source=_source(options, experiment, there),
    )


def _data(data: Any, base: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "path": str(base.get("data.name", "")),
        "images": len(data.train),
        **_contents(data),
        "summary": data.summary.as_json(),
    }


def _contents(data: Any) -> dict[str, str]:
    """Return the digest of the training images, which a backbone of this study will have seen."""
    from trainables.data.contents import digest_of_keys

    contents = getattr(data, "contents", None)
    if contents is None:
        return {}
    return {"contents": digest_of_keys(contents.keys[data.train.indices])}


def _objectives(
    options: Options, experiment: Experiment, there: Manifest | None, main: str
) -> list[str] | None:
    """Return all objectives if there are several: those typed, or those of the study.

    Raises:
        UserError: one is not a valid objective, or is measured on models that cannot be served.
    """
    if options.objective is None and there is not None:
        return there.objectives

    function = experiment.function is not None
    found = parse_objectives(options.objective or [], main, function=function)
    for name in measured([parse_objective(one) for one in found or []]):
        _check_served(name, experiment)
    return found


def _check_served(metric: str, experiment: Experiment) -> None:
    """Refuse a cost that is measured on the served model if the model cannot be served."""
    from trainables.served import served_as  # it imports torch

    try:
        served_as(experiment.trainable)
    except UserError as error:
        raise UserError(
            f"--objective {metric} is measured on the exported model: {error}"
        ) from None


def _keep(options: Options, there: Manifest | None, storage: Path) -> str:
    """Return which trials keep their weights: as requested, or as the study has it.

    Raises:
        UserError: `best` was requested in a bucket, which keeps all weights, because the uploading
            threads may lag behind.
    """
    if s3.address(storage) is not None:
        if options.keep == "best":
            raise UserError("--keep best: a study in a bucket keeps all weights; leave it out")
        return "all"
    return options.keep or ("best" if there is None else there.keep)


def _repeats(options: Options, there: Manifest | None) -> int:
    """Return `--repeats`, or the number that the study started with, or the default of its rule."""
    if options.repeats is not None:
        return options.repeats
    if there is None:
        return REPEATS[str(CURRENT["repeats"])]
    if there.repeats is not None:
        return there.repeats
    return REPEATS[str(there.rules["repeats"])]


def _code(options: Options, experiment: Experiment, there: Manifest | None) -> Any:
    """Return the manifest entry of a user's own experiment file; None for others."""
    if not isinstance(experiment, OwnExperiment):
        return None

    entry = experiment.code.as_json() | {"top": experiment.top}
    if options.accept_code and there is not None and there.code is not None:
        entry["accepts"] = there.code["sha256"]
    return entry


def _source(options: Options, experiment: Experiment, there: Manifest | None) -> Any:
    """Return the manifest entry of code that is in no stored file: a function, or a module of an
    installed package; None for others."""
    earlier = None if there is None else there.source
    entry = _source_in_form(experiment, earlier)
    if entry is not None and options.accept_code and earlier is not None:
        entry["accepts"] = earlier["sha256"]
    return entry


def _source_in_form(
    experiment: Experiment, earlier: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Return the entry in the form that the study has. Older entries of a package's function
    contain only the function."""
    if isinstance(experiment, OwnExperiment):
        return None
    if isinstance(experiment, AnnouncedExperiment) and (earlier is None or "module" in earlier):
        return experiment.as_json()
    if experiment.function is None:
        return None
    return source_of(experiment.function.call)
