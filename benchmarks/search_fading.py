"""Rules by which the configurations of an earlier study fade, in memory: trials until 99 % of the
best value of a table, on pairs of tables that share a space.

    pip install numba && python benchmarks/search_fading.py --pairs chosen --seeds 200
    python benchmarks/search_fading.py --pairs reported --first-seed 1000 --rules cold "version 1"

Two trials run at a time, epoch by epoch, with the study's sampler and version 4 of its rungs. The
earlier study has 30 trials; its best three configurations are taken over. Pairs and summaries are
those of `search_misled.py`, which measures the real study; here `inverted` has the best three of a
search that minimizes on the new table. The rule was chosen on the pairs `chosen`.

Ratios: mean trials over those of a cold start, 95 % by a bootstrap over seeds.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numba import njit

from benchmarks.search_memory import (
    AT_A_TIME,
    COMPLETE,
    RUNNING,
    STARTUP,
    STOPPED,
    Pool,
    among_best,
    at_random,
    hypercube,
    nearest,
    order_of,
    pool_of,
    propose,
)
from benchmarks.search_misled import (
    EARLIER,
    INVERTED,
    MOST,
    RANDOM,
    SOURCES,
    kind_of,
    pairs_of,
    summary,
)
from benchmarks.search_records import Ratio, ratios
from benchmarks.search_tables import tables
from tune.search.rungs import ENOUGH, LATEST, RANKS, RULES, rungs_of
from tune.study.warm_start import POINTS
from tune.study.warm_turns import TURNS


@dataclass(frozen=True)
class Rule:
    """When a configuration is taken over, and what it changes for the study's own trials."""

    turns: tuple[int, ...] = TURNS
    gate: int = 0
    """A further configuration is taken while the best of those before is above the median of the
    study's own (0), while it is the best of all (1), while each of those before beats the default
    (2) or while each of them was the best when it ended (3)."""
    counted: int = POINTS
    """Rungs compare the study's own trials with so many of those taken over."""
    leave: int = 0
    """After so many trials the sampler forgets what was taken over; 0: never."""
    beaten: bool = False
    """It is forgotten only if a trial of the study's own is better."""


RULES_OF_START = {
    "cold": Rule(turns=()),
    "version 1": Rule(),
    "version 2": Rule(leave=12),
    "each best": Rule(gate=3),
    "beats default": Rule(gate=2),
    "one": Rule(turns=(1,)),
    "apart": Rule(counted=0),
    "best so far, apart": Rule(gate=1, counted=0),
    "each best, apart": Rule(gate=3, counted=0),
    "one counted": Rule(counted=1),
    "each best, one counted": Rule(gate=3, counted=1),
    "leave 1": Rule(leave=1),
    "leave if beaten": Rule(leave=6, beaten=True),
    "best so far, leave 12": Rule(gate=1, leave=12),
    "each best, leave 1": Rule(gate=3, leave=1),
    "each best, leave 8": Rule(gate=3, leave=8),
    "each best, leave 12": Rule(gate=3, leave=12),
    "each best, leave 16": Rule(gate=3, leave=16),
}


@njit(cache=True)
def scores(values, quantiles):
    """Return normal scores of the values, as `tune.search.rungs.normal_scores`."""
    count = values.shape[0]
    found = np.empty(count)
    for index in range(count):
        less = equal = 0
        for other in range(count):
            less += values[other] < values[index]
            equal += values[other] == values[index]
        found[index] = quantiles[count, 2 * less + equal + 1]
    return found


@njit(cache=True)
def is_off(epoch, then_epoch, tops, seen, state, count, quantiles, enough, ranks):
    """Return True if a rung is switched off, as `tune.search.rungs.check_rung` with no margin.

    Args:
        then_epoch: epoch with which the rung is compared; 0: the end.
        tops: (N, E) best value so far after every epoch.
    """
    at_rung = np.empty(count)
    later = np.empty(count)
    places = np.empty(count, np.int64)
    reached = kept = 0
    for number in range(count):
        if seen[number] < epoch:
            continue
        at_rung[reached] = tops[number, epoch - 1]
        if then_epoch == 0 and state[number] == COMPLETE:
            later[kept] = tops[number, -1]
            places[kept] = reached
            kept += 1
        elif 0 < then_epoch <= seen[number]:
            later[kept] = tops[number, then_epoch - 1]
            places[kept] = reached
            kept += 1
        reached += 1
    if kept < max(3, enough):
        return False
    of_all = scores(at_rung[:reached], quantiles)
    one = of_all[places[:kept]]
    two = scores(later[:kept], quantiles)
    if one.max() == one.min() or two.max() == two.min():
        return False
    observed = np.corrcoef(one, two)[0, 1]
    ratio = of_all.std() / one.std()
    corrected = observed * ratio / np.sqrt(1 + observed**2 * (ratio**2 - 1))
    return corrected < ranks


