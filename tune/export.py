"""A trial's model, checked against its record: as a folder that `mlflow.pyfunc.load_model` serves,
or as ONNX, safetensors or a program of `torch.export`; and colour masks of a folder of images.

python tune/report.py export segment                 # the best trial, to runs/segment/model and
MLflow's registry; or segment/3 python -m tune.export runs/segment/model IMAGES OUT  # a colour mask
OUT/<name>_mask.png of every image in IMAGES
"""

import contextlib
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tune.startup import check_python

check_python()

from filelock import FileLock
from PIL import Image

from trainables.config import build, nearest
from trainables.data.images import EXTENSIONS, CorruptImage
from trainables.described import describe_model
from trainables.engine.average import with_objective
from trainables.errors import UserError
from trainables.files import scratch_folder
from trainables.served import DESCRIPTION, WEIGHTS, Served
from tune.backbones.resolve import of_study
from tune.command_line import command, install_command, replay_command
from tune.experiment_file import experiment_of
from tune.experiments import Experiment
from tune.mlflow_model import save_model
from tune.study.kept_files import retrained_value
from tune.study.record import Record, check_whole, read_record

MODEL = "model"
"""Folder of a study's exported model; that of another format has its name behind a dash."""
MLFLOW = "mlflow"
FORMATS = (MLFLOW, "onnx", "safetensors", "torch_export")
"""Values of `--format`; the first is the default."""
# Another machine may round otherwise, and so a few images fall on the other side.
_RELATIVE, _ABSOLUTE = 0.01, 0.005
# Two runtimes add the same numbers in another order.
_ANSWERS = 1e-3


@dataclass(frozen=True)
class Exported:
    """A model that was checked."""

    folder: Path
    study: Path
    trial: int
    objective: str
    recorded: float
    measured: float
    """The objective, by what was exported."""
    format: str = MLFLOW
    difference: float | None = None
    """Largest difference between the answers of an exported graph and the network's, relative to
    the largest answer; None where the weights themselves were exported."""
    retrained: bool = False
    """Its weights were not kept: they are those of a training that differs from the record, and so
    is `recorded`."""

    def __str__(self) -> str:
        where = "after training it again" if self.retrained else "on record"
        said = (
            f"trial {self.trial} of {self.study.name}: {self.objective} {self.measured:.4f}, "
            f"{where} {self.recorded:.4f}"
        )
        if self.difference is None:
            return said
        if self.difference == 0:
            return f"{said}; its answers equal the network's"
        return f"{said}; its answers are the network's within {self.difference:.1e} of the largest"


def export_model(
    wanted: str,
    storage: Path,
    out: Path | None = None,
    images: str | None = None,
    format: str = MLFLOW,
) -> Exported:
    """Write the model of STUDY (its best trial) or STUDY/TRIAL once it has shown its metric again.

    Args:
        out: default `<storage>/<study>/model`, or `model-<format>`. An earlier export there is
            replaced.
        images: where the study's images are now; default: where a trial of the study found them.
        format: one of `FORMATS`. MLflow's has code and pinned requirements.
    Raises:
        UserError: no such study or completed trial, a record that lacks trials, an unknown format,
            `out` holds something else,
            the images are not found or are others, or the exported model does not reach the metric
            on record.
    """
    _check_format(format)
    origin = of_study(wanted, storage)
    if origin is None or origin.study is None or origin.trial is None:
        raise UserError(
            f"export {wanted!r}: it must be STUDY or STUDY/TRIAL of {storage}; "
            f"`{command('report', 'show', storage=storage)}` lists the studies"
        )
    study = storage / origin.study
    final = out or study / (MODEL if format == MLFLOW else f"{MODEL}-{format}")
    _check_place(final, format)

    record = read_record(study)
    check_whole(record)
    experiment = experiment_of(record.manifest.experiment, record.manifest.code)
    run = record.trials[origin.trial]
    data = _data_of(record, experiment, origin.trial, images)
    about = describe_model(experiment.trainable, run.config, data)
    about["origin"] = f"{study.name}/{origin.trial}"
    about["objective"] = record.objective
    again = retrained_value(origin.path)
    recorded = run.value or 0.0 if again is None else again
    exported = Exported(final, study, origin.trial, record.objective, recorded, 0.0, format)
    exported = replace(exported, retrained=again is not None)

    with _one_at_a_time(final), scratch_folder(final) as scratch:
        whole = scratch / "model"
        check = partial(_check, experiment=record.manifest.typed_experiment)
        save = _save_mlflow if format == MLFLOW else _save_portable
        exported = save(exported, about, origin.path, whole, data, check)
        if final.exists():
            # a kill must leave no half of it, which would be nobody's model
            final.rename(scratch / "earlier")
        whole.rename(final)
    return exported


