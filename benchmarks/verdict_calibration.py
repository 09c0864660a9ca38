"""Error rates of the rules that decide, in comparisons of equal settings and of settings that
differ by a known amount, on recorded trainings.

    python benchmarks/verdict_calibration.py --quick  # two minutes; exit code 1 if a rule fails
    python benchmarks/verdict_calibration.py          # writes docs/results/

A table compares five settings by the four questions of A to E. It is false if it decides any
question whose true answer is that there is no difference, or decides it the wrong way. A question
about one search is whether its best trial beats the default. `verdict_rules.py` has the rules.
Those marked * decide on the product's pages, and must be false in at most one of twenty. The last
column shows the share of pairs of tables that decide some question in opposite ways.

Trainings are draws from those that `record_seeds.py` recorded. Searches are random draws of
configurations, whose first trial is the default, or, where a case says so, the product's own study
with its sampler and pruner.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import optuna
from scipy import stats

from benchmarks import verdict_rules as rules
from benchmarks.record_file import write_results
from benchmarks.recorded_seeds import TASKS, Side, draw_searches, load, run_searches
from benchmarks.verdict_rules import QUESTIONS, SETTINGS, OneSearch, Scores
from benchmarks.verdict_simulation import (
    Design,
    Trouble,
    World,
    finalists,
    one_searches,
    tables,
)
from tune.reports.statistics import significance

SEED_SD = 0.02
"""Standard deviation between seeds for which power is stated."""
SHIFTS = (0.02, 0.05, 0.1)
DESIGNS = (Design(5, 4, 1), Design(5, 12, 3), Design(8, 8, 1))
DEFAULT = DESIGNS[0]
LOOKS = tuple((5 + 3 * look, significance(look + 1)) for look in range(3))
"""(replicates, alpha) of each look of a comparison that is extended while a question is
undecided."""
OVERLAP = 0.58
"""Share of the pool that a search of `make table` tests on."""
REPEATS = 6
TRIALS = 12
MANY, HIGHEST_BOUND = 10_000, 0.06
"""Number of tables of a case from which its upper bound is checked, and the highest bound
allowed."""
CHECKED = 50
"""Number of tables of a case that the product's own functions decide too."""

SettingRule = Callable[[Scores], np.ndarray]
VERSION_1 = "version 1: one search each"


def with_looks(rule: rules.SettingRule, naive: bool = False) -> SettingRule:
    """Return a rule that extends the comparison while a question is undecided."""

    def extended(scores: Scores) -> np.ndarray:
        looks = [
            rule(scores.first(count), rules.ALPHA if naive else alpha) for count, alpha in LOOKS
        ]
        return rules.first_decision(looks)

    return extended


def first_look(rule: rules.SettingRule) -> SettingRule:
    return lambda scores: rule(scores, significance(1))


SETTING_RULES: dict[str, SettingRule] = {
    "* paired by replicate": first_look(rules.paired_replicates),
    "paired at .05": lambda scores: rules.paired_replicates(scores, rules.ALPHA),
    "not paired (Welch)": first_look(rules.welch_replicates),
    "pooled spread": first_look(rules.pooled_replicates),
    "pooled if Bartlett p > .1": first_look(rules.pooled_if_alike(rules.bartlett, 0.1)),
    "pooled if Bartlett p > .5": first_look(rules.pooled_if_alike(rules.bartlett, 0.5)),
    "pooled if Brown-Forsythe p > .1": first_look(rules.pooled_if_alike(rules.brown_forsythe, 0.1)),
    "sign flips": first_look(rules.sign_flips),
}
"""All use the level of a first look, except for one."""
CONFIGURATION_RULES: dict[str, SettingRule] = {
    "* 6 seeds each (Welch)": first_look(rules.welch_replicates),
    "the same at .05": lambda scores: rules.welch_replicates(scores, rules.ALPHA),
    "image noise left out": lambda scores: rules.welch_replicates(
        Scores(scores.replicates, {}), significance(1)
    ),
    "pooled spread": first_look(rules.pooled_replicates),
}
"""Rules for a table of one search each: is the configuration of one setting better than that of
another?"""
LOOK_RULES: dict[str, SettingRule] = {
    "* paired, spent alpha": with_looks(rules.paired_replicates),
    "not paired, spent alpha": with_looks(rules.welch_replicates),
    "paired, .05 at every look": with_looks(rules.paired_replicates, naive=True),
}


