"""A trainable that takes milliseconds: logistic regression on Gaussian blobs, with everything that
makes exact resume hard (BatchNorm, dropout, augmentation noise, momentum). Tests use it to run the
real training loop and the real study."""

import ctypes
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from trainables.base import Batch, Metrics, Trainable, TrainConfig
from trainables.config import config
from trainables.data_summary import DataSummary, SplitUse
from trainables.engine.checkpoint import save_checkpoint
from trainables.errors import TrialFailed
from trainables.optim import OptimConfig, ScheduleConfig
from tune.experiments import Experiment


@config
class ToyData:
    name: str = "blobs"
    image_size: int = 2
    seed: int = 0
    skip_corrupt: bool = False


@config
class ToyConfig:
    data: ToyData = ToyData()
    optim: OptimConfig = OptimConfig(lr=0.1, momentum=0.9)
    schedule: ScheduleConfig = ScheduleConfig(name="cosine")
    train: TrainConfig = TrainConfig(epochs=4, batch_size=20)
    fault: str = ""
    """Fault to cause: nan, raise, oom, collapse, collapse repeat (not in the search), exit (once),
    exit always, hang (once)."""
    memory: Annotated[int, Field(ge=0)] = 10_000
    """Largest micro-batch that "fits", in images."""
    normalized: bool = True
    dropout: float = 0.2
    sleep_s: float = 0.0
    seed: int = 0


POINTS = DataSummary(layout="points of a Gaussian", splits=(SplitUse("train", 90),))


@dataclass
class Blobs:
    train: np.ndarray
    name: str = "blobs"
    fingerprint: str = "f" * 32
    gallery: None = None
    summary: DataSummary = POINTS

    @property
    def val(self) -> np.ndarray:
        return self.train

    @property
    def test(self) -> np.ndarray:
        return self.train

    def headline(self) -> str:
        return f"blobs: {len(self.train)} points"


class Toy(Trainable):
    def __init__(self, config: ToyConfig, data: Blobs):
        super().__init__()
        self.config, self.data = config, data
        self.net = nn.Sequential(
            nn.Linear(2, 8),
            nn.BatchNorm1d(8) if config.normalized else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(config.dropout if config.normalized else 0.0),
            nn.Linear(8, 2),
        )
        self.largest = 0

    @classmethod
    def load_data(cls, config: ToyData, progress: bool = False) -> Blobs:
        return Blobs(np.random.default_rng(config.seed).normal(size=(90, 2)).astype(np.float32))

    @classmethod
    def objective_for(cls, data: Blobs) -> str:
        return "val/top1"

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        points = torch.from_numpy(self.data.train[positions])
        noise = torch.randn(points.shape, generator=generator)
        return Batch(points, (noise,), (points.sum(1) > 0).long())

    def forward(self, batch: Batch) -> Tensor:
        if self.config.sleep_s:
            time.sleep(self.config.sleep_s)
        if len(batch) > self.config.memory or self.config.fault == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.largest = max(self.largest, len(batch))
        if self.config.fault == "raise":
            raise ZeroDivisionError("a bug in the model")
        loss = nn.functional.cross_entropy(
            self.net(batch.images + 0.1 * batch.draws[0]), batch.targets
        )
        return loss * float("nan") if self.config.fault == "nan" else loss

    def validate(self) -> Metrics:
        self.eval()
        with torch.no_grad():
            points = torch.from_numpy(self.data.train)
            top1 = (self.net(points).argmax(1) == (points.sum(1) > 0)).double().mean().item()
        return {"val/top1": top1, "time/pid": float(os.getpid())}

    def test(self) -> Metrics:
        return {"test/top1": self.validate()["val/top1"]}

    def embeddings(self, part: str) -> tuple[np.ndarray, np.ndarray | None]:
        return self.data.train, None

    def export(self, path: Path, meta: dict[str, Any]) -> None:
        save_checkpoint(path, self.state_dict())

    def load_export(self, path: Path) -> None:
        self.load_state_dict(torch.load(path, weights_only=True))

    def check(self, history: list[Metrics]) -> None:
        repeated = self.config.seed >= 1000
        if (
            self.config.fault == "collapse" or (self.config.fault == "collapse repeat" and repeated)
        ) and len(history) == 2:
            raise TrialFailed("collapse", "as told")
        if self.config.fault == "exit always" and len(history) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.config.fault in ("exit", "hang") and len(history) == 2:
            marker = Path(os.environ["VISTUNE_TEST_MARKER"])
            if not marker.exists():
                marker.touch()
                if self.config.fault == "exit":
                    os.kill(os.getpid(), signal.SIGKILL)
                # this holds the GIL, so no other Python thread can run
                ctypes.PyDLL(None).sleep(10_000)


def space(trial: Any, preset: str) -> None:
    trial.suggest_float("optim.lr", 1e-3, 1.0, log=True)
    if trial.suggest_categorical("schedule.name", ["constant", "warmup_cosine"]) == "warmup_cosine":
        trial.suggest_float("schedule.warmup_frac", 0.01, 0.5)


def space_with_bugs(trial: Any, preset: str) -> None:
    space(trial, preset)
    trial.suggest_categorical("fault", ["", "raise"])


TOY = Experiment(
    name="toy",
    about="logistic regression",
    model=lambda: (Toy, ToyConfig),
    space=space,
    presets={"tiny": {"schedule.name": "constant", "optim.lr": 0.01}, "full": {}},
)
BUGGY = replace(TOY, space=space_with_bugs)
