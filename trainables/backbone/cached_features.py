"""What a backbone that never trains sees of the training images, and the features that are kept of
it.

A step on fresh augmentation has nothing to look up. So a frozen backbone sees `k` fixed views of
every training image, which belong to the data as its splits do: they depend on data.seed, and on no
trial's seed. A step picks one of them for each of its images. Their features, and those of the
evaluation views, are computed once for all trials and processes of a machine (`feature_store.py`).
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

from trainables.augment.evaluation import batch_size
from trainables.augment.view_config import AugmentConfig
from trainables.augment.views import Augment, Draws
from trainables.backbone.feature_store import Features, limit_bytes, open_features
from trainables.backbone.freezing import FreezeConfig
from trainables.base import Batch, Metrics
from trainables.config import Annotated, Field, config
from trainables.data.sampling import generator
from trainables.data.splits import DataSet, Split
from trainables.data.store import VERSION as STORE_VERSION
from trainables.data.store import digest

VERSION = 1
"""Part of the key: raise it when views or features are computed otherwise."""
# Of a view these say how, and others whether: alone they change nothing.
_IDLE = {
    "crop_ratio",
    "blur_sigma_min",
    "blur_sigma_max",
    "blur_kernel",
    "solarize_threshold",
    "normalize",
}


@config
class FeaturesConfig:
    """How a wholly frozen backbone (freeze.policy=all) sees the training images."""

    views: Annotated[int, Field(ge=0, le=64)] = 4
    """Fixed augmented views of every training image, of which a step picks one (1 where the policy
    changes nothing). 0: fresh views at every step, whose features cannot be kept."""
    cache: bool = True
    """Compute the features of those views once. False: at every step, with the same result but for
    rounding."""


def why_not(freeze: FreezeConfig, mixing: bool, features: FeaturesConfig) -> str:
    """Why a step needs the backbone, in a few words; "" where its features can be looked up."""
    if freeze.policy != "all":
        return f"freeze.policy={freeze.policy} trains the backbone"
    if mixing:
        return "mixup and CutMix make other images at every step"
    return "" if features.views else "features.views=0 draws fresh views at every step"


@dataclass(frozen=True, eq=False)
class FixedViews:
    """`count` views of every image of a split; row v n + i is view v of image i, the same in every
    trial."""

    split: Split
    augment: Augment
    count: int
    seed: int

    @classmethod
    def of(cls, split: Split, augment: Augment, count: int, seed: int) -> "FixedViews":
        """One view is enough of a policy that changes nothing."""
        default = AugmentConfig()
        names = (f.name for f in fields(default) if f.name not in _IDLE)
        changes = any(getattr(augment.config, name) != getattr(default, name) for name in names)
        return cls(split, augment, count if changes else 1, seed)

    def __len__(self) -> int:
        return self.count * len(self.split)

    @cached_property
    def draws(self) -> Draws:
        """Of all rows."""
        return self.augment.draw(len(self), generator(self.seed, 4))

    def choose(self, positions: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Rows (B,) of one view each of the images at `positions` (B,)."""
        return (
            torch.randint(self.count, (len(positions),), generator=generator).numpy()
            * len(self.split)
            + positions
        )

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """All rows in order, (b, 3, S, S) float32, normalised."""
        step = batch_size(self.augment.image_size)
        for start in range(0, len(self), step):
            rows = np.arange(start, min(start + step, len(self)))
            images = self.split.batch(rows % len(self.split)).to(device)
            yield self.augment.apply(images, self.draws[start : start + len(rows)])

    @cached_property
    def digest(self) -> str:
        """Of what decides the views."""
        drawn = {
            "count": self.count,
            "seed": self.seed,
            "size": self.augment.image_size,
            "view": asdict(self.augment.config),
        }
        return digest(json.dumps(drawn, sort_keys=True), self.split.indices.tobytes())


