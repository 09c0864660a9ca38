"""A trained model for prediction, and its recorded test metrics."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from trainables.config import build
from trainables.data import IGNORE
from trainables.data.layout_base import AUTO
from trainables.data.levels import FLOATING, DeepImages
from trainables.described import describe_model
from trainables.devices import choose_device
from trainables.errors import UserError
from trainables.files import BEST
from trainables.served import DESCRIPTION, Served, served_as, served_config
from tune.backbones.resolve import not_kept
from tune.experiment_file import experiment_of
from tune.experiments import Experiment
from tune.export import MODEL
from tune.object_store import s3
from tune.study.log_state import Run
from tune.study.record import Record, read_record
from tune.study.work import WorkId


@dataclass(frozen=True)
class Trained:
    """The model of a trial or of one of its repeats."""

    served: Served
    experiment: str
    study: Path
    trial: int
    repeat: int | None
    """Seed of the repeat; None for the trial itself."""
    data: str
    """Embedded set or folder on which it was trained."""
    ignore: int
    """Void value of its training masks (`data.ignore`)."""
    layout: str
    """Layout by which its training folder was read (`data.layout`)."""
    domain: str
    """Subfolder that was used (`data.domain`); "" for the whole folder."""
    tested: dict[str, tuple[float, str]]
    """`test/...` -> (recorded value, source): of this model, or the mean over repeats of the same
    configuration."""

    @property
    def name(self) -> str:
        """Display name: `STUDY/TRIAL`, with the seed of a repeat."""
        again = "" if self.repeat is None else f", repeat {self.repeat}"
        return f"{self.study.name}/{self.trial}{again}"

    def on_record(self, metric: str) -> str:
        """Describe the recorded value of a test metric."""
        if metric not in self.tested:
            return f"no {metric} on record: this configuration was not repeated"
        value, whose = self.tested[metric]
        return f"{metric} on record: {value:.4f} ({whose})"


def load_trained(
    wanted: str, storage: Path, repeat: int | None = None, data: str | None = None
) -> Trained:
    """Load the model of STUDY (its chosen trial) or STUDY/TRIAL, onto the GPU if there is one.

    Args:
        repeat: seed of a repeat of that trial, whose weights to load instead of the trial's.
        data: folder of the training data, if it is no longer the recorded one.
    Raises:
        UserError: there is no such trial or repeat, it has no weights, or its classes are unknown.
    """
    name, _, number = wanted.partition("/")
    record = read_record(storage / name)
    experiment = experiment_of(record.manifest.experiment, record.manifest.code)
    trial = _chosen_trial(record, number)
    run = record.trials[trial] if repeat is None else _repeat(record, trial, repeat)

    folder = WorkId(trial, repeat).folder(record.folder)
    weights = s3.present(folder / BEST)
    if not weights.is_file():
        raise UserError(_missing(record, trial, repeat))
    about = _describe(record, experiment, folder, run.config, data)

    device = choose_device()
    return Trained(
        served=Served.of_trial(about, weights, device),
        experiment=experiment.name,
        study=record.folder,
        trial=trial,
        repeat=repeat,
        data=data or str(run.config["data.name"]),
        ignore=int(run.config.get("data.ignore", IGNORE)),
        layout=str(run.config.get("data.layout", AUTO)),
        domain=str(run.config.get("data.domain", "")),
        tested=_tested(record, trial, repeat),
    )


def _missing(record: Record, trial: int, repeat: int | None) -> str:
    """Say why there are no weights, and what to do about it."""
    if repeat is None:
        return not_kept(record, trial)
    return (
        f"the weights of repeat {repeat} of trial {trial} are not kept; a study that is begun "
        "with --keep all keeps those of repeats too"
    )


def _chosen_trial(record: Record, number: str) -> int:
    """Return the requested trial; for "", the study's answer."""
    study = record.folder.name
    completed = sorted(record.completed)
    if not completed:
        raise UserError(f"no trial of study {study!r} has been completed; resume it first")
    if not number:
        chosen = record.best_number()
        assert chosen is not None  # some trials are completed
        return chosen
    if not number.isdecimal() or int(number) not in completed:
        valid = ", ".join(str(trial) for trial in completed)
        raise UserError(
            f"trial {number!r} of study {study!r} has no weights; completed trials: {valid}"
        )
    return int(number)


