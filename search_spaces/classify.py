"""What is searched in each of the settings A to E. What a setting freezes is not searched.

python tune/run.py classify --setting C --plan       # prints this space as it is resolved
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
class Setting:
    """An initialisation, and whether the backbone trains."""

    init: Literal["scratch", "supervised", "ssl"]
    trains: Literal["all", "head"]

    @property
    def about(self) -> str:
        """What it is, for tables."""
        return f"{self.init}, {'all trains' if self.trains == 'all' else 'head alone'}"

    @property
    def values(self) -> dict[str, Any]:
        """Config values that make the setting; never searched."""
        return {"init.source": self.init} | (
            {} if self.trains == "all" else {"freeze.policy": "all"}
        )


SETTINGS = {
    "A": Setting("scratch", "all"),
    "B": Setting("supervised", "all"),
    "C": Setting("ssl", "all"),
    "D": Setting("supervised", "head"),
    "E": Setting("ssl", "head"),
}

A_TO_E = Comparison(
    title="settings A to E",
    settings=SETTINGS,
    questions={
        "C-A": "does pre-training without labels help",
        "C-B": "does it beat pre-training with labels",
        "E-D": "the same, backbone frozen",
        "B-A": "does pre-training with labels help",
    },
    # Office-Home accuracy of four course reports (R0 to R3; R4 has none), each one run per setting.
    references={
        "A": (62.1, 41.0, 48.28, 23.0),
        "B": (61.3, 59.5, 49.26, 35.0),
        "C": (63.5, 49.6, 55.67, 46.0),
        "D": (26.0, 53.9, 22.66, 36.0),
        "E": (47.9, 34.0, 22.91, 44.0),
    },
    reference_title="reports R0-R3 (%)",
    reference_note="The reports' figures are single runs on Office-Home, each with its own amount of tuning: beside, not to be compared "
    "with, these.",
)

# optimizer -> (learning rate low, high), (weight decay low, high). The rate is the head's; a loaded
# backbone learns at a fraction of it.
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


def classify(trial: Suggest, preset: str, setting: Setting = SETTINGS["A"]) -> None:
    """Optimizer and schedule, head, loss, views, batch size; of a loaded backbone that trains also
    how it thaws and how fast it learns."""
    tiny = preset == "tiny"
    optimizer(trial, _TRAINING if setting.trains == "all" else _HEAD_ALONE)
    lr_schedule(trial)
    if setting.init != "scratch" and setting.trains == "all":
        fine_tuning(trial)
    if (
        trial.suggest_categorical(
            "head.kind", ["linear", "mlp"] if tiny else ["linear", "mlp", "fc1000"]
        )
        == "mlp"
    ):
        trial.suggest_categorical("head.hidden", [128, 256] if tiny else [256, 512, 1024])
        trial.suggest_float("head.dropout", 0.0, 0.6)
    trial.suggest_categorical("head.zero_init", [False, True])
    supervised_loss(trial, mixing=setting.trains == "all")
    if setting.trains == "all":
        supervised_views(trial, colour=not tiny)
    else:
        _kept_views(trial, tiny)
    trial.suggest_categorical("train.batch_size", [32, 64] if tiny else [32, 64, 128])


def _kept_views(trial: Suggest, tiny: bool) -> None:
    """A handful of policies: the features of each are computed once, and looked up by every later
    trial that has it."""
    trial.suggest_categorical("aug.crop_scale_min", [0.5, 0.8, 1.0] if tiny else [0.25, 0.6, 1.0])
    if tiny:
        trial.suggest_categorical("aug.rotate", [0.0, 10.0])
    else:
        trial.suggest_categorical(
            "aug.policy", ["none", "reports-r0", "reports-r1", "simclr", "trivial"]
        )
