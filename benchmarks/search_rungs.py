"""Ways in which a rung can compare trials: by the value of its epoch (version 2), by the best epoch
so far (version 3), or by the mean of the last quarter of the training. Also the cost of letting one
trial besides the default pass the last rung, and of switching a rung off as soon as its correlation
with later values is below .5, not only if it is so by a standard error (version 4).

    python benchmarks/search_rungs.py             # 60 seeds; an hour of CPU
    python benchmarks/search_rungs.py --seeds 10
    python benchmarks/search_rungs.py --record    # versions 2, 3 and 4, into docs/results/

The study is the real one, on recorded learning curves (`search_tables.py`), with two trials at a
time. Noise, where used, is added to every epoch, in standard deviations of the table's values. The
default is that of the table or its best configuration: then the search can find nothing better, but
the study still needs a second configuration to compare.

Regret: best value of the table minus that of the leading completed trial, both without noise, in
units of the distance from the best to the median configuration. Ratios to version 2: geometric mean
over tables after 4, 8 and 16 full trainings, 95 % over seeds, which both share. For studies of 16
trials: the full trainings that they take, and the share of studies in which only the default
completes.
"""

import argparse
import dataclasses
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import optuna

from benchmarks.record_file import write_results
from benchmarks.search_efficiency import AT_A_TIME, OurStudy, race
from benchmarks.search_records import ratios
from benchmarks.search_regret import BUDGETS, Whole, best_so_far
from benchmarks.search_tables import CURVES, REPORTED, Table, tables
from tune.search.pruner import DurableHalving, curves_of
from tune.search.rungs import LATEST, RULES, RungRule, check_rungs

SMALL = 16
ERRORS_AT = (0.9, 0.8, 0.65, 0.5, 0.3, 0.0)
"""True correlations of early rungs with the end, for which errors of the check are counted."""
STUDIES = 200
"""Simulated studies for each of them."""


class MeanOfQuarter(RungRule):
    """Compares means of the last quarter of a training of 12 epochs, over the epochs reached so
    far."""

    def value(self, values: Mapping[int, float], epoch: int) -> float:
        last = [values.get(one, math.nan) for one in range(max(1, epoch - 2), epoch + 1)]
        return float(np.mean(last))


_THIRD = RULES[3]
VARIANTS: dict[str, RungRule] = {
    "version 2": RULES[2],
    "best so far": dataclasses.replace(_THIRD, needs_rival=False),
    "version 3": _THIRD,
    "mean of a quarter": MeanOfQuarter(**vars(_THIRD)),
    "version 4": RULES[4],
    "version 4, first look 6": dataclasses.replace(RULES[4], first_look=6),
}


@dataclass(frozen=True)
class Setting:
    """Tables as they are, or made harder."""

    names: Sequence[str]
    noise: float = 0.0
    best_default: bool = False
    slow: bool = False
    """In the first two epochs nothing is learnt, so that they say nothing about the end."""

    @property
    def change(self) -> str:
        """Name of what differs from the recorded tables."""
        if self.best_default:
            return "best default"
        if self.slow:
            return "slow start"
        return f"noise {self.noise:g}" if self.noise else "none"

    def __str__(self) -> str:
        default = ", the default is the best" if self.best_default else ""
        start = ", the first two epochs say nothing" if self.slow else ""
        return f"{', '.join(self.names)}; noise {self.noise:g} sd{default}{start}"


SETTINGS = [
    Setting(CURVES),
    Setting(CURVES, noise=0.5),
    Setting(CURVES, best_default=True),
    Setting(CURVES, slow=True),
    Setting(REPORTED),
    Setting(REPORTED, noise=0.5),
    Setting(REPORTED, best_default=True),
    Setting(REPORTED, slow=True),
]
SLOW_EPOCHS = 2
SLOW_NOISE = 0.01


