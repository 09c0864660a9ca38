"""What is searched in BYOL pre-training. Ranges contain the recipes of the literature
(docs/architecture.md, "Search spaces").

python tune/run.py ssl --plan       # prints this space as it is resolved
"""

from search_spaces.common import Suggest, lr_schedule, optimizer, view_strengths

# optimizer -> (learning rate low, high), (weight decay low, high); rates are for the batch as it
# is. Grill et al. 2020 (LARS .2 x B/256), Susmelj et al. 2020 (SGD), and the Adam settings of
# common practice, 1e-5 to 1e-2.
_FULL_RANGES = {
    "lars": ((0.05, 4.0), (1e-7, 1e-4)),
    "sgd": ((0.01, 0.5), (1e-5, 5e-4)),
    "adamw": ((1e-4, 4e-3), (1e-4, 0.1)),
    "adam": ((1e-5, 1e-2), (1e-7, 1e-4)),
}
# A few hundred steps from scratch: the low ends of the long recipes do not move a network at all.
_TINY_RANGES = {
    "lars": ((0.3, 3.0), (1e-7, 1e-4)),
    "sgd": ((0.03, 0.5), (1e-5, 5e-4)),
    "adamw": ((5e-4, 5e-3), (1e-4, 0.1)),
    "adam": ((3e-4, 5e-3), (1e-7, 1e-4)),
}


def ssl(trial: Suggest, preset: str) -> None:
    """BYOL: optimizer and schedule, momentum, heads, views, batch size."""
    tiny = preset == "tiny"
    optimizer(trial, _TINY_RANGES if tiny else _FULL_RANGES)
    lr_schedule(trial)
    trial.suggest_float("head.tau0", 0.9 if tiny else 0.97, 0.995 if tiny else 0.999)
    trial.suggest_categorical("head.projection_size", [64, 128, 256] if tiny else [128, 256, 512])
    trial.suggest_categorical("head.hidden_size", [512, 1024, 2048] if tiny else [1024, 2048, 4096])
    trial.suggest_categorical("head.simplicial", [False, True])
    # Not for letters: mirrored or turned by 135 degrees they are other letters, or none.
    policies = (
        ["byol", "glyphs", "simclr"]
        if tiny
        else ["byol", "simclr", "reports-r0", "reports-r1", "trivial", "none"]
    )
    if trial.suggest_categorical("aug.policy", policies) in ("trivial", "none"):
        # no strengths: one is made to need no tuning, the other has nothing to tune
        trial.suggest_categorical("aug.exact", [True])
    else:
        view_strengths(trial, colour=not tiny)
    if tiny:
        trial.suggest_float("aug.rotate", 0.0, 30.0)  # letters lean
    trial.suggest_categorical("train.batch_size", [32, 64, 128] if tiny else [64, 128, 256])
