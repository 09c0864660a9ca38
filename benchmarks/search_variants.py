"""Worth of each default of the search: our study with one default changed, against the study as it
is, on the tables of `search_efficiency.py`.

    python benchmarks/search_variants.py  # rungs on curves, sampler on all tables; 60 seeds
    python benchmarks/search_variants.py --parts rungs --seeds 20

Measured are the trials and epochs to 99 % of the best value of a table, with at most 100 trials;
for rungs also the epochs that a study of 16 trials saves. Ratios are geometric means over the
tables, with 95 % intervals of a bootstrap over seeds, which both sides share.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import optuna
from optuna.samplers import TPESampler

import tune.search.rungs
import tune.search.sampler
from benchmarks.search_efficiency import OurStudy, race, ratio
from benchmarks.search_tables import CURVES, Table, tables
from tune.search.rungs import LATEST, RungRule
from tune.search.sampler import SeededTPE

TRIALS, SMALL = 100, 16
AS_IT_IS = "as it is"


def at_random(sampler: SeededTPE, study: Any, trial: Any, name: str, distribution: Any) -> Any:
    return sampler._random_sampler.sample_independent(study, trial, name, distribution)


Change = tuple[Any, str, Any]
"""Object, attribute, value; or dictionary, key, value."""
RUNGS: dict[str, list[Change]] = {
    f"{text}": [(tune.search.rungs.RULES, LATEST, RungRule(value))]
    for text, value in {
        "none": (),
        "best quarter at 1/6, better half at 1/2 (version 1)": ((6, 4), (2, 2)),
        "best quarter at 1/6": ((6, 4),),
        "best third at 1/6": ((6, 3),),
        "best third at 1/6 and 1/2": ((6, 3), (2, 3)),
        "best quarter at 1/6, best third at 1/2": ((6, 4), (2, 3)),
        "best third at 1/6 and 1/3": ((6, 3), (3, 3)),
        "best half at 1/12 and 1/4": ((12, 2), (4, 2)),
        "best quarter at 1/4": ((4, 4),),
        "best third at 1/4 and 1/2": ((4, 3), (2, 3)),
        "best fifth at 1/4 and 1/2 (earlier builds)": ((4, 5), (2, 5)),
    }.items()
}
SAMPLER: dict[str, list[Change]] = {
    "moving ranges on their own (Optuna)": [
        (SeededTPE, "infer_relative_search_space", TPESampler.infer_relative_search_space)
    ],
    "first trials at random": [(SeededTPE, "_spread", at_random)],
    "a tenth is good (Optuna)": [
        (tune.search.sampler, "good_of", lambda n: min(math.ceil(0.1 * n), 25))
    ],
    "a root is good": [
        (tune.search.sampler, "good_of", lambda n: min(math.ceil(math.sqrt(n)), 25))
    ],
    "4 first trials": [(tune.search.sampler, "STARTUP_TRIALS", 4)],
    "10 first trials": [(tune.search.sampler, "STARTUP_TRIALS", 10)],
}


# (tables, seeds, 3)
def measure(found: list[Table], changes: list[Change], seeds: int) -> np.ndarray:
    """Return trials and epochs to the target, and the share of its epochs that a study of 16 trials
    saves."""
    patches = [_patch(*change) for change in changes]
    for patch in patches:
        patch.start()
    try:
        return np.array(
            [
                [(*race(OurStudy(t, s, TRIALS), t, TRIALS), saved(t, s)) for s in range(seeds)]
                for t in found
            ]
        )
    finally:
        mock.patch.stopall()


def _patch(where: Any, name: Any, value: Any) -> Any:
    if isinstance(where, dict):
        return mock.patch.dict(where, {name: value})
    return mock.patch.object(where, name, value)


def saved(table: Table, seed: int) -> float:
    """Return the share of epochs that a study saves if it runs to its end."""
    if table.epochs == 1:
        return 0.0
    searcher = OurStudy(table, seed, SMALL)
    race(searcher, table, SMALL, target=math.inf)
    return 1 - sum(len(t.intermediate_values) for t in searcher.study.frozen_trials()) / (
        SMALL * table.epochs
    )


def show(found: list[Table], variants: dict[str, list[Change]], seeds: int) -> None:
    """Print one line for each variant."""
    as_it_is, rng = measure(found, [], seeds), np.random.default_rng(0)
    for name, changes in {AS_IT_IS: [], **variants}.items():
        result = measure(found, changes, seeds) if changes else as_it_is
        said = [
            ratio(result[..., column], as_it_is[..., column], rng, paired=True) for column in (0, 1)
        ]
        curves = [i for i, table in enumerate(found) if table.epochs > 1]
        share = f"  saved {result[curves, :, 2].mean():.2f}" if curves else ""
        print(f"  {name:45}trials {said[0]}   epochs {said[1]}{share}", flush=True)


def main() -> None:
    parts: dict[str, Callable[[int], None]] = {
        "rungs": lambda seeds: show(tables(CURVES), RUNGS, seeds),
        "sampler, learning curves": lambda seeds: show(tables(CURVES), SAMPLER, seeds),
        "sampler, final values": lambda seeds: show(
            [t for t in tables() if t.epochs == 1], SAMPLER, seeds
        ),
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="*", default=list(parts), choices=list(parts))
    parser.add_argument("--seeds", type=int, default=60)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in options.parts:
        print(f"== {name}, {options.seeds} seeds", flush=True)
        parts[name](options.seeds)


if __name__ == "__main__":
    main()
