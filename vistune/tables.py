"""A study's record as pandas tables, and helpers for tables of comparisons."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from tune.reports.statistics import Interval
from tune.reports.trial_points import reached
from tune.study.record import Record, Run
from vistune.trial import searched_params


def trials_table(record: Record) -> pd.DataFrame:
    """Return one row per trial, by number; see `Study.trials`."""
    rows = {}
    for number, run in sorted(record.trials.items()):
        rows[number] = _trial_row(record, number, run)

    columns = ["state", "value", "epochs", "seconds", "reason", "enqueued"]
    columns += sorted(record.manifest.space)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("trial")


def _trial_row(record: Record, number: int, run: Run) -> list[Any]:
    params = searched_params(record, number)
    searched = [params.get(name) for name in sorted(record.manifest.space)]
    value = reached(run, record.objective)
    return [
        run.state.lower(),
        float("nan") if value is None else value,
        len(run.epochs),
        run.seconds,
        run.reason or "",
        run.enqueued,
        *searched,
    ]


def curves_table(record: Record) -> pd.DataFrame:
    """Return the metrics of every epoch, by (trial, epoch); see `Study.curves`."""
    rows = {}
    for number, run in sorted(record.trials.items()):
        for epoch, metrics in zip(run.epochs, run.history, strict=True):
            rows[number, epoch] = metrics
    return _by_two(rows, ["trial", "epoch"])


def repeats_table(record: Record) -> pd.DataFrame:
    """Return the state and final metrics of every repeat, by (trial, seed); see `Study.repeats`."""
    rows = {}
    for key, run in sorted(record.repeats.items()):
        rows[key] = {"state": run.state.lower(), **run.metrics}
    return _by_two(rows, ["trial", "seed"])


def _by_two(rows: dict[tuple[int, int], dict[str, Any]], names: list[str]) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(list(rows), names=names) if rows else _nothing(names)
    return pd.DataFrame(list(rows.values()), index=index)


def _nothing(names: list[str]) -> pd.MultiIndex:
    return pd.MultiIndex.from_arrays([[], []], names=names)


def interval_cells(interval: Interval | None, prefix: str = "") -> dict[str, float]:
    """Return the cells `mean`, `low` and `high` of an interval; NaN if there is none."""
    nan = float("nan")
    shown = Interval(nan, nan, nan) if interval is None else interval
    return {
        f"{prefix}mean": shown.mean,
        f"{prefix}low": shown.low,
        f"{prefix}high": shown.high,
    }


def difference_lines(differences: pd.DataFrame, metric: str) -> Iterator[str]:
    """Yield a sentence for each row of a table of differences."""
    for name, row in differences.iterrows():
        shown = Interval(row["mean"], row["low"], row["high"])
        yield f"{name}: {row['verdict']}: {metric} {shown}, p = {row['p']:.2g}"
