"""Check the model of an experiment in a user's file, before anything uses it."""

from dataclasses import is_dataclass

from trainables.errors import UserError
from tune.experiments import Experiment

_FORM = "model=lambda: (MyTrainable, MyConfig)"


def check_model(experiment: Experiment, path: str) -> None:
    """Check that an experiment names a trainable and its config.

    Args:
        path: the file that defines it.
    Raises:
        UserError: it names something else, or the config lacks `@config` or a type.
    """
    if experiment.function is not None:
        return
    from trainables.base import Trainable  # imports torch

    if not callable(experiment.model):
        raise UserError(f"{path}: model must be a function: write {_FORM}")
    found = experiment.model()
    if not isinstance(found, tuple) or len(found) != 2:
        raise UserError(f"{path}: model must return a trainable and its config: write {_FORM}")

    trainable, config = found
    if not (isinstance(trainable, type) and issubclass(trainable, Trainable)):
        raise UserError(
            f"{path}: the first of {_FORM} must be a subclass of Trainable (trainables/base.py), "
            f"got {getattr(trainable, '__name__', trainable)}"
        )
    _check_config(config, path)


def _check_config(config: object, path: str) -> None:
    if not isinstance(config, type):
        raise UserError(f"{path}: the second of {_FORM} must be a class, got {config!r}")
    if not is_dataclass(config) or "__dataclass_fields__" not in vars(config):
        raise UserError(f"{path}: write @config above class {config.__name__}")

    types = vars(config).get("__annotations__", {})
    for name, value in vars(config).items():
        is_value = isinstance(value, int | float | str | list | dict)
        is_constant = name.startswith("_") or name.isupper()
        if is_value and not is_constant and name not in types:
            raise UserError(
                f"{path}: {name} of {config.__name__} has no type, so it is no part of the "
                f"config: write {name}: {type(value).__name__} = {value!r}"
            )
