"""Segmentation (`trainables/segmentation.py`).

    python tune/run.py segment                    # preset tiny: Blue Marble and its climates
    python tune/run.py segment --data FOLDER      # preset full: FCN-32s and DeepLabV3, wants a GPU
    python tune/run.py segment --plan             # prints this space with everything resolved

Searched: optimizer, learning rate, weight decay and schedule; the loss and its weights; scale,
flips, quarter turns and colour jitter of image and mask; batch size. `full` also searches the
network and its head; its ranges contain the recipes of the literature and of the course reports
(docs/segment.md). A smaller learning rate for the backbone is searched only with `--backbone`;
randomly initialized weights would hardly learn at it.

Cost and results of `tiny`: docs/segment.md. `full` has not been measured.
"""

from search_spaces.common import Suggest, fine_tuning, lr_schedule, optimizer, orientations

# Optimizer -> (learning rate low, high), (weight decay low, high)
_FULL_RANGES = {
    "sgd": ((1e-3, 0.05), (1e-5, 1e-3)),
    "adamw": ((3e-5, 3e-3), (1e-4, 0.1)),
    "adam": ((1e-5, 1e-2), (1e-7, 1e-3)),
}
# Training takes a few hundred steps from scratch. At the low ends of the long recipes' ranges a
# network hardly learns in that time.
_TINY_RANGES = {
    "sgd": ((0.01, 0.5), (1e-5, 1e-3)),
    "adamw": ((5e-4, 2e-2), (1e-4, 0.1)),
    "adam": ((5e-4, 2e-2), (1e-7, 1e-3)),
}
_MODELS = ["fcn32s-vgg16", "fcn32s-vgg19", "deeplabv3-resnet50", "deeplabv3-resnet101"]


def segment(trial: Suggest, preset: str, up: str = "unset", rules: int = 2) -> None:
    """Asks for optimizer and schedule, loss, joint augmentation and batch size; in `full` also for
    the network.

    Args:
        rules: `train.rules`. Under version 1, `full` also searched a tenth of the learning rate for
            a randomly initialized backbone.
    """
    auxiliary = False
    if preset != "tiny":
        model = trial.suggest_categorical("model.name", _MODELS)
        if model.startswith("fcn32s"):
            trial.suggest_categorical("model.head", ["conv7", "deconv5", "conv2"])
        if rules == 1:
            trial.suggest_categorical("freeze.backbone_lr", [0.1, 1.0])
        auxiliary = model.startswith("deeplabv3")
    _training(trial, preset, auxiliary=auxiliary, up=up)


def segment_from_backbone(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks how the pretrained backbone of a given network is unfrozen and for its learning rate,
    then the same as `segment` except for the network."""
    fine_tuning(trial)
    _training(trial, preset, auxiliary=preset != "tiny", up=up)


def _training(trial: Suggest, preset: str, *, auxiliary: bool, up: str) -> None:
    tiny = preset == "tiny"
    optimizer(trial, _TINY_RANGES if tiny else _FULL_RANGES)
    lr_schedule(trial)
    _loss(trial, auxiliary=auxiliary)
    _views(trial, tiny=tiny, up=up)
    trial.suggest_categorical("train.batch_size", [16, 32] if tiny else [8, 16])


def _loss(trial: Suggest, *, auxiliary: bool) -> None:
    name = trial.suggest_categorical(
        "loss.name", ["ce", "weighted_ce", "ce_dice", "focal", "lovasz"]
    )
    if name == "weighted_ce":
        trial.suggest_float("loss.class_power", 0.1, 1.0)
    elif name == "ce_dice":
        trial.suggest_float("loss.dice_weight", 0.3, 3.0, log=True)
    elif name == "focal":
        trial.suggest_float("loss.focal_gamma", 0.5, 3.0)
    if auxiliary:
        trial.suggest_categorical("loss.aux_weight", [0.0, 0.4, 0.5])


def _views(trial: Suggest, *, tiny: bool, up: str) -> None:
    """Asks for the views of image and mask, with the flips and turns that `data.up` allows."""
    trial.suggest_float("aug.scale_min", 0.5, 1.0)
    trial.suggest_float("aug.scale_max", 1.0, 2.0)
    if up == "unset":
        # All orientations, as for images taken from above, in the ranges of earlier studies.
        trial.suggest_categorical("aug.hflip", [0.0, 0.5])
        trial.suggest_categorical("aug.vflip", [0.0, 0.5])
        trial.suggest_float("aug.rot90", 0.0, 0.75)
    else:
        orientations(trial, up)
    trial.suggest_float("aug.jitter", 0.0, 0.5 if tiny else 0.8)
