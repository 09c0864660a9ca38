"""BYOL judged by labels and by every measure without them, after each epoch and, at the end, with
other weights."""

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.label_free_measures import candidates
from trainables.augment.evaluation import evaluation_batches
from trainables.augment.fixed_views import STRONG, turned
from trainables.augment.views import Augment
from trainables.base import Metrics
from trainables.byol import BYOL, BYOLConfig
from trainables.data import DataSet, Split
from trainables.metrics import (
    OnlineProbe,
    calibrate_batchnorm,
    embedding_std,
    knn_right,
    rankme,
    share,
)

MILD = replace(STRONG, crop_scale_min=0.6, rotate=10.0)
CALIBRATION = 512
"""Number of training images from which BatchNorm's statistics are computed."""
_EMA = 0.99  # decay of the online weights' average, per step
_KEPT = 3  # checkpoints that are averaged
_BATCH = 256


class Judged(BYOL):
    """BYOL that keeps `history`, one record per epoch from the untrained network on, and
    `features`."""

    def __init__(
        self, config: BYOLConfig, data: DataSet, up: str, inputs: dict[Any, Any], every: int
    ):
        """Judge every `every`-th epoch and the last. `inputs` caches values that stay the same from
        run to run on this data."""
        super().__init__(config, data)
        self._kept_inputs = inputs
        self._every = every
        self._epoch = 0
        self.up = up
        self.history: list[dict[str, Any]] = []
        self.features: dict[str, np.ndarray] = {}
        self._average = [p.detach().clone() for p in self.learner.online_encoder.parameters()]
        self._latest: deque[dict[str, Tensor]] = deque(maxlen=_KEPT)

    def after_step(self) -> None:
        super().after_step()
        online = list(self.learner.online_encoder.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(self._average, online, 1 - _EMA)

    def validate(self) -> Metrics:
        weights = self.learner.online_encoder.state_dict()
        self._latest.append({name: value.clone() for name, value in weights.items()})
        self._epoch += 1
        if self._epoch % self._every and self._epoch < self.config.train.epochs:
            return {"val/knn_top1": 0.0, "val/std": 1.0}
        found = self.judge()
        return {"val/knn_top1": found["truth"]["val.knn"], "val/std": 1.0}

    def snapshot(self, directory: Path, epoch: int) -> None:
        """Do nothing: these runs have no pictures."""

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        """Do nothing: these runs export no file."""

    def judge(self) -> dict[str, Any]:
        """Record the current network with BatchNorm calibrated, and a few measures without
        calibration."""
        self.eval()
        raw = self._plain(self.learner.online_encoder)
        encoder = self._calibrated(self.learner.online_encoder)
        val, val_projections = _embed(encoder, self._inputs("val"))
        ends = self._epoch in (0, self.config.train.epochs)
        views, projected = {}, {}
        for name, inputs in self._view_inputs().items():
            if name.startswith("mild") and not ends:
                continue
            views[name], projected[name] = _embed(encoder, inputs)

        epoch = self._epoch
        last = epoch == self.config.train.epochs
        truth, arrays = self._truth(encoder, val, probe=last)
        found = {
            "epoch": epoch,
            "truth": truth,
            "std": embedding_std(torch.from_numpy(val_projections)),
            "features": candidates(val, _paired(views), clusters=ends),
            "projections": candidates(val_projections, _paired(projected), clusters=False),
            "raw": raw,
        }
        self.history.append(found)
        self._keep(epoch, {"val": val, **views, **(arrays if last else {})})
        return found

    def compare_weights(self) -> dict[str, Any]:
        """Return the truth for other weights and other calibrations of the last epoch's network."""
        self.eval()
        online = self.learner.online_encoder
        found: dict[str, Any] = {"online.raw": self._truth(online)[0]}
        found["target.raw"] = self._truth(self.learner.target_encoder)[0]
        found["target"] = self._truth(self._calibrated(self.learner.target_encoder))[0]
        average = copy.deepcopy(online)
        for mine, theirs in zip(average.parameters(), self._average, strict=True):
            mine.data.copy_(theirs)
        found["ema"] = self._truth(self._calibrated(average))[0]

        if self._latest:
            mean = copy.deepcopy(online)
            states = list(self._latest)
            state = {
                name: sum(s[name] for s in states) / len(states)
                if value.is_floating_point()
                else value
                for name, value in states[-1].items()
            }
            mean.load_state_dict(state)
            found[f"mean{_KEPT}"] = self._truth(self._calibrated(mean))[0]
        return found

    def _plain(self, encoder: nn.Module) -> dict[str, float]:
        """Return the measures that are reported without calibration: RankMe and the standard
        deviation."""
        val, projections = _embed(encoder, self._inputs("val"))
        return {
            "rankme": rankme(torch.from_numpy(val)),
            "rankme.projections": rankme(torch.from_numpy(projections)),
            "std": embedding_std(torch.from_numpy(projections)),
        }

    def _truth(
        self, encoder: nn.Module, val: np.ndarray | None = None, probe: bool = False
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return kNN and probe top-1 on val and test, and the features behind them."""
        assert self.data.gallery is not None
        gallery, _ = _embed(encoder, self._inputs("gallery"))
        test, _ = _embed(encoder, self._inputs("test"))
        if val is None:
            val, _ = _embed(encoder, self._inputs("val"))

        known = torch.from_numpy(self.data.gallery.targets())
        linear = OnlineProbe(gallery.shape[1], len(self.data.classes))
        if probe:
            linear.fit(torch.from_numpy(gallery), known)
        found = {}
        for name, features, split in (("val", val, self.data.val), ("test", test, self.data.test)):
            queries, labels = torch.from_numpy(features), torch.from_numpy(split.targets())
            k = self.config.val.knn_k
            knn = knn_right(torch.from_numpy(gallery), known, queries, labels, k=k)
            found[f"{name}.knn"] = share(knn)
            if probe:
                found[f"{name}.probe"] = share(linear.right(queries, labels))
        return found, {"gallery": gallery, "test": test}

    def _calibrated(self, encoder: nn.Module, images: int = CALIBRATION) -> nn.Module:
        """Return a copy with BatchNorm statistics of training images chosen at even steps."""
        encoder = copy.deepcopy(encoder)
        calibrate_batchnorm(encoder, self._inputs("train", images))
        return encoder

    def _inputs(self, part: str, limit: int = 10**9) -> list[Tensor]:
        """Return evaluation batches of a split, or of some of its images at even steps."""

        def make() -> list[Tensor]:
            split: Split = getattr(self.data, part)
            rows = np.linspace(0, len(split) - 1, min(limit, len(split))).astype(np.int64)
            some = replace(split, indices=split.indices[rows])
            share = range(len(some))
            cpu = torch.device("cpu")
            return list(evaluation_batches(some, share, self.config, self.normalize, cpu))

        return self._once((part, limit), make)

    def _view_inputs(self) -> dict[str, list[Tensor]]:
        """Return fixed views of the validation images: "a" with the flips of the data, "b" without,
        "mild" with weaker augmentation."""

        def make() -> dict[str, list[Tensor]]:
            policies = {"a": turned(STRONG, self.up), "b": STRONG, "mild": MILD}
            size = self.config.data.image_size
            images = self.data.val.batch(np.arange(len(self.data.val)))
            found = {}
            for seed, (name, policy) in enumerate(policies.items()):
                augment = Augment(replace(policy, normalize=self.normalize), size)
                generator = torch.Generator().manual_seed(seed)
                for number in (1, 2):
                    views = augment(images, generator).contiguous(memory_format=self.memory_format)
                    found[f"{name}{number}"] = list(views.split(_BATCH))
            return found

        return self._once("views", make)

    def _once(self, what: Any, make: Callable[[], Any]) -> Any:
        key = (what, self.normalize)
        if key not in self._kept_inputs:
            self._kept_inputs[key] = make()
        return self._kept_inputs[key]

    def _keep(self, epoch: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep features for later questions, in half precision."""
        for name, array in arrays.items():
            self.features[f"{name}.{epoch}"] = array.astype(np.float16)


@torch.no_grad()
def _embed(encoder: nn.Module, batches: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, D) and projections (n, P)."""
    features, projections = [], []
    for images in batches:
        projection, feature = encoder(images)
        features.append(feature)
        projections.append(projection)
    return torch.cat(features).numpy(), torch.cat(projections).numpy()


def _paired(views: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names = sorted({name[:-1] for name in views})
    return {name: (views[f"{name}1"], views[f"{name}2"]) for name in names}
