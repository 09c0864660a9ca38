"""Learning curves of several studies or settings in one figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from trainables.plots.class_colours import INK

Curves = Mapping[str, Sequence[Sequence[float]]]
"""Label -> runs, such as the repeats of a setting's best configuration -> the metric at epochs 1,
2, ..."""

# Smallest distance of two readable labels, as a share of the axis.
_LABEL_DISTANCE = 0.055


def draw_curves(
    ax: Axes,
    curves: Curves,
    metric: str,
    colours: Mapping[str, str],
    chance: float | None = None,
) -> None:
    """Draw one line per label, the mean of its runs, in a band from their lowest to their highest
    value. The label and the last mean are written at its end.

    If runs have different lengths (some were stopped early), the line ends with the shortest. A
    mean over the remaining runs would only include the better ones.

    Args:
        metric: name of the axis, such as `val/top1`.
        colours: label -> colour.
        chance: drawn as a dotted line.
    Raises:
        ValueError: there is no label, or a label has no run of at least one epoch.
    """
    lengths = {}
    for label, runs in curves.items():
        lengths[label] = [len(run) for run in runs]
    has_epochs = [bool(each) and min(each) > 0 for each in lengths.values()]
    if not has_epochs or not all(has_epochs):
        raise ValueError(f"every label needs runs of at least one epoch, but got lengths {lengths}")

    ends = []
    for label, runs in curves.items():
        last_mean = _draw_line(ax, runs, colours[label])
        text = f"{label}  {last_mean:.3f}"
        ends.append((last_mean, text, colours[label]))
    if chance is not None:
        _draw_chance(ax, chance)

    longest = max(max(each) for each in lengths.values())
    margin = 0.02 * longest
    ax.set_xlim(1 - margin, longest + margin)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", color="#eeeeee")
    ax.set_axisbelow(True)
    ax.set_xlabel("epoch", color=INK)
    ax.set_ylabel(f"{metric}, mean and range of {_counted_runs(curves)}", color=INK)
    _label_ends(ax, ends)


def bands(runs: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lowest and highest value, each (E,), over the E epochs of the shortest run."""
    shortest = min(len(run) for run in runs)
    table = np.array([run[:shortest] for run in runs], dtype=np.float64)
    return table.mean(0), table.min(0), table.max(0)


def _draw_line(ax: Axes, runs: Sequence[Sequence[float]], colour: str) -> float:
    """Draw mean and band of a label's runs; return the last mean."""
    mean, low, high = bands(runs)
    epochs = np.arange(1, len(mean) + 1)
    # A line with a single point would be invisible.
    marker = "o" if len(mean) == 1 else None

    ax.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.plot(epochs, mean, color=colour, marker=marker, markersize=4, linewidth=1.8)
    return float(mean[-1])


def _draw_chance(ax: Axes, chance: float) -> None:
    """Draw the accuracy of guessing as a dotted line."""
    ax.axhline(chance, color=INK, linewidth=0.8, linestyle=":")
    ax.annotate(
        "chance",
        xy=(1, chance),
        xytext=(2, 2),
        textcoords="offset points",
        fontsize=8,
        color=INK,
    )


def _counted_runs(curves: Curves) -> str:
    """Number of runs per label: "3 runs", or "2 to 3 runs"."""
    counts = sorted({len(runs) for runs in curves.values()})
    if counts == [1]:
        return "1 run"
    if len(counts) == 1:
        return f"{counts[0]} runs"
    return f"{counts[0]} to {counts[-1]} runs"


def _label_ends(ax: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write labels to the right of the lines' ends, spaced so that they do not overlap.

    Args:
        ends: (last value, label, colour) of each line.
    """
    low, high = ax.get_ylim()
    distance = (high - low) * _LABEL_DISTANCE
    highest = -np.inf
    for value, text, colour in sorted(ends):
        highest = max(value, highest + distance)
        ax.annotate(
            text,
            xy=(1.01, highest),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )
    ax.set_ylim(low, max(high, highest + distance / 2))
