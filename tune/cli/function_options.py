"""Options that mean nothing to the experiment of a function."""

from trainables.errors import UserError
from tune.cli.options import Options

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


def refuse_about_images(options: Options, name: str) -> None:
    """Refuse options about images and models, of which a function's experiment knows nothing.

    Raises:
        UserError: one of them was given.
    """
    for option in _ABOUT_IMAGES:
        several = option == "objective" and len(options.objective or []) > 1
        if getattr(options, option) and not several:
            typed = f"--{option.replace('_', '-')}"
            raise UserError(
                f"{typed}: {name} is a function of its own, which reads its data and builds its "
                f"model itself; leave {typed} out (--set changes its values)"
            )
    if options.workers > 1:
        raise UserError(
            f"--workers {options.workers}: {name} is a function of its own, which is called in one "
            "process; leave it out"
        )
