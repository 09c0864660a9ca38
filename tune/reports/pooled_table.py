"""A comparison over several searches, each begun under another seed in a storage of its own.

    python tune/report.py table [GROUP] --with STORAGE [--with STORAGE ...]

The intervals of a single table cover the training of the configurations that one search has chosen.
Another search chooses others, on another draw of images and with other backbones. Here a whole
search counts as one observation: the mean of its chosen configuration's repeats. Differences are
paired by search (the paired t test over searches), so an interval covers everything that the seed
of a study draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from trainables.data.embedded import EMBEDDED
from trainables.errors import UserError
from tune.reports.comparison_table import (
    ComparisonTable,
    Difference,
    TableRow,
    compare_settings,
    corrected,
)
from tune.reports.statistics import LEVEL, Interval, mean_of, paired
from tune.reports.table_text import Cells, difference_cells, interval_range, print_cells
from tune.study.manifest import PATH_KEYS, Manifest

# Config values that may differ between searches: the seed, what it draws, and the backbones found
# under it.
_OF_A_SEARCH = {"seed", "data.seed", "init.file", "init.sha256", "init.origin", *PATH_KEYS}
_SHOWN_DIFFERENCES = 4


@dataclass(frozen=True)
class PooledRow:
    """One setting over all searches; accuracies are in [0, 1], on the test splits."""

    setting: str

    accuracies: list[float]
    """One per search: the mean over the repeats of its chosen configuration."""

    defaults: list[float]
    """One per search, of the untuned default; empty where a search has not repeated it."""

    accuracy: Interval


@dataclass(frozen=True)
class PooledTable:
    """All settings over all searches."""

    title: str

    seeds: list[int]
    """One per search."""

    rows: list[PooledRow]
    differences: list[Difference]
    questions: Mapping[str, str]


def pool_searches(folders: Sequence[Path]) -> PooledTable:
    """Compare settings over the searches in the groups' folders.

    Raises:
        UserError: fewer than two searches, a search without all of its settings, or searches that
            differ in more than their seed.
    """
    tables = [compare_settings(folder) for folder in folders]
    first = tables[0]
    _check_complete(folders, tables)
    seeds = [table.rows[0].record.manifest.seed for table in tables]
    _check_same_study(folders, tables, seeds)

    rows = []
    for index in range(len(first.rows)):
        rows.append(_pooled_row([table.rows[index] for table in tables]))

    scores = np.array([row.accuracies for row in rows])  # (settings, searches)
    names = [row.name for row in first.rows]
    gains = {}
    for name in first.questions:
        sides = [names.index(side) for side in name.split("-")]
        gains[name] = paired(*scores[sides])

    return PooledTable(
        title=f"{first.title}, over {len(tables)} searches",
        seeds=seeds,
        rows=rows,
        differences=corrected(gains, len(first.questions)),
        questions=first.questions,
    )


def _check_complete(folders: Sequence[Path], tables: list[ComparisonTable]) -> None:
    for folder, table in zip(folders, tables, strict=True):
        if table.missing:
            missing = ", ".join(table.missing)
            raise UserError(
                f"{folder}: without repeats so far: {missing}; `{table.command}` resumes them"
            )


def _check_same_study(
    folders: Sequence[Path], tables: list[ComparisonTable], seeds: list[int]
) -> None:
    """Refuse searches under the same seed, and searches that differ in more than the seed."""
    for place, (folder, table) in enumerate(zip(folders, tables, strict=True)):
        seed = seeds[place]
        earlier = seeds[:place]
        if seed in earlier:
            other = folders[earlier.index(seed)]
            raise UserError(
                f"{folder} and {other} have the same seed, {seed}: they are one search; "
                "begin another with --seed"
            )

        for row, first_row in zip(table.rows, tables[0].rows, strict=True):
            differing = _differing(row, first_row)
            if differing:
                shown = ", ".join(differing[:_SHOWN_DIFFERENCES])
                raise UserError(
                    f"{folder} and {folders[0]} are not the same study: "
                    f"setting {row.name} differs in {shown}"
                )


def _pooled_row(rows: list[TableRow]) -> PooledRow:
    """One setting; a row per search."""
    accuracies = []
    defaults = []
    for row in rows:
        assert row.accuracy is not None  # no setting is missing
        accuracies.append(row.accuracy.mean)
        if row.default is not None:
            defaults.append(row.default.mean)
    return PooledRow(
        setting=rows[0].setting,
        accuracies=accuracies,
        defaults=defaults if len(defaults) == len(rows) else [],
        accuracy=mean_of(accuracies).clipped_to_unit(),
    )


def _differing(row: TableRow, other: TableRow) -> list[str]:
    """List in what two studies of one setting differ besides the seed."""
    mine, theirs = _identity(row), _identity(other)
    return [name for name in mine | theirs if mine.get(name) != theirs.get(name)]


def _identity(row: TableRow) -> dict[str, Any]:
    """Values that two searches must have in common, by the name to show."""
    manifest: Manifest = row.record.manifest
    data_name = manifest.data["name"]
    # The seed draws embedded images: their fingerprints differ.
    data = data_name if data_name in EMBEDDED else manifest.data["fingerprint"]

    identity = {
        "experiment": manifest.experiment,
        "preset": manifest.preset,
        "objective": manifest.objective,
        "data": data,
        "warm start": bool(manifest.warm_start),
        "the number of trials": len(row.record.trials),
        "the number of repeats": row.seeds,
    }
    for name, value in manifest.pins.items():
        if name not in _OF_A_SEARCH:
            identity[f"--set {name}"] = value
    for name, value in manifest.base.items():
        if name not in _OF_A_SEARCH:
            identity[name] = value
    for name, ranges in manifest.space.items():
        identity[f"range of {name}"] = ranges
    return identity


def show_pooled(table: PooledTable, out: Console) -> None:
    """Print the table."""
    print_cells(out, table.title, _setting_cells(table))
    print_cells(out, "differences, paired by search", difference_cells(table))
    out.print(
        "note: test accuracy. A search (trials, choice, repeats, the backbones and images of its "
        "seed) counts as one observation; "
        f"intervals are Student's t over {len(table.seeds)} of them, so they cover another search. "
        f"Holm's p-values hold for all at once, and decide under {1 - LEVEL:.2f}."
    )


def _setting_cells(table: PooledTable) -> Cells:
    seeds = [f"seed {seed}" for seed in table.seeds]
    header = ["setting", *seeds, "mean", "95 % interval", "untuned default"]
    rows = []
    for row in table.rows:
        accuracies = [f"{accuracy:.3f}" for accuracy in row.accuracies]
        mean = f"{row.accuracy.mean:.3f}"
        default = f"{np.mean(row.defaults):.3f}" if row.defaults else "-"
        rows.append([row.setting, *accuracies, mean, interval_range(row.accuracy), default])
    return Cells(header, rows)
