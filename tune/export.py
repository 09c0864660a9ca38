"""Export a trial's model after checking it against its record: as a folder that
`mlflow.pyfunc.load_model` serves, or as ONNX, safetensors or a `torch.export` program. Also paints
colour masks of a folder of images.

    # the best trial (or segment/3), to runs/segment/model and MLflow's registry
    python tune/report.py export segment
    # a colour mask OUT/<name>_mask.png of every image in IMAGES
    python -m tune.export runs/segment/model IMAGES OUT
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
"""Folder of a study's exported model. For other formats a dash and the format are appended."""
MLFLOW = "mlflow"
FORMATS = (MLFLOW, "onnx", "safetensors", "torch_export")
"""Values of `--format`; the first is the default."""
# Another machine may round differently, so a few images may be classified differently.
_RELATIVE, _ABSOLUTE = 0.01, 0.005
# Two runtimes may add the same numbers in a different order.
_ANSWERS = 1e-3


@dataclass(frozen=True)
class Exported:
    """A checked and exported model."""

    folder: Path
    study: Path
    trial: int
    objective: str
    recorded: float
    measured: float
    """The objective, computed with the exported model."""
    format: str = MLFLOW
    difference: float | None = None
    """Largest difference between the outputs of an exported graph and of the network, relative to
    the largest output; None if the weights themselves were exported."""
    retrained: bool = False
    """True if the recorded weights were not kept and it was trained again, with a different result.
    `recorded` then belongs to that training too."""

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
    """Export the model of STUDY (its best trial) or STUDY/TRIAL, after checking that it reproduces
    its metric.

    Args:
        out: folder of the model; default `<storage>/<study>/model`, or `model-<format>`. An earlier
            export there is replaced.
        images: current folder of the study's images; default: where a trial of the study found
            them.
        format: one of `FORMATS`. MLflow's includes code and pinned requirements.
    Raises:
        UserError: there is no such study or completed trial, the record lacks trials, the format is
            unknown, `out` contains something else, the images are missing or differ, or the
            exported model does not reproduce the recorded metric.
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
            # a kill must not leave a mix of both models
            final.rename(scratch / "earlier")
        whole.rename(final)
    return exported


@contextlib.contextmanager
def _one_at_a_time(final: Path) -> Iterator[None]:
    """Make a second export to this folder wait until the first has ended."""
    lock = final.with_name(f".{final.name}.lock")
    with FileLock(lock):
        yield


def _check_format(format: str) -> None:
    """Refuse an unknown format, or one whose packages are missing."""
    if format not in FORMATS:
        raise UserError(f"--format {format!r} is not a format{nearest(format, FORMATS)}")
    if format == MLFLOW:
        return

    from trainables.portable import PACKAGES  # imports torch, which a refusal need not wait for

    absent = [name for name in PACKAGES[format] if find_spec(name) is None]
    if absent:
        raise UserError(f"--format {format} needs {', '.join(absent)}: {install_command(format)}")


def _check_place(final: Path, format: str) -> None:
    """Refuse a folder that contains anything but an earlier export, and create its parent
    folder."""
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
    """Load the data set on which a trial was trained.

    Raises:
        UserError: the data is not found, or has changed.
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
    """Write MLflow's folder, and evaluate the model as it will be served."""
    Served.of_trial(about, weights)  # if refused, the error names the trial's own file
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
    """Write a file for other tools, and evaluate the model as read from that file."""
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
    """Return config values that say where a trial's images are now; {} if they are where its config
    says.

    Args:
        given: folder named by the user.
    Raises:
        UserError: neither the trial's folder nor those of the study's other trials exist.
    """
    # Imports torch, which a refusal need not wait for.
    from trainables.data.named import data_name

    if given is not None:
        return {"data.name": data_name(given)}

    known = record.trials[trial].config.get("data.name")
    # A folder is on record as an absolute path; other names are those of data sets.
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
    """Refuse a model that does not reproduce the record."""
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
    """Paint colour masks of every image in a folder, at the images' own sizes. Return the files
    that could not be read, with reasons.

    Raises:
        UserError: there is no segmentation model, or there are no images.
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
    """Run the command. Return 0, or 2 for wrong use or if an image could not be read (the others
    are painted)."""
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
