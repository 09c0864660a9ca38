"""What is searched in few-shot learning with prototypical networks.

python tune/run.py fewshot --plan       # prints this space as it is resolved
"""

from search_spaces.common import Suggest, fine_tuning, lr_schedule, optimizer, supervised_views

# optimizer -> (learning rate low, high), (weight decay low, high); Adam 1e-3 is Snell et al. 2017.
_RANGES = {
    "sgd": ((1e-3, 0.3), (1e-5, 1e-2)),
    "adamw": ((1e-4, 3e-2), (1e-4, 0.1)),
    "adam": ((1e-4, 3e-2), (1e-7, 1e-3)),
}


def fewshot(trial: Suggest, preset: str) -> None:
    """Optimizer and schedule, distance, training episodes, views. Way and shot of the evaluation are the question, not searched."""
    tiny = preset == "tiny"
    optimizer(trial, _RANGES)
    lr_schedule(trial)
    distance = trial.suggest_categorical("head.distance", ["euclidean", "cosine", "parametric"])
    if distance == "cosine":
        trial.suggest_float("head.scale", 5.0, 80.0, log=True)
    elif distance == "parametric":
        trial.suggest_categorical("head.hidden", [32, 64] if tiny else [64, 128, 256])
    trial.suggest_categorical("episode.way", [5, 10, 20])
    trial.suggest_categorical("episode.query", [2, 5] if tiny else [5, 10, 15])
    supervised_views(trial, colour=not tiny)


def fewshot_from_backbone(trial: Suggest, preset: str) -> None:
    """The same and, of the loaded backbone, how it thaws and how fast it learns."""
    fewshot(trial, preset)
    fine_tuning(trial)
