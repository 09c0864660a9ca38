"""Interfaces of the training loop: the model that it trains, and the place where it runs."""

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
CompileMode = Literal["default", "reduce-overhead"]
AVERAGED = "_ema"
"""Suffix of metrics that are measured on averaged weights."""
BATCHED = "time/batched_trials"
"""Number of trials that trained together in batched steps during the epoch (`--batch-trials`);
reported only if the trial's steps were batched."""


@config
class TrainConfig:
    """Length, batch and numerics of the training loop."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] = 12
    """Number of reports; schedules stretch over all of them."""
    epoch_images: Annotated[int, Field(ge=0)] = 0
    """Images that count as one epoch (0 = one pass over the training split). The next epoch
    continues the pass where this one stopped."""
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
    """torch.compile of the backbone: pays off only on GPUs; `--plan` measures whether it does."""
    compile_mode: CompileMode = "default"
    """Mode of torch.compile. reduce-overhead: a training step replays CUDA graphs of the backbone,
    so small networks and batches do not wait for the launch of each kernel; takes more memory."""
    numerics: Literal["as_set", "auto"] = "as_set"
    """as_set: use bf16 and channels_last as set. auto: turn both on if the device is a GPU with
    bfloat16, otherwise use them as set."""
    device: DeviceName = "auto"
    """Device to train on. auto: the GPU that the process may see, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    """CPU threads of one trial; part of the config because floating-point sums depend on it."""
    objective: str = ""
    """Metric that selects the best epoch and the best trial; empty: the experiment's default. Set
    by `--objective`."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Longest time between two checkpoints within an epoch, in minutes (every epoch also ends with
    one)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, in [0, 1), such as .99. The averaged
    weights are evaluated as val/..._ema, which then selects, and exported. 0: no average."""
    rules: Annotated[int, Field(ge=1, le=3)] = 3
    """Version of the training rules, fixed for each study. 1: the rules of studies from before
    there were versions; docs/notes/training.md lists the changes since."""


class RunConfig(Protocol):
    """Config blocks that the training loop reads."""

    @property
    def train(self) -> TrainConfig: ...
    @property
    def optim(self) -> OptimConfig: ...
    @property
    def schedule(self) -> ScheduleConfig: ...
    @property
    def seed(self) -> int: ...


class TrainingData(Protocol):
    """The part of a data set that the training loop needs: the number of training images."""

    @property
    def train(self) -> Sized: ...


ConfigT = TypeVar("ConfigT", bound=RunConfig)
DataT = TypeVar("DataT", bound=TrainingData)


