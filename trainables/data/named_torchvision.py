"""torchvision's data sets, as examples for a folder.

Downloads go to `<cache>/torchvision/`; `,root=FOLDER` names another folder that has the files.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.config import nearest
from trainables.data.named import Example, Examples, Name, is_named, parse_name
from trainables.errors import UserError, first_line
from trainables.files import default_cache_dir

__all__ = ["SETS", "TorchvisionSet", "examples_of", "up_of"]

_VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
_OPTIONS = ("annotation_level", "partition", "root", "size", "split", "year")
"""Arguments of torchvision's classes that select the data, and `root`."""
_PATHS = ("_image_files", "_images", "images")
_SAMPLES = ("_samples", "samples")
_LABELS = ("_labels", "targets", "labels")
"""Attributes of torchvision's classes; each class has some of them."""


def _trimap(mask: Image.Image) -> Image.Image:
    """Class values of a trimap of the Oxford pets: background 0, pet 1, border unknown."""
    values = np.asarray(mask)
    classes = np.select([values == 1, values == 2], [1, 0], 255).astype(np.uint8)
    return Image.fromarray(classes)


@dataclass(frozen=True)
class TorchvisionSet:
    """The splits of one of torchvision's classes."""

    parts: Mapping[str, Mapping[str, Any]]
    """Part -> arguments that load it; "" for a set without splits."""
    up: str = "horizontal"
    """Flips that keep its images valid (`data.up`)."""
    pixel_classes: tuple[str, ...] = ()
    """Names of the mask values; empty without masks."""
    masks: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that load masks instead of labels."""
    read_mask: Callable[[Image.Image], Image.Image] | None = None
    """Converts a mask to class values; None if it already contains them."""


def _split(*names: str, **words: str) -> dict[str, dict[str, Any]]:
    """Parts loaded by `split=...`: `names` are parts of the same name, `words` map part to
    split."""
    own = {name: {"split": name} for name in names}
    return own | {part: {"split": word} for part, word in words.items()}


_TRAIN_TEST: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: dict[str, dict[str, Any]] = {"": {}}
_THREE = _split("train", "val", "test")

SETS: dict[str, TorchvisionSet] = {
    "CIFAR10": TorchvisionSet(_TRAIN_TEST),
    "CIFAR100": TorchvisionSet(_TRAIN_TEST),
    "Caltech101": TorchvisionSet(_WHOLE),
    "Caltech256": TorchvisionSet(_WHOLE),
    "Country211": TorchvisionSet(_split("train", "test", val="valid")),
    "DTD": TorchvisionSet(_THREE),
    "EMNIST": TorchvisionSet(_TRAIN_TEST, "none"),
    "EuroSAT": TorchvisionSet(_WHOLE, "all"),
    "FGVCAircraft": TorchvisionSet(_THREE),
    "FashionMNIST": TorchvisionSet(_TRAIN_TEST),
    "Flowers102": TorchvisionSet(_THREE),
    "Food101": TorchvisionSet(_split("train", "test")),
    "GTSRB": TorchvisionSet(_split("train", "test"), "none"),
    "ImageNet": TorchvisionSet(_split("train", "val")),
    "Imagenette": TorchvisionSet(_split("train", "val")),
    "KMNIST": TorchvisionSet(_TRAIN_TEST, "none"),
    "MNIST": TorchvisionSet(_TRAIN_TEST, "none"),
    "OxfordIIITPet": TorchvisionSet(
        _split("test", train="trainval"),
        pixel_classes=("background", "pet"),
        masks={"target_types": "segmentation"},
        read_mask=_trimap,
    ),
    "PCAM": TorchvisionSet(_THREE, "all"),
    "QMNIST": TorchvisionSet({"train": {"what": "train"}, "test": {"what": "test"}}, "none"),
    "RenderedSST2": TorchvisionSet(_THREE, "none"),
    "SEMEION": TorchvisionSet(_WHOLE, "none"),
    "STL10": TorchvisionSet(_split("train", "test")),
    "SUN397": TorchvisionSet(_WHOLE),
    "SVHN": TorchvisionSet(_split("train", "test"), "none"),
    "StanfordCars": TorchvisionSet(_split("train", "test")),
    "USPS": TorchvisionSet(_TRAIN_TEST, "none"),
    "VOCSegmentation": TorchvisionSet(
        {"train": {"image_set": "train"}, "val": {"image_set": "val"}},
        pixel_classes=_VOC_CLASSES,
    ),
}
"""Classes of torchvision.datasets that have one label per image, or masks."""


def up_of(data: str) -> str | None:
    """Flips that keep images of a named set valid (`data.up`); None for other data and for
    photographs."""
    if not is_named(data):
        return None
    name = parse_name(data)
    known = SETS.get(name.name) if name.source == "torchvision" else None
    return None if known is None or known.up == "horizontal" else known.up


def examples_of(name: Name, masks: bool) -> Examples:
    """All images of one of `SETS`, downloaded if they are in no cache.

    Raises:
        UserError: the name or an option is unknown, the labels or masks that the task needs are
            missing, or the data is missing and cannot be downloaded.
    """
    if name.name not in SETS:
        raise UserError(
            f"--data {name.typed}: there is no {name.name!r} among torchvision's sets with labels "
            f"or masks{nearest(name.name, SETS)}"
        )
    known = SETS[name.name]
    if masks and not known.pixel_classes:
        with_masks = ", ".join(other for other, made in SETS.items() if made.pixel_classes)
        raise UserError(
            f"--data {name.typed} has no masks, segmentation needs them; with masks: {with_masks}"
        )
    if not masks and known.pixel_classes and not known.masks:
        raise UserError(f"--data {name.typed} has masks and no labels: train on it by `segment`")

    extra = known.masks if masks else {}
    parts = dict(known.parts)
    if name.name == "VOCSegmentation" and name.options.get("year") == "2007":
        parts["test"] = {"image_set": "test"}  # the only year whose test set has masks
    sets = {part: _open(name, {**given, **extra}) for part, given in parts.items()}
    classes = known.pixel_classes if masks else ()
    count = sum(len(opened) for opened in sets.values())
    return Examples(count, _examples(sets, known, masks), classes)


def _examples(sets: Mapping[str, Any], known: TorchvisionSet, masks: bool) -> Iterator[Example]:
    for part, opened in sets.items():
        paths = _paths(opened)
        labels = None if masks else _labels(opened)
        names = _class_names(opened)
        for row in range(len(opened)):
            image: Any
            target: Any
            if paths is not None and labels is not None:
                image, target = paths[row], labels[row]
            else:
                image, target = opened[row]
                image = image if paths is None else paths[row]

            if not masks:
                yield Example(part, _named(names, int(target)), image)
            else:
                mask = target if known.read_mask is None else known.read_mask(target)
                yield Example(part, None, image, mask)


# ---------------------------------------------------------------- opening


def _open(name: Name, given: Mapping[str, Any]) -> Any:
    """One split, from the cache or downloaded."""
    import torchvision.datasets

    make = getattr(torchvision.datasets, name.name)
    options = _options(name)
    root = options.pop("root", None) or str(default_cache_dir() / "torchvision")
    Path(root).mkdir(parents=True, exist_ok=True)
    arguments = {**options, **given}
    try:
        return make(root, **arguments)
    except TypeError as error:
        raise UserError(f"--data {name.typed}: {first_line(error)}") from None
    except Exception:  # torchvision raises many types for missing data
        return _download(name, make, root, arguments)


def _options(name: Name) -> dict[str, Any]:
    """The options as arguments of torchvision's class.

    Raises:
        UserError: an option is unknown, or its value is not a number where one is needed.
    """
    options: dict[str, Any] = dict(name.options)
    for option in options:
        if option not in _OPTIONS:
            raise UserError(
                f"--data {name.typed}: unknown option {option!r}; valid: {', '.join(_OPTIONS)}"
            )
    partition = options.get("partition")
    if partition is not None:
        if not partition.isdecimal():
            raise UserError(f"--data {name.typed}: partition {partition!r} must be a number")
        options["partition"] = int(partition)
    return options


def _download(name: Name, make: Any, root: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return make(root, **arguments, download=True)
    except Exception as error:  # from the network, the server, the disk, or the arguments
        raise UserError(
            f"--data {name.typed} is not in {root} and cannot be downloaded "
            f"({first_line(error)}); put torchvision's files there, or name their folder: "
            f"--data {name.source}:{name.name},root=FOLDER"
        ) from None


# ---------------------------------------------------------------- torchvision attributes


def _paths(opened: Any) -> list[Path] | None:
    """Image files; None if the set contains arrays."""
    for attribute in _SAMPLES:
        samples = getattr(opened, attribute, None)
        if samples and isinstance(samples[0][0], str | Path):
            return [Path(sample[0]) for sample in samples]
    for attribute in _PATHS:
        files = getattr(opened, attribute, None)
        if isinstance(files, list) and len(files) == len(opened):
            return [Path(file) for file in files]
    return None


def _labels(opened: Any) -> Any:
    """The labels, if they are known without opening images."""
    for attribute in _LABELS:
        labels = getattr(opened, attribute, None)
        if labels is not None and len(labels) == len(opened):
            return labels
    for attribute in _SAMPLES:
        samples = getattr(opened, attribute, None)
        if samples:
            return [sample[1] for sample in samples]
    return None


def _class_names(opened: Any) -> list[str]:
    """Names by label, with the label added to duplicate names. Empty if there are no names."""
    found = getattr(opened, "classes", None) or getattr(opened, "categories", None) or []
    names = [name if isinstance(name, str) else str(name[0]) for name in found]
    return [
        name if names.count(name) == 1 else f"{name} ({label})" for label, name in enumerate(names)
    ]


def _named(names: list[str], label: int) -> str | None:
    """Class of a label; None for an unlabeled image."""
    if label < 0:
        return None
    return names[label] if label < len(names) else str(label)