def search_with_looks(search: OneSearch) -> np.ndarray:
    """Decide with six repeats, then 12, then 24, with spent alpha."""
    return rules.first_decision(
        [
            rules.paired_runs(search, REPEATS * 2**look, significance(look + 1))
            for look in range(len(LOOKS))
        ]
    )


SEARCH_RULES: dict[str, Callable[[OneSearch], np.ndarray]] = {
    "* 6 seeds, first look": lambda search: rules.paired_runs(search, REPEATS, significance(1)),
    "* 6, 12, 24 seeds, spent alpha": search_with_looks,
    "6 seeds at .05": lambda search: rules.paired_runs(search, REPEATS),
    "version 1: leaders and default, 3 seeds": rules.version_1,
    "version 1, repeats doubled": rules.version_1_extended,
    "6 seeds, image noise left out": lambda search: rules.paired_runs(
        search, REPEATS, significance(1), images=False
    ),
    "sign flips, 6 seeds": lambda search: rules.flipped_runs(search, REPEATS),
}


@dataclass(frozen=True)
class Row:
    """One rule in one case."""

    claim: str
    task: str
    case: str
    design: str
    rule: str
    tables: int
    false: int
    right: int
    """Tables that find the true difference."""
    opposite: int
    """Pairs of consecutive tables that decide some question in opposite ways."""
    shift: float = 0.0

    @property
    def used(self) -> bool:
        return self.rule.startswith("*")

    @property
    def bounds(self) -> tuple[float, float]:
        """Clopper-Pearson bounds of the share of false tables, 95 % for each bound by itself."""
        k, n = self.false, self.tables
        low = float(stats.beta.ppf(0.05, k, n - k + 1)) if k else 0.0
        high = float(stats.beta.ppf(0.95, k + 1, n - k)) if k < n else 1.0
        return low, high

    @property
    def fails(self) -> bool:
        """True if the share of false tables exceeds .05 by more than the error of the simulation
        (at one in a thousand), or if the bound is tight because of many tables and is above .06."""
        k, n = self.false, self.tables
        beyond_chance = float(stats.binom.sf(k - 1, n, rules.ALPHA)) < 0.001
        beyond_bound = n >= MANY and self.bounds[1] > HIGHEST_BOUND
        return self.used and not self.shift and (beyond_chance or beyond_bound)

    def __str__(self) -> str:
        power = f"  right {self.right / self.tables:.3f}" if self.shift else ""
        return (
            f"{self.task:8} {self.case:34} {self.design:12} {self.rule:42} "
            f"false {self.false / self.tables:.3f} [<= {self.bounds[1]:.3f}]{power}"
            f"  opposite {2 * self.opposite / self.tables:.4f}"
        )

    def record(self) -> dict[str, Any]:
        """Return the row for the file of results."""
        low, high = self.bounds
        return asdict(self) | {
            "used": self.used,
            "false_share": self.false / self.tables,
            "false_bounds": [low, high],
            "power": self.right / self.tables if self.shift else None,
            "opposite_share": 2 * self.opposite / self.tables,
        }


