"""How values are written for people: in tables, reports and on the terminal."""

from collections.abc import Mapping

DEFAULT = "(the default)"


def brief(value: object) -> str:
    """A config value in few characters, as `--set` takes it: floats in three digits, None as `none`."""
    return "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def assignments(values: Mapping[str, object]) -> str:
    """`optim.lr=0.1, optim.name=sgd`; "" for none."""
    return ", ".join(f"{key}={brief(value)}" for key, value in values.items())
