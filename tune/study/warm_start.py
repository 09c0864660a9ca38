"""Warm start: after its default, a study tries the best configurations of an earlier study of the
same experiment.

    python tune/run.py ssl --study more --data path/to/more --warm-start ssl

They are chosen at the first start and stand in the manifest: whatever becomes of the earlier study,
the same command goes on with them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from trainables.errors import UserError
from tune.experiments import Experiment
from tune.search.space import Nearest, fitted
from tune.study.manifest import read_manifest
from tune.study.record import leaders, read_record
from tune.study.view import StudyView

POINTS = 3
"""Configurations taken over: with 16 trials, more would leave the search too little."""


def warm_start(
    wanted: str,
    storage: Path,
    study: Path,
    experiment: Experiment,
    preset: str,
    base: Mapping[str, Any],
    pins: Mapping[str, Any],
) -> dict[str, Any]:
    """What the manifest holds: {"study": name, "points": [{"trial", "value", "params"}, best
    first], "notes": what did not fit}.

    Args:
        wanted: name of the earlier study.
        study: folder of the study that is to start; one that has begun keeps what it has.
    Raises:
        UserError: there is no such study, it is one of another experiment, or none of its trials
            has been completed.
    """
    if (study / "study.json").exists():
        there = read_manifest(study / "study.json").warm_start
        if there is not None and there["study"] == wanted:
            return there
    folder = storage / wanted
    if folder == study or not (folder / "study.json").exists():
        why = "is the study itself" if folder == study else f"is no study in {storage}"
        raise UserError(
            f"--warm-start {wanted!r} {why}; name an earlier one (`python tune/report.py show` lists them)"
        )
    record = read_record(folder)
    if record.manifest.experiment != experiment.name:
        raise UserError(
            f"--warm-start {wanted!r} is a study of {record.manifest.experiment}; name one of {experiment.name}"
        )
    if not record.completed:
        raise UserError(
            f"--warm-start {wanted!r}: none of its trials has been completed; go on with it first, or name another"
        )
    points: list[dict[str, Any]] = []
    notes: list[str] = []
    taken = [fitted(Nearest(base, base), experiment.space, preset, pins)]  # trial 0
    for number in leaders(record.completed, len(record.completed)):
        nearest = Nearest(record.trials[number].config, base)
        params = fitted(nearest, experiment.space, preset, pins)
        if params not in taken and len(points) < POINTS:
            taken.append(params)
            points.append({"trial": number, "value": record.completed[number], "params": params})
            notes += [
                f"{wanted}/{number}: {note}" for note in nearest.all_notes(record.manifest.space)
            ]
    return {"study": wanted, "points": points, "notes": notes}


def beginning(manifest_value: dict[str, Any] | None) -> list[str]:
    """Lines for the start of a study."""
    if manifest_value is None:
        return []
    points = manifest_value["points"]
    if not points:
        return [
            f"warm start: the best of {manifest_value['study']} is the default, which is trial 0 anyway"
        ]
    shown = ", ".join(f"{manifest_value['study']}/{p['trial']}" for p in points)
    return [
        f"warm start: after the default, trials 1 to {len(points)} are {shown}",
        *(f"note: {note}" for note in manifest_value["notes"]),
    ]


def worth(study: StudyView) -> str | None:
    """At the end of a study: the best warm-started trial against the default and the best of the
    others, on the validation split."""
    start = study.manifest.warm_start
    if start is None or not start["points"]:
        return None
    values = {
        t.number: t.value
        for t in study.frozen_trials()
        if t.state == TrialState.COMPLETE and t.value is not None
    }
    last = len(start["points"])
    warm, others = (
        {n: v for n, v in values.items() if part(n)}
        for part in (lambda n: 0 < n <= last, lambda n: n > last)
    )
    if not warm:
        return f"Warm start from {start['study']}: none of trials 1 to {last} ran to the end."
    best = leaders(warm, 1)[0]
    point = start["points"][best - 1]
    rest = (
        f"the best of the {len(others)} others that did {max(others.values()):.4f}"
        if others
        else "no other trial did"
    )
    default = f"the default {values[0]:.4f}, " if 0 in values else ""
    return (
        f"Warm start from {start['study']}: {study.objective} of trial {best} (trial {point['trial']} there, {point['value']:.4f}) is "
        f"{warm[best]:.4f}, the best of {len(warm)} that ran to the end; {default}{rest}."
    )
