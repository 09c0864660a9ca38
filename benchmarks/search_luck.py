"""Effect of the luck of seeds on a search: one training seed for all its trials or one for each,
how much its best value falls under fresh seeds, and the cost of splitting a budget into several
searches.

    python benchmarks/search_luck.py  # writes docs/results/search_luck_<task>.json
    python benchmarks/search_luck.py --shared  # what pairing by draws brings: shared_draws.json
    python benchmarks/search_luck.py --searches 20 --drawn 1000 --no-results  # a try

The trainings are those that `record_seeds.py` recorded. `true` is the mean over seeds of the
configuration that a search chooses. `fall` is the value that the search saw minus that mean, on the
split that it chose by. Intervals, 95 %: a bootstrap over the recorded seeds for random searches,
over searches for those of the product's study.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import optuna

from benchmarks.record_file import write_results
from benchmarks.recorded_seeds import (
    TASKS,
    Searches,
    Side,
    TrialSeeds,
    draw_searches,
    load,
    run_searches,
)
from benchmarks.search_tables import tables

TRIALS = (4, 8, 12, 16, 24)
BY_THE_STUDY = (4, 12, 24)
BUDGETS = (4, 5, 8, 9, 12, 15, 20, 25, 40, 60, 72, 75)
MODES: tuple[TrialSeeds, ...] = ("one", "each")
RESAMPLES = 200
SHARED = ("head-digits", "head-glyphs")


def measure(side: Side, searches: Searches) -> np.ndarray:  # (3, searches)
    """Return true test accuracy, true validation and fall of every search's choice."""
    rows = searches.chosen
    validation = side.peaks.mean(1)[rows]
    return np.stack([side.truth[rows], validation, searches.shown.max(-1) - validation])


def resampled(side: Side, rng: np.random.Generator) -> Side:
    """Return the record with its seeds resampled."""
    seeds = rng.integers(side.peaks.shape[1], size=side.peaks.shape[1])
    return replace(side, peaks=side.peaks[:, seeds], test=side.test[:, seeds])


def at_random(side: Side, rng: np.random.Generator, drawn: int) -> Iterator[dict[str, Any]]:
    """Yield results of random searches: both ways to assign seeds, and their difference."""
    for trials in TRIALS:

        def means(side: Side, drawn: int, trials: int = trials) -> np.ndarray:  # (modes, 3)
            found = both_ways(side, rng, drawn, trials)
            return np.stack([measure(side, searches).mean(1) for searches in found])

        estimate = means(side, drawn)
        spread = np.stack([means(resampled(side, rng), drawn) for _ in range(RESAMPLES)])
        yield from rows_of(side.name, "random", trials, estimate, spread)


def both_ways(
    side: Side, rng: np.random.Generator, drawn: int, trials: int
) -> tuple[Searches, Searches]:
    """Return searches of the same configurations with one seed and with a seed for each trial."""
    one = draw_searches(side, rng, (drawn,), trials, "one")
    seeds = rng.integers(side.peaks.shape[1], size=one.rows.shape)
    return one, Searches(one.rows, side.peaks[one.rows, seeds])


def by_the_study(side: Side, rng: np.random.Generator, count: int) -> Iterator[dict[str, Any]]:
    """Yield results of searches run by the product."""
    for trials in BY_THE_STUDY:
        found = [run_searches(side, rng, count, trials, seeds) for seeds in MODES]
        measured = np.stack([measure(side, searches) for searches, _ in found])
        drawn = rng.integers(count, size=(1000, count))
        spread = measured[:, :, drawn].mean(-1).transpose(2, 0, 1)
        for row, (_, epochs) in zip(
            rows_of(side.name, "study", trials, measured.mean(2), spread),
            [*found, (None, None)],
            strict=True,
        ):
            yield row | {"epochs": epochs}