def _repeat(record: Record, trial: int, seed: int) -> Run:
    seeds = [repeated for (number, repeated) in sorted(record.finals()) if number == trial]
    if seed not in seeds:
        valid = ", ".join(str(each) for each in seeds) or "none"
        raise UserError(
            f"--repeat {seed}: trial {trial} of study {record.folder.name!r} has no completed "
            f"repeat of this seed; there are: {valid}"
        )
    return record.repeats[trial, seed]


def _tested(record: Record, trial: int, repeat: int | None) -> dict[str, tuple[float, str]]:
    """Return the recorded test metrics; trials themselves are never tested."""
    finals = {seed: final for (number, seed), final in record.finals().items() if number == trial}
    if repeat is not None:
        return {name: (value, "of these weights") for name, value in finals[repeat].items()}
    names = {name for final in finals.values() for name in final if name.startswith("test/")}
    found: dict[str, tuple[float, str]] = {}
    for name in sorted(names):
        values = [final[name] for final in finals.values() if name in final]
        count = len(values)
        whose = "its repeat" if count == 1 else f"mean of its {count} repeats"
        found[name] = (fmean(values), whose)
    return found


# ---------------------------------------------------------------- classes


def _describe(
    record: Record,
    experiment: Experiment,
    folder: Path,  # of the trial or repeat
    config: dict[str, Any],
    data: str | None,
) -> dict[str, Any]:
    """Return the content of `model.json`.

    It is derived from the training data if that is unchanged. Otherwise it comes from a model that
    the study has exported, or from the arrays that every trial leaves for its pictures.
    """
    if data is not None:
        config = {**config, "data.name": data}
    built: Any = build(experiment.config, config)
    try:
        loaded = experiment.trainable.load_data(built.data)
        if loaded.fingerprint == record.manifest.data["fingerprint"]:
            return describe_model(experiment.trainable, config, loaded)
        why = f"{built.data.name} has changed since"
    except UserError as error:
        why = str(error)

    about = _exported(record.folder) or _left_by_trial(experiment, folder)
    if about is None:
        raise UserError(
            f"the classes of {record.folder.name} are those of its training data, which cannot be "
            f"used ({why}); name the folder with --data"
        )
    about.setdefault("levels", _levels_on_record(record))
    return {**about, "config": served_config(about["kind"], config)}


def _levels_on_record(record: Record) -> list[float] | None:
    """Return the range from which training scaled values of more than 8 bits, according to the
    study's data summary; None without such values."""
    summary = record.manifest.data_summary
    found = None if summary is None else summary.found
    if found is None or found.levels is None:
        return None
    levels = DeepImages(1, *found.levels, floating=FLOATING in found.modes).levels
    return [levels.low, levels.high]


def _exported(study: Path) -> dict[str, Any] | None:
    for path in (study / MODEL).rglob(DESCRIPTION):
        about: dict[str, Any] = json.loads(path.read_text())
        return about
    return None


def _left_by_trial(experiment: Experiment, folder: Path) -> dict[str, Any] | None:
    """Read names and colours of the classes from the arrays for the trial's pictures."""
    s3.present_in(folder)
    about: dict[str, Any] = {"kind": served_as(experiment.trainable), "classes": [], "colors": []}
    files = [*folder.glob("embeddings-val-*.npz"), *folder.glob("masks-*.npz")]
    for path in files:
        with np.load(path) as arrays:
            about["classes"] = arrays["names"].tolist()
            if "colors" in arrays.files:
                about["colors"] = arrays["colors"].tolist()
    about["labelled"] = bool(about["classes"])
    return about if files else None
