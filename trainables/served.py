"""A trained model outside any study: a folder with weights and config that predicts for images.
Only tensors are unpickled from it.

    <folder>/weights.pt    the trial's export
    <folder>/model.json    kind of trainable, flat config, classes and their colours, the metric,
                           and the trial that the model comes from

`mlflow.pyfunc.load_model` calls `_load_pyfunc`, because exported models name this module as their
`loader_module`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from trainables.augment.views import evaluation_view, whole_view
from trainables.base import Metrics
from trainables.byol import BYOL, BYOLConfig
from trainables.classifier import Classifier, ClassifierConfig, Pretraining
from trainables.config import build, flatten
from trainables.data.images import read_rgb, square, whole_size
from trainables.data.levels import Levels
from trainables.errors import UserError, first_line
from trainables.protonet import ProtoNet, ProtoNetConfig
from trainables.segmentation import Segmentation, SegmentationConfig
from trainables.self_supervised import SelfSupervised, SelfSupervisedConfig
from trainables.serving import as_server_says, watch_server

WEIGHTS, DESCRIPTION = "weights.pt", "model.json"
LABELS = ("labels",)
"""Parameters of a served few-shot model; other models have none."""
_BATCH = 32  # images per batch, which bounds memory
_FLOATS = 1 << 27  # of scores at image size, 512 MB; larger ones are computed class by class


def _masks(model: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) uint8, at the size of the images."""
    logits = model.scores(images)  # (B, C, h, w)
    height, width = size
    floats = logits.shape[0] * logits.shape[1] * height * width
    if floats > _FLOATS:
        return _masks_by_class(logits, size)
    return _enlarged(logits, size).argmax(1).to(torch.uint8)


