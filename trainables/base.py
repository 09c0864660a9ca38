"""Interfaces that the training loop asks of a model, and of the place where it runs."""

from abc import ABC, abstractmethod
from collections.abc import Sized
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables.config import (
    MOST_EPOCHS,
    MOST_IMAGES,
    MOST_THREADS,
    Annotated,
    Field,
    config,
    nearest,
)
from trainables.data.sampling import BatchSampler, Sampler
from trainables.devices import DeviceName, send
from trainables.errors import UserError
from trainables.head_job import HeadJob
from trainables.optim import OptimConfig, param_groups
from trainables.outcomes import ImageOutcomes
from trainables.plots.snapshots import Part, write_arrays
from trainables.schedules import ScheduleConfig

Metrics = dict[str, float]
AVERAGED = "_ema"
"""End of the names of metrics of averaged weights."""
BATCHED = "time/batched_trials"
"""Trials that trained side by side, in batched steps, during the epoch (`--batch-trials`); only a
trial whose steps were batched has it."""


@config
class TrainConfig:
    """Length, batch and numerics of the training loop."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] = 12
    """Number of reports; schedules stretch over all of them."""
    epoch_images: Annotated[int, Field(ge=0)] = 0
    """Images that count as one epoch (0 = one pass over the training split). The next epoch
    continues the pass where the last one ended."""
    batch_size: Annotated[int, Field(ge=2, le=MOST_IMAGES)] = 256
    """Effective batch over all workers and micro-batches, in images."""
    micro_batch: Annotated[int, Field(ge=0)] = 0
    """Largest forward pass, in images (0 = the whole batch); gradients are accumulated. Halved
    automatically when memory runs out."""
    bf16: bool = False
    """bfloat16 autocast: for GPUs; slower on CPUs without AMX."""
    channels_last: bool = False
    """NHWC memory format: for tensor cores."""
    compile: bool = False
    """torch.compile of the backbone: pays on GPUs only; `--plan` measures whether it does."""
    numerics: Literal["as_set", "auto"] = "as_set"
    """as_set: bf16 and channels_last are as they are set. auto: both are on where the device is a
    GPU with bfloat16, elsewhere as set."""
    device: DeviceName = "auto"
    """Device to train on. auto: the GPU that the process may see, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    """CPU threads of one trial; part of the config because floating-point sums depend on it."""
    objective: str = ""
    """Metric that selects the best epoch and the best trial; empty: the experiment's own. Set by
    `--objective`."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Longest time between two checkpoints within an epoch, in minutes (each epoch ends with
    one)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, in [0, 1), such as .99; it is judged
    as val/..._ema, which then selects, and exported. 0: there is none."""
    rules: Annotated[int, Field(ge=1, le=3)] = 3
    """Version of what training computes, which a study keeps. 1: as studies did that began before
    there was a choice; docs/notes/training.md lists what has changed since."""


class RunConfig(Protocol):
    """The blocks that the training loop reads of every config."""

    @property
    def train(self) -> TrainConfig: ...
    @property
    def optim(self) -> OptimConfig: ...
    @property
    def schedule(self) -> ScheduleConfig: ...
    @property
    def seed(self) -> int: ...


class TrainingData(Protocol):
    """The part of a data set that the training loop looks at: how many images it trains on."""

    @property
    def train(self) -> Sized: ...


ConfigT = TypeVar("ConfigT", bound=RunConfig)
DataT = TypeVar("DataT", bound=TrainingData)


