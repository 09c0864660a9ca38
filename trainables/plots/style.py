"""What all pictures share. Importing it makes matplotlib draw without a display."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

GREY = "#c4c4c4"
INK = "#444444"
# Ten hues of Tableau without its grey, then three that differ from them in hue or lightness.
COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b"),
    *("#e377c2", "#bcbd22", "#17becf", "#000000", "#7fc97f", "#f0b2a0"),
)


def caption(name: str, most: int = 40) -> str:
    """A class's name, cut to `most` characters. In matplotlib dollars would begin a formula, and
    legends leave out what begins with "_"."""
    cut = name if len(name) <= most else f"{name[: most - 1]}…"
    return f"{' ' if cut.startswith('_') else ''}{cut}".replace("$", r"\$")


def heading(ax: plt.Axes, title: str, subtitle: str) -> None:
    """Two lines above the axes, left: what it is, and of what."""
    ax.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold")
    ax.annotate(
        subtitle,
        (0, 1),
        xytext=(0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color=INK,
    )


def quiet_frame(ax: plt.Axes) -> None:
    """No ticks, a light frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("#cccccc")
