"""Compare settings over several searches of each. A search counts as one observation.

    python tune/run.py classify --searches 5
    python tune/report.py table [GROUP] --with STORAGE [--with STORAGE ...]

The intervals of a single search cover only the training of its chosen configurations. Another
search chooses other configurations, on another split of the data and with other backbones. Here the
test accuracy of a search's chosen configuration is one observation, and differences are paired by
search (paired t test). The intervals therefore cover everything that is random in a search.

This module computes the table; `pooled_text.py` formats it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from search_spaces.settings import Comparison, sides
from trainables.outcomes import ImageOutcomes
from tune.reports.comparison_table import (
    ComparisonTable,
    Difference,
    TableRow,
    compare_settings,
    corrected,
)
from tune.reports.components import Components, components
from tune.reports.config_differences import same_data
from tune.reports.same_search import check_complete, check_same_study
from tune.reports.sampling_error import sampling_variance
from tune.reports.statistics import Interval, mean_of, paired, significance
from tune.study.group import Group, is_group, search_numbers, source_studies
from tune.study.record import read_record
from tune.study.rules import ENOUGH_SEARCHES


@dataclass(frozen=True)
class PooledRow:
    """One setting over all searches; accuracies are in [0, 1], on the test splits."""

    name: str
    about: str

    searches: dict[str, TableRow]
    """Search -> the setting's row in that search's table, for searches with a test accuracy."""

    accuracies: dict[str, float]
    """Search -> mean test accuracy over the repeats of its chosen configuration."""

    defaults: dict[str, float]
    """Search -> mean test accuracy over the repeats of the default, if it was repeated."""

    accuracy: Interval | None
    """Mean over searches; None for fewer than two."""

    images: float | None
    """Standard deviation of one search's accuracy over draws of its test images; None if outcomes
    are missing."""

    @property
    def components(self) -> Components | None:
        """Variance components over searches; None if outcomes or repeats are missing."""
        if self.images is None:
            return None
        scores = [list(row.scores.values()) for row in self.searches.values()]
        return components(scores, self.images**2)

    @property
    def parts(self) -> dict[str, float]:
        """Variance component -> standard deviation if it were the only one; empty if the components
        are unknown."""
        found = self.components
        return {} if found is None else found.deviations

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracies over searches."""
        if len(self.accuracies) < 2:
            return None
        return float(np.std(list(self.accuracies.values()), ddof=1))

    @property
    def setting(self) -> str:
        """The setting's name and description."""
        return f"{self.name}: {self.about}"

    @property
    def epochs(self) -> int:
        """Epochs of the trials of all searches."""
        return sum(row.record.epochs for row in self.searches.values())

    @property
    def minutes(self) -> float:
        """Training time of trials and repeats, in minutes."""
        return sum(row.minutes for row in self.searches.values())


@dataclass(frozen=True)
class Cost:
    """Cost of the studies that trained a source's backbones, over all searches."""

    source: str
    epochs: int
    minutes: float


@dataclass(frozen=True)
class PooledTable:
    """All settings over all searches."""

    title: str
    comparison: Comparison

    command: str
    """The command that resumes the searches."""

    metric: str

    searches: list[str]
    """Names of the searches, such as `search 1`."""

    wanted: int
    """Number of searches of each setting that were requested."""

    rows: list[PooledRow]
    differences: list[Difference]

    missing: list[str]
    """Settings of searches that have no test accuracy."""

    sources: list[Cost]
    """Cost of the backbones, which no row includes."""

    @property
    def questions(self) -> Mapping[str, str]:
        """Name of a difference -> the question that it answers."""
        return self.comparison.questions


def has_searches(folder: Path) -> bool:
    """True if the group in `folder` has several searches of each setting."""
    if is_group(folder) and Group.at(folder).searches is not None:
        return True
    return bool(search_numbers(folder))


def compare_searches(folder: Path) -> PooledTable:
    """Compare the settings of a group that has several searches of each.

    Raises:
        UserError: none of its studies has started.
    """
    numbers = search_numbers(folder)
    if not numbers:
        compare_settings(folder, search=1)  # raises an error that says what is missing
    tables = {f"search {number}": table for number, table in _tables_of(folder)}
    wanted, look = len(numbers), 1
    if is_group(folder):
        group = Group.at(folder)
        wanted = group.searches or wanted
        look = group.look
    table = _pool(tables, max(wanted, len(numbers)), significance(look))
    return replace(table, sources=_source_costs(folder, table.comparison, numbers))


def _source_costs(folder: Path, comparison: Comparison, numbers: list[int]) -> list[Cost]:
    found: dict[str, Cost] = {}
    for number in numbers:
        for name, path in source_studies(folder, comparison, number).items():
            record = read_record(path)
            before = found.get(name, Cost(name, 0, 0.0))
            minutes = sum(run.seconds for run in record.trials.values()) / 60
            found[name] = Cost(name, before.epochs + record.epochs, before.minutes + minutes)
    return list(found.values())


