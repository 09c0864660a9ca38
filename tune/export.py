"""A trial's model, checked against its record, as a folder that `mlflow.pyfunc.load_model` serves;
and colour masks of a folder of images.

python tune/report.py export segment                 # the best trial, to runs/segment/model and
MLflow's registry; or segment/3 python -m tune.export runs/segment/model IMAGES OUT  # a colour mask
OUT/<name>_mask.png of every image in IMAGES
"""

import json
import math
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tune.startup import check_python

check_python()

import numpy as np
from PIL import Image

from trainables.config import build
from trainables.data.images import EXTENSIONS, CorruptImage
from trainables.errors import UserError
from trainables.served import DESCRIPTION, WEIGHTS, Served, served_as, served_config
from tune.backbones.resolve import of_study
from tune.command_line import command, replay_command
from tune.experiment_file import experiment_of
from tune.experiments import Experiment
from tune.study.record import Record, read_record
from tune.tracking.address import quieten

MODEL = "model"
"""Folder of a study's exported model."""
_REPO = Path(__file__).resolve().parent.parent
# What `trainables` imports.
_REQUIRED = (
    *(
        "torch",
        "torchvision",
        "numpy",
        "scipy",
        "pandas",
        "scikit-learn",
        "pillow",
        "matplotlib",
        "pydantic",
        "filelock",
        "rich",
    ),
    *("byol-pytorch", "fonttools", "threadpoolctl", "torchinfo"),
)
# Another machine may round otherwise, and so a few images fall on the other side.
_RELATIVE, _ABSOLUTE = 0.01, 0.005
# images of the input example, and their largest side in px: it is kept as JSON
_EXAMPLE, _EXAMPLE_SIDE = 2, 64


@dataclass(frozen=True)
class Exported:
    """A model that was checked."""

    folder: Path
    study: Path
    trial: int
    objective: str
    recorded: float
    measured: float
    """The objective, by the exported weights."""

    def __str__(self) -> str:
        return (
            f"trial {self.trial} of {self.study.name}: {self.objective} {self.measured:.4f}, on "
            f"record {self.recorded:.4f}"
        )


def export_model(
    wanted: str, storage: Path, out: Path | None = None, images: str | None = None
) -> Exported:
    """Write the model of STUDY (its best trial) or STUDY/TRIAL, code and pinned requirements
    included, once it has shown its metric again.

    Args:
        out: default `<storage>/<study>/model`. An earlier export there is replaced.
        images: where the study's images are now; default: where a trial of the study found them.
    Raises:
        UserError: no such study or completed trial, `out` holds something else, the images are not
            found or are others, or the exported weights do not reach the metric on record.
    """
    origin = of_study(wanted, storage)
    if origin is None or origin.study is None or origin.trial is None:
        raise UserError(
            f"export {wanted!r}: it must be STUDY or STUDY/TRIAL of {storage}; "
            f"`{command('report', 'show', storage=storage)}` lists the studies"
        )
    study = storage / origin.study
    final = out or study / MODEL
    if final.exists() and not (final / "MLmodel").exists():
        raise UserError(f"{final} is there already and is no exported model; give another --out")
    final.parent.mkdir(parents=True, exist_ok=True)
    record = read_record(study)
    experiment = experiment_of(record.manifest.experiment, record.manifest.code)
    run = record.trials[origin.trial]
    found = find_images(record, origin.trial, images)
    config: Any = build(experiment.config, run.config | found)
    data = experiment.trainable.load_data(config.data)
    if found:
        _check_same_images(record, data, found["data.name"])
    with tempfile.TemporaryDirectory(prefix=f"{final.name}.", dir=final.parent) as scratch:
        folder, whole = Path(scratch) / "data", Path(scratch) / "model"
        folder.mkdir()
        shutil.copy(origin.path, folder / WEIGHTS)
        about = describe(experiment, run.config, data)
        about["origin"] = f"{study.name}/{origin.trial}"
        about["objective"] = record.objective
        (folder / DESCRIPTION).write_text(json.dumps(about, indent=1))
        served = Served(folder)
        exported = Exported(
            final,
            study,
            origin.trial,
            record.objective,
            run.value or 0.0,
            served.judge(data)[record.objective],
        )
        _check(exported, record.manifest.typed_experiment)
        _save(served, folder, whole, data)
        if final.exists():
            shutil.rmtree(final)
        whole.rename(final)
    return exported


