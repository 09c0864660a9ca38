"""The registry of experiments. To add a trainable, write a file in trainables/ and one in
search_spaces/, and add an entry to EXPERIMENTS."""

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
from tune import presets
from tune.function import Function

if TYPE_CHECKING:
    from trainables.base import Trainable

SearchSpace = Callable[..., None]
"""Takes an Optuna trial and the preset's name, and asks for dotted config paths. If it has the
parameters `up` or `rules`, it receives those too (`tune.cli.orientation.facing`)."""
Model = tuple[type["Trainable[Any, Any]"], type]
"""A trainable and its config."""


class Program(Protocol):
    """The training code of an experiment, as a study uses it before a trial runs: a
    `trainables.base.Trainable` class, or a `Function`."""

    def load_data(self, config: Any, progress: bool = False) -> Any:
        """Load the data of a data config, or a stand-in for data that only a function knows."""

    def chosen_objective(self, config: Any, data: Any) -> str:
        """Return the name of the metric that selects trials, `val/...`; larger is better."""

    def check_startup(self, config: Any, data: Any) -> str:
        """Check that trials with this config can start. Return one line about their start, or
        ""."""

    def check_packages(self) -> None:
        """Check that all packages are installed that a trial needs in order to start."""

    def max_workers(self, config: Any) -> int:
        """Return the maximum number of workers that can share a trial."""

    def needs_equal_shares(self) -> bool:
        """Return True if all workers must have equal shares of a batch."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment, named by one word on the command line."""

    name: str
    about: str
    """One line for `--help`."""
    model: Callable[[], Model]
    """Imports the trainable and its config. The first call imports torch, which takes seconds;
    `--help` and most refusals do not need it."""
    space: SearchSpace
    """Called with an Optuna trial and the preset's name; asks for dotted config paths."""
    presets: dict[str, dict[str, Any]]
    """Preset -> flat config values that differ from the dataclass defaults. They define trial 0,
    the default."""
    loaded_space: SearchSpace | None = None
    """The space used if `--backbone` gives the initial weights; None if the experiment takes no
    backbone or a setting chooses it."""
    top: int = 1
    """Number of best configurations to train again on fresh seeds; the answer is the one that is
    best on average."""
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    """The comparisons of `--compare`; "" is the one that runs if neither a comparison nor a setting
    is named."""
    views: int = 1
    """Number of views of an image per training step."""
    imports: tuple[str, ...] = ()
    """Packages that are imported when its networks are built."""
    function: Function | None = None
    """A function that trains, instead of a trainable (`tune.function_experiment`). Then only the
    config of `model` is used."""

    @property
    def program(self) -> Program:
        """The training code."""
        return self.function or cast(Program, self.trainable)

    @property
    def trainable(self) -> type["Trainable[Any, Any]"]:
        """The class of its trainable.

        Raises:
            UserError: a function does the training, and its model is unknown.
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
    """Return the experiment that a setting stands for: its own if it is a `Method`, otherwise the
    given one."""
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


EXPERIMENTS: dict[str, Experiment] = {
    "ssl": Experiment(
        name="ssl",
        about="BYOL pre-training, judged by kNN top-1, or by views if images have no labels",
        model=_byol,
        imports=("byol_pytorch.byol_pytorch",),
        space=ssl,
        presets=presets.SSL,
        top=3,
        views=2,
        comparisons={"ssl-methods": METHODS},
    ),
    "ssl-simclr": Experiment(
        name="ssl-simclr",
        about="SimCLR pre-training, judged like ssl (extra lightly)",
        model=_simclr,
        space=simclr,
        presets=presets.SIMCLR,
        top=3,
        views=2,
    ),
    "ssl-moco": Experiment(
        name="ssl-moco",
        about="MoCo v2 pre-training, judged like ssl (extra lightly)",
        model=_moco,
        space=moco,
        presets=presets.MOCO,
        top=3,
        views=2,
    ),
    "ssl-vicreg": Experiment(
        name="ssl-vicreg",
        about="VICReg pre-training, judged like ssl (extra lightly)",
        model=_vicreg,
        space=vicreg,
        presets=presets.VICREG,
        top=3,
        views=2,
    ),
    "ssl-dino": Experiment(
        name="ssl-dino",
        about="DINO pre-training, judged like ssl (extra lightly)",
        model=_dino,
        space=dino,
        presets=presets.DINO,
        top=3,
        views=2,
    ),
    "pretrain": Experiment(
        name="pretrain",
        about="supervised pre-training from scratch, judged by top-1",
        model=_pretraining,
        space=pretrain,
        presets=presets.PRETRAIN,
        top=3,
    ),
    "classify": Experiment(
        name="classify",
        about="classification in settings A to E (one: --setting), judged by top-1",
        model=_classifier,
        space=classify,
        presets=presets.CLASSIFY,
        top=3,
        comparisons={"": A_TO_E},
    ),
    "fewshot": Experiment(
        name="fewshot",
        about="few-shot learning by prototypical networks, judged by accuracy on new classes",
        model=_protonet,
        space=fewshot,
        loaded_space=fewshot_from_backbone,
        presets=presets.FEWSHOT,
        top=3,
        comparisons={"shots": SHOTS, "distance": DISTANCES},
    ),
    "segment": Experiment(
        name="segment",
        about="semantic segmentation, judged by mIoU",
        model=_segmentation,
        space=segment,
        loaded_space=segment_from_backbone,
        presets=presets.SEGMENT,
        top=3,  # a trial's validation score varies by .03 with its seed
    ),
}
