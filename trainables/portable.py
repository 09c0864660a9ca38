"""A trained model for tools without our code: an ONNX file, a `torch.export` program, or its
weights as safetensors.

    model.onnx, model.pt2    images (B, 3, H, W) float32 in [0, 1] -> the model's answer
    model.safetensors        backbone.* and head.*, under torch's names

Every file is read back after it is written, and the result replaces the network in an evaluation on
the validation split. So the metric that is compared with the recorded one is the file's own.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.image_ops import mean_std
from trainables.base import Metrics
from trainables.errors import UserError
from trainables.segmenters.averaging import averaged_scores
from trainables.served import WEIGHTS, Served

FILES = {
    "onnx": "model.onnx",
    "safetensors": "model.safetensors",
    "torch_export": "model.pt2",
}
"""Format -> file name."""
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "safetensors": ("safetensors",),
    "torch_export": (),
}
"""Format -> packages that it needs besides torch."""

_OPSET = 18
_COMPARED = 32  # validation images whose answers are compared individually

Run = Callable[[np.ndarray], np.ndarray]
"""(B, 3, H, W) float32 in [0, 1] -> the model's answer, float32."""


class Network(nn.Module):
    """A served model as one function of images, with its normalisation.

    A classifier returns logits (B, C), a segmentation network scores (B, C, H, W), any other model
    features (B, D).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, served: Served):
        super().__init__()
        model = served.model
        mean, std = mean_std(served.normalize, torch.device("cpu"))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.backbone = model.net if served.segments else model.backbone
        self.head = model.head if served.classifies else None
        self._averaging = (model.config.eval, model.config.data.up) if served.segments else None

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W) in [0, 1]
    ) -> Tensor:
        views = (images - self.mean) / self.std
        if self._averaging is not None:
            return averaged_scores(self.backbone, views, *self._averaging)
        features: Tensor = self.backbone(views)
        if self.head is None:
            return features
        logits: Tensor = self.head(features)
        return logits


@dataclass(frozen=True)
class Written:
    """A file that was read back."""

    file: Path
    metrics: Metrics
    """`val/...` metrics of the file that was read back."""
    difference: float | None
    """Largest difference between the file's and the network's answers, relative to the largest
    answer; None for weights, which are identical."""


def write(served: Served, data: Any, format: str, folder: Path) -> Written:
    """Write a model into a folder in one of the formats `FILES`, read it back and evaluate it.

    Args:
        data: the data set of the model's study.
    Raises:
        UserError: torch cannot trace the network.
        ImportError: a package is missing (`PACKAGES`).
    """
    path = folder / FILES[format]
    if format == "safetensors":
        return _weights(served, data, path)

    network = Network(served).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own exporters
        program = _program(served, network)
        run = _onnx(program, path) if format == "onnx" else _torch_program(program, path)
    difference = _difference(network, data, run)
    again = Served.of_trial(served.about, served.weights)
    return Written(path, _judged(again, data, run), difference)


# ---------------------------------------------------------------- weights


def _weights(served: Served, data: Any, path: Path) -> Written:
    """Write the weights of the trial's own file, and evaluate a model rebuilt from the file that
    was read back."""
    from safetensors.torch import load_file, save_file

    payload = torch.load(served.weights, map_location="cpu", weights_only=True)
    tensors = {f"backbone.{key}": value for key, value in payload["state_dict"].items()}
    tensors |= {f"head.{key}": value for key, value in payload.get("head", {}).items()}
    # Clone tensors that layers share: the format does not support shared tensors.
    separate = {key: value.clone().contiguous() for key, value in tensors.items()}
    save_file(separate, path, metadata={"format": "pt"})

    read = load_file(path)
    again = {"state_dict": _below("backbone.", read), "head": _below("head.", read)}
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        weights = Path(scratch) / WEIGHTS
        torch.save(again, weights)
        metrics = Served.of_trial(served.about, weights).judge(data)
    return Written(path, metrics, None)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with the prefix, under their names without it."""
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


# ---------------------------------------------------------------- graphs


def _program(served: Served, network: Network) -> Any:
    """The network as a `torch.export` program for any batch size; for any image size too if it is
    a segmentation network that is evaluated on whole images.

    Raises:
        UserError: torch cannot trace the network.
    """
    side = served.size
    batch = torch.export.Dim("batch")
    shape: dict[int, Any] = {0: batch}
    example = torch.rand(2, 3, side, side)
    if served.whole:
        shape |= {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
        example = torch.rand(2, 3, side, side + 8)
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=(shape,))
    except Exception as error:  # tracing can raise anything
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"torch.export cannot trace this network ({reason}); --format safetensors writes its "
            "weights, and without --format it is an MLflow model"
        ) from None


def _torch_program(program: Any, path: Path) -> Run:
    """Write the program and return a function that runs the written file."""
    torch.export.save(program, path)
    module = torch.export.load(path).module()

    def run(images: np.ndarray) -> np.ndarray:
        answer: np.ndarray = module(torch.from_numpy(images)).detach().numpy()
        return answer

    return run


def _onnx(program: Any, path: Path) -> Run:
    """Write the program as ONNX and return a function that runs the file in onnxruntime."""
    import onnxruntime

    written = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=_OPSET,
        input_names=["images"],
        output_names=["answer"],
        verbose=False,
    )
    assert written is not None
    written.save(str(path), external_data=False)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # only errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]

    def run(images: np.ndarray) -> np.ndarray:
        answer: np.ndarray = session.run(None, {name: images})[0]
        return answer

    return run


# ---------------------------------------------------------------- checks


class _Foreign(nn.Module):
    """Stands in for a network and answers with a program read from a file.

    Args:
        normalize: normalisation of the views that it receives.
    """

    def __init__(self, run: Run, normalize: Any):
        super().__init__()
        self._run = run
        mean, std = mean_std(normalize, torch.device("cpu"))
        self.mean = mean
        self.std = std
        # A trainable takes its device from its parameters.
        self.place = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(
        self,
        views: Tensor,  # (B, 3, H, W), normalised
    ) -> Tensor:
        images = (views.float() * self.std + self.mean).contiguous()
        return torch.from_numpy(self._run(images.numpy()))


def _judged(served: Served, data: Any, run: Run) -> Metrics:
    """`val/...` metrics of the file, which replaces the network of `served`."""
    foreign = _Foreign(run, served.normalize)
    model = served.model
    if served.segments:
        model.scores = lambda views: foreign(views)
    elif served.classifies:
        model.backbone = foreign
        model.head = nn.Identity()
    elif served.compares:
        model.backbone = foreign
    else:
        model.learner.online_encoder.net = foreign
    return served.judge(data)


def _difference(network: Network, data: Any, run: Run) -> float:
    """Largest difference between the file's and the network's answers to validation images,
    relative to the network's largest answer."""
    positions = np.arange(min(_COMPARED, len(data.val)))
    images = data.val.batch(positions).float() / 255
    with torch.no_grad():
        expected = network(images).numpy()
    found = run(images.numpy())
    return float(np.abs(found - expected).max() / max(1e-12, np.abs(expected).max()))
