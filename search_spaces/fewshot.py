"""Few-shot learning with prototypical networks (`trainables/protonet.py`; Snell et al. 2017).

    python tune/run.py fewshot                     # preset tiny: letters of matplotlib's fonts
    python tune/run.py fewshot --compare shots     # 1, 5 and 10 images of a class
    python tune/run.py fewshot --compare distance  # Euclidean, cosine, learned
    python tune/run.py fewshot --data FOLDER       # preset full: Conv-4 at 84 px, wants a GPU
    python tune/run.py fewshot --plan              # prints this space with everything resolved

Searched: optimizer, learning rate, weight decay and schedule; the distance from a query to a
prototype and its parameters; classes and queries of a training episode; the views. Way and shot of
the evaluation define the task, so they are not searched.

Cost and results of `tiny`: docs/fewshot.md. `full` has not been measured.
"""

from search_spaces.common import Suggest, fine_tuning, lr_schedule, optimizer, supervised_views
from search_spaces.settings import Comparison, Fixed

# Optimizer -> (learning rate low, high), (weight decay low, high). Adam at 1e-3 is Snell et al.
# 2017, section 3.
_RANGES = {
    "sgd": ((1e-3, 0.3), (1e-5, 1e-2)),
    "adamw": ((1e-4, 3e-2), (1e-4, 0.1)),
    "adam": ((1e-4, 3e-2), (1e-7, 1e-3)),
}

SHOTS = Comparison(
    title="1, 5 and 10 support images of a class",
    settings={
        f"K{k}": Fixed(f"{k} support image{'s' if k > 1 else ''}", {"val.shot": k})
        for k in (1, 5, 10)
    },
    questions={
        "K5-K1": "what do 5 examples of a class gain over 1",
        "K10-K5": "what do 10 gain over 5",
    },
)
DISTANCES = Comparison(
    title="how near a query is to a prototype",
    settings={
        "euclidean": Fixed("squared Euclidean distance", {"head.distance": "euclidean"}),
        "cosine": Fixed("cosine with a learned scale", {"head.distance": "cosine"}),
        "parametric": Fixed("a learned score of each pair", {"head.distance": "parametric"}),
    },
    questions={
        "cosine-euclidean": "does cosine beat Euclidean",
        "parametric-euclidean": "does a learned score beat Euclidean",
        "parametric-cosine": "does it beat cosine",
    },
)


def fewshot(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks for optimizer and schedule, distance, training episodes and views."""
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
    supervised_views(trial, colour=not tiny, up=up)


def fewshot_from_backbone(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks the same as `fewshot`, then how the pretrained backbone is unfrozen and for its learning
    rate."""
    fewshot(trial, preset, up)
    fine_tuning(trial)
