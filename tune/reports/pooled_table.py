"""The verdict over several searches: a comparison that was begun anew under other seeds, each time
in a storage of its own.

    python tune/report.py table [GROUP] --with STORAGE [--with STORAGE ...]

The intervals of one table are of the training of the configurations that one search has chosen.
Another search chooses others, on another draw of images and with other backbones. Here a whole
search counts as one observation, the mean of its chosen configuration's repeats, and differences
are paired by search (the paired t test over searches). So an interval covers all that the seed of a
study draws.
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
    Difference,
    Row,
    comparison_cells,
    print_cells,
    range_of,
    verdict,
)
from tune.reports.statistics import LEVEL, Interval, difference, holm, mean_of
from tune.study.manifest import PATH_KEYS, Manifest

# Differ from search to search: its seed, what is drawn by it, and the backbones that were found by
# it.
_OF_A_SEARCH = {"seed", "data.seed", "init.file", "init.sha256", "init.origin", *PATH_KEYS}


@dataclass(frozen=True)
class PooledRow:
    """One setting over all searches; shares of the test splits."""

    setting: str
    accuracies: list[float]
    """Of each search: mean over the repeats of its chosen configuration."""
    defaults: list[float]
    """Of each search: the same of the untuned default; empty where a search has not repeated it."""
    accuracy: Interval


@dataclass(frozen=True)
class Pooled:
    """All of the table."""

    title: str
    seeds: list[int]
    rows: list[PooledRow]
    differences: list[Difference]
    questions: Mapping[str, str]


def pooled(folders: Sequence[Path]) -> Pooled:
    """The table over the searches in the groups' folders.

    Raises:
        UserError: fewer than two, a search without all of its settings, or searches that differ in
            more than their seed.
    """
    found = [verdict(folder) for folder in folders]
    first = found[0]
    for folder, one in zip(folders, found, strict=True):
        if one.missing:
            lacking = ", ".join(one.missing)
            raise UserError(
                f"{folder}: without repeats so far: {lacking}; `{one.command}` with that --storage goes on with them"
            )
    seeds = [one.rows[0].record.manifest.seed for one in found]
    for place, (folder, seed) in enumerate(zip(folders, seeds, strict=True)):
        if seed in seeds[:place]:
            other = folders[seeds.index(seed)]
            raise UserError(
                f"{folder} and {other} have the same seed, {seed}: they are one search; begin another with --seed"
            )
        for here, there in zip(found[place].rows, first.rows, strict=True):
            if differing := _differing(here, there):
                shown = ", ".join(differing[:4])
                raise UserError(
                    f"{folder} and {folders[0]} are not the same study: setting {here.name} differs in {shown}"
                )
    # (settings, searches)
    scores = np.array([[_mean(one.rows[i]) for one in found] for i in range(len(first.rows))])
    names = [row.name for row in first.rows]
    gains = {
        name: difference(scores[[names.index(side) for side in name.split("-")]], 0, 1)
        for name in first.comparison.questions
    }
    adjusted = holm([gain.p for gain in gains.values()])
    return Pooled(
        title=f"{first.title}, over {len(found)} searches",
        seeds=seeds,
        rows=[
            PooledRow(
                row.setting,
                list(scores[i]),
                _defaults([one.rows[i] for one in found]),
                mean_of(scores[[i]], 0).clipped_to_unit(),
            )
            for i, row in enumerate(first.rows)
        ],
        differences=[
            Difference(name, gain, p)
            for (name, gain), p in zip(gains.items(), adjusted, strict=True)
        ],
        questions=first.comparison.questions,
    )


def show_pooled(found: Pooled, out: Console) -> None:
    """Print it."""
    header = [
        "setting",
        *(f"seed {seed}" for seed in found.seeds),
        "mean",
        "95 % interval",
        "untuned default",
    ]
    rows = [
        [
            row.setting,
            *(f"{x:.3f}" for x in row.accuracies),
            f"{row.accuracy.mean:.3f}",
            range_of(row.accuracy),
            f"{np.mean(row.defaults):.3f}" if row.defaults else "-",
        ]
        for row in found.rows
    ]
    print_cells(out, found.title, header, rows)
    print_cells(out, "differences, paired by search", *comparison_cells(found))
    out.print(
        "note: test accuracy. A search (trials, choice, repeats, the backbones and images of its seed) counts as one observation; "
        f"intervals are Student's t over {len(found.seeds)} of them, so they cover another search. "
        f"Holm's p-values hold for all at once, and decide under {1 - LEVEL:.2f}."
    )


def _mean(row: Row) -> float:
    assert row.accuracy is not None  # none is missing
    return row.accuracy.mean


def _defaults(rows: list[Row]) -> list[float]:
    known = [row.default.mean for row in rows if row.default is not None]
    return known if len(known) == len(rows) else []


def _differing(row: Row, other: Row) -> list[str]:
    """What makes two studies of one setting different in more than the seed."""
    mine, theirs = _identity(row), _identity(other)
    return [name for name in mine | theirs if mine.get(name) != theirs.get(name)]


def _identity(row: Row) -> dict[str, Any]:
    m: Manifest = row.record.manifest
    # embedded images are drawn by the seed
    content = m.data["name"] if m.data["name"] in EMBEDDED else m.data["fingerprint"]
    config = {name: value for name, value in m.base.items() if name not in _OF_A_SEARCH}
    pins = {f"--set {name}": value for name, value in m.pins.items() if name not in _OF_A_SEARCH}
    counts = {"the number of trials": len(row.record.trials), "the number of repeats": row.seeds}
    kind = {
        "experiment": m.experiment,
        "preset": m.preset,
        "objective": m.objective,
        "data": content,
        "warm start": bool(m.warm_start),
    }
    return {
        **kind,
        **counts,
        **pins,
        **config,
        **{f"range of {name}": ranges for name, ranges in m.space.items()},
    }