class Batch(NamedTuple):
    """One step's input: every member is indexed by image, so that a slice is a micro-batch."""

    images: Tensor  # (B, 3, S, S) uint8; or what stands for them, such as features (B, D)
    draws: tuple[Any, ...]  # drawn augmentation parameters, one member a view
    targets: Tensor | None = None  # (B,) int64

    def __len__(self) -> int:
        return len(self.images)

    def slice(self, start: int, stop: int) -> "Batch":
        """Images `start` to `stop` with their draws and targets."""
        draws = tuple(view[start:stop] for view in self.draws)
        targets = None if self.targets is None else self.targets[start:stop]
        return Batch(self.images[start:stop], draws, targets)

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`, which nothing waits for: it may still be on its way."""
        if device.type == "cpu":
            return self
        images = send(self.images, device)
        draws = tuple(
            send(view, device) if isinstance(view, Tensor) else view.to(device)
            for view in self.draws
        )
        targets = None if self.targets is None else send(self.targets, device)
        return Batch(images, draws, targets)


class Trainable(nn.Module, ABC, Generic[ConfigT, DataT]):
    """A model that knows its data, its loss and its metrics; `engine.fit` trains it.

    Subclasses set `config` and `data`. See `byol.py` for an example.
    """

    config: ConfigT
    data: DataT

    @classmethod
    @abstractmethod
    def load_data(cls, config: Any, progress: bool = False) -> DataT:
        """Load the data set of a data config, split as this kind of model needs it."""

    @classmethod
    @abstractmethod
    def objective_for(cls, data: DataT) -> str:
        """Name of the metric that selects on this data, `val/...`; larger is better."""

    @classmethod
    def objectives_for(cls, data: DataT) -> tuple[str, ...]:
        """Names of all metrics that may select on this data, larger is better."""
        return (cls.objective_for(data),)

    @classmethod
    def chosen_objective(cls, config: ConfigT, data: DataT) -> str:
        """Name of the metric that selects: that of the config, if it names one; with `train.ema`
        the metric of the averaged weights, unless the config names another.

        Raises:
            UserError: the config names an unknown metric.
        """
        wanted = config.train.objective
        if not wanted:
            usual = cls.objective_for(data)
            return f"{usual}{AVERAGED}" if config.train.ema else usual

        known = cls.objectives_for(data)
        if wanted.removesuffix(AVERAGED) not in known:
            raise UserError(
                f"--objective {wanted} cannot select here{nearest(wanted, known)}; "
                f"valid: {', '.join(known)}"
            )
        if wanted.endswith(AVERAGED) and not config.train.ema:
            raise UserError(
                f"--objective {wanted} is of averaged weights, and train.ema=0 averages none; "
                "add --set train.ema=0.99"
            )
        return wanted

    @classmethod
    def check_startup(cls, config: ConfigT, data: DataT) -> str:
        """Check, before any trial, that trials of this config can start.

        Returns:
            One line about what trials start from, "" where there is nothing to say.
        Raises:
            UserError: they cannot start.
        """
        return ""

    @classmethod
    def check_packages(cls) -> None:
        """Check that the packages are installed without which no trial can start.

        Raises:
            UserError: one is missing.
        """

    @classmethod
    def profiled_data(cls, config: ConfigT, data: DataT) -> DataT:
        """Choose a part of the data that shows the cost of a step, where the first step would
        prepare all of it."""
        return data

    def setup_seconds(self, data: DataT) -> float:
        """Seconds to prepare all of `data` for the first trial, as estimated from a step and a
        validation on `profiled_data`."""
        return 0.0

    @property
    def min_batch_size(self) -> int:
        """Smallest batch that `forward` takes in training. BatchNorm of features needs 2."""
        return 1

    @property
    def objective(self) -> str:
        """Name of the metric that selects, `val/...`; larger is better."""
        return self.chosen_objective(self.config, self.data)

    def sampler(self) -> BatchSampler:
        """Sampler that chooses the images of each step's batch."""
        train = self.config.train
        return Sampler(len(self.data.train), train.batch_size, self.config.seed)

    @classmethod
    def max_workers(cls, config: ConfigT) -> int:
        """Largest number of workers that can share a batch: two images each, as BatchNorm needs."""
        return config.train.batch_size // 2

    @classmethod
    def needs_equal_shares(cls) -> bool:
        """Return True if workers must have equal shares of a batch."""
        return False

    @abstractmethod
    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        """Draw the batch at these positions of the training split and its augmentation, on the
        CPU."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar."""

    @abstractmethod
    def validate(self) -> Metrics:
        """Metrics on the validation split, the objective among them."""

    def preload(self) -> None:
        """Import what only `validate` needs, before its time is measured."""

    def costs(self) -> Metrics:
        """Costs and savings of the epoch that ends here, apart from steps and validation. Called
        once an epoch."""
        return {}

    @abstractmethod
    def test(self) -> Metrics:
        """The same metrics on the test split, named `test/...`: for claims, never for choices."""

    def test_outcomes(self) -> ImageOutcomes | None:
        """Outcome of every image at the last `test`, from which intervals get the error of a finite
        test set. None: this kind of model does not say; reports then name the error as missing."""
        return None

    def network(self) -> nn.Module | None:
        """The network from views (B, 3, S, S) to the input of the loss, made of this trainable's
        own modules, for the printed architecture; None where there is no such thing."""
        return None

    @abstractmethod
    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        """Features (n, D) float32 and labels (n,), -1 where unknown, of some images of a split
        (`snapshots.shown_rows`), for pictures."""

    def snapshot(self, directory: Path, epoch: int) -> None:
        """Write the arrays that pictures of this epoch are drawn from: `<kind>-....npz`, where
        `draw.KINDS` lists the kinds.

        Rank 0 alone calls it, after `validate`, at the first, the middle and the last epoch
        (counted from 1). Here: `embeddings-train-0001.npz` and `embeddings-val-0001.npz`;
        `data.classes` names the labels.
        """
        names = np.array(getattr(self.data, "classes", ()), dtype=str)
        parts: tuple[Part, ...] = ("train", "val")
        for part in parts:
            features, labels = self.embeddings(part)
            labels = np.full(len(features), -1) if labels is None else labels
            file = directory / f"embeddings-{part}-{epoch:04d}.npz"
            write_arrays(
                file, features=features, labels=labels, epoch=epoch, names=names, part=part
            )

    def snapshot_best(self, directory: Path, epoch: int) -> None:
        """Write the same for a completed trial's best epoch, whose export has been loaded. Rank 0
        alone calls it, once."""

    @abstractmethod
    def export(self, path: Path, meta: dict[str, Any]) -> None:
        """Write the file that a later trial can start from (a clean backbone state dict)."""

    @abstractmethod
    def load_export(self, path: Path) -> None:
        """Read a file that `export` wrote."""

    def changing_state(self) -> dict[str, Tensor]:
        """The state that training changes: the model's part of a checkpoint."""
        return self.state_dict()

    def load_changing_state(self, state: dict[str, Tensor]) -> None:
        """Load what `changing_state` returned into a model built from the same config."""
        self.load_state_dict(state)

    def calibrate(self) -> None:
        """Give a random initialisation honest BatchNorm statistics, so that it is a fair
        baseline."""

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer (see `optim.param_groups`)."""
        return param_groups(self, weight_decay)

    def before_step(self, step: int, total_steps: int) -> None:
        """Set what follows a schedule of its own, such as BYOL's momentum."""

    def after_step(self) -> None:
        """Update what follows the optimizer's step, such as BYOL's moving average."""

    def check(self, history: list[Metrics]) -> None:
        """Raise `TrialFailed` where the epochs so far show that training is pointless."""

    @classmethod
    def why_not_batched(cls, config: ConfigT) -> str:
        """The reason why no trial with this config can be batched, in a few words; "" where they
        can, as far as the config says (see `head_job`)."""
        return "they train more than a head"

    def head_job(self) -> HeadJob | None:
        """The head, where it is all that trains and its features are cached; None where a step
        needs more, and cannot be batched with those of other trials."""
        return None

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device


class Runtime(Protocol):
    """The place where a trial runs: one process, a Tune actor, or a group of Train workers."""

    directory: Path
    """The trial's own folder: checkpoints and exports."""
    device: torch.device
    rank: int
    world_size: int

    def report(self, epoch: int, metrics: Metrics) -> bool:
        """Hand an epoch's metrics to the study. False: the study has stopped this trial."""
