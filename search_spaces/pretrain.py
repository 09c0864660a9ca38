"""What is searched in supervised pre-training, from scratch.

python tune/run.py pretrain --plan       # prints this space as it is resolved
"""

from search_spaces.common import Suggest, lr_schedule, optimizer, supervised_loss, supervised_views

# optimizer -> (learning rate low, high), (weight decay low, high)
_RANGES = {
    "sgd": ((0.01, 0.5), (1e-5, 1e-2)),
    "adamw": ((1e-4, 1e-2), (1e-4, 0.1)),
    "adam": ((1e-5, 1e-2), (1e-7, 1e-3)),
}


def pretrain(trial: Suggest, preset: str) -> None:
    """Optimizer and schedule, loss, views, batch size."""
    tiny = preset == "tiny"
    optimizer(trial, _RANGES)
    lr_schedule(trial)
    supervised_loss(trial, mixing=True)
    supervised_views(trial, colour=not tiny)
    trial.suggest_categorical("train.batch_size", [32, 64, 128] if tiny else [64, 128, 256])
