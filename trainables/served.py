"""A trained model outside of any study: a folder of weights and config that answers for images.
Nothing in it is unpickled but tensors.

    <folder>/weights.pt    what the trial exported
    <folder>/model.json    kind of trainable, flat config, classes and their colours, the metric and the trial it comes from

`_load_pyfunc` is what `mlflow.pyfunc.load_model` calls (a model with `loader_module:
trainables.served`).
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
    logits = functional.interpolate(
        model.net(images)[0].float(), size=size, mode="bilinear", align_corners=False
    )
    return logits.argmax(1).to(torch.uint8)


def _probabilities(model: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C) float32."""
    return model.head(model.backbone(images)).float().softmax(1)


def _features(model: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, D) float32: the backbone's."""
    return model.backbone(images).float()


Answer = Callable[[Any, Tensor, tuple[int, int]], Tensor]
KINDS: dict[str, tuple[type, type, Answer]] = {
    "BYOL": (BYOL, BYOLConfig, _features),
    "Pretraining": (Pretraining, ClassifierConfig, _probabilities),
    "Classifier": (Classifier, ClassifierConfig, _probabilities),
    "ProtoNet": (ProtoNet, ProtoNetConfig, _features),
    "Segmentation": (Segmentation, SegmentationConfig, _masks),
}
"""Name of a trainable -> (class, config, what it answers)."""

# Where the weights began, what froze on the way and how the loss weighed belong to training.
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
    """Images in, answers out.

    Raises:
        UserError: the folder holds no such model.
    """

    def __init__(self, folder: Path, device: torch.device | None = None):
        try:
            about = json.loads((Path(folder) / DESCRIPTION).read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{str(folder)!r} holds no exported model ({error}); write one with `python tune/report.py export STUDY`"
            ) from None
        kind, config_type, self._answer = KINDS[about["kind"]]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.colors = np.array(about["colors"], np.uint8).reshape(-1, 3)
        self.segments, self.compares = kind is Segmentation, kind is ProtoNet
        self.classifies = self._answer is _probabilities
        self._threads = int(about["config"]["train.threads"])
        flat = about["config"] | {
            key: value for key, value in _UNTRAINED.items() if key in about["config"]
        }
        if self.segments:
            flat["loss.name"] = "ce"  # weights of classes come from training data
        config: Any = build(config_type, flat)
        self._size = config.data.image_size
        data = SimpleNamespace(
            classes=self.classes, colors=about["colors"], gallery=() if about["labelled"] else None
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
        """Of a classifier probabilities (B, C), of a segmentation network class numbers (B, H, W)
        uint8, of others features (B, D). But for segmentation, the largest centred square of an
        image counts.

        Raises:
            UserError: images of another shape or type.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise UserError(
                f"images must be (B, H, W, 3) uint8, but got {images.shape} {images.dtype}; stack them, and convert to RGB"
            )
        answers = []
        for start in range(0, len(images), _BATCH):
            views = evaluation_view(
                self._pixels(images[start : start + _BATCH]).to(self.model.device),
                self._size,
                self._normalize,
            )
            answers.append(
                self._answer(self.model, views, (images.shape[1], images.shape[2])).cpu().numpy()
            )
        return np.concatenate(answers)

    def _pixels(self, images: np.ndarray) -> Tensor:
        """(B, 3, S, S) uint8, cut and resized as files are for training; of a segmentation network,
        whose answer is for every pixel, whole: (B, 3, H, W)."""
        if self.segments:
            return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        return torch.from_numpy(
            np.stack([square(Image.fromarray(image), self._size) for image in images])
        )

    def compare(
        self,
        images: np.ndarray,  # (K + Q, H, W, 3) uint8: K examples, then Q queries
        labels: Sequence[str],  # K, of the examples
        # N names in the order of their first examples; (Q, N) float32
    ) -> tuple[list[str], np.ndarray]:
        """Few-shot classification: how probably a query is of each class that the examples show,
        classes that training never saw included.

        Raises:
            UserError: not a few-shot model, no query, or as `predict` does.
        """
        if not self.compares:
            raise UserError(
                f"labels={list(labels)[:3]}...: this model needs no examples; labels are for models of `fewshot`"
            )
        if len(labels) >= len(images):
            raise UserError(
                f"{len(labels)} labels for {len(images)} images leave no query; give the examples first, then the queries"
            )
        features, names = (
            torch.from_numpy(self.predict(images)).to(self.model.device),
            list(dict.fromkeys(labels)),
        )
        examples = features[: len(labels)]
        prototypes = torch.stack(
            [examples[[label == name for label in labels]].mean(0) for name in names]
        )
        with torch.no_grad():
            logits = self.model.head(features[None, len(labels) :], prototypes[None])[0]
        return names, logits.softmax(1).cpu().numpy()

    def judge(self, data: Any) -> Metrics:
        """`val/...` metrics on the data set of the model's study, as its trial computed them."""
        torch.set_num_threads(self._threads)  # floating-point sums depend on it
        self.model.data = data
        return self.model.validate()


class _PyFunc:
    """What `mlflow.pyfunc` calls `predict` of. Probabilities become a table with a column a class,
    so that an answer names its classes."""

    def __init__(self, folder: Path):
        self.served = Served(folder)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        import pandas

        labels = (params or {}).get("labels", ())
        if len(labels):
            names, probabilities = self.served.compare(model_input, list(labels))
            return pandas.DataFrame(probabilities, columns=names)
        answer = self.served.predict(model_input)
        return (
            pandas.DataFrame(answer, columns=list(self.served.classes))
            if self.served.classifies
            else answer
        )


def _load_pyfunc(data_path: str) -> _PyFunc:
    return _PyFunc(Path(data_path))