class FrozenFeatures:
    """What a classifier's frozen backbone sees, and the features that are kept of it: opened, or
    computed, when they are first asked for.

    Args:
        config: of the classifier.
        augment: its training view.
    """

    def __init__(self, config: Any, data: DataSet, augment: Augment):
        self.config, self.data = config, data
        self.reason = why_not(
            config.freeze, bool(config.loss.mixup or config.loss.cutmix), config.features
        )
        self.views: FixedViews | None = None
        if not self.reason:
            self.views = FixedViews.of(data.train, augment, config.features.views, config.data.seed)
            self.reason = "" if config.features.cache else "features.cache=False"
        self._seconds, self._rows_drawn = 0.0, 0
        self.forget()

    def forget(self) -> None:
        """The backbone has changed."""
        self._key = ""
        self._opened: dict[str, Features | None] = {}

    def kept(
        self, what: Split | FixedViews, backbone: nn.Module, compute: Callable[[], Iterable[Tensor]]
    ) -> Features | None:
        """Of the evaluation view of a split, or of fixed views; None where they are not kept.

        Args:
            compute: gives the features in order, each (b, D).
        """
        if self.reason:
            return None
        name = _name(what)
        if name not in self._opened:
            started = time.perf_counter()
            self._key = self._key or self._key_of(backbone)
            self._opened[name] = open_features(
                digest(self._key, name), (len(what), _width(backbone)), compute
            )
            self._seconds += time.perf_counter() - started
        return self._opened[name]

    def _key_of(self, backbone: nn.Module) -> str:
        c = self.config
        data = [STORE_VERSION, self.data.fingerprint, c.data.image_size, c.normalize]
        numerics = [
            torch.__version__,
            c.train.bf16,
            c.train.channels_last,
            c.train.compile,
            c.train.threads,
        ]
        device = str(next(backbone.parameters()).device.type)
        return digest(
            state_hash(backbone),
            json.dumps([VERSION, asdict(c.backbone), data, numerics, device], sort_keys=True),
        )

    def batch(self, kept: Features, rows: np.ndarray, targets: Tensor) -> Batch:
        """Of features at `rows` (B,) instead of images."""
        self._rows_drawn += len(rows)
        return Batch(torch.from_numpy(kept.rows[rows]), (), targets)

    def costs(self) -> Metrics:
        """Of the epoch: whether it has looked features up, seconds spent on having them, and what
        the backbone would have taken."""
        if self.config.freeze.policy != "all":
            return {}
        train, val = self._train_and_val()
        metrics = {"features/cached": float(train is not None), "time/features_s": self._seconds}
        if train is not None and val is not None:
            metrics["time/saved_s"] = (
                self._rows_drawn * train.row_seconds + len(val.rows) * val.row_seconds
            )
        self._seconds, self._rows_drawn = 0.0, 0
        return metrics

    def setup_seconds(self, data: DataSet) -> float:
        """Seconds that the features of `data` (train and val) take, judged by those that are
        open."""
        train, val = self._train_and_val()
        if self.views is None or train is None or val is None:
            return 0.0
        return (
            self.views.count * len(data.train) * train.row_seconds + len(data.val) * val.row_seconds
        )

    def _train_and_val(self) -> tuple[Features | None, Features | None]:
        train = None if self.views is None else self._opened.get(_name(self.views))
        return train, self._opened.get(_name(self.data.val))

    def describe(self, backbone: nn.Module) -> str:
        """One clause about a frozen backbone's features; "" where it trains."""
        if self.config.freeze.policy != "all":
            return ""
        if self.reason or self.views is None:
            return f"its features are computed at every step: {self.reason}"
        needed, limit = 4 * _width(backbone) * len(self.views), limit_bytes()
        if needed > limit:
            return f"its features are computed at every step: {needed / 1e9:.3g} GB exceed VISTUNE_FEATURES_GB={limit / 1e9:g}"
        return f"its features are cached, {self.views.count} views of {len(self.data.train):,} images in {needed / 1e6:.3g} MB"


def _name(what: Split | FixedViews) -> str:
    return (
        what.digest
        if isinstance(what, FixedViews)
        else digest("evaluation", what.indices.tobytes())
    )


def _width(backbone: nn.Module) -> int:
    return backbone.feature_dim  # type: ignore[return-value]


def state_hash(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and bytes of all parameters and buffers, whatever their
    device and memory format."""
    state = hashlib.sha256()
    for name, value in module.state_dict().items():
        state.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        state.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()
