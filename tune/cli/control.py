"""Length of a control: training from scratch on as many images as pre-training and fine-tuning
together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.experiments import EXPERIMENTS
from tune.study.manifest import read_manifest


@dataclass(frozen=True)
class Length:
    """A control's length, and its source."""

    epochs: int
    source: str
    """Name of the study (or preset) with the longest pre-training."""
    images: int
    """Number of image views on which a complete trial of the source trains."""

    def as_json(self) -> dict[str, Any]:
        """Return the entry for the manifest."""
        return {"source": self.source, "images": self.images}


def control_length(
    base: Mapping[str, Any], images: int, sources: Mapping[str, Path], preset: str
) -> Length:
    """Choose the epochs of a control.

    Args:
        base: flat config of fine-tuning, including its own number of epochs.
        images: number of training images.
        sources: experiment -> folder of its pre-training study. For a study that has not started,
            the preset counts, on the same images.
    """
    name, seen = max(
        (_pretraining(source, folder, preset, images) for source, folder in sources.items()),
        key=lambda one: one[1],
    )
    own = _per_epoch(base, images)
    more = math.ceil(seen / own)
    return Length(base["train.epochs"] + more, name, seen)


def _pretraining(source: str, folder: Path, preset: str, images: int) -> tuple[str, int]:
    """Return a source's name, and the number of image views on which one of its complete trials
    trains."""
    experiment = EXPERIMENTS[source]
    name = f"{source}, preset {preset}"
    base: Mapping[str, Any] = experiment.presets[preset]
    if (folder / "study.json").exists():
        manifest = read_manifest(folder / "study.json")
        name, base, images = manifest.name, manifest.base, manifest.data["images"]
    return name, base["train.epochs"] * _per_epoch(base, images) * experiment.views


def _per_epoch(base: Mapping[str, Any], images: int) -> int:
    """Return the number of images per training epoch."""
    return int(base.get("train.epoch_images") or images)