@njit(cache=True)
def takes_over(gate, best, state, taken, number):
    """Return True if the configurations taken over so far deserve another one."""
    warm = -np.inf
    own_best = -np.inf
    own = np.empty(number)
    count = ended = 0
    each = True
    before = -np.inf
    for index in range(number):
        if state[index] == RUNNING:
            continue
        if taken[index]:
            ended += 1
            value = best[index] if state[index] == COMPLETE else -np.inf
            each = each and value > before if gate == 3 else each and value > best[0]
            warm = max(warm, value)
        elif state[index] == COMPLETE:
            own[count] = best[index]
            own_best = max(own_best, best[index])
            count += 1
        if state[index] == COMPLETE:
            before = max(before, best[index])
    if ended == 0 or count == 0:
        return True
    if gate == 0:
        return warm > np.median(own[:count])
    if gate == 1:
        return warm > own_best
    return each


@njit(cache=True)
def model(points, state, seen, last, best, taken, count, choices, leave, beaten):
    """Propose a point by TPE, without what was taken over once that has left."""
    gone = leave > 0 and count >= leave
    if gone and beaten:
        warm = own = -np.inf
        for index in range(count):
            if state[index] == COMPLETE and taken[index]:
                warm = max(warm, best[index])
            elif state[index] == COMPLETE and index > 0:
                own = max(own, best[index])
        gone = own > warm
    if not gone:
        return propose(points, state, seen, last, best, count, choices, True)
    kept = np.flatnonzero(~taken[:count])
    return propose(
        points[kept], state[kept], seen[kept], last[kept], best[kept], len(kept), choices, True
    )


@njit(cache=True)
def search(
    seed,
    pool_points,
    choices,
    curves,
    default,
    rungs,  # (R, 4) epoch, factor, may stop a first trial, epoch that it is checked with
    quantiles,
    earlier,
    turns,
    gate,
    counted,
    leave,
    beaten,
    target,
    most,
    first_look,
    enough,
    ranks,
):
    """Return the trials begun and the epochs run when the target was first reported, the points of
    all trials in their order of merit, and whether each is complete."""
    np.random.seed(seed)
    epochs = curves.shape[1]
    dimension = choices.shape[0]
    points = np.empty((most, dimension))
    rows = np.zeros(most, np.int64)
    state = np.zeros(most, np.int64)
    seen = np.zeros(most, np.int64)
    last = np.full(most, -np.inf)
    best = np.full(most, -np.inf)
    tops = np.full((most, epochs), -np.inf)
    taken = np.zeros(most, np.bool_)
    place = np.full(most, -1)
    first = hypercube(choices)
    live = [-1 for _ in range(AT_A_TIME)]
    count = ended = spent = used = running = 0
    while count < most or running > 0:
        for slot in range(AT_A_TIME):
            if live[slot] >= 0 or count == most:
                continue
            is_turn = False
            for turn in turns:
                is_turn = is_turn or turn == count
            if count == 0:
                point = default
            elif (
                is_turn and used < earlier.shape[0] and takes_over(gate, best, state, taken, count)
            ):
                point = earlier[used]
                place[count] = used
                used += 1
                taken[count] = True
            elif ended < STARTUP:
                point = first[count % STARTUP]
            else:
                point = model(points, state, seen, last, best, taken, count, choices, leave, beaten)
            points[count] = point
            rows[count] = nearest(point, pool_points, choices)
            live[slot] = count
            count += 1
            running += 1
        for slot in range(AT_A_TIME):
            number = live[slot]
            if number < 0:
                continue
            value = curves[rows[number], seen[number]]
            best[number] = max(best[number], value)
            tops[number, seen[number]] = best[number]
            seen[number] += 1
            last[number] = value
            spent += 1
            if value >= target:
                return count, spent, points[:0], taken[:0]
            stops = False
            for rung in range(rungs.shape[0]):
                epoch = rungs[rung, 0]
                if seen[number] != epoch or number == 0:
                    continue
                others = np.empty(count)
                compared = 0
                rivals = 0
                for other in range(count):
                    if other == number or seen[other] < epoch:
                        continue
                    if state[other] != STOPPED and other > 0:
                        rivals += 1
                    if place[other] >= counted and not taken[number]:
                        continue
                    others[compared] = tops[other, epoch - 1]
                    compared += 1
                if among_best(best[number], others, compared, rungs[rung, 1]):
                    continue
                if rung == rungs.shape[0] - 1 and rivals == 0:
                    continue
                if number < first_look and not rungs[rung, 2]:
                    continue
                stops = not is_off(
                    epoch, rungs[rung, 3], tops, seen, state, count, quantiles, enough, ranks
                )
            done = seen[number] == epochs
            if done or stops:
                state[number] = COMPLETE if done else STOPPED
                live[slot] = -1
                ended += 1
                running -= 1
    ranked = order_of(state, seen, last, best, count)
    return most + 1, max(spent, most * epochs), points[ranked], state[ranked] == COMPLETE


