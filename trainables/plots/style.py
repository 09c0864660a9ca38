"""Colours, captions and frames shared by all pictures. Importing this module makes matplotlib draw
without a display."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from trainables.plots.fonts import cover

__all__ = ["COLOURS", "GREY", "INK", "caption", "heading", "plt", "quiet_frame"]

GREY = "#c4c4c4"
INK = "#444444"
# Tableau's hues without its grey, then three that differ from them in hue or lightness.
COLOURS = (
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#bcbd22",
    "#17becf",
    "#000000",
    "#7fc97f",
    "#f0b2a0",
)


def caption(name: str, limit: int = 40) -> str:
    """A class name for a picture, cut to `limit` characters."""
    cover(name)
    if len(name) > limit:
        name = f"{name[: limit - 1]}…"
    # matplotlib legends omit names that begin with "_", and its dollars start a formula.
    if name.startswith("_"):
        name = f" {name}"
    return name.replace("$", r"\$")


def heading(ax: Axes, title: str, subtitle: str) -> None:
    """Write two lines above the axes, on the left."""
    ax.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold")
    ax.annotate(
        subtitle,
        xy=(0, 1),
        xytext=(0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=INK,
    )


def quiet_frame(ax: Axes) -> None:
    """Remove the ticks and draw a light frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("#cccccc")
