"""Write a served model as an MLflow folder: signature, input example, code and pinned
requirements."""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from trainables.served import Served
from tune.tracking.address import quieten

_REPO = Path(__file__).resolve().parent.parent
# Packages that `trainables` imports.
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
# Number of images in the input example and their largest side in px. Small, because MLflow stores
# it as JSON.
_EXAMPLE, _EXAMPLE_SIDE = 2, 64


def save_model(served: Served, data_path: Path, to: Path, data: Any) -> None:
    """Write the MLflow model with signature, input example, code and requirements. Nothing in it is
    pickled."""
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
        pip_requirements=[f"{name}=={version(name)}" for name in _required(served)],
        input_example=example,
        signature=_signature(served, served.predict(example)),
    )
    for cache in to.rglob("__pycache__"):
        shutil.rmtree(cache)


def _required(served: Served) -> list[str]:
    """Return the packages that the model imports, including those of its network's extra."""
    config = served.about["config"]
    network = str(config.get("model.name", ""))
    backbone = str(config["backbone.name"])
    extra = []
    if network.startswith("smp:"):
        extra = ["segmentation-models-pytorch", "timm"]
    elif backbone.startswith("timm:"):
        extra = ["timm"]
    return [*_REQUIRED, *extra]


def _signature(
    served: Served,
    answer: np.ndarray,  # model output for a batch of images
) -> Any:
    """Return the signature: images (B, H, W, 3) uint8 to the model's output. For a few-shot model,
    `labels` gives the classes of the first images."""
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
