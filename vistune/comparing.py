"""Compare studies: test metrics with intervals, and their differences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from trainables.errors import UserError
from tune.reports.comparison_table import TableRow, corrected, row_of
from tune.reports.config_differences import same_data
from tune.reports.sampling_error import sampling_variance
from tune.reports.statistics import Interval
from tune.reports.verdict import difference
from tune.study.rules import test_metric
from vistune.figures import finished_figure
from vistune.study import Study, load_study
from vistune.tables import difference_lines, interval_cells

if TYPE_CHECKING:
    import plotly.graph_objects as go

_MINUS = " - "


@dataclass(frozen=True)
class Comparison:
    """Studies that were evaluated on the same images. Each of the others is compared with the
    first.

    A difference applies only to the configurations that were found; another search would find
    others. A claim about settings needs several searches of each (`vistune classify`).
    """

    metric: str
    """The test metric, such as `test/top1`."""
    table: pd.DataFrame = field(repr=False)
    """One row per study: the chosen `trial`, `seeds` of its repeats, their mean with `low` and
    `high` (95 %), the mean of the `default`, number of `trials`, training `minutes`, and the
    `configuration`. NaN for fewer than two repeats."""
    differences: pd.DataFrame = field(repr=False)
    """One row per difference from the first study: mean with `low` and `high`, `p` corrected for
    all differences (Holm 1979), and the `verdict`."""
    rows: tuple[TableRow, ...] = field(repr=False)

    def __str__(self) -> str:
        lines = difference_lines(self.differences, self.metric)
        return "\n".join(lines) or f"no study has two repeats, so {self.metric} is not compared"

    def plot(self) -> "go.Figure":
        """Plot the test metric of every study: one point per seed, and means with 95 % intervals.

        Raises:
            UserError: no study has two repeats.
        """
        from tune.reports.html_figures import scores_with_intervals

        judged = {row.name: row for row in self.rows if row.accuracy is not None}
        if not judged:
            raise UserError(f"nothing to draw: {self}")
        sides = {name: (row.scores, row.accuracy) for name, row in judged.items()}
        drawn = scores_with_intervals(sides, self.metric)
        return finished_figure(drawn, height=140 + 50 * len(judged))

    def plot_best_of_n(self) -> "go.Figure":
        """Plot the best objective of n trials against n, for every study.

        Raises:
            UserError: no study has enough trials.
        """
        from tune.reports.tuning_figure import tuning_figure

        drawn = tuning_figure({row.name: [row.record] for row in self.rows})
        if drawn is None:
            raise UserError("no study has enough trials with an objective in [0, 1]")
        return finished_figure(drawn, height=420)


def compare(studies: Sequence[Study | str | Path], storage: str | Path = "runs") -> Comparison:
    """Compare each study with the first.

        vistune.compare(["classify-A", "classify-C"]).differences

    Args:
        studies: studies, their folders, or their names in `storage`.
    Raises:
        UserError: there are fewer than two studies, two have the same name, or they were evaluated
            on different images or by different metrics.
    """
    found = [one if isinstance(one, Study) else load_study(one, storage) for one in studies]
    names = [study.name for study in found]
    if len(found) < 2 or len(set(names)) < len(names):
        raise UserError(f"two or more different studies can be compared, not {names}")

    first = found[0].record
    metric = test_metric(first.objective)
    for study in found[1:]:
        _check_comparable(found[0], study)

    rows = tuple(row_of(study.name, "", study.record, metric) for study in found)
    return Comparison(metric, _table(rows), _differences(rows, metric), rows)


def _check_comparable(first: Study, other: Study) -> None:
    if not same_data(first.record, other.record):
        raise UserError(
            f"studies {first.name} and {other.name} were judged on different images, "
            "whose scores cannot be subtracted"
        )
    if first.objective != other.objective:
        raise UserError(
            f"study {first.name} was searched by {first.objective}, {other.name} by "
            f"{other.objective}: compare studies of one metric"
        )


def _table(rows: Sequence[TableRow]) -> pd.DataFrame:
    lines = {}
    for row in rows:
        lines[row.name] = {
            "trial": row.number,
            "seeds": row.seeds,
            **interval_cells(row.accuracy),
            **interval_cells(row.default, "default_"),
            "trials": len(row.record.trials),
            "minutes": row.minutes,
            "configuration": row.configuration,
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("study")


def _differences(rows: Sequence[TableRow], metric: str) -> pd.DataFrame:
    first, *others = rows
    gains = {}
    for row in others:
        if first.accuracy is None or row.accuracy is None:
            continue
        of_images = sampling_variance(metric, row.outcomes, first.outcomes)
        name = f"{row.name}{_MINUS}{first.name}"
        gains[name] = difference(row.scores, first.scores, of_images or 0.0)

    lines = {}
    for one in corrected(gains, len(others)):
        decided = one.p_holm < one.level
        lines[one.name] = {
            **interval_cells(one.gain),
            "p": one.p_holm,
            "verdict": _verdict(one.name, one.gain) if decided else "not decided",
        }
    columns = ["mean", "low", "high", "p", "verdict"]
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns).rename_axis("difference")


def _verdict(name: str, gain: Interval) -> str:
    other, _, first = name.partition(_MINUS)
    return f"the configuration of {other if gain.mean > 0 else first} is better"
