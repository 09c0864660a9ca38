"""Compare settings over several searches of each. A search counts as one observation.

    python tune/run.py classify --searches 5
    python tune/report.py table [GROUP] --with STORAGE [--with STORAGE ...]

The intervals of a single search cover only the training of its chosen configurations. Another
search chooses other configurations, on another split of the data and with other backbones. Here the
test accuracy of a search's chosen configuration is one observation, and differences are paired by
search (paired t test). The intervals therefore cover everything that is random in a search.

This module computes the table; `pooled_text.py` formats it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from search_spaces.settings import Comparison, sides
from tune.reports.backbone_part import (
    FEWEST,
    BackbonePart,
    backbone_part,
    crossed_settings,
)
from tune.reports.comparison_table import (
    ComparisonTable,
    Difference,
    compare_settings,
    corrected,
)
from tune.reports.config_differences import same_data
from tune.reports.pooled_row import PooledRow, outcomes_of_searches, pooled_row
from tune.reports.same_search import check_complete, check_same_study
from tune.reports.sampling_error import (
    crossed_covariance,
    sampling_variance,
)
from tune.reports.statistics import Interval, paired, significance
from tune.study.group import Group, is_group, search_numbers, source_studies
from tune.study.record import read_record
from tune.study.rules import ENOUGH_SEARCHES


@dataclass(frozen=True)
class Cost:
    """Cost of the studies that trained a source's backbones, over all searches."""

    source: str
    epochs: int
    minutes: float

    objective: str
    """The metric by which a search chose its backbone."""


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

    backbone: BackbonePart | None = None
    """The part of the spread over searches that the backbones make; None if the comparison cannot
    tell."""

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
            minutes = sum(run.seconds for run in record.trials.values()) / 60
            epochs = record.epochs
            if name in found:
                minutes += found[name].minutes
                epochs += found[name].epochs
            found[name] = Cost(name, epochs, minutes, record.objective)
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
    rows = [pooled_row(name, first.comparison, tables) for name in first.comparison.settings]
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
        backbone=_backbone_part(by_name, first),
    )


def _backbone_part(rows: Mapping[str, PooledRow], table: ComparisonTable) -> BackbonePart | None:
    """Estimate the part of the backbone over the searches that have all four crossed settings."""
    names = crossed_settings(table.comparison)
    if names is None:
        return None
    four = [rows[name] for name in names]
    searches = [name for name in four[0].accuracies if all(name in row.accuracies for row in four)]
    if len(searches) < FEWEST:
        return None
    of_images = None
    if all(row.searches[search].outcomes for row in four for search in searches):
        runs = [outcomes_of_searches(row.searches, searches) for row in four]
        of_images = crossed_covariance(table.metric, runs)
    if of_images is None:
        return None
    accuracies = {row.name: [row.accuracies[search] for search in searches] for row in four}
    return backbone_part(accuracies, of_images)


def _gain(
    row: PooledRow, other: PooledRow, searches: Collection[str], metric: str
) -> tuple[int, Interval | None]:
    """Return the number of searches that have both settings, and the difference over them, None for
    fewer than two searches."""
    pairs = _pairs(row, other)
    if len(pairs) < 2:
        return len(pairs), None

    scores = np.array(pairs).T
    # Searches share sampling error as far as their test images overlap. Their spread does not show
    # that part; it shows the rest.
    shared = sampling_variance(
        metric,
        outcomes_of_searches(row.searches, searches),
        outcomes_of_searches(other.searches, searches),
    )
    return len(pairs), paired(scores[0], scores[1], shared or 0.0)


def _withheld(fewest: int, wanted: int) -> str:
    """Return the reason to give no verdict yet; "" if there is a verdict."""
    if wanted < ENOUGH_SEARCHES:
        return f"no verdict: {ENOUGH_SEARCHES} searches are needed, {wanted} were asked for"
    if fewest < wanted:
        return f"no verdict yet: {fewest} of {wanted} searches"
    return ""


def _pairs(row: PooledRow, other: PooledRow) -> list[tuple[float, float]]:
    """Return the accuracies of two settings in the searches that have both, on the same images."""
    pairs = []
    for search, accuracy in row.accuracies.items():
        if search not in other.accuracies:
            continue
        if same_data(row.searches[search].record, other.searches[search].record):
            pairs.append((accuracy, other.accuracies[search]))
    return pairs
