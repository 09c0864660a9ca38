"""Learning curves of several studies or settings in one figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from trainables.plots.style import INK, plt

Curves = Mapping[str, Sequence[Sequence[float]]]
"""Label -> runs, such as the seeds of a setting's best configuration -> the metric at epochs 1, 2,
..."""


def draw_curves(
    ax: plt.Axes,
    curves: Curves,
    metric: str,
    colours: Mapping[str, str],
    chance: float | None = None,
) -> None:
    """One line a label, the mean of its runs, in a band from the lowest to the highest of them;
    named at its end, with its last mean.

    Where runs are of unequal length (stopped early), a line ends where the shortest of its runs
    does: a mean over those that went on would be one over the better ones.

    Args:
        metric: name of the axis, such as `val/top1`.
        colours: label -> colour.
        chance: drawn as a dotted line.
    Raises:
        ValueError: no label, or a label without a run of at least one epoch.
    """
    lengths = {label: [len(run) for run in runs] for label, runs in curves.items()}
    if not lengths or not all(each and min(each) for each in lengths.values()):
        raise ValueError(f"every label needs runs of at least one epoch, but got lengths {lengths}")
    ends = []
    for label, runs in curves.items():
        mean, low, high = bands(runs)
        epochs = np.arange(1, len(mean) + 1)
        ax.fill_between(epochs, low, high, color=colours[label], alpha=0.15, linewidth=0)
        ax.plot(
            epochs,
            mean,
            color=colours[label],
            marker="o" if len(mean) == 1 else None,
            markersize=4,
            linewidth=1.8,
        )
        ends.append((float(mean[-1]), f"{label}  {mean[-1]:.3f}", colours[label]))
    if chance is not None:
        ax.axhline(chance, color=INK, linewidth=0.8, linestyle=":")
        ax.annotate(
            "chance", (1, chance), xytext=(2, 2), textcoords="offset points", fontsize=8, color=INK
        )
    longest = max(max(each) for each in lengths.values())
    ax.set_xlim(1 - 0.02 * longest, longest + 0.02 * longest)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", color="#eeeeee")
    ax.set_axisbelow(True)
    ax.set_xlabel("epoch", color=INK)
    counts = sorted({len(runs) for runs in curves.values()})
    each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    ax.set_ylabel(
        f"{metric}, mean and range of {each} run{'' if counts == [1] else 's'}", color=INK
    )
    _name_ends(ax, ends)


def bands(runs: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lowest and highest (E,) of runs, E epochs of the shortest."""
    table = np.array([run[: min(map(len, runs))] for run in runs], dtype=np.float64)
    return table.mean(0), table.min(0), table.max(0)


def _name_ends(ax: plt.Axes, ends: list[tuple[float, str, str]]) -> None:
    """Labels right of the lines' ends, moved apart so that none covers another."""
    low, high = ax.get_ylim()
    apart = (high - low) * 0.055
    floor = -np.inf
    for value, text, colour in sorted(ends):
        at = max(value, floor + apart)
        floor = at
        ax.annotate(
            text,
            (1.01, at),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )
    ax.set_ylim(low, max(high, floor + apart / 2))
