"""Supervised pre-training (`trainables/classifier.py`): the backbone of settings B and D.

    python tune/run.py pretrain                    # preset tiny: letters of matplotlib's fonts
    python tune/run.py pretrain --data FOLDER      # preset full: ResNet50 at 128 px, wants a GPU
    python tune/run.py pretrain --plan             # prints this space with everything resolved

Searched: optimizer, learning rate, weight decay and schedule; label smoothing, mixup and CutMix;
the views; batch size.

Cost and results of `tiny`: docs/classify.md. `full` has not been measured.
"""

from search_spaces.common import Suggest, lr_schedule, optimizer, supervised_loss, supervised_views

# Optimizer -> (learning rate low, high), (weight decay low, high)
_RANGES = {
    "sgd": ((0.01, 0.5), (1e-5, 1e-2)),
    "adamw": ((1e-4, 1e-2), (1e-4, 0.1)),
    "adam": ((1e-5, 1e-2), (1e-7, 1e-3)),
}


def pretrain(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks for optimizer and schedule, loss, views and batch size."""
    tiny = preset == "tiny"
    optimizer(trial, _RANGES)
    lr_schedule(trial)
    supervised_loss(trial, mixing=True)
    supervised_views(trial, colour=not tiny, up=up)
    trial.suggest_categorical("train.batch_size", [32, 64, 128] if tiny else [64, 128, 256])
