"""Warm start: a study tries the best configurations of an earlier study of the same experiment, in
turn with its own (`warm_turns.py`).

    python tune/run.py ssl --study more --data path/to/more --warm-start ssl

It can also try the configurations that ship with vistune (`shipped.py`):

    python tune/run.py fewshot --study more --data path/to/more --warm-start shipped

They are chosen at the first start and stored in the manifest: the same command resumes with them,
whatever becomes of the earlier study.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from trainables.errors import UserError
from tune.command_line import command
from tune.experiments import Experiment
from tune.search.space import Nearest, fitted
from tune.study.manifest import read_manifest
from tune.study.record import Record, read_record
from tune.study.rules import leaders
from tune.study.shipped import SHIPPED, Prior, shipped_prior
from tune.study.view import StudyView
from tune.study.warm_turns import TURNS, warm_trials

POINTS = 3
"""Number of configurations that are taken over: of 16 trials, more would leave the search too
few."""


@dataclass(frozen=True)
class _Candidate:
    """A configuration that may be taken over."""

    label: str
    origin: dict[str, Any]
    """Stored in the manifest beside its parameters."""
    config: Mapping[str, Any]
    searched: Collection[str]
    """Parameters that were searched when it was found."""


def warm_start(
    wanted: str,
    storage: Path,
    study: Path,
    experiment: Experiment,
    preset: str,
    base: Mapping[str, Any],
    pins: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the warm start as the manifest stores it.

    It is {"study": name, "points": [{"trial", "value", "params"}, best first], "turns": numbers of
    their trials, "notes": what did not fit}. With shipped priors a point has "values" (data set ->
    objective) in place of "trial" and "value", and "sources" says where they are from.

    Args:
        wanted: name of the earlier study, or `shipped`.
        study: folder of the study that is to start; one that has begun keeps its warm start.
        preset: preset of the study that is to start.
        base: flat default of that study.
        pins: pinned values of that study.
    Raises:
        UserError: there is no such study, it belongs to another experiment, none of its trials is
            complete, or no prior ships for the study that is to start.
    """
    kept = _kept(study, wanted)
    if kept is not None:
        return kept

    default = fitted(Nearest(base, base), experiment.space, preset, pins)
    about: dict[str, Any] = {"study": wanted}
    if wanted == SHIPPED:
        prior = shipped_prior(experiment.name, preset, base, default, storage)
        candidates = _of_prior(prior)
        about["sources"] = prior.sources
    else:
        candidates = _of_study(wanted, _earlier(wanted, storage, study, experiment))

    points: list[dict[str, Any]] = []
    notes: list[str] = []
    taken = [default]
    for candidate in candidates:
        if len(points) == POINTS:
            break
        nearest = Nearest(candidate.config, base)
        params = fitted(nearest, experiment.space, preset, pins)
        if params in taken:
            continue
        taken.append(params)
        points.append({**candidate.origin, "params": params})
        found = nearest.all_notes(candidate.searched)
        notes += [f"{candidate.label}: {note}" for note in found]

    notes += _caveats(about, base)
    return {**about, "points": points, "turns": list(TURNS), "notes": notes}


def _caveats(start: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Return a note if the priors were learnt on the data of the study itself."""
    data = base.get("data.name")
    if data not in start.get("sources", ()):
        return []
    return [f"the priors were learnt on {data} too: what they gain here is no independent evidence"]


def _of_study(wanted: str, record: Record) -> Iterator[_Candidate]:
    """Yield the completed trials of an earlier study, best first."""
    searched = record.manifest.space
    for number in leaders(record.completed, len(record.completed)):
        origin = {"trial": number, "value": record.completed[number]}
        yield _Candidate(f"{wanted}/{number}", origin, record.trials[number].config, searched)


def _of_prior(prior: Prior) -> Iterator[_Candidate]:
    """Yield the configurations of a prior, best first."""
    for number, point in enumerate(prior.points, 1):
        config = point["config"]
        yield _Candidate(f"prior {number}", {"values": point["values"]}, config, config)


def _kept(study: Path, wanted: str) -> dict[str, Any] | None:
    """Return the warm start from `wanted` that a study has begun with; None if it has none."""
    path = study / "study.json"
    if not path.exists():
        return None
    there = read_manifest(path).warm_start
    if there is None or there["study"] != wanted:
        return None
    return there


def _earlier(wanted: str, storage: Path, study: Path, experiment: Experiment) -> Record:
    """Return the record of the earlier study, or refuse it."""
    folder = storage / wanted
    if folder == study or not (folder / "study.json").exists():
        why = "is the study itself" if folder == study else f"is not a study in {storage}"
        raise UserError(
            f"--warm-start {wanted!r} {why}; name an earlier one "
            f"(`{command('report', 'show', storage=storage)}` lists them)"
        )
    record = read_record(folder)
    if record.manifest.experiment != experiment.name:
        raise UserError(
            f"--warm-start {wanted!r} is a study of {record.manifest.experiment}; "
            f"name one of {experiment.name}"
        )
    if not record.completed:
        raise UserError(
            f"--warm-start {wanted!r}: none of its trials has been completed; "
            "resume it first, or name another"
        )
    return record


def beginning(manifest_value: dict[str, Any] | None) -> list[str]:
    """Return the lines about a warm start for the beginning of a study."""
    if manifest_value is None:
        return []
    study = manifest_value["study"]
    points = manifest_value["points"]
    if not points:
        return [f"warm start: the best of {study} is the default, which is trial 0 anyway"]
    shown = ", ".join(f"{study}/{point['trial']}" for point in points if "trial" in point)
    if "sources" in manifest_value:
        shown = f"priors that ship, learnt on {', '.join(manifest_value['sources'])}"
    notes = [f"note: {note}" for note in manifest_value["notes"]]
    when = f"after the default, trials 1 to {len(points)} are {shown}"
    if "turns" in manifest_value:
        turns = ", ".join(map(str, manifest_value["turns"][: len(points)]))
        when = f"trials {turns} are {shown}, while they beat the median of the others"
    return [f"warm start: {when}", *notes]


def worth(study: StudyView) -> str | None:
    """Return a sentence for the end of a study that compares the best warm-started trial with the
    default and with the best of the others, on the validation split."""
    start = study.manifest.warm_start
    if start is None or not start["points"]:
        return None
    trials = study.frozen_trials()
    values = {
        trial.number: trial.value
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.value is not None
    }
    taken = warm_trials(start, trials)
    warm = {number: value for number, value in values.items() if number in taken}
    others = {number: value for number, value in values.items() if number and number not in taken}
    if not warm:
        numbers = ", ".join(map(str, taken)) or "none"
        return f"Warm start from {start['study']}: none of its trials ({numbers}) ran to the end."

    best = leaders(warm, 1)[0]
    default = f"the default {values[0]:.4f}, " if 0 in values else ""
    rest = "no other trial did"
    if others:
        rest = f"the best of the {len(others)} others that did {max(others.values()):.4f}"
    caveats = "".join(f"; {caveat}" for caveat in _caveats(start, study.manifest.base))
    return (
        f"Warm start from {start['study']}: {study.objective} of trial {best} "
        f"({_origin(taken[best])}) is {warm[best]:.4f}, "
        f"the best of {len(warm)} that ran to the end; {default}{rest}{caveats}."
    )


def _origin(point: Mapping[str, Any]) -> str:
    """Name the origin of a configuration, and its objective there."""
    if "trial" in point:
        return f"trial {point['trial']} there, {point['value']:.4f}"
    values = (f"{value:.4f} on {data}" for data, value in point["values"].items())
    return f"in training {', '.join(values)}"
