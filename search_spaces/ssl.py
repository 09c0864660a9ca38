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
# Training takes a few hundred steps from scratch. At the low ends of the long recipes' ranges a
# network hardly learns in that time.
_TINY_RANGES = {
    "lars": ((0.3, 3.0), (1e-7, 1e-4)),
    "sgd": ((0.03, 0.5), (1e-5, 5e-4)),
    "adamw": ((5e-4, 5e-3), (1e-4, 0.1)),
}
# Ranges of studies that started under rules 1.
_EARLIER_RANGES = {**_TINY_RANGES, "adam": ((3e-4, 5e-3), (1e-7, 1e-4))}


def ssl(trial: Suggest, preset: str, up: str = "unset", rules: int = 2) -> None:
    """Asks for optimizer and schedule, momentum, heads, views and batch size.

    Args:
        up: as in `orientations`.
        rules: version of `train.rules`; 1 is the space of studies made before this option existed.
    """
    if preset != "tiny":
        optimizer(trial, _FULL_RANGES)
        lr_schedule(trial)
        _full_heads(trial)
        views(trial, preset)
        orientations(trial, up)
        trial.suggest_categorical("train.batch_size", [64, 128, 256])
        return

    optimizer(trial, _EARLIER_RANGES if rules == 1 else _TINY_RANGES)
    lr_schedule(trial)
    _tiny_heads(trial, rules)
    views(trial, preset, rules)
    orientations(trial, up)
    trial.suggest_categorical("train.batch_size", [32, 64, 128] if rules == 1 else [32, 64])


def _full_heads(trial: Suggest) -> None:
    trial.suggest_float("head.tau0", 0.97, 0.999)
    trial.suggest_categorical("head.projection_size", [128, 256, 512])
    trial.suggest_categorical("head.hidden_size", [1024, 2048, 4096])
    trial.suggest_categorical("head.simplicial", [False, True])


def _tiny_heads(trial: Suggest, rules: int) -> None:
    trial.suggest_float("head.tau0", 0.9, 0.995)
    trial.suggest_categorical("head.projection_size", [64, 128, 256])
    trial.suggest_categorical("head.hidden_size", [512, 1024, 2048] if rules == 1 else [256, 512])
    trial.suggest_categorical("head.simplicial", [False, True])


def views(trial: Suggest, preset: str, rules: int = 2) -> None:
    """Asks for the policy of the two views and its strengths."""
    if preset == "tiny":
        _tiny_views(trial, rules)
    else:
        _full_views(trial)


def _full_views(trial: Suggest) -> None:
    policies = ["byol", "simclr", "reports-r0", "reports-r1", "trivial", "none"]
    policy = trial.suggest_categorical("aug.policy", policies)
    if policy in ("trivial", "none"):
        # No strengths: `trivial` is designed to need no tuning, and `none` has nothing to tune.
        trial.suggest_categorical("aug.exact", [True])
    else:
        view_strengths(trial, colour=True)


def _tiny_views(trial: Suggest, rules: int) -> None:
    # Other policies mirror letters or rotate them by 135 degrees, which turns them into other
    # letters.
    trial.suggest_categorical("aug.policy", ["byol", "glyphs", "simclr"])
    if rules == 1:
        view_strengths(trial, colour=False)
        trial.suggest_float("aug.rotate", 0.0, 30.0)  # degrees: letters lean
        return

    # Blur and solarize keep the policy's values, as in `view_strengths`.
    trial.suggest_float("aug.crop_scale_min", 0.6, 1.0)
    trial.suggest_float("aug.crop_ratio", 1.0, 1.4)
    trial.suggest_float("aug.strength", 0.3, 1.5)
    trial.suggest_float("aug.rotate", 0.0, 30.0)
