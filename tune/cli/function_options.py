"""Options that mean nothing to the experiment of a function."""

from trainables.errors import UserError
from tune.cli.options import Options
from tune.experiments import Experiment

_ABOUT_IMAGES = (
    "data",
    "layout",
    "skip_corrupt",
    "transductive",
    "objective",
    "backbone",
    "allow_seen",
    "balance",
    "control",
)
"""About images and models, of which nothing is known."""


def refuse_about_images(options: Options, experiment: Experiment) -> None:
    """Refuse options about images and models, of which a function's experiment knows nothing, and
    workers for a command.

    Raises:
        UserError: one of them was given.
    """
    name = experiment.name
    for option in _ABOUT_IMAGES:
        several = option == "objective" and len(options.objective or []) > 1
        if getattr(options, option) and not several:
            typed = f"--{option.replace('_', '-')}"
            raise UserError(
                f"{typed}: {name} is a function of its own, which reads its data and builds its "
                f"model itself; leave {typed} out (--set changes its values)"
            )

    function = experiment.function
    if options.workers > 1 and getattr(function and function.call, "resumes_itself", False):
        raise UserError(
            f"--workers {options.workers}: {name} is a command, which starts its processes itself, "
            f"such as torchrun --nproc-per-node {options.workers} train.py; leave it out"
        )


def refuse_about_functions(options: Options, experiment: Experiment) -> None:
    """Refuse options that only functions and scripts have.

    Raises:
        UserError: one of them was given.
    """
    if options.hung_after is not None:
        raise UserError(
            f"--hung-after is for functions and scripts; a step of {experiment.name} that takes "
            "half an hour ends its process, which resumes (VISTUNE_HANG_MINUTES sets another "
            "time); leave it out"
        )