@cache
def quantiles() -> np.ndarray:  # (MOST + 3, 2 * MOST + 6)
    """Return normal quantiles by the number of values and twice the rank."""
    normal = NormalDist()
    found = np.zeros((MOST + 3, 2 * MOST + 6))
    for count in range(1, MOST + 3):
        for twice in range(2, 2 * count + 1):
            found[count, twice] = normal.inv_cdf((twice / 2 - 0.5) / count)
    return found


def run(
    pool: Pool, seed: int, rule: Rule, points: np.ndarray, target: float, most: int = MOST
) -> Any:
    """Run one search, as `search` returns it."""
    version = RULES[LATEST]
    rungs = [
        [
            rung.epoch(pool.epochs),
            rung.factor,
            int(rung.stops(0, version)),
            0 if rung.stops(0, version) else -(-pool.epochs // version.first_stop),
        ]
        for rung in rungs_of(pool.epochs, LATEST)
    ]
    return search(
        seed,
        pool.points,
        pool.choices,
        pool.curves,
        pool.default,
        np.array(rungs, np.int64).reshape(-1, 4),
        quantiles(),
        points,
        np.array(rule.turns, np.int64),
        rule.gate,
        rule.counted,
        rule.leave,
        rule.beaten,
        target,
        most,
        version.first_look,
        ENOUGH,
        RANKS,
    )


@cache
def pool(name: str) -> Pool:
    """Return a table by its name."""
    return pool_of(tables([name])[0])


@cache
def points_of(source: str, table: str, seed: int) -> np.ndarray:  # (POINTS, D)
    """Return what is taken over."""
    if source == RANDOM:
        return _at_random(seed, pool(table).choices)
    found = pool(table if source == INVERTED else source)
    if source == INVERTED:
        curves = np.repeat(-found.curves.max(1, keepdims=True), found.epochs, 1)
        found = Pool(found.name, found.points, found.choices, curves, found.default)
    _, _, points, complete = run(
        found, seed, RULES_OF_START["cold"], _no_points(found), np.inf, EARLIER
    )
    own = complete & (points != found.default).any(1)
    return points[own][:POINTS].copy()


def _no_points(found: Pool) -> np.ndarray:  # (0, D)
    return np.empty((0, len(found.choices)))


@njit(cache=True)
def _at_random(seed, choices):
    """Return random points, (POINTS, D)."""
    np.random.seed(seed)
    found = np.empty((POINTS, choices.shape[0]))
    for index in range(POINTS):
        found[index] = at_random(choices)
    return found


def measure(source: str, table: str, rule: Rule, seeds: Sequence[int]) -> np.ndarray:  # (seeds, 2)
    """Return the trials and epochs of searches until they reach the target."""
    found = pool(table)
    target = found.best - 0.01 * abs(found.best)
    results = []
    for seed in seeds:
        points = points_of(source, table, 10_000 + seed) if rule.turns else _no_points(found)
        results.append(run(found, seed, rule, points, target)[:2])
    return np.array(results, float)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", default="chosen", choices=("chosen", "reported"))
    parser.add_argument("--tables", nargs="*", default=[], help="new tables; default: all")
    parser.add_argument("--rules", nargs="*", default=list(RULES_OF_START))
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--each", action="store_true", help="print every pair")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    pairs = [
        (source, table)
        for source, table in pairs_of(options.pairs)
        if table in (options.tables or table) and _share_axes(source, table)
    ]
    cold = {
        name: measure("", name, RULES_OF_START["cold"], seeds)
        for name in dict.fromkeys(table for _, table in pairs)
    }
    print("cold: " + "  ".join(f"{name} {found[:, 0].mean():.1f}" for name, found in cold.items()))
    for name in options.rules:
        if name == "cold":
            continue
        found = {
            pair: ratios([measure(*pair, RULES_OF_START[name], seeds)], [cold[pair[1]]])[0]
            for pair in pairs
        }
        _show(name, found, options.each)


def _share_axes(source: str, table: str) -> bool:
    """Return True if points of the source are points of the table: some grids lack a parameter."""
    return source in SOURCES or list(pool(source).choices) == list(pool(table).choices)


def _show(name: str, found: dict[tuple[str, str], Ratio], each: bool) -> None:
    """Print a rule: geometric means, and the pairs that are worse than 1.10."""
    if each:
        for (source, table), (ratio, low, high) in found.items():
            print(f"  {source:26} {table:26} {ratio:.2f} [{low:.2f}, {high:.2f}]")
    kinds: dict[str, list[Ratio]] = {}
    for pair, ratio in found.items():
        kinds.setdefault(kind_of(*pair), []).append(ratio)
    cells = [f"{kind}: {summary(some)}" for kind, some in kinds.items()]
    print(f"{name:36} " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
