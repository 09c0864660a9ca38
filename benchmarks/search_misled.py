"""Trials that a study needs to reach 99 % of the best value of a table if it starts with the best
of an earlier study, against one that starts cold, on every pair of tables that share a space.

    python benchmarks/search_misled.py --pairs reported --seeds 60  # adds to data/search_misled.csv
    python benchmarks/search_misled.py --report

Most pairs are unrelated, so an earlier study may mislead. Two sources mislead by design: `random`
has three random configurations of the table, `inverted` the worst three of thirty. The study is the
real one, with its rungs and two trials at a time (`search_efficiency.py`). What was tried in its
place was chosen in memory (`search_fading.py`) on the pairs `chosen`. Ratios: mean over seeds,
95 % by a bootstrap over seeds; for several pairs the geometric mean over pairs, and the number of
pairs above 1.10, by estimate and for certain.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import optuna

from benchmarks.search_efficiency import OurStudy, best_of, race
from benchmarks.search_priors import GROUPS, fitted_to, table_of
from benchmarks.search_records import COLD, MISLED, Ratio, ratios, read_misled
from benchmarks.search_tables import RELATED
from tune.study.warm_start import POINTS

RECORD = MISLED
MOST = 200
EARLIER = 30
COLUMNS = ("start", "source", "table", "seed", "trials", "epochs")
BAR = 1.10
RANDOM, INVERTED = "random", "inverted"
SOURCES = (RANDOM, INVERTED)
ON = {"head-glyphs", "head-digits", "vehicle", "cifar10", "cifar100"}
"""Tables of the pairs on which a rule was chosen."""


def pairs_of(kind: str) -> list[tuple[str, str]]:
    """Return (source, table) of the chosen or of the reported pairs."""
    found = [
        (one, other)
        for names in GROUPS.values()
        for other in names
        for one in (*names, *SOURCES)
        if one != other
    ]
    return [pair for pair in found if _is_chosen(*pair) == (kind == "chosen")]


def _is_chosen(source: str, table: str) -> bool:
    if "vehicle" in (source, table):
        return True
    return table in ON and (source in ON or source in SOURCES)


def kind_of(source: str, table: str) -> str:
    """Return `related`, `others`, or the source that misleads by design."""
    if source in SOURCES:
        return source
    return "related" if (source, table) in RELATED else "others"


def summary(found: Sequence[Ratio]) -> str:
    """Format the geometric mean over pairs and the number of pairs above the bar."""
    mean = np.exp(np.mean([np.log(ratio) for ratio, _, _ in found]))
    over = sum(ratio > BAR for ratio, _, _ in found)
    certain = sum(low > BAR for _, low, _ in found)
    return (
        f"{mean:.2f}, worst {max(found)[0]:.2f}, above {BAR:.2f} {over} of {len(found)}, "
        f"for certain {certain}"
    )


@cache
def points_of(source: str, table: str, seed: int) -> list[dict[str, Any]]:
    """Return what is taken over, fitted to the space of the new table."""
    new = table_of(table)
    if source not in SOURCES:
        best = best_of(table_of(source), seed, trials=EARLIER)[:POINTS]
        return fitted_to(new, best)
    rng = np.random.default_rng(seed)
    keys = [list(new.curves)[place] for place in rng.permutation(len(new.curves))[:EARLIER]]
    if source == INVERTED:
        keys.sort(key=lambda key: max(new.curves[key]))
    return [new.params(key) for key in keys[:POINTS]]


def trials_of(start: str, source: str, name: str, seed: int) -> tuple[int, int]:
    """Return the trials and epochs of one study."""
    table = table_of(name)
    if start == COLD:
        return race(OurStudy(table, seed, MOST), table, MOST)
    points = points_of(source, name, 10_000 + seed)
    return race(OurStudy(table, seed, MOST, points, fading=int(start)), table, MOST)


def record(starts: Sequence[str], pairs: Sequence[tuple[str, str]], seeds: Sequence[int]) -> None:
    """Run what is missing from the record. All pairs with a table share its cold starts."""
    done = {row[:4] for row in read_misled(RECORD)}
    new = not RECORD.exists()
    with RECORD.open("a") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        for source, table in pairs:
            for seed in seeds:
                for start in (COLD, *starts):
                    key = (start, "" if start == COLD else source, table, str(seed))
                    if key in done:
                        continue
                    done.add(key)
                    writer.writerow((*key, *trials_of(start, source, table, seed)))
                    file.flush()


def report(pairs: Sequence[tuple[str, str]]) -> None:
    """Print the ratio of every pair and start, then all pairs of a kind."""
    found: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for start, source, table, _, trials, epochs in read_misled(RECORD):
        found.setdefault((start, source, table), []).append((int(trials), int(epochs)))
    starts = sorted({start for start, _, _ in found} - {COLD})
    of_kind: dict[tuple[str, str], list[Ratio]] = {}
    for source, table in pairs:
        cold = np.array(found.get((COLD, "", table), []), float)
        cells = []
        for start in starts:
            warm = np.array(found.get((start, source, table), []), float)
            if len(warm) == 0:
                continue
            trials, epochs = ratios([warm], [cold])
            of_kind.setdefault((start, kind_of(source, table)), []).append(trials)
            cells.append(f"{start}: {trials}, epochs {epochs}, {len(warm)} seeds")
        if cells:
            pair = f"{source} -> {table}: cold {cold[:, 0].mean():.1f}"
            print("   ".join([pair, *cells]))
    for (start, kind), some in sorted(of_kind.items(), key=lambda item: item[0][::-1]):
        print(f"{kind}, {start}: {summary(some)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", default="reported", choices=("related", "chosen", "reported"))
    parser.add_argument("--tables", nargs="*", default=[], help="new tables; default: all")
    parser.add_argument("--sources", nargs="*", default=[], help="default: all")
    parser.add_argument("--starts", nargs="*", default=["1", "2"], help="versions of fading")
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pairs = RELATED if options.pairs == "related" else pairs_of(options.pairs)
    pairs = [
        (source, table)
        for source, table in pairs
        if table in (options.tables or table) and source in (options.sources or source)
    ]
    if options.report:
        report(pairs)
        return
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    record(options.starts, pairs, seeds)


if __name__ == "__main__":
    main()