def pool_searches(folders: Sequence[Path]) -> PooledTable:
    """Compare settings over the searches in several groups' folders, each run under another seed in
    its own storage.

    Groups with several searches of each setting already have verdicts of their own, so this table
    is a further look at them.

    Raises:
        UserError: fewer than two searches, a search without all of its settings, or searches that
            differ in more than their seed.
    """
    names: list[str] = []
    tables: list[ComparisonTable] = []
    of_tables: list[Path] = []
    looks = 0
    for folder in folders:
        several = has_searches(folder)
        looks += Group.at(folder).look if several else 0
        for number, table in _tables_of(folder) if several else [(1, compare_settings(folder))]:
            seed = table.rows[0].record.manifest.seed
            names.append(f"{folder.parent.name}/r{number}" if several else f"seed {seed}")
            tables.append(table)
            of_tables.append(folder)

    check_complete(of_tables, tables)
    seeds = [table.rows[0].record.manifest.seed for table in tables]
    check_same_study(of_tables, tables, seeds)
    return _pool(dict(zip(names, tables, strict=True)), len(tables), significance(looks + 1))


def _tables_of(folder: Path) -> list[tuple[int, ComparisonTable]]:
    """Return the number of each search of a group, with its table."""
    return [(number, compare_settings(folder, number)) for number in search_numbers(folder)]


def _pool(tables: Mapping[str, ComparisonTable], wanted: int, level: float) -> PooledTable:
    first = next(iter(tables.values()))
    rows = [_pooled_row(name, first.comparison, tables) for name in first.comparison.settings]
    by_name = {row.name: row for row in rows}

    gains = {}
    fewest = wanted
    for name in first.questions:
        one, other = sides(name)
        searches, gain = _gain(by_name[one], by_name[other], tables, first.metric)
        fewest = min(fewest, searches)
        if gain is not None:
            gains[name] = gain

    missing = [
        f"{row.name} of {search}"
        for search in tables
        for row in rows
        if search not in row.accuracies
    ]
    return PooledTable(
        title=f"{first.title}, over {len(tables)} searches",
        comparison=first.comparison,
        command=first.command,
        metric=first.metric,
        searches=list(tables),
        wanted=wanted,
        rows=rows,
        differences=corrected(
            gains, len(first.questions), level=level, withheld=_withheld(fewest, wanted)
        ),
        missing=missing,
        sources=[],
    )


def _gain(
    row: PooledRow, other: PooledRow, searches: Iterable[str], metric: str
) -> tuple[int, Interval | None]:
    """Return the number of searches that have both settings, and the difference over them, None for
    fewer than two searches."""
    pairs = _pairs(row, other)
    if len(pairs) < 2:
        return len(pairs), None

    scores = np.array(pairs).T
    # Searches on the same test images share the sampling error of these images, which their spread
    # does not show. If each search has its own images, the spread already includes that error, and
    # `shared` is 0.
    shared = sampling_variance(metric, _outcomes(row, searches), _outcomes(other, searches))
    return len(pairs), paired(scores[0], scores[1], shared or 0.0)


def _withheld(fewest: int, wanted: int) -> str:
    """Return the reason to give no verdict yet; "" if there is a verdict."""
    if wanted < ENOUGH_SEARCHES:
        return f"no verdict: {ENOUGH_SEARCHES} searches are needed, {wanted} were asked for"
    if fewest < wanted:
        return f"no verdict yet: {fewest} of {wanted} searches"
    return ""


def _pooled_row(
    name: str, comparison: Comparison, tables: Mapping[str, ComparisonTable]
) -> PooledRow:
    searches = {}
    for search, table in tables.items():
        for row in table.rows:
            if row.name == name and row.scores:
                searches[search] = row

    accuracies = {
        search: float(np.mean(list(row.scores.values()))) for search, row in searches.items()
    }
    defaults = {
        search: row.default.mean for search, row in searches.items() if row.default is not None
    }
    accuracy = None
    if len(accuracies) > 1:
        accuracy = mean_of(list(accuracies.values())).clipped_to_unit()
    return PooledRow(
        name=name,
        about=comparison.settings[name].about,
        searches=searches,
        accuracies=accuracies,
        defaults=defaults,
        accuracy=accuracy,
        images=_image_error(searches, next(iter(tables.values())).metric),
    )


def _outcomes(row: PooledRow, searches: Iterable[str]) -> dict[int, ImageOutcomes]:
    """Return index of a search -> outcomes of one of its final runs. One run suffices, because runs
    of the same search share more than their test images."""
    found = {}
    for place, search in enumerate(searches):
        one = row.searches.get(search)
        if one is not None and one.outcomes:
            found[place] = next(iter(one.outcomes.values()))
    return found


def _image_error(searches: Mapping[str, TableRow], metric: str) -> float | None:
    """Return the standard deviation of an average search's accuracy over draws of test images."""
    variances = []
    for row in searches.values():
        variance = sampling_variance(metric, row.outcomes)
        if variance is None:
            return None
        variances.append(variance)
    return float(np.sqrt(np.mean(variances))) if variances else None


def _pairs(row: PooledRow, other: PooledRow) -> list[tuple[float, float]]:
    """Return the accuracies of two settings in the searches that have both, on the same images."""
    pairs = []
    for search, accuracy in row.accuracies.items():
        if search not in other.accuracies:
            continue
        if same_data(row.searches[search].record, other.searches[search].record):
            pairs.append((accuracy, other.accuracies[search]))
    return pairs
