"""Captions of the pictures that matplotlib draws. Importing this module makes it draw without a
display."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from trainables.plots.fonts import cover
from trainables.plots.lettering import shortened

__all__ = ["caption", "plt"]


def caption(name: str, limit: int = 40) -> str:
    """A class name for matplotlib, cut to `limit` characters."""
    cover(name)
    name = shortened(name, limit)
    # matplotlib legends omit names that begin with "_", and its dollars start a formula.
    if name.startswith("_"):
        name = f" {name}"
    return name.replace("$", r"\$")
