"""A trial's best model as a folder that `mlflow.pyfunc.load_model` serves, and colour masks of a folder of images.

python tune/report.py export segment                 # the best trial, to runs/segment/model; or segment/3
python -m tune.export runs/segment/model IMAGES OUT  # a colour mask OUT/<name>_mask.png of every image in IMAGES
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.config import build
from trainables.data.images import EXTENSIONS, CorruptImage, read_rgb
from trainables.errors import UserError
from trainables.served import DESCRIPTION, KINDS, WEIGHTS, Served
from tune.experiments import EXPERIMENTS
from tune.lineage import find
from tune.manifest import read_manifest

MODEL = "model"
"""Folder of a study's exported model."""
_REPO = Path(__file__).resolve().parent.parent
# What `trainables` imports.
_REQUIRED = (
    *("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "matplotlib", "pydantic", "filelock", "rich"),
    *("byol-pytorch", "fonttools", "threadpoolctl", "torchinfo"),
)


def export_model(wanted: str, storage: Path, out: Path | None = None) -> Path:
    """Write the model of STUDY (its best trial) or STUDY/TRIAL, code and pinned requirements included; returns its folder.

    Args:
        out: default `<storage>/<study>/model`. An earlier export there is replaced.
    Raises:
        UserError: no such study or completed trial, or `out` holds something else.
    """
    import mlflow.pyfunc

    origin = find(wanted, storage)
    if origin.study is None or origin.trial is None:
        raise UserError(f"export {wanted!r} must be STUDY or STUDY/TRIAL; `python tune/report.py show` lists the studies")
    study = storage / origin.study
    final = out or study / MODEL
    if final.exists() and not (final / "MLmodel").exists():
        raise UserError(f"{final} is there already and is no exported model; give another --out")
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{final.name}.", dir=final.parent) as scratch:
        data, whole = Path(scratch) / "data", Path(scratch) / "model"
        data.mkdir()
        shutil.copy(origin.path, data / WEIGHTS)
        (data / DESCRIPTION).write_text(json.dumps(_describe(study, origin.trial), indent=1))
        pins = [f"{name}=={version(name)}" for name in _REQUIRED]
        code = [str(_REPO / "trainables")]
        mlflow.pyfunc.save_model(str(whole), loader_module="trainables.served", data_path=str(data), code_paths=code, pip_requirements=pins)
        if final.exists():
            shutil.rmtree(final)
        whole.rename(final)
    return final


def _describe(study: Path, trial: int) -> dict[str, Any]:
    manifest = read_manifest(study / "study.json")
    experiment = EXPERIMENTS[manifest.experiment]
    if experiment.trainable.__name__ not in KINDS:
        raise UserError(f"models of {experiment.name} cannot be exported; valid: {', '.join(KINDS)}")
    flat = json.loads((study / "trials" / f"{trial:04d}" / "config.json").read_text())
    config: Any = build(experiment.config, flat)
    data = experiment.trainable.load_data(config.data)
    return {
        "kind": experiment.trainable.__name__, "config": flat, "classes": list(data.classes), "colors": [list(c) for c in data.colors],
        "labelled": data.gallery is not None, "origin": f"{study.name}/{trial}", "objective": manifest.objective,
    }  # fmt: skip


def paint(model: Path, images: Path, out: Path) -> list[str]:
    """Colour masks of every image in a folder, in the images' own sizes; returns what could not be read, with the reason.

    Raises:
        UserError: no segmentation model, or no images.
    """
    found = sorted(model.rglob(DESCRIPTION)) if model.is_dir() else []
    served = Served(found[0].parent if found else model)
    if not served.segments:
        raise UserError(f"{str(model)!r} is no segmentation model: there are no masks to paint")
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in EXTENSIONS) if images.is_dir() else []
    if not files:
        raise UserError(f"{str(images)!r} holds no images ({', '.join(EXTENSIONS)})")
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for path in files:
        try:
            pixels = np.asarray(read_rgb(path))
        except CorruptImage as error:
            failed.append(f"{path.name}: {error}")
            continue
        mask = served.predict(pixels[None])[0]
        Image.fromarray(served.colors[mask]).save(out / f"{path.stem}_mask.png")
    return failed


def main(argv: Sequence[str]) -> int:
    """Command form. 0; 2 for wrong use, or where an image could not be read (the others are painted)."""
    if len(argv) != 3:
        print("usage: python -m tune.export MODEL IMAGES OUT: a colour mask of every image in IMAGES", file=sys.stderr)
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