def _masks_by_class(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The same for large images, with the scores of only two classes in memory at a time."""
    best = _enlarged(logits[:, :1], size)
    masks = torch.zeros_like(best, dtype=torch.uint8)
    for number in range(1, logits.shape[1]):
        scores = _enlarged(logits[:, number : number + 1], size)
        masks[scores > best] = number
        torch.maximum(best, scores, out=best)
    return masks[:, 0]


def _enlarged(
    logits: Tensor,  # (B, C, h, w)
    size: tuple[int, int],  # H, W
) -> Tensor:  # (B, C, H, W)
    return functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _probabilities(model: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C) float32."""
    logits: Tensor = model.head(model.backbone(images)).float()
    return logits.softmax(1)


def _features(model: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, D) float32 features of the backbone."""
    features: Tensor = model.backbone(images).float()
    return features


Answer = Callable[[Any, Tensor, tuple[int, int]], Tensor]
KINDS: dict[str, tuple[type, type, Answer]] = {
    "BYOL": (BYOL, BYOLConfig, _features),
    "SelfSupervised": (SelfSupervised, SelfSupervisedConfig, _features),
    "Pretraining": (Pretraining, ClassifierConfig, _probabilities),
    "Classifier": (Classifier, ClassifierConfig, _probabilities),
    "ProtoNet": (ProtoNet, ProtoNetConfig, _features),
    "Segmentation": (Segmentation, SegmentationConfig, _masks),
}
"""Name of a trainable -> (class, config, function that predicts)."""


def served_as(trainable: type) -> str:
    """Name of the kind that serves a trainable: its own, or that of a base class if it does not
    change the layers.

    Raises:
        UserError: no kind serves it.
    """
    for base in trainable.__mro__:
        known = KINDS.get(base.__name__)
        if known is not None and known[0] is base:
            return base.__name__
        if "__init__" in vars(base):
            break

    raise UserError(
        f"a model of {trainable.__name__} cannot predict outside of its study, which "
        f"{', '.join(KINDS)} can, and classes that derive from them without an __init__ of their "
        "own; its weights are the best.pt of a trial's folder"
    )


def served_config(kind: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a flat config that serving knows. Values that a derived class adds only matter in
    training."""
    _, config_type, _ = KINDS[kind]
    known = flatten(config_type())
    return {key: value for key, value in flat.items() if key in known}


# Settings that matter only in training, with harmless values: initial weights, freezing,
# compilation.
_UNTRAINED = {
    "init.source": "scratch",
    "init.file": "",
    "init.sha256": "",
    "init.origin": "",
    "freeze.policy": "none",
    "freeze.until": "",
    "train.compile": False,
    "balance.by": "none",
}


class Served:
    """An exported model that predicts.

    Raises:
        UserError: the folder contains no exported model.
    """

    def __init__(self, folder: Path, device: torch.device | None = None):
        try:
            about = json.loads((Path(folder) / DESCRIPTION).read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{str(folder)!r} contains no exported model ({error}); "
                "name a folder that `export` of tune/report.py wrote"
            ) from None

        self._build(about, Path(folder) / WEIGHTS, device)

    @classmethod
    def of_trial(
        cls, about: Mapping[str, Any], weights: Path, device: torch.device | None = None
    ) -> Self:
        """Build the model from a trial's own weights file.

        Args:
            about: the content of `model.json`.
        """
        served = cls.__new__(cls)
        served._build(about, weights, device)
        return served

    def _build(self, about: Mapping[str, Any], weights: Path, device: torch.device | None) -> None:
        self.about = about
        self.weights = weights
        kind, config_type, self._answer = KINDS[about["kind"]]
        self.classes: tuple[str, ...] = tuple(about["classes"])
        self.colors = np.array(about["colors"], np.uint8).reshape(-1, 3)
        self.segments = kind is Segmentation
        self.compares = kind is ProtoNet
        self.classifies = self._answer is _probabilities
        self._threads = int(about["config"]["train.threads"])

        config = _config(config_type, about["config"])
        self.size = config.data.image_size
        self.whole = self.segments and config.data.judged == "whole"
        self.megapixels: int = config.data.max_megapixels
        levels = about.get("levels")
        self._levels = None if levels is None else Levels(*levels)
        data = SimpleNamespace(
            classes=self.classes,
            colors=about["colors"],
            gallery=() if about["labelled"] else None,
        )
        self.model = kind(config, data).to(device or torch.device("cpu"))
        own = self.model if issubclass(kind, SelfSupervised) else config
        self.normalize = own.normalize
        self._load(weights)
        self.model.eval()

    def _load(self, weights: Path) -> None:
        try:
            self.model.load_export(weights)
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            # raised by torch, which has no specific error for a file with other content
            raise UserError(
                f"{weights} holds other weights than those of its network ({first_line(error)}); "
                "restore it from a copy, or train that trial again (--trial STUDY/TRIAL)"
            ) from None

    def predict(
        self,
        images: np.ndarray,  # (B, H, W, 3) uint8
    ) -> np.ndarray:
        """Predict for each image. A classifier returns probabilities (B, C) float32, a segmentation
        network class numbers (B, H, W) uint8, any other model features (B, D) float32.

        Except in segmentation, a model sees the largest centred square of an image.

        Raises:
            UserError: the images have another shape or dtype.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise UserError(
                f"images must be (B, H, W, 3) uint8, but got {images.shape} {images.dtype}; "
                "stack them, and convert to RGB"
            )
        answers = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            pixels = [self.prepare(Image.fromarray(image)) for image in batch]
            answers.append(self.answer(np.stack(pixels)))
        return np.concatenate(answers)

    def read(self, path: Path) -> np.ndarray:  # as `prepare`
        """Read a file and prepare its image.

        Raises:
            CorruptImage: the image cannot be used.
        """
        return self.prepare(read_rgb(path, self.megapixels, self._levels))

    def prepare(
        self,
        image: Image.Image,  # RGB
    ) -> np.ndarray:  # (3, S, S) uint8, for a segmentation network (3, H, W)
        """Crop and resize an image as training files are. A segmentation network, which predicts
        every pixel, takes the whole image. Thread-safe."""
        if self.segments:
            return np.asarray(image).transpose(2, 0, 1)
        return square(image, self.size)

    @torch.no_grad()
    def answer(
        self,
        pixels: np.ndarray,  # (B, 3, h, w) uint8, stacked results of `prepare`
    ) -> np.ndarray:
        """Predict for a batch, as `predict` does.

        A segmentation network sees whole images as in evaluation: the shorter side is resized to S,
        and the aspect ratio is kept. Models of earlier versions see them squeezed to S x S.
        """
        if self.whole:
            seen = np.stack([self._resized(image) for image in pixels])
            views = whole_view(self._on_device(seen), self.normalize)
        else:
            views = evaluation_view(self._on_device(pixels), self.size, self.normalize)
        size = (pixels.shape[2], pixels.shape[3])
        answers: np.ndarray = self._answer(self.model, views, size).cpu().numpy()
        return answers

    def _on_device(self, pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(self.model.device)

    def _resized(
        self,
        pixels: np.ndarray,  # (3, H, W) uint8
    ) -> np.ndarray:  # (3, h, w) uint8, the shorter side S
        """A whole image, resized to training size."""
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        size = whole_size(image.width, image.height, self.size)
        if size == image.size:
            return pixels
        resized = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(resized).transpose(2, 0, 1)

    def compare(
        self,
        images: np.ndarray,  # (K + Q, H, W, 3) uint8: K examples, then Q queries
        labels: Sequence[str],  # K, of the examples
        # returns N names in the order of their first examples, and (Q, N) float32
    ) -> tuple[list[str], np.ndarray]:
        """Classify queries by a few examples: the probability of each class among the examples.
        These classes may be new to the model.

        Raises:
            UserError: not a few-shot model, or no query; or as in `predict`.
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
        features = self.predict(images)  # (K + Q, D)
        examples = features[: len(labels)]
        queries = features[len(labels) :]

        numbers = np.array([names.index(label) for label in labels])
        return names, self.compare_features(examples, numbers, queries)

    @torch.no_grad()
    def compare_features(
        self,
        examples: np.ndarray,  # (K, D) float32
        numbers: np.ndarray,  # (K,) int, the class of each example; every class in [0, N) occurs
        queries: np.ndarray,  # (Q, D) float32
    ) -> np.ndarray:  # (Q, N) float32
        """Classify features of queries by features of a few examples; see `compare`."""
        classes = range(int(numbers.max()) + 1)
        means = [examples[numbers == number].mean(0) for number in classes]
        prototypes = torch.from_numpy(np.stack(means)).to(self.model.device)
        asked = torch.from_numpy(queries).to(self.model.device)
        logits = self.model.head(asked[None], prototypes[None])[0]
        probabilities: np.ndarray = logits.softmax(1).cpu().numpy()
        return probabilities

    def judge(self, data: Any) -> Metrics:
        """Compute the `val/...` metrics on the data set of the model's study, as its trial did."""
        torch.set_num_threads(self._threads)  # floating-point sums depend on it
        self.model.data = data
        metrics: Metrics = self.model.validate()
        return metrics


def _config(config_type: type[Any], flat: dict[str, Any]) -> Any:
    """The trial's config without settings that matter only in training."""
    flat = dict(flat)
    for key, value in _UNTRAINED.items():
        if key in flat:
            flat[key] = value
    flat.setdefault("train.rules", 1)  # models from before this setting existed
    if config_type is BYOLConfig:
        flat.setdefault("normalize", "policy")
    if config_type is SegmentationConfig:
        flat["loss.name"] = "ce"  # class weights come from training data
        flat.setdefault("data.judged", "square")  # models from before this setting existed
    return build(config_type, flat)


class _PyFunc:
    """The model as `mlflow.pyfunc` expects it. Probabilities become a table with one column per
    class, so a prediction names its classes."""

    def __init__(self, folder: Path):
        self.served = Served(folder)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        try:
            return self._predict(model_input, params)
        except UserError as error:
            raise as_server_says(error) from None

    def _predict(self, model_input: Any, params: Mapping[str, Any] | None) -> Any:
        import pandas

        _check_levels(np.asarray(model_input))
        labels = (params or {}).get("labels", ())
        if len(labels):
            names, probabilities = self.served.compare(model_input, list(labels))
            return pandas.DataFrame(probabilities, columns=names)
        answer = self.served.predict(model_input)
        if self.served.classifies:
            return pandas.DataFrame(answer, columns=list(self.served.classes))
        return answer


def _check_levels(
    images: np.ndarray,  # (B, H, W, 3) uint8
) -> None:
    """Raise UserError if the levels of all images are 0 or 1.

    MLflow casts requests to uint8, so floats from 0 to 1 become black images, which all get the
    same answer.
    """
    if images.size and images.max() <= 1:
        raise UserError(
            f"the levels of all {len(images)} images are 0 or 1, which is black; "
            "send levels from 0 to 255 as uint8: multiply floats from 0 to 1 by 255"
        )


def _load_pyfunc(data_path: str) -> _PyFunc:
    model = _PyFunc(Path(data_path))
    watch_server(LABELS if model.served.compares else ())
    return model