def judge(signs: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Return (false, right, opposite) of decisions (tables, questions), given the true signs."""
    false = ((signs != 0) & (signs != truth)).any(1)
    first = np.flatnonzero(truth)[:1]
    right = (signs[:, first] == truth[first]).any(1)
    even = len(signs) // 2 * 2
    pairs = signs[:even].reshape(-1, 2, signs.shape[1])
    opposite = (pairs[:, 0] * pairs[:, 1] < 0).any(1)
    return int(false.sum()), int(right.sum()), int(opposite.sum())


# -- tables of settings


def all_equal(side: Side) -> dict[str, Side]:
    return dict.fromkeys(SETTINGS, side)


def unlike(side: Side, rng: np.random.Generator, design: Design) -> dict[str, Side]:
    """Return settings with different spaces whose searches are equally good on average: only Adam,
    only SGD, both."""
    adam = [row for row, c in enumerate(side.configurations) if c["optim.name"] == "adam"]
    sgd = [row for row, c in enumerate(side.configurations) if c["optim.name"] == "sgd"]
    parts = [side, side.part(side.name, np.array(adam)), side.part(side.name, np.array(sgd))]
    centred = []
    for part in parts:
        searches = draw_searches(part, rng, (50_000,), design.trials, "one")
        centred.append(part.shifted(-float(part.truth[searches.chosen].mean())))
    return {name: centred[number % 3] for number, name in enumerate(SETTINGS)}


def one_noisier(side: Side) -> dict[str, Side]:
    """Return equal settings, one of which is trained with three times the noise."""
    return all_equal(side) | {"C": side.noisier(3.0)}


def null_worlds(
    side: Side, rng: np.random.Generator, design: Design
) -> Iterator[tuple[str, World]]:
    """Yield cases in which no setting is better."""
    equal, other = all_equal(side), unlike(side, rng, design)
    yield "equal", World(equal)
    yield "equal, shared draws", World(equal, shared=True)
    yield "one with three times the noise", World(one_noisier(side), shared=True)
    yield "unlike spaces", World(other)
    yield "unlike spaces, shared draws", World(other, shared=True)
    yield "unlike spaces, other images", World(other, images=True, shared=True)
    yield "a tenth of the runs lost", World(equal, Trouble(lost=0.1), shared=True)
    yield "a tenth of the runs diverged", World(equal, Trouble(diverged=0.1), shared=True)
    yield "a tenth of the metrics NaN", World(equal, Trouble(nan=0.1), shared=True)


def decide(
    world: World,
    rng: np.random.Generator,
    count: int,
    design: Design,
    which: Mapping[str, SettingRule],
) -> dict[str, np.ndarray]:
    """Return {rule: signs (tables, questions)}. Some tables are compared with the product's
    functions."""
    scores = tables(world, rng, count, design)
    rules.agrees_with_product(scores, min(count, CHECKED))
    return {name: rule(scores) for name, rule in which.items()}


def setting_rows(
    side: Side, rng: np.random.Generator, count: int, designs: tuple[Design, ...]
) -> Iterator[Row]:
    """Yield all rows about tables of settings."""
    zero = np.zeros(len(QUESTIONS), dtype=int)

    def rows(
        case: str, design: str, found: Mapping[str, np.ndarray], truth: np.ndarray, shift: float = 0
    ) -> Iterator[Row]:
        for rule, signs in found.items():
            counts = judge(signs, truth)
            yield Row("settings", side.name, case, design, rule, len(signs), *counts, shift)

    for design in designs:
        for case, world in null_worlds(side, rng, design):
            yield from rows(
                case, str(design), decide(world, rng, count, design, SETTING_RULES), zero
            )
        extended = replace(design, searches=LOOKS[-1][0])
        if design.searches != LOOKS[0][0]:
            continue
        looked_at = {
            "equal": World(all_equal(side), shared=True),
            "unlike spaces, shared draws": World(unlike(side, rng, design), shared=True),
        }
        for case, world in looked_at.items():
            found = decide(world, rng, count, extended, LOOK_RULES)
            yield from rows(f"{case}, up to three looks", str(extended), found, zero)

    for case, world in null_worlds(side, rng, DESIGNS[1]):
        found = version_1(world, rng, count)
        yield from rows(case, f"1 x ({TRIALS} + 9)", found, zero)

    truth = np.array([(a == "C") - (b == "C") for a, b in QUESTIONS])
    scaled = side.noisier(SEED_SD / side.noise)
    for shift in SHIFTS:
        for design in designs:
            for case, world in better_worlds(scaled, rng, design, shift):
                found = decide(world, rng, count, design, SETTING_RULES)
                yield from rows(f"{case}, C better", str(design), found, truth, shift)
                if design is DEFAULT and case == OWN:
                    found = version_1(world, rng, count)
                    design_1 = f"1 x ({TRIALS} + 9)"
                    yield from rows(f"{case}, C better", design_1, found, truth, shift)


OWN = "like spaces, own draws"


def better_worlds(
    side: Side, rng: np.random.Generator, design: Design, shift: float
) -> Iterator[tuple[str, World]]:
    """Yield cases in which setting C is better."""
    like, other = all_equal(side), unlike(side, rng, design)
    for spaces, sides in (("like", like), ("unlike", other)):
        for draws in ("own", "shared"):
            better = sides | {"C": sides["C"].shifted(shift)}
            yield f"{spaces} spaces, {draws} draws", World(better, shared=draws == "shared")


def version_1(world: World, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Apply the rule of earlier studies to searches of the usual size."""
    found = finalists(world, rng, count, TRIALS, seeds=3)
    return {VERSION_1: rules.one_search_each(found)}


def configuration_rows(side: Side, rng: np.random.Generator, count: int) -> Iterator[Row]:
    """Yield all rows about the chosen configurations of one search of each setting, with all
    configurations equally good."""
    design = Design(1, TRIALS, REPEATS)
    flat = side.level()
    equal = all_equal(flat)
    worlds = {
        "equal": World(equal),
        "one with three times the noise": World(one_noisier(flat)),
        "other images": World(equal, images=True),
        "a tenth of the runs lost": World(equal, Trouble(lost=0.1)),
        "a tenth of the runs diverged": World(equal, Trouble(diverged=0.1)),
    }
    for case, world in worlds.items():
        for rule, signs in decide(world, rng, count, design, CONFIGURATION_RULES).items():
            counts = judge(signs, np.zeros(len(QUESTIONS), dtype=int))
            yield Row("configurations", side.name, case, str(design), rule, count, *counts)


def overlap_rows(
    side: Side, rng: np.random.Generator, count: int, designs: tuple[Design, ...]
) -> Iterator[Row]:
    """Yield null cases in which searches test on overlapping parts of one pool, as in
    `make table`."""
    for design in designs:
        world = World(unlike(side, rng, design), overlap=OVERLAP, shared=True)
        for rule, signs in decide(world, rng, count, design, SETTING_RULES).items():
            counts = judge(signs, np.zeros(len(QUESTIONS), dtype=int))
            case = "unlike spaces, test sets that overlap"
            yield Row("settings", side.name, case, str(design), rule, count, *counts)


# -- one search against its default


def search_worlds(side: Side) -> Iterator[tuple[str, World]]:
    """Yield cases in which no configuration is better than the default."""
    flat = side.level()
    yield "equal", World({"A": flat})
    yield "a seed for every trial", World({"A": flat}, seeds="each")
    yield "other images", World({"A": flat}, images=True)
    yield "a tenth of the runs lost", World({"A": flat}, Trouble(lost=0.1))
    yield "a tenth of the runs diverged", World({"A": flat}, Trouble(diverged=0.1))
    yield "a tenth of the metrics NaN", World({"A": flat}, Trouble(nan=0.1))
    yield "default with three times the noise", World({"A": noisy_default(flat)})


def noisy_default(side: Side) -> Side:
    test = side.test.copy()
    test[side.default] = side.noisier(3.0).test[side.default]
    return replace(side, test=test)


def better_than_default(side: Side, by: float) -> Side:
    """Return the setting with every other configuration better than the default by the same
    amount."""
    test = side.test + by
    test[side.default] -= by
    return replace(side, test=test)


def search_rows(side: Side, rng: np.random.Generator, count: int) -> Iterator[Row]:
    """Yield all rows about one search."""

    def rows(case: str, world: World, truth: int, shift: float = 0.0) -> Iterator[Row]:
        searches = one_searches(world, rng, count, TRIALS, REPEATS * 2 ** (len(LOOKS) - 1))
        for name, rule in SEARCH_RULES.items():
            counts = judge(rule(searches)[:, None], np.array([truth]))
            design = f"{TRIALS} trials"
            yield Row("best against default", side.name, case, design, name, count, *counts, shift)

    for case, world in search_worlds(side):
        yield from rows(case, world, 0)
    scaled = side.noisier(SEED_SD / side.noise).level()
    for shift in SHIFTS:
        better = better_than_default(scaled, shift)
        yield from rows("others better", World({"A": better}), 1, shift)


# -- the product's own searches


def product_rows(
    side: Side, rng: np.random.Generator, count: int, searches: int, designs: tuple[Design, ...]
) -> Iterator[Row]:
    """Yield null cases whose searches are run by the product's study, sampler and pruner."""
    for design in designs:
        bank, _ = run_searches(side, rng, searches, design.trials, "one")
        world = World(all_equal(side), bank=dict.fromkeys(SETTINGS, bank))
        found = decide(world, rng, count, design, SETTING_RULES)
        for rule, signs in found.items():
            counts = judge(signs, np.zeros(len(QUESTIONS), dtype=int))
            case = f"equal, {searches} searches by the study"
            yield Row("settings", side.name, case, str(design), rule, count, *counts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--quick", action="store_true", help="fewer tables, cases and rules")
    parser.add_argument("--tables", type=int, help="simulated tables of a case")
    parser.add_argument("--searches", type=int, help="searches by the product's study")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.perf_counter()
    count = options.tables or (4000 if options.quick else 10_000)
    searches = options.searches or (40 if options.quick else 200)
    designs = DESIGNS[:1] if options.quick else DESIGNS

    found = []
    for name in options.tasks:
        rng = np.random.default_rng(16)
        rows = list(every_row(load(name).smoothed(rng), rng, count, searches, designs))
        if not options.quick:
            write_results(f"verdict_calibration_{name}", {"rows": [row.record() for row in rows]})
        found += rows
    sys.exit(conclude(found, time.perf_counter() - began))


def every_row(
    side: Side, rng: np.random.Generator, count: int, searches: int, designs: tuple[Design, ...]
) -> Iterator[Row]:
    """Yield all rows of a task and print them as they come."""
    for rows in (
        setting_rows(side, rng, count, designs),
        configuration_rows(side, rng, count),
        search_rows(side, rng, count),
        product_rows(side, rng, count, searches, designs),
        overlap_rows(side, rng, count, designs),
    ):
        for row in rows:
            if row.used or len(designs) > 1:
                print(row, flush=True)
            yield row


def conclude(rows: list[Row], seconds: float) -> int:
    """Print the worst share of every rule. Return 1 if a rule that a page uses fails."""
    print(f"\nshare of false decisions, the worst case of every rule ({seconds:.0f} s):")
    for claim, rule in dict.fromkeys((row.claim, row.rule) for row in rows):
        null = [r for r in rows if (r.claim, r.rule) == (claim, rule) and not r.shift]
        if not null:
            continue
        worst = max(null, key=lambda row: row.false / row.tables)
        print(
            f"  {claim:21} {rule:42} {worst.false / worst.tables:.3f} "
            f"[<= {worst.bounds[1]:.3f}]  {worst.task}: {worst.case}"
        )
    failed = [row for row in rows if row.fails]
    for row in failed:
        print(f"FAILS: {row}")
    return 1 if failed else 0


if __name__ == "__main__":
    main()