@contextlib.contextmanager
def _one_at_a_time(final: Path) -> Iterator[None]:
    """Keep a second export to this folder waiting until the first has ended."""
    lock = final.with_name(f".{final.name}.lock")
    with FileLock(lock):
        yield


def _check_format(format: str) -> None:
    """Refuse a format that there is not, or whose packages are missing."""
    if format not in FORMATS:
        raise UserError(f"--format {format!r} is not a format{nearest(format, FORMATS)}")
    if format == MLFLOW:
        return

    from trainables.portable import PACKAGES  # it imports torch, for which a refusal need not wait

    absent = [name for name in PACKAGES[format] if find_spec(name) is None]
    if absent:
        raise UserError(f"--format {format} needs {', '.join(absent)}: {install_command(format)}")


def _check_place(final: Path, format: str) -> None:
    """Refuse a folder that holds something else than an earlier export, and make the one around
    it."""
    if final.exists():
        names = [path.name for path in final.iterdir()] if final.is_dir() else []
        if not {"MLmodel", DESCRIPTION} & set(names):
            raise UserError(
                f"{final} already exists and is not an exported model; give another --out"
            )
        if ("MLmodel" in names) != (format == MLFLOW):
            raise UserError(
                f"{final} contains a model of another format than {format}; give another --out"
            )
    final.parent.mkdir(parents=True, exist_ok=True)


def _data_of(record: Record, experiment: Experiment, trial: int, images: str | None) -> Any:
    """The data set that a trial was trained on.

    Raises:
        UserError: it is not found, or is another one now.
    """
    found = find_images(record, trial, images)
    config: Any = build(experiment.config, record.trials[trial].config | found)
    data = experiment.trainable.load_data(config.data)
    if found:
        _check_same_images(record, data, found["data.name"])
    return data


def _save_mlflow(
    exported: Exported,
    about: dict[str, Any],
    weights: Path,
    whole: Path,
    data: Any,
    check: Callable[[Exported], None],
) -> Exported:
    """Write MLflow's folder, and judge the model by what it will serve."""
    Served.of_trial(about, weights)  # a refusal of odd weights names the trial's own file
    folder = whole.with_name("data")
    folder.mkdir()
    shutil.copy(weights, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(about, indent=1))
    served = Served(folder)
    metrics = with_objective(exported.objective, served.judge(data))
    judged = replace(exported, measured=metrics[exported.objective])
    check(judged)
    save_model(served, folder, whole, data)
    return judged


def _save_portable(
    exported: Exported,
    about: dict[str, Any],
    weights: Path,
    whole: Path,
    data: Any,
    check: Callable[[Exported], None],
) -> Exported:
    """Write a file for other tools, and judge the model by what is read from it."""
    from trainables.portable import write

    whole.mkdir()
    (whole / DESCRIPTION).write_text(json.dumps(about, indent=1))
    written = write(Served.of_trial(about, weights), data, exported.format, whole)
    metrics = with_objective(exported.objective, written.metrics)
    measured = metrics[exported.objective]
    judged = replace(exported, measured=measured, difference=written.difference)
    check(judged)
    return judged