def describe(experiment: Experiment, config: dict[str, Any], data: Any) -> dict[str, Any]:
    """Collect what `trainables.served` must know of a trial besides its weights, as JSON.

    Args:
        config: the trial's flat config.
        data: the data set that it was trained on.
    """
    kind = served_as(experiment.trainable)
    return {
        "kind": kind,
        "config": served_config(kind, config),
        "classes": list(data.classes),
        "colors": [list(color) for color in data.colors],
        "labelled": data.gallery is not None,
        "levels": _levels(data),
    }


def _levels(data: Any) -> list[float] | None:
    """Range of values that became 0 to 255, of data of more than 8 bits."""
    levels = getattr(data, "levels", None)
    return None if levels is None else [levels.low, levels.high]


def find_images(record: Record, trial: int, given: str | None) -> dict[str, str]:
    """Config values of a trial that say where its images are now; {} where they are as it says.

    Args:
        given: folder that the user names.
    Raises:
        UserError: the folder of the trial, and those of the study's other trials, are not there.
    """
    from trainables.data import EMBEDDED  # it imports torch, for which a refusal need not wait

    if given is not None:
        return {
            "data.name": given if given in EMBEDDED else str(Path(given).expanduser().resolve())
        }

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
    if not math.isclose(exported.measured, exported.recorded, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE):
        raise UserError(
            f"{exported}: not exported, as its weights do not do what is on record; the data or "
            "the code have changed since "
            f"(`{replay_command(experiment, exported.study, exported.trial)}` trains it again)"
        )


def _save(served: Served, data_path: Path, to: Path, data: Any) -> None:
    """The MLflow model: signature, input example, code, requirements. Nothing in it is pickled."""
    quieten()
    import mlflow.pyfunc

    images = data.val.batch(np.arange(min(_EXAMPLE, len(data.val)))).permute(0, 2, 3, 1).numpy()
    every = -(-images.shape[1] // _EXAMPLE_SIDE)
    example = np.ascontiguousarray(images[:, ::every, ::every])
    mlflow.pyfunc.save_model(
        str(to),
        loader_module="trainables.served",
        data_path=str(data_path),
        code_paths=[str(_REPO / "trainables")],
        pip_requirements=[f"{name}=={version(name)}" for name in _REQUIRED],
        input_example=example,
        signature=_signature(served, served.predict(example)),
    )
    for cache in to.rglob("__pycache__"):
        shutil.rmtree(cache)


def _signature(
    served: Served,
    answer: np.ndarray,  # of a batch of images
) -> Any:
    """Images (B, H, W, 3) uint8 to what the model answers. Of a few-shot model `labels` tell which
    classes the first images show."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    images = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))])
    if served.classifies:
        outputs = Schema([ColSpec("float", name) for name in served.classes])
    else:
        shape = (-1, -1, -1) if served.segments else (-1, answer.shape[1])
        outputs = Schema([TensorSpec(answer.dtype, shape)])
    return ModelSignature(
        images,
        outputs,
        ParamSchema([ParamSpec("labels", "string", [], (-1,))] if served.compares else []),
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
        raise UserError(f"{str(model)!r} holds no exported model; write one with `{write}`")
    served = Served(found[0].parent)
    if not served.segments:
        raise UserError(f"{str(model)!r} is no segmentation model: there are no masks to paint")
    files = (
        sorted(path for path in images.iterdir() if path.suffix.lower() in EXTENSIONS)
        if images.is_dir()
        else []
    )
    if not files:
        raise UserError(f"{str(images)!r} holds no images ({', '.join(EXTENSIONS)})")
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