def rows_of(
    task: str, sampler: str, trials: int, estimate: np.ndarray, spread: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to assign seeds, and one for their difference.

    Args:
        estimate: (modes, 3).
        spread: (resamples, modes, 3).
    """
    every = dict(zip(MODES, range(len(MODES)), strict=True))
    for name in (*MODES, "each - one"):
        if name in every:
            value, values = estimate[every[name]], spread[:, every[name]]
        else:
            value, values = estimate[1] - estimate[0], spread[:, 1] - spread[:, 0]
        low, high = np.quantile(values, [0.025, 0.975], axis=0)
        row: dict[str, Any] = {"task": task, "sampler": sampler, "trials": trials, "seeds": name}
        for index, metric in enumerate(("true_test", "true_validation", "fall")):
            row[metric] = [round(float(x[index]), 5) for x in (value, low, high)]
        yield row


def common_share(side: Side) -> dict[str, Any]:
    """Return the share of the variance between seeds that is common to all configurations of the
    better half, in a two-way model (Searle 1971), and the standard deviation between seeds."""
    better = side.truth >= np.median(side.truth)
    found: dict[str, Any] = {"task": side.name}
    for name, scores in (("validation", side.peaks[better]), ("test", side.test[better])):
        rows, seeds = scores.shape
        residuals = scores - scores.mean(1, keepdims=True) - scores.mean(0) + scores.mean()
        noise = float((residuals**2).sum()) / ((rows - 1) * (seeds - 1))
        between = float(scores.mean(0).var(ddof=1)) - noise / rows
        found[name] = {
            "seed_sd": round(float(np.sqrt(scores.var(1, ddof=1).mean())), 5),
            "common_share": round(max(0.0, between) / (max(0.0, between) + noise), 4),
        }
    return found


def budget_curve(side: Side, rng: np.random.Generator, drawn: int) -> Iterator[dict[str, Any]]:
    """Yield the true test accuracy of the best of n trials, chosen by validation under one seed."""
    for trials in BUDGETS:
        searches = draw_searches(side, rng, (drawn,), trials, "one")
        values = side.truth[searches.chosen]
        yield {
            "task": side.name,
            "trials": trials,
            "true_test": round(float(values.mean()), 5),
            "sd_between_searches": round(float(values.std()), 5),
        }


def shared_draws(rng: np.random.Generator, drawn: int) -> Iterator[dict[str, Any]]:
    """Yield the correlation between the best of n trials of two settings if both searches draw the
    same configurations: heads on two data sets, of one space (`record_curves.py`)."""
    first, second = tables(SHARED)
    assert list(first.curves) == list(second.curves)
    for trials in (4, 8, 12):
        rows = rng.integers(len(first.curves), size=(drawn, trials))
        best = [table.values[rows].max(1) for table in (first, second)]
        correlation = float(np.corrcoef(*best)[0, 1])
        yield {"settings": list(SHARED), "trials": trials, "correlation": round(correlation, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--drawn", type=int, default=10_000, help="random searches of a case")
    parser.add_argument("--searches", type=int, default=200, help="searches by the study")
    parser.add_argument("--shared", action="store_true", help="shared draws alone")
    parser.add_argument("--no-results", action="store_true", help="print, and write no file")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.shared:
        rows = list(shared_draws(np.random.default_rng(16), 5 * options.drawn))
        print(*rows, sep="\n")
        write_results("shared_draws", {"rows": rows})
        return

    for name in options.tasks:
        side = load(name)
        rng = np.random.default_rng(16)
        found: dict[str, list[dict[str, Any]]] = {
            "seeds": [common_share(side)],
            "budgets": list(budget_curve(side, rng, options.drawn)),
            "searches": list(at_random(side, rng, options.drawn)),
        }
        found["searches"] += by_the_study(side, rng, options.searches)
        for row in (row for rows in found.values() for row in rows):
            print(row, flush=True)
        if not options.no_results:
            write_results(f"search_luck_{name}", found)


if __name__ == "__main__":
    main()
