"""The images that represent a data set in a picture: some of each class and split.

The driver writes them once, before the first trial, into `data.npz` of the study's folder. The
arrays of each split, such as `train_images`, are:

    images   (n, 3, h, w) uint8
    lines    (n,) line of each image, sorted
    labels   (lines,) class of each line, -1 = none
    counts   (lines,) number of images of that class in the split
    total    number of images in the split
    masks    (n, h, w) uint8, if the data has masks

`splits` contains the names of the splits, `names` and `colors` those of the classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data import DataSet, Split
from trainables.plots.snapshots import write_arrays

CLASSES = 10
"""Largest number of classes that are shown."""
_LINES = 8  # total number of lines, distributed over few classes
_MOST_LINES = 3  # per class
_COLUMNS = {"train": 5, "gallery": 3, "val": 3, "test": 3}
_PAIRS = {"train": 3, "val": 2, "test": 2}  # columns of images with masks, which are drawn twice
_MASK_LINES = 4
_SIDE = 128  # pixels; larger images are subsampled


@dataclass(frozen=True, eq=False)
class Shown:
    """Images of one split in the picture."""

    split: str
    """Name of the split."""
    positions: np.ndarray  # (n,)
    """Positions of the images in the split."""
    lines: np.ndarray  # (n,)
    """Line of each image, sorted."""
    labels: np.ndarray  # (lines,)
    """Class of each line; -1 = none."""
    counts: np.ndarray  # (lines,)
    """Number of images of that class in the split."""


def write_data_sample(data: DataSet, path: Path) -> None:
    """Write `data.npz`, from which `data.png` is drawn (`data_grid.py`). Equal data gives an equal
    file."""
    classes = _shown_classes(data)
    arrays: dict[str, np.ndarray] = {}
    names: list[str] = []
    for name, split in data.named_splits():
        shown = _sample(name, split, classes)
        names.append(name)
        arrays[f"{name}_images"] = _thinned(split.batch(shown.positions).numpy())
        arrays[f"{name}_lines"] = shown.lines
        arrays[f"{name}_labels"] = shown.labels
        arrays[f"{name}_counts"] = shown.counts
        arrays[f"{name}_total"] = np.array(len(split))
        if split.mask_images is not None:
            arrays[f"{name}_masks"] = _thinned(split.masks(shown.positions).numpy())

    write_arrays(
        path,
        epoch=0,
        splits=np.array(names),
        names=np.array(data.classes, dtype=str),
        colors=np.array(data.colors, dtype=np.uint8).reshape(-1, 3),
        **arrays,
    )


def _labels(split: Split) -> np.ndarray | None:  # (n,) int64
    """Labels of a split, if each image has one label."""
    if split.mask_images is not None:
        return None
    targets = split.targets()
    if targets is None or (targets < 0).all():
        return None
    return targets


def _shown_classes(data: DataSet) -> dict[str, np.ndarray]:
    """Split -> classes to show, evenly spread over all, and the same in all splits that have them.

    A split without labels has no entry. In few-shot learning, or if a gallery has other classes
    than train, each split gets its own classes.
    """
    shown: dict[str, np.ndarray] = {}
    kept = np.zeros(0, np.int64)
    for name, split in data.named_splits():
        labels = _labels(split)
        if labels is None:
            continue
        present = np.unique(labels[labels >= 0])
        if not np.isin(kept, present).all() or not len(kept):
            spread = np.linspace(0, len(present) - 1, min(CLASSES, len(present)))
            kept = present[spread.round().astype(int)]
        shown[name] = kept
    return shown


def _sample(name: str, split: Split, classes: dict[str, np.ndarray]) -> Shown:
    """Choose images evenly spread over the split, or over each of its classes."""
    if name not in classes:
        return _sample_unlabeled(name, split)

    labels = _labels(split)
    assert labels is not None  # it has classes
    chosen = classes[name]
    lines_each = max(1, min(_MOST_LINES, _LINES // len(chosen)))
    columns = _COLUMNS[name]
    positions: list[np.ndarray] = []
    lines: list[np.ndarray] = []
    for number, label in enumerate(chosen):
        members = np.flatnonzero(labels == label)
        picked = _spread(members, lines_each * columns)
        positions.append(picked)
        lines.append(number * lines_each + np.arange(len(picked)) // columns)

    counts = [int((labels == label).sum()) for label in chosen]
    return Shown(
        name,
        positions=np.concatenate(positions),
        lines=np.concatenate(lines),
        labels=np.repeat(chosen, lines_each),
        counts=np.repeat(counts, lines_each),
    )


def _sample_unlabeled(name: str, split: Split) -> Shown:
    """Choose images evenly spread over a split without labels."""
    lines, columns = _LINES, _COLUMNS[name]
    if split.mask_images is not None:
        lines, columns = _MASK_LINES, _PAIRS[name]
    picked = _spread(np.arange(len(split)), lines * columns)
    return Shown(
        name,
        positions=picked,
        lines=np.arange(len(picked)) // columns,
        labels=np.full(lines, -1),
        counts=np.zeros(lines, np.int64),
    )


def _spread(members: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the members, evenly spread over them."""
    places = np.linspace(0, len(members) - 1, min(most, len(members)))
    spread: np.ndarray = members[places.round().astype(int)]
    return spread


def _thinned(pixels: np.ndarray) -> np.ndarray:
    """Every k-th row and column of pixels (..., S, S), so that about `_SIDE` remain at most."""
    every = max(1, pixels.shape[-1] // _SIDE)
    return pixels[..., ::every, ::every]
