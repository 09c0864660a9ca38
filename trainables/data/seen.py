"""The record of all data that a backbone was trained on, stored with its weights, and the overlap
of that record with another data set's val and test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainables.data.contents import digest_of_keys
from trainables.data.splits import DataSet, Split
from trainables.errors import UserError


@dataclass(frozen=True, eq=False)
class Training:
    """One training run of a backbone."""

    data: str
    """Name of the data set."""
    seed: int
    """`data.seed`, which determines the splits."""
    labels: bool
    """True if labels (or masks) were used."""
    classes: tuple[str, ...]
    """Classes that it learned to distinguish; empty without labels."""
    keys: np.ndarray  # (n,) int64, sorted: `Contents.keys` of the training images

    @staticmethod
    def on(data: DataSet, seed: int, labels: bool) -> "Training | None":
        """Training on a data set's training split; None if its contents are unknown."""
        contents = getattr(data, "contents", None)
        if contents is None:
            return None
        return Training(
            data=data.name,
            seed=seed,
            labels=labels,
            classes=_classes_of(data, data.train) if labels else (),
            keys=np.unique(contents.keys[data.train.indices]),
        )


@dataclass(frozen=True, eq=False)
class SeenRecord:
    """All training runs of a backbone, beginning with those of the backbone it started from."""

    trainings: tuple[Training, ...] = ()
    complete: bool = True
    """False if it started from weights whose training data is unknown."""

    def then(self, training: Training | None) -> "SeenRecord":
        """The record after one more training; None means one whose images are unknown."""
        if training is None:
            return SeenRecord(self.trainings, complete=False)
        return SeenRecord((*self.trainings, training), self.complete)

    def keys(self, labels: bool) -> np.ndarray:  # (n,) int64
        """All images that were trained on with labels, or all without."""
        chosen = [training.keys for training in self.trainings if training.labels == labels]
        return np.unique(np.concatenate([np.empty(0, np.int64), *chosen]))

    @property
    def classes(self) -> set[str]:
        """Classes that any training learned to distinguish."""
        return {name for training in self.trainings for name in training.classes}

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify the set of all images seen."""
        everything = [self.keys(labels=True), self.keys(labels=False)]
        return digest_of_keys(np.concatenate(everything))

    def to_payload(self) -> dict[str, Any]:
        """Convert to tensors and plain values, for the weights file."""
        trainings = []
        for training in self.trainings:
            plain = {
                "data": training.data,
                "seed": training.seed,
                "labels": training.labels,
                "classes": list(training.classes),
                "keys": torch.from_numpy(training.keys),
            }
            trainings.append(plain)
        return {"version": 1, "complete": self.complete, "trainings": trainings}

    @staticmethod
    def from_payload(payload: Mapping[str, Any]) -> "SeenRecord":
        """Read what `to_payload` returned.

        Raises:
            UserError: the record is from a later version, or damaged.
        """
        try:
            if payload["version"] != 1:
                raise ValueError(f"version {payload['version']}")
            trainings = [
                Training(
                    data=str(plain["data"]),
                    seed=int(plain["seed"]),
                    labels=bool(plain["labels"]),
                    classes=tuple(plain["classes"]),
                    keys=plain["keys"].numpy(),
                )
                for plain in payload["trainings"]
            ]
            return SeenRecord(tuple(trainings), bool(payload["complete"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the backbone's record of what it has seen cannot be read ({error}); "
                "use the version of vistune that wrote it, or export the backbone again"
            ) from None


@dataclass(frozen=True)
class Met:
    """Number of images in a split that a backbone has been trained on."""

    images: int
    """Images of the split."""
    with_labels: int
    without_labels: int
    """Images seen only without labels."""

    @property
    def seen(self) -> int:
        """Images seen with or without labels."""
        return self.with_labels + self.without_labels

    def __str__(self) -> str:
        found = []
        if self.with_labels:
            found.append(f"{self.with_labels:,} with labels")
        if self.without_labels:
            found.append(f"{self.without_labels:,} without")
        return " and ".join(found) or "none"


def met(record: SeenRecord, data: DataSet, split: Split) -> Met:
    """Count the images of a split that were trained on, themselves or as a near-duplicate."""
    if data.contents is None:
        return Met(len(split), 0, 0)
    groups = data.contents.groups
    with_labels = _groups_seen(data, record.keys(labels=True))
    without = _groups_seen(data, record.keys(labels=False))

    labelled = np.isin(groups[split.indices], with_labels)
    unlabelled = np.isin(groups[split.indices], without) & ~labelled
    return Met(len(split), int(labelled.sum()), int(unlabelled.sum()))


def classes_met(record: SeenRecord, data: DataSet, split: Split) -> list[str]:
    """Names of the split's classes that were learned with labels."""
    return [name for name in _classes_of(data, split) if name in record.classes]


def _groups_seen(data: DataSet, keys: np.ndarray) -> np.ndarray:
    assert data.contents is not None
    seen = np.isin(data.contents.keys, keys)
    return np.unique(data.contents.groups[seen])


def _classes_of(data: DataSet, split: Split) -> tuple[str, ...]:
    """Names of the classes in a split; all of the data set's if pixels have classes."""
    targets = split.targets()
    if targets is None or split.mask_images is not None:
        return data.classes
    present = np.unique(targets[targets >= 0])
    return tuple(data.classes[label] for label in present)
