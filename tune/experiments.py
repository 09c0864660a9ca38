"""The registry. Adding a trainable: a file in trainables/, a file in search_spaces/, a line in
EXPERIMENTS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from search_spaces.classify import A_TO_E, classify
from search_spaces.fewshot import DISTANCES, SHOTS, fewshot, fewshot_from_backbone
from search_spaces.pretrain import pretrain
from search_spaces.segment import segment, segment_from_backbone
from search_spaces.settings import Comparison, Method, Setting
from search_spaces.ssl import ssl
from search_spaces.ssl_methods import METHODS, dino, moco, simclr, vicreg
from trainables.errors import UserError
from tune.function import Function

if TYPE_CHECKING:
    from trainables.base import Trainable

SearchSpace = Callable[..., None]
"""Takes an Optuna trial and the preset's name, and asks for dotted config paths. One that has the
parameters `up` or `rules` is given them too (`tune.cli.orientation.facing`)."""
Model = tuple[type["Trainable[Any, Any]"], type]
"""A trainable and its config."""


class Program(Protocol):
    """The training code of an experiment as a study sees it before a trial runs: a class of
    `trainables.base.Trainable`, or a `Function`."""

    def load_data(self, config: Any, progress: bool = False) -> Any:
        """Load the data of a data config, or what stands for data that only a function knows."""

    def chosen_objective(self, config: Any, data: Any) -> str:
        """Name of the metric that selects, `val/...`; larger is better."""

    def check_startup(self, config: Any, data: Any) -> str:
        """Check that trials of this config can start; return one line about their start, or ""."""

    def check_packages(self) -> None:
        """Check that the packages are installed without which no trial can start."""

    def max_workers(self, config: Any) -> int:
        """Largest number of workers that can share a trial."""

    def needs_equal_shares(self) -> bool:
        """Return True if workers must have equal shares of a batch."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment, which one word on the command line names."""

    name: str
    about: str
    """One line for `--help`."""
    model: Callable[[], Model]
    """Imports the trainable and its config. The first call imports torch, which takes seconds that
    `--help` and most refusals do not need."""
    space: SearchSpace
    """Called with an Optuna trial and the preset's name; asks for dotted config paths."""
    presets: dict[str, dict[str, Any]]
    """Preset -> flat config values that differ from the dataclass defaults. With them a config is
    trial 0: the default."""
    loaded_space: SearchSpace | None = None
    """The space where `--backbone` gives the initial weights; None: the experiment takes none, or a
    setting chooses them."""
    top: int = 1
    """Number of best configurations that are trained again on fresh seeds; the answer is the best
    of them on average."""
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    """The comparisons of `--compare`; "" is the one that runs where neither a comparison nor a
    setting is named."""
    views: int = 1
    """Views of an image that a training step sees."""
    imports: tuple[str, ...] = ()
    """Packages that its networks import when they are built."""
    function: Function | None = None
    """A function that trains, in place of a trainable (`tune.function_experiment`); only the config
    of `model` counts then."""

    @property
    def program(self) -> Program:
        """The training code."""
        return self.function or cast(Program, self.trainable)

    @property
    def trainable(self) -> type["Trainable[Any, Any]"]:
        """The class of its model.

        Raises:
            UserError: a function trains, of whose model nothing is known.
        """
        if self.function is not None:
            raise UserError(
                f"{self.name} is a function of its own, whose model only it can build: best.pt in "
                "the folder of a trial or repeat is its run.save() of the best epoch"
            )
        return self.model()[0]

    @property
    def config(self) -> type:
        return self.model()[1]

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of all comparisons, for `--setting`."""
        return {
            name: setting
            for comparison in self.comparisons.values()
            for name, setting in comparison.settings.items()
        }


def side_of(experiment: Experiment, setting: Setting | None) -> Experiment:
    """Return the experiment that a setting is, where it is one of its own."""
    if isinstance(setting, Method):
        return EXPERIMENTS[setting.experiment]
    return experiment


def _byol() -> Model:
    from trainables.byol import BYOL, BYOLConfig

    return BYOL, BYOLConfig


def _simclr() -> Model:
    from trainables.simclr import SimCLR, SimCLRConfig

    return SimCLR, SimCLRConfig


def _moco() -> Model:
    from trainables.moco import MoCo, MoCoConfig

    return MoCo, MoCoConfig


def _vicreg() -> Model:
    from trainables.vicreg import VICReg, VICRegConfig

    return VICReg, VICRegConfig


def _dino() -> Model:
    from trainables.dino import DINO, DINOConfig

    return DINO, DINOConfig


def _pretraining() -> Model:
    from trainables.classifier import ClassifierConfig, Pretraining

    return Pretraining, ClassifierConfig


def _classifier() -> Model:
    from trainables.classifier import Classifier, ClassifierConfig

    return Classifier, ClassifierConfig


def _protonet() -> Model:
    from trainables.protonet import ProtoNet, ProtoNetConfig

    return ProtoNet, ProtoNetConfig


def _segmentation() -> Model:
    from trainables.segmentation import Segmentation, SegmentationConfig

    return Segmentation, SegmentationConfig


# A backbone passes from one experiment to the next: all have the same. Only the grid to which its
# maps are pooled is each experiment's own (pooling has no weights).
_LAYOUT: dict[str, Any] = {"backbone.pool": 2}
_TINY: dict[str, Any] = {
    "data.name": "glyphs",
    "data.image_size": 28,
    "backbone.name": "tiny",
    "backbone.width": 16,
    "train.channels_last": True,
}
# bfloat16 where a GPU has it: `trainables/engine/numerics.py`.
_FULL: dict[str, Any] = {
    "data.image_size": 128,
    "backbone.name": "resnet50",
    "train.threads": 1,
    "train.numerics": "auto",
}

# The untuned default at 128 px is the one that a reader of the papers would start from: the
# optimizer of the package's own example (Adam 3e-4), and the views, the momentum and the heads of
# Grill et al. 2020.
_UNTUNED: dict[str, Any] = {
    "optim.name": "adam",
    "optim.lr": 3e-4,
    "optim.weight_decay": 1e-6,
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
    "head.tau0": 0.99,
    "head.simplicial": False,
    "aug.policy": "byol",
    "aug.crop_scale_min": 0.08,
    "aug.crop_ratio": 4 / 3,
}
# A few hundred steps on letters, found on validation letters (docs/notes/ssl.md): SimCLR's jitter
# and blur, crops that leave of a letter what tells it apart, small heads, and a target that follows
# fast.
_LETTERS: dict[str, Any] = {
    "optim.name": "adamw",
    "optim.lr": 2.5e-3,
    "optim.weight_decay": 1e-2,
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
    "head.projection_size": 128,
    "head.hidden_size": 512,
    "normalize": "half",
    "aug.policy": "simclr",
    "aug.crop_scale_min": 0.9,
    "aug.crop_ratio": 4 / 3,
    "aug.strength": 1.0,
    "aug.rotate": 15.0,
}
_UNTUNED_LETTERS: dict[str, Any] = _LETTERS | {"head.tau0": 0.97, "head.simplicial": False}
# The images, the epochs and the judgement that all methods of self-supervision share.
_SSL_TINY: dict[str, Any] = _TINY | {
    # the gallery has 3 to 11 drawings of a letter: more neighbours are mostly other letters
    "val.knn_k": 5,
    # its fit to 1,024 features takes longer than an epoch
    "val.probe_steps": 0,
    # the whole last map: where a stroke lies tells letters apart
    "backbone.pool": 4,
    "train.epochs": 12,
    "train.epoch_images": 1024,
    "train.batch_size": 32,
}
_SSL_FULL: dict[str, Any] = _FULL | {
    "aug.strength": 1.0,
    "aug.grayscale": 0.2,
    "aug.blur": None,
    "train.epochs": 100,
    "train.batch_size": 256,
}
# The other methods at 128 px: each paper's own optimizer, scaled to a batch of 256, and views.
_PAPERS: dict[str, Any] = {
    "schedule.name": "warmup_cosine",
    "schedule.warmup_frac": 0.1,
    "aug.crop_ratio": 4 / 3,
}
# Supervised: the course reports' Adam 5e-4, a linear head, and a learning rate that falls to 0.
_UNTUNED_SUPERVISED: dict[str, Any] = {
    "optim.name": "adam",
    "optim.lr": 5e-4,
    "optim.weight_decay": 1e-6,
    "schedule.name": "cosine",
    "aug.policy": "none",
}

# Few-shot: Adam 1e-3, halved at intervals (Snell et al. 2017, section 3), and the course reports'
# Conv-4. Cosine with a learned scale (Gidaris & Komodakis 2018, section 3.2) rather than the
# squared Euclidean distance, which needs tuning before it is as good (docs/notes/training.md).
_UNTUNED_FEWSHOT: dict[str, Any] = {
    "optim.name": "adam",
    "optim.lr": 1e-3,
    "optim.weight_decay": 1e-6,
    "schedule.name": "step",
    "schedule.step_gamma": 0.5,
    "schedule.step_every_frac": 0.2,
    "aug.policy": "none",
    "head.distance": "cosine",
    "head.scale": 10.0,
}

# Segmentation: the polynomial schedule of DeepLab (Chen et al. 2017, section 4.1), plain
# cross-entropy, and the eight orientations of an aerial image, which has no upright one.
_UNTUNED_SEGMENT: dict[str, Any] = {
    "schedule.name": "polynomial",
    "schedule.power": 0.9,
    "aug.hflip": 0.5,
    "aug.vflip": 0.5,
    "aug.rot90": 0.75,
}

EXPERIMENTS: dict[str, Experiment] = {
    "ssl": Experiment(
        name="ssl",
        about="BYOL pre-training, by kNN top-1 on held-out labels (by views, if there are none)",
        model=_byol,
        imports=("byol_pytorch.byol_pytorch",),
        space=ssl,
        presets={
            "tiny": _UNTUNED_LETTERS | _SSL_TINY,
            "full": _UNTUNED | _SSL_FULL | {"head.projection_size": 256, "head.hidden_size": 4096},
        },
        top=3,
        views=2,
        comparisons={"ssl-methods": METHODS},
    ),
    "ssl-simclr": Experiment(
        name="ssl-simclr",
        about="SimCLR pre-training, judged as ssl is (extra lightly)",
        model=_simclr,
        space=simclr,
        presets={
            "tiny": _LETTERS | _SSL_TINY | {"head.temperature": 0.2, "train.batch_size": 64},
            "full": _PAPERS
            | _SSL_FULL
            | {
                "optim.name": "lars",
                "optim.lr": 0.3,
                "optim.weight_decay": 1e-6,
                "aug.policy": "simclr",
                "aug.crop_scale_min": 0.08,
                "head.projection_size": 128,
                "head.hidden_size": 2048,
                "head.temperature": 0.1,
            },
        },
        top=3,
        views=2,
    ),
    "ssl-moco": Experiment(
        name="ssl-moco",
        about="MoCo v2 pre-training, judged as ssl is (extra lightly)",
        model=_moco,
        space=moco,
        presets={
            "tiny": _LETTERS
            | _SSL_TINY
            | {"head.temperature": 0.2, "head.queue": 1024, "head.momentum": 0.97},
            "full": _PAPERS
            | _SSL_FULL
            | {
                "optim.name": "sgd",
                "optim.lr": 0.03,
                "optim.weight_decay": 1e-4,
                "aug.policy": "simclr",
                # SimCLR's jitter at half its strength: .4, .4, .4, .1 in the code of version 2
                "aug.strength": 0.5,
                "aug.crop_scale_min": 0.2,
                "head.projection_size": 128,
                "head.hidden_size": 2048,
                "head.temperature": 0.2,
                "head.queue": 65536,
                "head.momentum": 0.999,
            },
        },
        top=3,
        views=2,
    ),
    "ssl-vicreg": Experiment(
        name="ssl-vicreg",
        about="VICReg pre-training, judged as ssl is (extra lightly)",
        model=_vicreg,
        space=vicreg,
        presets={
            "tiny": _LETTERS | _SSL_TINY | {"head.projection_size": 512, "train.batch_size": 64},
            "full": _PAPERS
            | _SSL_FULL
            | {
                "optim.name": "lars",
                "optim.lr": 0.2,
                "optim.weight_decay": 1e-6,
                "aug.policy": "byol",
                "aug.crop_scale_min": 0.08,
                "head.projection_size": 8192,
                "head.hidden_size": 8192,
            },
        },
        top=3,
        views=2,
    ),
    "ssl-dino": Experiment(
        name="ssl-dino",
        about="DINO pre-training, judged as ssl is (extra lightly)",
        model=_dino,
        space=dino,
        presets={
            "tiny": _LETTERS
            | _SSL_TINY
            | {"optim.lr": 1e-3, "head.projection_size": 1024, "head.tau0": 0.97},
            "full": _PAPERS
            | _SSL_FULL
            | {
                "optim.name": "adamw",
                "optim.lr": 5e-4,
                "optim.weight_decay": 0.04,
                "aug.policy": "byol",
                "aug.crop_scale_min": 0.4,
                "head.projection_size": 65536,
                "head.hidden_size": 2048,
                "head.local_views": 6,
                "head.tau0": 0.996,
            },
        },
        top=3,
        views=2,
    ),
    "pretrain": Experiment(
        name="pretrain",
        about="supervised pre-training from scratch, by top-1",
        model=_pretraining,
        space=pretrain,
        presets={
            "tiny": _UNTUNED_SUPERVISED
            | _TINY
            | {
                **_LAYOUT,
                "aug.crop_scale_min": 0.8,
                "aug.rotate": 0.0,
                # the first rung is at a sixth of them, and within three epochs few trials learn
                # anything
                "train.epochs": 24,
                "train.epoch_images": 3200,
                "train.batch_size": 64,
            },
            "full": _UNTUNED_SUPERVISED
            | _FULL
            | {
                "aug.crop_scale_min": 0.25,
                "aug.hflip": 0.5,
                "aug.strength": 1.0,
                "train.epochs": 100,
                "train.batch_size": 128,
            },
        },
        top=3,
    ),
    "classify": Experiment(
        name="classify",
        about="classification in one of the settings A to E (--setting), by top-1",
        model=_classifier,
        space=classify,
        presets={
            "tiny": _UNTUNED_SUPERVISED
            | _TINY
            | {
                **_LAYOUT,
                "aug.crop_scale_min": 0.8,
                "aug.rotate": 0.0,
                "train.epochs": 12,
                "train.batch_size": 32,
            },
            "full": _UNTUNED_SUPERVISED
            | _FULL
            | {
                "aug.crop_scale_min": 0.25,
                "aug.hflip": 0.5,
                "aug.strength": 1.0,
                "train.epochs": 50,
                "train.batch_size": 64,
            },
        },
        top=3,
        comparisons={"": A_TO_E},
    ),
    "fewshot": Experiment(
        name="fewshot",
        about="prototypical networks, by accuracy over episodes of new classes",
        model=_protonet,
        space=fewshot,
        loaded_space=fewshot_from_backbone,
        presets={
            "tiny": _UNTUNED_FEWSHOT
            | _TINY
            | _LAYOUT
            | {
                "aug.crop_scale_min": 0.8,
                "aug.rotate": 0.0,
                "episode.way": 20,
                "episode.query": 5,
                "val.query": 8,  # letters have 18 images: 10 support images leave 8
                "train.epochs": 12,
                "train.epoch_images": 3600,
                "train.batch_size": 120,
            },
            "full": _UNTUNED_FEWSHOT
            | {
                "data.image_size": 84,
                "train.numerics": "auto",
                "backbone.name": "conv4",
                "backbone.width": 64,
                "backbone.pool": 5,
                "episode.way": 20,
                "episode.query": 15,
                "aug.crop_scale_min": 0.8,
                "aug.hflip": 0.5,
                "aug.strength": 1.0,
                "train.epochs": 100,
                "train.batch_size": 320,
            },
        },
        top=3,
        comparisons={"shots": SHOTS, "distance": DISTANCES},
    ),
    "segment": Experiment(
        name="segment",
        about="semantic segmentation, by mIoU",
        model=_segmentation,
        space=segment,
        loaded_space=segment_from_backbone,
        presets={
            "tiny": _TINY
            | _UNTUNED_SEGMENT
            | {
                "data.name": "earth",
                "data.image_size": 64,
                "optim.name": "adam",
                "optim.lr": 3e-3,
                "optim.weight_decay": 1e-6,
                # two of six climates cover less than a twelfth of the pixels each, and mIoU counts
                # all alike
                "loss.name": "weighted_ce",
                "train.epochs": 36,
                "train.epoch_images": 640,
                "train.batch_size": 16,
            },
            "full": _UNTUNED_SEGMENT
            | {
                "data.image_size": 512,
                "model.name": "deeplabv3-resnet50",
                "train.numerics": "auto",
                "optim.name": "sgd",
                "optim.lr": 0.01,
                "optim.weight_decay": 1e-4,
                "train.epochs": 50,
                "train.batch_size": 8,
            },
        },
        top=3,  # one validation score of a trial moves by .03 with its seed
    ),
}