def as_measured(table: Table, setting: Setting, seed: int) -> Table:
    """Return the table as the searches of one seed see it."""
    rng = np.random.default_rng(seed)
    deviation = setting.noise * float(table.values.std())
    curves: dict[tuple[int, ...], list[float]] = {}
    for key, curve in table.curves.items():
        steps = rng.normal(0, deviation, len(curve))
        curves[key] = (np.array(curve) + steps).tolist()
    if setting.slow:
        lowest = min(curve[0] for curve in curves.values())
        for curve in curves.values():
            curve[:SLOW_EPOCHS] = rng.normal(lowest, SLOW_NOISE, SLOW_EPOCHS).tolist()
    return dataclasses.replace(table, curves=curves)


def regrets(table: Table, setting: Setting, seed: int) -> list[float]:
    """Return the regret of the leading completed trial after each budget; 1 while none has
    completed."""
    measured = as_measured(table, setting, seed)
    searcher = OurStudy(measured, seed, trials=BUDGETS[-1] * table.epochs + AT_A_TIME)
    steps = best_so_far(Whole(searcher, measured), measured)
    best = float(table.values.max())
    span = best - float(np.median(table.values))

    found: list[float] = []
    done = 0
    for budget in BUDGETS:
        until = budget * table.epochs + 1  # the study hears of an epoch when the next one is run
        for _ in itertools.islice(steps, until - done):
            pass
        done = until
        found.append((best - _leader(searcher, table)) / span)
    return found


def _leader(searcher: OurStudy, table: Table) -> float:
    """Return the noise-free value of the leading completed trial."""
    completed = searcher.study.completed
    if not completed:
        return float(np.median(table.values))
    number = max(completed, key=completed.__getitem__)
    return max(table.curve(searcher.study.state.trials[number].config))


def small_study(table: Table, setting: Setting, seed: int) -> tuple[float, bool]:
    """Return the full trainings that a study of 16 trials takes, and True if only the default
    completes."""
    measured = as_measured(table, setting, seed)
    searcher = OurStudy(measured, seed, SMALL)
    race(searcher, measured, SMALL, target=math.inf)
    epochs = sum(len(trial.intermediate_values) for trial in searcher.study.frozen_trials())
    return epochs / table.epochs, list(searcher.study.completed) == [0]


def measure(
    setting: Setting, rule: RungRule, seeds: int
) -> tuple[np.ndarray, np.ndarray]:  # (tables, seeds, budgets), (tables, seeds, 2)
    """Return the regrets, and the costs of studies of 16 trials."""
    with mock.patch.dict(RULES, {LATEST: rule}):
        found = [_prepared(table, setting) for table in tables(setting.names)]
        of_budgets = [[regrets(table, setting, seed) for seed in range(seeds)] for table in found]
        of_studies = [
            [small_study(table, setting, seed) for seed in range(seeds)] for table in found
        ]
    return np.array(of_budgets), np.array(of_studies, dtype=float)


def _prepared(table: Table, setting: Setting) -> Table:
    if not setting.best_default:
        return table
    key = max(table.curves, key=lambda one: max(table.curves[one]))
    return dataclasses.replace(table, default=table.params(key))


def show(setting: Setting, variants: Sequence[str], seeds: int) -> None:
    """Print one line for each variant."""
    print(f"== {setting}", flush=True)
    second = measure(setting, RULES[2], seeds)
    of_second, _ = second
    for name in variants:
        rule = VARIANTS[name]
        of_budgets, of_studies = second if rule is RULES[2] else measure(setting, rule, seeds)
        cells = ["1"] * len(BUDGETS)
        if rule is not RULES[2] and not setting.best_default:
            cells = [str(one) for one in ratios(of_budgets, of_second, paired=True)]
        trainings, alone = of_studies.mean((0, 1))
        said = "" if setting.best_default else f"regret {'   '.join(cells)}   "
        print(f"  {name:24}{said}trainings {trainings:.2f}   alone {alone:.2f}", flush=True)


