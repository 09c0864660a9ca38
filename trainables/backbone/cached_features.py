"""The views of training images for a backbone that never trains, and their cached features.

With fresh augmentation in every step, features could not be cached. So a frozen backbone sees a few
fixed views of every training image. They belong to the data, like its splits: they depend on
data.seed, not on a trial's seed. In each step, one of them is picked for each image. Their
features, and those of evaluation views, are computed once for all trials and processes of a machine
(`feature_store.py`).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.augment.draws import Draws
from trainables.augment.evaluation import batch_size
from trainables.augment.view_config import AugmentConfig
from trainables.augment.views import Augment
from trainables.backbone.feature_store import Features, limit_bytes, open_features
from trainables.base import Batch, Metrics
from trainables.config import Annotated, Field, config
from trainables.data.sampling import generator
from trainables.data.splits import DataSet, Split
from trainables.data.store import digest
from trainables.data.store_building import VERSION as STORE_VERSION
from trainables.devices import send

VERSION = 1
"""Part of the key. Increase it when the computation of views or features changes."""

# Parameters that only modify an operation: if no operation is on, they change nothing.
_HOW = {
    "crop_ratio",
    "blur_sigma_min",
    "blur_sigma_max",
    "blur_kernel",
    "solarize_threshold",
    "normalize",
}


@config
class FeaturesConfig:
    """Views and cached features of a backbone that never trains (freeze.policy=all)."""

    views: Annotated[int, Field(ge=0, le=64)] = 4
    """Number of fixed augmented views of every training image, one of which is picked in each step;
    1 if the policy changes nothing. 0: fresh views in every step, whose features cannot be
    cached."""
    cache: bool = True
    """Compute the features of those views once. False: in every step, with the same result except
    for rounding."""


def why_not_cached(config: Any) -> str:
    """Return the reason why a step needs the backbone, in a few words; "" if its features can be
    cached.

    Args:
        config: config of a classifier.
    """
    if config.freeze.policy != "all":
        return f"freeze.policy={config.freeze.policy} trains the backbone"
    if config.loss.mixup or config.loss.cutmix:
        return "mixup and CutMix make other images at every step"
    if not config.features.views:
        return "features.views=0 draws fresh views at every step"
    return ""


@dataclass(frozen=True, eq=False)
class FixedViews:
    """`count` views of every image in a split, the same in every trial. Row v n + i is view v of
    image i out of n."""

    split: Split
    augment: Augment
    count: int
    seed: int

    @classmethod
    def of(cls, split: Split, augment: Augment, count: int, seed: int) -> "FixedViews":
        """Create `count` views, or one if the augmentation changes nothing."""
        unchanged = AugmentConfig()
        names = (field.name for field in fields(unchanged) if field.name not in _HOW)
        changes = any(getattr(augment.config, name) != getattr(unchanged, name) for name in names)
        return cls(split, augment, count if changes else 1, seed)

    def __len__(self) -> int:
        return self.count * len(self.split)

    @cached_property
    def draws(self) -> Draws:
        """Augmentation parameters of all rows."""
        return self.augment.draw(len(self), generator(self.seed, 4))

    def choose(
        self,
        positions: np.ndarray,  # (B,) of images
        generator: torch.Generator,
    ) -> np.ndarray:  # (B,) rows
        """Choose one view of each image."""
        views = torch.randint(self.count, (len(positions),), generator=generator).numpy()
        rows: np.ndarray = views * len(self.split) + positions
        return rows

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """All rows in order, (b, 3, S, S) float32, normalised."""
        step = batch_size(self.augment.image_size)
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            positions = np.arange(start, stop) % len(self.split)
            images = send(self.split.input_batch(positions), device)
            yield self.augment.apply(images, self.draws[start:stop])

    @cached_property
    def digest(self) -> str:
        """Digest of everything that determines the views."""
        drawn = {
            "count": self.count,
            "seed": self.seed,
            "size": self.augment.image_size,
            "view": asdict(self.augment.config),
        }
        return digest(json.dumps(drawn, sort_keys=True), self.split.indices.tobytes())


class FrozenFeatures:
    """Views and cached features of a classifier's frozen backbone. Features are opened or computed
    on first use.

    Args:
        config: config of the classifier.
        augment: its training view.
    """

    def __init__(self, config: Any, data: DataSet, augment: Augment):
        self.config = config
        self.data = data

        self.reason = why_not_cached(config)
        """The reason why features are not cached; "" if they are."""
        self.views: FixedViews | None = None
        """None: a step draws fresh views."""
        if not self.reason:
            self.views = FixedViews.of(data.train, augment, config.features.views, config.data.seed)
            self.reason = "" if config.features.cache else "features.cache=False"

        # For the current epoch.
        self._seconds = 0.0
        self._rows_drawn = 0
        self.forget()

    def forget(self) -> None:
        """Drop all features, because the backbone has changed."""
        self._key = ""
        self._opened: dict[str, Features | None] = {}

    def cached(
        self, what: Split | FixedViews, backbone: nn.Module, compute: Callable[[], Iterable[Tensor]]
    ) -> Features | None:
        """Features of a split's evaluation views, or of fixed views; None if they are not cached.

        Args:
            compute: yields the features in order, each (b, D).
        """
        if self.reason:
            return None

        name = _name(what)
        if name not in self._opened:
            started = time.perf_counter()
            self._key = self._key or self._key_of(backbone)
            shape = (len(what), _width(backbone))
            self._opened[name] = open_features(digest(self._key, name), shape, compute)
            self._seconds += time.perf_counter() - started
        return self._opened[name]

    def _key_of(self, backbone: nn.Module) -> str:
        """Key of everything that determines the features: the backbone's weights and architecture,
        data, image size, normalisation, and floating-point settings."""
        config = self.config
        data = [STORE_VERSION, self.data.fingerprint, config.data.image_size, config.normalize]
        numerics = [
            torch.__version__,
            config.train.bf16,
            config.train.channels_last,
            config.train.compile,
            config.train.threads,
        ]
        device = str(next(backbone.parameters()).device.type)
        decisive = [VERSION, asdict(config.backbone), data, numerics, device]
        return digest(state_hash(backbone), json.dumps(decisive, sort_keys=True))

    def batch(
        self,
        cached: Features,
        rows: np.ndarray,  # (B,)
        targets: Tensor,  # (B,)
    ) -> Batch:
        """A batch with features in place of images."""
        self.count(len(rows))
        return Batch(torch.from_numpy(cached.rows[rows]), (), targets)

    def count(self, rows: int) -> None:
        """Count features that were looked up, here or elsewhere for this trial."""
        self._rows_drawn += rows

    @property
    def key(self) -> str:
        """Key of the open features: trials with equal keys use the same features."""
        return self._key

    def costs(self) -> Metrics:
        """Metrics of the epoch that ends: 1 if it used cached features, the seconds spent on
        getting them, and the seconds that the backbone would have taken."""
        if self.config.freeze.policy != "all":
            return {}

        train, val = self._train_and_val()
        metrics = {"features/cached": float(train is not None), "time/features_s": self._seconds}
        if train is not None and val is not None:
            metrics["time/saved_s"] = (
                self._rows_drawn * train.row_seconds + len(val.rows) * val.row_seconds
            )

        self._seconds = 0.0
        self._rows_drawn = 0
        return metrics

    def setup_seconds(self, data: DataSet) -> float:
        """Seconds that computing the features of `data` (train and val) takes, estimated from those
        that are open."""
        train, val = self._train_and_val()
        if self.views is None or train is None or val is None:
            return 0.0

        views = self.views.count * len(data.train)
        return views * train.row_seconds + len(data.val) * val.row_seconds

    def _train_and_val(self) -> tuple[Features | None, Features | None]:
        train = None if self.views is None else self._opened.get(_name(self.views))
        val = self._opened.get(_name(self.data.val))
        return train, val

    def describe(self, backbone: nn.Module) -> str:
        """One clause about a frozen backbone's features; "" if it trains."""
        if self.config.freeze.policy != "all":
            return ""
        if self.reason or self.views is None:
            return f"its features are computed at every step: {self.reason}"

        needed = 4 * _width(backbone) * len(self.views)
        limit = limit_bytes()
        if needed > limit:
            return (
                "its features are computed at every step: "
                f"{needed / 1e9:.3g} GB exceed VISTUNE_FEATURES_GB={limit / 1e9:g}"
            )
        return (
            f"its features are cached, {self.views.count} views of {len(self.data.train):,} images "
            f"in {needed / 1e6:.3g} MB"
        )


def _name(what: Split | FixedViews) -> str:
    if isinstance(what, FixedViews):
        return what.digest
    return digest("evaluation", what.indices.tobytes())


def _width(backbone: nn.Module) -> int:
    dim: Any = backbone.feature_dim
    return int(dim)


def state_hash(module: nn.Module) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of all parameters and buffers, independent of
    device and memory format."""
    state = hashlib.sha256()
    for name, value in module.state_dict().items():
        described = f"{name} {value.dtype} {tuple(value.shape)};"
        state.update(described.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        state.update(flat.view(torch.uint8).numpy())
    return state.hexdigest()