class Batch(NamedTuple):
    """Input of one step. Every member is indexed by image, so a slice is a micro-batch."""

    images: Tensor  # (B, 3, S, S) uint8, or a substitute such as features (B, D)
    draws: tuple[Any, ...]  # drawn augmentation parameters, one member per view
    targets: Tensor | None = None  # (B,) int64

    def __len__(self) -> int:
        return len(self.images)

    def slice(self, start: int, stop: int) -> "Batch":
        """Images `start` to `stop` with their draws and targets."""
        draws = tuple(view[start:stop] for view in self.draws)
        targets = None if self.targets is None else self.targets[start:stop]
        return Batch(self.images[start:stop], draws, targets)

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to `device` without waiting for the copy to finish."""
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
        """Load the data set of a data config, with the splits that this kind of model needs."""

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
        """Return the name of the metric that selects: the config's objective if it names one. The
        default with `train.ema` is the metric of the averaged weights.

        Raises:
            UserError: the config names an unknown metric.
        """
        wanted = config.train.objective
        if not wanted:
            usual = cls.objective_for(data)
            return f"{usual}{AVERAGED}" if config.train.ema else usual

        known = cls.objectives_for(data)
        if wanted.removesuffix(AVERAGED) not in known:
            raise UserError(f"--objective {wanted} cannot select here{nearest(wanted, known)}")
        if wanted.endswith(AVERAGED) and not config.train.ema:
            raise UserError(
                f"--objective {wanted} is of averaged weights, and train.ema=0 averages none; "
                "add --set train.ema=0.99"
            )
        return wanted

    @classmethod
    def check_startup(cls, config: ConfigT, data: DataT) -> str:
        """Check that trials of this config can start, before any trial runs.

        Returns:
            One line about what trials start from, or "" if there is nothing to say.
        Raises:
            UserError: trials cannot start.
        """
        return ""

    @classmethod
    def check_packages(cls) -> None:
        """Check that the packages that every trial needs are installed.

        Raises:
            UserError: one is missing.
        """

    @classmethod
    def profiled_data(cls, config: ConfigT, data: DataT) -> DataT:
        """Return a part of the data that suffices to measure a step, for models whose first step
        would otherwise prepare all of it."""
        return data

    def setup_seconds(self, data: DataT) -> float:
        """Seconds that preparing all of `data` takes in the first trial, estimated from a step and
        a validation on `profiled_data`."""
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
        """Largest number of workers that can share a batch; BatchNorm needs two images each."""
        return config.train.batch_size // 2

    @classmethod
    def needs_equal_shares(cls) -> bool:
        """Return True if all workers must have equal shares of a batch."""
        return False

    @abstractmethod
    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        """Collect the batch at these positions of the training split and draw its augmentation, on
        the CPU."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar."""

    @abstractmethod
    def validate(self) -> Metrics:
        """Metrics on the validation split, the objective among them."""

    def preload(self) -> None:
        """Import modules that only `validate` needs, so that its timing excludes the import."""

    def costs(self) -> Metrics:
        """Costs and savings of the epoch that has just ended, besides steps and validation. Called
        once per epoch."""
        return {}

    @abstractmethod
    def test(self) -> Metrics:
        """The same metrics on the test split, named `test/...`: for claims, never for choices."""

    def test_outcomes(self) -> ImageOutcomes | None:
        """Outcome of every image at the last `test`, from which intervals include the error of a
        finite test set. None if this kind of model has none; reports then say that it is
        missing."""
        return None

    def network(self) -> nn.Module | None:
        """The network from views (B, 3, S, S) to the input of the loss, made of this trainable's
        own modules, for the printed architecture. None if there is no such network."""
        return None

    @abstractmethod
    def embeddings(self, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
        """Features (n, D) float32 and labels (n,), -1 if unknown, of some images of a split
        (`snapshots.shown_rows`), for pictures."""

    def snapshot(self, directory: Path, epoch: int) -> None:
        """Write the arrays from which this epoch's pictures are drawn: `<kind>-....npz`, with a
        kind from `draw.KINDS`.

        Only rank 0 calls it, after `validate`, at the first, middle and last epoch (counted from
        1). This default writes `embeddings-train-0001.npz` and `embeddings-val-0001.npz`;
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
        """Write arrays for pictures of a completed trial's best epoch, after its export has been
        loaded. Only rank 0 calls it, once."""

    @abstractmethod
    def export(self, path: Path, meta: dict[str, Any]) -> None:
        """Write the file from which a later trial can start (a clean backbone state dict)."""

    @abstractmethod
    def load_export(self, path: Path) -> None:
        """Read a file that `export` wrote."""

    def changing_state(self) -> dict[str, Tensor]:
        """State that training changes: the model's part of a checkpoint."""
        return self.state_dict()

    def load_changing_state(self, state: dict[str, Tensor]) -> None:
        """Load what `changing_state` returned into a model built from the same config."""
        self.load_state_dict(state)

    def calibrate(self) -> None:
        """Compute real BatchNorm statistics for a random initialisation, so that it is a fair
        baseline."""

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer (see `optim.param_groups`)."""
        return param_groups(self, weight_decay)

    def before_step(self, step: int, total_steps: int) -> None:
        """Update values that have their own schedule, such as BYOL's momentum."""

    def after_step(self) -> None:
        """Update what depends on the optimizer's step, such as BYOL's moving average."""

    def check(self, history: list[Metrics]) -> None:
        """Raise `TrialFailed` if the epochs so far show that training is pointless."""

    @classmethod
    def why_not_batched(cls, config: ConfigT) -> str:
        """Return why no trial with this config can be batched, in a few words; "" if they can, as
        far as the config alone tells (see `head_job`)."""
        return "they train more than a head"

    def head_job(self) -> HeadJob | None:
        """Return the head if only the head trains and its features are cached. Otherwise return
        None: the steps cannot be batched with those of other trials."""
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
        """Report an epoch's metrics to the study. Return False if the study stops this trial."""
