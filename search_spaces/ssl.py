"""BYOL pre-training (`trainables/byol.py`).

    python tune/run.py ssl                    # preset tiny: letters of matplotlib's fonts
    python tune/run.py ssl --data FOLDER      # preset full: ResNet50 at 128 px, wants a GPU
    python tune/run.py ssl --plan             # prints this space with everything resolved

Searched: optimizer, learning rate, weight decay and schedule; the momentum tau of the target
network; widths of projector and predictor, simplicial embeddings; the policy of the two views and
its strengths; batch size. The ranges of `full` contain the recipes of the literature and of the
course reports (docs/architecture.md, "Search spaces").

Cost and results of `tiny`: docs/ssl.md. `full` has not been measured.
"""

from search_spaces.common import Suggest, lr_schedule, optimizer, orientations, view_strengths

# Optimizer -> (learning rate low, high), (weight decay low, high). Rates are not scaled with the
# batch. Sources: Grill et al. 2020 (LARS, .2 x B/256), Susmelj et al. 2020 (SGD), and for Adam
# common practice, 1e-5 to 1e-2.
_FULL_RANGES = {
    "lars": ((0.05, 4.0), (1e-7, 1e-4)),
    "sgd": ((0.01, 0.5), (1e-5, 5e-4)),
    "adamw": ((1e-4, 4e-3), (1e-4, 0.1)),
    "adam": ((1e-5, 1e-2), (1e-7, 1e-4)),
}
# A few hundred steps from scratch: at the low ends of the long recipes a network hardly learns.
_TINY_RANGES = {
    "lars": ((0.3, 3.0), (1e-7, 1e-4)),
    "sgd": ((0.03, 0.5), (1e-5, 5e-4)),
    "adamw": ((5e-4, 5e-3), (1e-4, 0.1)),
    "adam": ((3e-4, 5e-3), (1e-7, 1e-4)),
}


def ssl(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks for optimizer and schedule, momentum, heads, views and batch size."""
    tiny = preset == "tiny"
    optimizer(trial, _TINY_RANGES if tiny else _FULL_RANGES)
    lr_schedule(trial)
    _heads(trial, tiny=tiny)
    _views(trial, tiny=tiny)
    orientations(trial, up)
    trial.suggest_categorical("train.batch_size", [32, 64, 128] if tiny else [64, 128, 256])


def _heads(trial: Suggest, *, tiny: bool) -> None:
    if tiny:
        trial.suggest_float("head.tau0", 0.9, 0.995)
        trial.suggest_categorical("head.projection_size", [64, 128, 256])
        trial.suggest_categorical("head.hidden_size", [512, 1024, 2048])
    else:
        trial.suggest_float("head.tau0", 0.97, 0.999)
        trial.suggest_categorical("head.projection_size", [128, 256, 512])
        trial.suggest_categorical("head.hidden_size", [1024, 2048, 4096])
    trial.suggest_categorical("head.simplicial", [False, True])


def _views(trial: Suggest, *, tiny: bool) -> None:
    if tiny:
        # Others mirror letters, or rotate them by 135 degrees, which makes other letters of them.
        policies = ["byol", "glyphs", "simclr"]
    else:
        policies = ["byol", "simclr", "reports-r0", "reports-r1", "trivial", "none"]
    policy = trial.suggest_categorical("aug.policy", policies)
    if policy in ("trivial", "none"):
        # No strengths: `trivial` is made to need no tuning, `none` has nothing to tune.
        trial.suggest_categorical("aug.exact", [True])
    else:
        view_strengths(trial, colour=not tiny)
    if tiny:
        trial.suggest_float("aug.rotate", 0.0, 30.0)  # degrees: letters lean
