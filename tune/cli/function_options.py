"""Refuse options that do not apply to an experiment's kind of training code."""

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
"""Options about images and models, which are unknown for a function."""


def refuse_about_images(options: Options, experiment: Experiment) -> None:
    """For a function's experiment, refuse options about its images and model, which are unknown.
    For a command, also refuse several workers.

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
    """Refuse options that apply only to functions and scripts.

    Raises:
        UserError: one of them was given.
    """
    if options.hung_after is not None:
        raise UserError(
            f"--hung-after is for functions and scripts; a step of {experiment.name} that takes "
            "half an hour ends its process, which resumes (VISTUNE_HANG_MINUTES sets another "
            "time); leave it out"
        )
