"""Search each setting of an experiment several times and compare them, like `vistune classify` and
`vistune EXPERIMENT --compare NAME`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd

from trainables.errors import UserError
from tune.cli.caller import Caller
from tune.cli.compare import comparison_of
from tune.experiment_file import find_experiment
from tune.experiments import Experiment
from tune.reports.comparison_table import ComparisonTable, Difference, TableRow, compare_settings
from tune.reports.pooled_row import PooledRow
from tune.reports.pooled_table import PooledTable, compare_searches, has_searches
from tune.reports.statistics import Interval
from tune.reports.storage import synced_folder
from vistune.arguments import SearchArguments, as_options
from vistune.engine import ask_engine
from vistune.figures import finished_figure
from vistune.study import Study
from vistune.tables import difference_lines, interval_cells

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class SettingsTable:
    """Settings that were searched with the same budget. With several searches of each, a search
    counts as one observation, and the differences are about the settings. With one search of each,
    they are about the configurations that were found.
    """

    name: str
    """Name of the comparison, which its studies share."""
    metric: str
    """The test metric, such as `test/top1`."""
    table: pd.DataFrame = field(repr=False)
    """One row per setting: its description (`about`), mean test metric with `low` and `high` (95
    %), training `minutes`, and its test metric in each search. NaN if unknown."""
    differences: pd.DataFrame = field(repr=False)
    """One row per question: mean difference with `low` and `high`, `p` corrected for all questions
    (Holm 1979), the `verdict`, and the `question`."""
    studies: dict[str, list[Study]] = field(repr=False)
    """Setting -> its studies, one per search."""

    def __str__(self) -> str:
        lines = difference_lines(self.differences, self.metric)
        return "\n".join(lines) or f"{self.name}: too few {self.metric} to compare settings yet"

    def plot(self) -> "go.Figure":
        """Plot the test metric of every setting: one point per search, and means with 95 %
        intervals.

        Raises:
            UserError: no setting has a test metric yet.
        """
        from tune.reports.html_figures import scores_with_intervals

        searches = [name for name in self.table.columns if name not in _COLUMNS]
        sides = {}
        for setting, row in self.table.iterrows():
            found = row[searches].dropna()
            scores = {number: float(value) for number, value in enumerate(found, 1)}
            known = pd.notna(row["low"])
            interval = Interval(row["mean"], row["low"], row["high"]) if known else None
            if scores:
                sides[str(setting)] = (scores, interval)
        if not sides:
            raise UserError(f"nothing to draw: no setting of {self.name} has a {self.metric} yet")
        drawn = scores_with_intervals(sides, self.metric)
        return finished_figure(drawn, height=140 + 50 * len(sides))


def search_settings(
    experiment: str | Path | Experiment,
    *,
    compare: str | None = None,
    searches: int | None = None,
    control: bool = False,
    **arguments: Unpack[SearchArguments],
) -> SettingsTable:
    """Search the settings of an experiment, each with the same budget, and compare them.

    Repeating the call resumes; a larger `searches` or `trials` extends the comparison.

        found = vistune.search_settings("classify", data="glyphs", trials=12)
        print(found)

    Args:
        experiment: as in `vistune.search`.
        compare: name of the comparison, such as `shots` of `fewshot`; None: settings A to E.
        searches: number of independent searches of each setting, 5 by default; with fewer there is
            no verdict on settings.
        control: also search the control settings, such as A-long of `classify`.
        arguments: as in `vistune.search`; `study` is the name of the comparison.
    Raises:
        UserError: wrong use, raised before any trial starts; or a study's folder is not writable.
        KeyboardInterrupt: the search was interrupted; the same call resumes.
    """
    given: dict[str, Any] = dict(arguments)
    progress = given.pop("progress", "auto")
    options = as_options(experiment, compare=compare, searches=searches, control=control, **given)
    found = experiment
    if not isinstance(found, Experiment):
        found = find_experiment(options.experiment)
    if compare is None and "" not in found.comparisons:
        named = ", ".join(found.comparisons) or "none"
        raise UserError(f"{found.name} needs compare=, one of its comparisons: {named}")

    name, _ = comparison_of(options, found)
    ask_engine(options, Caller(progress=progress), found)
    return load_settings(name, options.storage)


def load_settings(comparison: str | Path, storage: str | Path = "runs") -> SettingsTable:
    """Return an existing comparison of settings, which may be running.

    Args:
        comparison: its name in `storage`, or its folder.
        storage: the folder of the studies, or `s3://bucket/prefix`.
    Raises:
        UserError: none of its studies has started.
    """
    path = Path(comparison).expanduser()
    if len(path.parts) == 1:
        folder = synced_folder(str(storage)) / path
    else:
        folder = path.resolve()
    if has_searches(folder):
        return _of_searches(folder.name, compare_searches(folder))
    return _of_single(folder.name, compare_settings(folder))


_COLUMNS = ("about", "mean", "low", "high", "minutes")


def _of_searches(name: str, table: PooledTable) -> SettingsTable:
    lines = {}
    studies = {}
    for row in table.rows:
        lines[row.name] = {
            **_described(row),
            **{search: row.accuracies.get(search) for search in table.searches},
        }
        studies[row.name] = [Study(one.record.folder) for one in row.searches.values()]
    return _settings_table(name, table, lines, studies)


def _of_single(name: str, table: ComparisonTable) -> SettingsTable:
    lines = {}
    for row in table.rows:
        mean = None if row.accuracy is None else row.accuracy.mean
        lines[row.name] = {**_described(row), "search 1": mean}
    studies = {row.name: [Study(row.record.folder)] for row in table.rows}
    return _settings_table(name, table, lines, studies)


def _described(row: PooledRow | TableRow) -> dict[str, Any]:
    return {"about": row.about, **interval_cells(row.accuracy), "minutes": row.minutes}


def _settings_table(
    name: str,
    table: PooledTable | ComparisonTable,
    lines: Mapping[str, Mapping[str, Any]],
    studies: dict[str, list[Study]],
) -> SettingsTable:
    differences = {one.name: _difference(one, table.questions) for one in table.differences}
    columns = ["mean", "low", "high", "p", "verdict", "question"]
    return SettingsTable(
        name=name,
        metric=table.metric,
        table=pd.DataFrame.from_dict(lines, orient="index").rename_axis("setting"),
        differences=pd.DataFrame.from_dict(
            differences, orient="index", columns=columns
        ).rename_axis("difference"),
        studies=studies,
    )


def _difference(one: Difference, questions: Mapping[str, str]) -> dict[str, Any]:
    about = {"p": one.p_holm, "verdict": one.verdict, "question": questions[one.name]}
    return {**interval_cells(one.gain), **about}
