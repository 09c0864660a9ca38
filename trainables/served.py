"""A trained model outside of any study: a folder of weights and config that predicts for images.
Only tensors are unpickled from it.

    <folder>/weights.pt    what the trial exported
    <folder>/model.json    kind of trainable, flat config, classes and their colours, the metric
                           and the trial it comes from

`mlflow.pyfunc.load_model` calls `_load_pyfunc`, as exported models name this module as their
`loader_module`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from trainables.augment.views import evaluation_view
from trainables.base import Metrics
from trainables.byol import BYOL, BYOLConfig
from trainables.classifier import Classifier, ClassifierConfig, Pretraining
from trainables.config import build
from trainables.data.images import square
from trainables.errors import UserError
from trainables.protonet import ProtoNet, ProtoNetConfig
from trainables.segmentation import Segmentation, SegmentationConfig

WEIGHTS, DESCRIPTION = "weights.pt", "model.json"
_BATCH = 32  # images; bounds the memory


def _masks(model: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) uint8, in the size of the images."""
    logits = model.net(images)[0].float()
    logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return logits.argmax(1).to(torch.uint8)


def _probabilities(model: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C) float32."""
    logits: Tensor = model.head(model.backbone(images)).float()
    return logits.softmax(1)


def _features(model: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, D) float32: the backbone's."""
    features: Tensor = model.backbone(images).float()
    return features


Answer = Callable[[Any, Tensor, tuple[int, int]], Tensor]
KINDS: dict[str, tuple[type, type, Answer]] = {
    "BYOL": (BYOL, BYOLConfig, _features),
    "Pretraining": (Pretraining, ClassifierConfig, _probabilities),
    "Classifier": (Classifier, ClassifierConfig, _probabilities),
    "ProtoNet": (ProtoNet, ProtoNetConfig, _features),
    "Segmentation": (Segmentation, SegmentationConfig, _masks),
}
"""Name of a trainable -> (class, config, function that predicts)."""

# Settings that matter in training alone: first weights, freezing, compilation.
_UNTRAINED = {
    "init.source": "scratch",
    "init.file": "",
    "init.sha256": "",
    "init.origin": "",
    "freeze.policy": "none",
    "freeze.until": "",
    "train.compile": False,
}


class Served:
    """An exported model that predicts.

    Raises:
        UserError: the folder holds no exported model.
    """

    def __init__(self, folder: Path, device: torch.device | None = None):
        try:
            about = json.loads((Path(folder) / DESCRIPTION).read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{str(folder)!r} holds no exported model ({error}); "
                "name a folder that `export` of tune/report.py wrote"
            ) from None

        kind, config_type, self._answer = KINDS[about["kind"]]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.colors = np.array(about["colors"], np.uint8).reshape(-1, 3)
        self.segments = kind is Segmentation
        self.compares = kind is ProtoNet
        self.classifies = self._answer is _probabilities
        self._threads = int(about["config"]["train.threads"])

        config = _config(config_type, about["config"])
        self._size = config.data.image_size
        data = SimpleNamespace(
            classes=self.classes,
            colors=about["colors"],
            gallery=() if about["labelled"] else None,
        )
        self.model = kind(config, data).to(device or torch.device("cpu"))
        self._normalize = self.model.normalize if kind is BYOL else config.normalize
        self.model.load_export(Path(folder) / WEIGHTS)
        self.model.eval()

    @torch.no_grad()
    def predict(
        self,
        images: np.ndarray,  # (B, H, W, 3) uint8
    ) -> np.ndarray:
        """Predict for each image: a classifier gives probabilities (B, C) float32, a segmentation
        network class numbers (B, H, W) uint8, any other model features (B, D) float32.

        Except in segmentation, a model sees the largest centred square of an image.

        Raises:
            UserError: images of another shape or type.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise UserError(
                f"images must be (B, H, W, 3) uint8, but got {images.shape} {images.dtype}; "
                "stack them, and convert to RGB"
            )
        size = (images.shape[1], images.shape[2])
        answers = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            pixels = self._pixels(batch).to(self.model.device)
            views = evaluation_view(pixels, self._size, self._normalize)
            answers.append(self._answer(self.model, views, size).cpu().numpy())
        return np.concatenate(answers)

    def _pixels(self, images: np.ndarray) -> Tensor:
        """(B, 3, S, S) uint8, cut and resized as files are for training; for a segmentation
        network, which predicts every pixel, whole images (B, 3, H, W)."""
        if self.segments:
            return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        squares = [square(Image.fromarray(image), self._size) for image in images]
        return torch.from_numpy(np.stack(squares))

    def compare(
        self,
        images: np.ndarray,  # (K + Q, H, W, 3) uint8: K examples, then Q queries
        labels: Sequence[str],  # K, of the examples
        # N names in the order of their first examples; (Q, N) float32
    ) -> tuple[list[str], np.ndarray]:
        """Classify queries by a few examples: the probability of each class that the examples show,
        which may be classes that training never saw.

        Raises:
            UserError: not a few-shot model, no query, or as `predict` does.
        """
        if not self.compares:
            raise UserError(
                f"labels={list(labels)[:3]}...: this model needs no examples; "
                "labels are for models of `fewshot`"
            )
        if len(labels) >= len(images):
            raise UserError(
                f"{len(labels)} labels for {len(images)} images leave no query; "
                "give the examples first, then the queries"
            )
        names = list(dict.fromkeys(labels))
        features = torch.from_numpy(self.predict(images)).to(self.model.device)  # (K + Q, D)
        examples = features[: len(labels)]
        queries = features[len(labels) :]

        prototypes = []
        for name in names:
            of_class = [label == name for label in labels]
            prototypes.append(examples[of_class].mean(0))
        with torch.no_grad():
            logits = self.model.head(queries[None], torch.stack(prototypes)[None])[0]
        return names, logits.softmax(1).cpu().numpy()

    def judge(self, data: Any) -> Metrics:
        """Compute `val/...` metrics on the data set of the model's study, as its trial did."""
        torch.set_num_threads(self._threads)  # floating-point sums depend on it
        self.model.data = data
        metrics: Metrics = self.model.validate()
        return metrics


def _config(config_type: type[Any], flat: dict[str, Any]) -> Any:
    """The config of the trial, without what matters in training alone."""
    flat = dict(flat)
    for key, value in _UNTRAINED.items():
        if key in flat:
            flat[key] = value
    if config_type is SegmentationConfig:
        flat["loss.name"] = "ce"  # class weights come from training data
    return build(config_type, flat)


class _PyFunc:
    """The model as `mlflow.pyfunc` wants it. Probabilities become a table with a column for each
    class, so that a prediction names its classes."""

    def __init__(self, folder: Path):
        self.served = Served(folder)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        import pandas

        labels = (params or {}).get("labels", ())
        if len(labels):
            names, probabilities = self.served.compare(model_input, list(labels))
            return pandas.DataFrame(probabilities, columns=names)
        answer = self.served.predict(model_input)
        if self.served.classifies:
            return pandas.DataFrame(answer, columns=list(self.served.classes))
        return answer


def _load_pyfunc(data_path: str) -> _PyFunc:
    return _PyFunc(Path(data_path))
