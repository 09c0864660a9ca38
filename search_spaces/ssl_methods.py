"""Self-supervised methods other than BYOL (`trainables/simclr.py`, `moco.py`, `vicreg.py`,
`dino.py`), and the comparison of all five.

    python tune/run.py ssl-simclr                  # one method; ssl-moco, ssl-vicreg, ssl-dino
    python tune/run.py ssl --compare ssl-methods   # all and BYOL, each with the same budget
    python tune/run.py ssl-dino --plan             # prints its space with everything resolved

Searched: optimizer, learning rate, weight decay and schedule; the method's own temperature, weights
or momentum, and its widths; the views and the batch, as in `ssl`. The ranges contain each paper's
recipe. Views, images and epochs are those of `ssl`, so that the methods differ in nothing that is
not searched except the method itself.

Results of `tiny`: docs/notes/ssl.md. `full` has not been measured.
"""

from search_spaces.common import Suggest, lr_schedule, optimizer, orientations
from search_spaces.settings import Comparison, Method
from search_spaces.ssl import views

# Optimizer -> (learning rate low, high), (weight decay low, high). Sources: LARS .3 x B/256 (Chen
# et al. 2020, section 2.2), .2 x B/256 (Bardes et al. 2022, section 4.2); SGD .03 (He et al. 2020,
# section 4); AdamW 5e-4 x B/256 with a decay of .04 to .4 (Caron et al. 2021, section 3.2).
_FULL_RANGES = {
    "lars": ((0.05, 4.0), (1e-7, 1e-4)),
    "sgd": ((0.01, 0.5), (1e-5, 5e-4)),
    "adamw": ((1e-4, 4e-3), (1e-4, 0.4)),
}
# Ranges for a few hundred steps from scratch, as in `ssl`.
_TINY_RANGES = {
    "lars": ((0.3, 3.0), (1e-7, 1e-4)),
    "sgd": ((0.01, 0.5), (1e-5, 5e-4)),
    "adamw": ((3e-4, 5e-3), (1e-4, 0.4)),
}

METHODS = Comparison(
    title="self-supervised methods",
    settings={
        "BYOL": Method("a target network, no negatives", "ssl"),
        "SimCLR": Method("negatives from the batch", "ssl-simclr"),
        "MoCo": Method("negatives from a queue (version 2)", "ssl-moco"),
        "VICReg": Method("variance and covariance, no negatives", "ssl-vicreg"),
        "DINO": Method("self-distillation", "ssl-dino"),
    },
    questions={
        "SimCLR-BYOL": "do negatives from the batch beat a target network",
        "MoCo-BYOL": "do negatives from a queue",
        "VICReg-BYOL": "does a regularizer of the embeddings",
        "DINO-BYOL": "does self-distillation",
    },
)


def simclr(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks for optimizer and schedule, temperature and projection head, views and batch size."""
    _training(trial, preset)
    trial.suggest_float("head.temperature", 0.05, 1.0, log=True)
    _widths(trial, preset, [64, 128, 256])
    _views_and_batch(trial, preset, up)


def moco(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks for optimizer and schedule, temperature, queue, momentum and projection head, views and
    batch size."""
    _training(trial, preset)
    trial.suggest_float("head.temperature", 0.05, 1.0, log=True)
    if preset == "tiny":
        trial.suggest_float("head.momentum", 0.9, 0.999)
        trial.suggest_categorical("head.queue", [256, 1024, 4096])
    else:
        trial.suggest_float("head.momentum", 0.98, 0.9999)
        trial.suggest_categorical("head.queue", [4096, 16384, 65536])
    _widths(trial, preset, [64, 128, 256])
    _views_and_batch(trial, preset, up)


def vicreg(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks for optimizer and schedule, the weights of the terms and the expander, views and batch
    size.

    The weight of the covariance term stays 1; the other weights are relative to it.
    """
    _training(trial, preset)
    trial.suggest_float("head.invariance", 1.0, 50.0, log=True)
    trial.suggest_float("head.variance", 1.0, 50.0, log=True)
    _widths(trial, preset, [128, 256, 512] if preset == "tiny" else [2048, 4096, 8192])
    _views_and_batch(trial, preset, up)


def dino(trial: Suggest, preset: str, up: str = "unset") -> None:
    """Asks for optimizer and schedule, temperatures, momentum and projection head, local views in
    `full`, views and batch size."""
    tiny = preset == "tiny"
    _training(trial, preset)
    trial.suggest_float("head.teacher_temperature", 0.02, 0.08)
    trial.suggest_float("head.tau0", 0.9 if tiny else 0.97, 0.999)
    trial.suggest_float("head.center_momentum", 0.8, 0.99)
    _widths(trial, preset, [256, 1024, 4096] if tiny else [4096, 16384, 65536])
    if not tiny:
        trial.suggest_categorical("head.local_views", [0, 2, 6])
    _views_and_batch(trial, preset, up)


def _training(trial: Suggest, preset: str) -> None:
    optimizer(trial, _TINY_RANGES if preset == "tiny" else _FULL_RANGES)
    lr_schedule(trial)


def _widths(trial: Suggest, preset: str, projections: list[int]) -> None:
    """Asks for the widths of the head: its output and its hidden layer."""
    hidden = [256, 512] if preset == "tiny" else [1024, 2048, 4096, 8192]
    trial.suggest_categorical("head.projection_size", projections)
    trial.suggest_categorical("head.hidden_size", hidden)


def _views_and_batch(trial: Suggest, preset: str, up: str) -> None:
    views(trial, preset)
    orientations(trial, up)
    batches = [32, 64, 128] if preset == "tiny" else [64, 128, 256, 512]
    trial.suggest_categorical("train.batch_size", batches)
