"""Classification in settings A to E, and a control (`trainables/classifier.py`).

    python tune/run.py classify --setting C             # one setting, from the best of study `ssl`
    python tune/run.py classify                         # A to E, with the table that compares them
    python tune/run.py classify --data FOLDER           # preset full: ResNet50 at 128 px, a GPU
    python tune/run.py classify --setting C --plan      # prints this space, everything resolved

Searched: optimizer, learning rate, weight decay and schedule; the head; label smoothing; the views;
batch size. If the backbone trains, also mixup and CutMix, and for a pretrained backbone how it is
unfrozen and its learning rate. A setting fixes initialization and freezing, which are not searched.

Cost and results of `tiny`: docs/classify.md. `full` has not been measured.
"""

from dataclasses import dataclass
from typing import Any, Literal

from search_spaces.common import (
    Suggest,
    fine_tuning,
    lr_schedule,
    optimizer,
    supervised_loss,
    supervised_views,
)
from search_spaces.settings import Comparison


@dataclass(frozen=True)
class BackboneSetting:
    """Initialization of the backbone, and the part of the network that trains."""

    init: Literal["scratch", "supervised", "ssl"]
    trains: Literal["all", "head"]
    long: bool = False
    """Train for as many images as the longest pre-training and the subsequent fine-tuning together,
    as a control for the gain of longer training."""

    @property
    def about(self) -> str:
        """Description for tables."""
        trained = "all trains" if self.trains == "all" else "head alone"
        length = ", as long as with pre-training" if self.long else ""
        return f"{self.init}, {trained}{length}"

    @property
    def values(self) -> dict[str, Any]:
        """Config values that define the setting; never searched."""
        values: dict[str, Any] = {"init.source": self.init}
        if self.trains == "head":
            values["freeze.policy"] = "all"
        return values


SETTINGS = {
    "A": BackboneSetting("scratch", "all"),
    "B": BackboneSetting("supervised", "all"),
    "C": BackboneSetting("ssl", "all"),
    "D": BackboneSetting("supervised", "head"),
    "E": BackboneSetting("ssl", "head"),
    "A-long": BackboneSetting("scratch", "all", long=True),
}

A_TO_E = Comparison(
    title="settings A to E",
    settings=SETTINGS,
    questions={
        "C-A": "does pre-training without labels help",
        "C-B": "does it beat pre-training with labels",
        "E-D": "the same, backbone frozen",
        "B-A": "does pre-training with labels help",
        "C-A-long": "does it beat training from scratch for as long",
        "B-A-long": "does pre-training with labels beat that",
    },
    since={"B-A-long": 2},
    controls=frozenset({"A-long"}),
    # Office-Home accuracy of four course reports (R0 to R3; R4 has none), each one run per setting.
    references={
        "A": (62.1, 41.0, 48.28, 23.0),
        "B": (61.3, 59.5, 49.26, 35.0),
        "C": (63.5, 49.6, 55.67, 46.0),
        "D": (26.0, 53.9, 22.66, 36.0),
        "E": (47.9, 34.0, 22.91, 44.0),
    },
    reference_title="reports R0-R3 (%)",
    reference_note=(
        "The reports' figures are single runs on Office-Home, each with its own amount of tuning: "
        "beside, not to be compared with, these."
    ),
)

# Optimizer -> (learning rate low, high), (weight decay low, high). The rate is that of the head; a
# pretrained backbone uses a fraction of it (`freeze.backbone_lr`).
_TRAINING = {
    "sgd": ((3e-3, 0.3), (1e-5, 1e-2)),
    "adamw": ((1e-4, 1e-2), (1e-4, 0.1)),
    "adam": ((1e-5, 1e-2), (1e-7, 1e-3)),
}
_HEAD_ALONE = {
    "sgd": ((1e-3, 1.0), (1e-7, 1e-2)),
    "adamw": ((1e-4, 0.1), (1e-5, 0.1)),
    "adam": ((1e-4, 0.1), (1e-7, 1e-2)),
}


def classify(
    trial: Suggest,
    preset: str,
    setting: BackboneSetting = SETTINGS["A"],
    up: str = "unset",
) -> None:
    """Asks for optimizer and schedule, head, loss, views and batch size. For a pretrained backbone
    that trains, also asks how it is unfrozen and for its learning rate."""
    tiny = preset == "tiny"
    backbone_trains = setting.trains == "all"
    optimizer(trial, _TRAINING if backbone_trains else _HEAD_ALONE)
    lr_schedule(trial)
    if backbone_trains and setting.init != "scratch":
        fine_tuning(trial)
    _head(trial, tiny=tiny)
    supervised_loss(trial, mixing=backbone_trains)
    if backbone_trains:
        supervised_views(trial, colour=not tiny, up=up)
    else:
        _fixed_views(trial, tiny=tiny)
    trial.suggest_categorical("train.batch_size", [32, 64] if tiny else [32, 64, 128])


def _head(trial: Suggest, *, tiny: bool) -> None:
    kinds = ["linear", "mlp"] if tiny else ["linear", "mlp", "fc1000"]
    kind = trial.suggest_categorical("head.kind", kinds)
    if kind == "mlp":
        trial.suggest_categorical("head.hidden", [128, 256] if tiny else [256, 512, 1024])
        trial.suggest_float("head.dropout", 0.0, 0.6)
    trial.suggest_categorical("head.zero_init", [False, True])


def _fixed_views(trial: Suggest, *, tiny: bool) -> None:
    """Asks for views from a few policies. The features of each are computed once, and every later
    trial with that policy looks them up."""
    if tiny:
        trial.suggest_categorical("aug.crop_scale_min", [0.5, 0.8, 1.0])
        trial.suggest_categorical("aug.rotate", [0.0, 10.0])
    else:
        policies = ["none", "reports-r0", "reports-r1", "simclr", "trivial"]
        trial.suggest_categorical("aug.crop_scale_min", [0.25, 0.6, 1.0])
        trial.suggest_categorical("aug.policy", policies)