def find_images(record: Record, trial: int, given: str | None) -> dict[str, str]:
    """Config values of a trial that say where its images are now; {} where they are as it says.

    Args:
        given: folder that the user names.
    Raises:
        UserError: the folder of the trial, and those of the study's other trials, are not there.
    """
    # It imports torch, for which a refusal need not wait.
    from trainables.data.named import data_name

    if given is not None:
        return {"data.name": data_name(given)}

    known = record.trials[trial].config.get("data.name")
    # A folder has been resolved; another name is that of a data set.
    if known is None or not Path(known).is_absolute() or Path(known).exists():
        return {}
    latest_first = sorted(record.trials.items(), reverse=True)
    for _, run in latest_first:
        name = run.config["data.name"]
        if Path(name).exists():
            return {"data.name": name}
    raise UserError(
        f"the images of study {record.manifest.name!r} are not in {known} any more; "
        "say where they are with --data FOLDER"
    )


def _check_same_images(record: Record, data: Any, folder: str) -> None:
    wanted = str(record.manifest.data["fingerprint"])
    if data.fingerprint != wanted:
        raise UserError(
            f"the images in {folder} are not those of study {record.manifest.name!r} (fingerprint "
            f"{data.fingerprint[:8]}, not {wanted[:8]}); name the folder that it was trained on "
            "with --data"
        )


def _check(exported: Exported, experiment: str) -> None:
    """Refuse a model that does not do what is on record."""
    if exported.difference is not None and not exported.difference < _ANSWERS:
        raise UserError(
            f"{exported}: not exported, because {exported.format} computes something else than the "
            "network; --format safetensors writes its weights"
        )
    if not math.isclose(exported.measured, exported.recorded, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE):
        raise UserError(
            f"{exported}: not exported, because its weights do not reproduce the record; the data "
            "or the code have changed since "
            f"(`{replay_command(experiment, exported.study, exported.trial)}` trains it again)"
        )


def paint(model: Path, images: Path, out: Path) -> list[str]:
    """Colour masks of every image in a folder, in the images' own sizes; returns what could not be
    read, with the reason.

    Raises:
        UserError: no segmentation model, or no images.
    """
    found = sorted(model.rglob(DESCRIPTION)) if model.is_dir() else []
    if not found:
        write = command("report", "export", "STUDY")
        raise UserError(f"{str(model)!r} contains no exported model; write one with `{write}`")
    served = Served(found[0].parent)
    if not served.segments:
        raise UserError(f"{str(model)!r} is not a segmentation model, so it has no masks to paint")
    files = (
        sorted(path for path in images.iterdir() if path.suffix.lower() in EXTENSIONS)
        if images.is_dir()
        else []
    )
    if not files:
        raise UserError(f"{str(images)!r} contains no images ({', '.join(EXTENSIONS)})")
    out.mkdir(parents=True, exist_ok=True)
    images_of_stem = Counter(path.stem for path in files)
    failed = []
    for path in files:
        try:
            pixels = served.read(path)
        except CorruptImage as error:
            failed.append(f"{path.name}: {error}")
            continue
        mask = served.answer(pixels[None])[0]
        stem = path.stem if images_of_stem[path.stem] == 1 else path.name  # a.jpg beside a.png
        Image.fromarray(served.colors[mask]).save(out / f"{stem}_mask.png")
    return failed


def main(argv: Sequence[str]) -> int:
    """Command form. 0; 2 for wrong use, or where an image could not be read (the others are
    painted)."""
    if len(argv) != 3:
        print(
            f"usage: {command('export')} MODEL IMAGES OUT: a colour mask of every image in IMAGES",
            file=sys.stderr,
        )
        return 2
    try:
        failed = paint(*map(Path, argv))
    except UserError as error:
        print(f"vistune: {error}", file=sys.stderr)
        return 2
    for line in failed:
        print(f"vistune: left out {line}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