def often_off(version: int, correlation: float, studies: int) -> tuple[float, ...]:
    """Return the shares of simulated studies of 16 trials in which the rungs at 1/12 and 1/6 are
    off at least once.

    Args:
        correlation: between the values at these two rungs and the end; at a quarter it is .8, at
            half .9.
    """
    was_off = np.zeros((studies, 2), dtype=bool)
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        study = optuna.create_study(direction="maximize", pruner=DurableHalving(12, version))
        for _ in range(SMALL):
            _run_simulated(study.ask(), rng, correlation)
            checks = check_rungs(curves_of(study.trials, 12), 12, version)
            was_off[seed] |= [check.is_off for check in checks[:2]]
    return tuple(was_off.mean(0).tolist())


def _run_simulated(trial: optuna.Trial, rng: np.random.Generator, early: float) -> None:
    """Report 12 epochs, whose values rise by 10 standard deviations each."""
    end = rng.normal()
    correlations = {1: early, 2: early, 3: 0.8, 6: 0.9, 12: 1.0}
    value = 0.0
    for epoch in range(1, 13):
        if epoch in correlations:
            of_end = correlations[epoch]
            value = of_end * end + math.sqrt(1 - of_end**2) * rng.normal()
        trial.report(10 * epoch + value, epoch)
        if trial.should_prune():
            trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
    trial.study.tell(trial, 120 + end)


def show_errors(studies: int) -> None:
    """Print how often the check of a rung switches it off, by its true correlation."""
    print(f"== rungs at 1/12 and 1/6 that were off at least once, {studies} studies")
    for version in (3, 4):
        shares = []
        for correlation in ERRORS_AT:
            first, second = often_off(version, correlation, studies)
            shares.append(f"{correlation:g}: {first:.2f} {second:.2f}")
        print(f"  version {version}   {'   '.join(shares)}", flush=True)


def record(seeds: int, studies: int) -> None:
    """Measure versions 2, 3 and 4, without noise, into docs/results/search_rungs.json.

    All searches of a seed come before the next seed, and the file is written after each, so an
    interrupted measurement leaves whole seeds.
    """
    errors = [
        {
            "version": version,
            "correlation": correlation,
            "off": often_off(version, correlation, studies),
        }
        for version in (3, 4)
        for correlation in ERRORS_AT
    ]
    cases = [
        (setting, table, version)
        for setting in SETTINGS
        if not setting.noise
        for table in (_prepared(one, setting) for one in tables(setting.names))
        for version in (2, 3, 4)
    ]
    searches = [_entry(*case) for case in cases]
    for seed in range(seeds):
        for (setting, table, version), entry in zip(cases, searches, strict=True):
            with mock.patch.dict(RULES, {LATEST: RULES[version]}):
                if not setting.best_default:
                    values = regrets(table, setting, seed)
                    entry["regrets"].append([round(value, 4) for value in values])
                trainings, alone = small_study(table, setting, seed)
            entry["trainings"].append(round(trainings, 3))
            entry["alone"].append(int(alone))
        found = {"seeds": seed + 1, "studies": studies, "errors": errors, "searches": searches}
        write_results("search_rungs", found)


def _entry(setting: Setting, table: Table, version: int) -> dict[str, Any]:
    """Return the entry of a record, without values."""
    return {
        "tables": "tuned" if setting.names == CURVES else "reported",
        "change": setting.change,
        "table": table.name,
        "version": version,
        "regrets": [],
        "trainings": [],
        "alone": [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--errors", action="store_true", help="only of the check of a rung")
    parser.add_argument(
        "--record", action="store_true", help="write docs/results/search_rungs.json"
    )
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.record:
        record(options.seeds, STUDIES)
        return
    if options.errors:
        show_errors(STUDIES)
        return
    for setting in SETTINGS:
        show(setting, options.variants, options.seeds)


if __name__ == "__main__":
    main()
