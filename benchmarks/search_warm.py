"""Ways to start from the results of an earlier study, in memory: trials until 99 % of the best
value of a table, on the related pairs of `search_tables.py`.

    python benchmarks/search_warm.py --seeds 100

Searches run one trial at a time to the end. The earlier study has 30 trials. `cold` starts with
nothing, and `enqueue` tries the best three after the default (as `--warm-start` did). The others
use them as a prior that fades:

- `in turn`: the points come as trials 1, 3 and 5; after the first, each only while those before it
  are above the median of the study's own trials.
- `draws`: a trial is drawn from a Parzen density over the three points, with a probability that
  begins at a half and halves every four trials.
- `prior`: TPE's ratio times that density to the power 4 / trials (Hvarfner et al. 2022, piBO).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numba import njit

from benchmarks.search_memory import (
    COMPLETE,
    RUNNING,
    STARTUP,
    densities,
    density,
    draw,
    hypercube,
    log_density,
    nearest,
    order_of,
    pool_of,
    propose,
)
from benchmarks.search_tables import RELATED, tables

MODES = {"cold": 0, "enqueue": 1, "in turn": 2, "draws": 3, "prior": 4, "in turn and prior": 5}
EARLIER, POINTS, CANDIDATES = 30, 3, 24


@njit(cache=True)
def propose_near(points, state, seen, last, best, count, choices, prior, power):
    """Propose a point of TPE with its ratio multiplied by the prior to a power."""
    ranked = order_of(state, seen, last, best, count)
    good = min(int(np.ceil(0.5 * np.sqrt(ranked.shape[0]))), 25)
    l_x, g_x = densities(points, ranked[:good], count, choices)
    chosen = np.empty(points.shape[1])
    highest = -np.inf
    for index in range(CANDIDATES):
        # a quarter of the candidates come from the prior while it has weight
        from_prior = index % 4 == 0 and power > 0.1
        point = draw(prior if from_prior else l_x, choices)
        score = log_density(point, l_x, choices) - log_density(point, g_x, choices)
        score += power * log_density(point, prior, choices)
        if score > highest:
            highest = score
            chosen = point
    return chosen


@njit(cache=True)
def search(seed, pool_points, choices, values, default, earlier, mode, target, most):
    """Return the number of trials until the target, the points of all trials, and their values."""
    np.random.seed(seed)
    dimension = choices.shape[0]
    points = np.empty((most, dimension))
    state = np.full(most, RUNNING)
    seen = np.ones(most, np.int64)
    best = np.full(most, -np.inf)
    first = hypercube(choices)
    prior = density(earlier, choices)
    taken = np.zeros(most, np.bool_)
    used = 0
    for count in range(most):
        turn = used < earlier.shape[0]
        if mode == 1:
            turn = turn and count >= 1
        elif mode == 2 or mode == 5:
            turn = turn and (count == 1 or count == 3 or count == 5)
            if turn and used > 0:
                own = np.median(best[:count][~taken[:count]])
                turn = best[:count][taken[:count]].max() > own
        else:
            turn = False
        chance = np.random.random()
        if count == 0:
            point = default
        elif turn:
            point = earlier[used]
            used += 1
            taken[count] = True
        elif mode == 3 and chance < 0.5 * 0.5 ** (count / 4.0):
            point = draw(prior, choices)
        elif count < STARTUP:
            point = first[count % STARTUP]
        elif mode >= 4:
            power = 4.0 / count
            point = propose_near(points, state, seen, best, best, count, choices, prior, power)
        else:
            point = propose(points, state, seen, best, best, count, choices, True)
        points[count] = point
        best[count] = values[nearest(point, pool_points, choices)]
        state[count] = COMPLETE
        if best[count] >= target:
            return count + 1, points, best
    return most + 1, points, best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args()
    result = np.empty((len(RELATED), len(options.modes), options.seeds))
    for row, pair in enumerate(RELATED):
        before, now = (pool_of(tables([name])[0]) for name in pair)
        old_values = before.curves.max(1)
        values = now.curves.max(1)
        target = 0.99 * values.max()
        for seed in range(options.seeds):
            none = np.empty((0, before.points.shape[1]))
            _, points, best = search(
                10_000 + seed,
                before.points,
                before.choices,
                old_values,
                before.default,
                none,
                0,
                np.inf,
                EARLIER,
            )
            ranked = [place for place in np.argsort(-best, kind="stable") if place != 0]
            top = points[ranked[:POINTS]].copy()
            for column, mode in enumerate(options.modes):
                result[row, column, seed], _, _ = search(
                    seed,
                    now.points,
                    now.choices,
                    values,
                    now.default,
                    top,
                    MODES[mode],
                    target,
                    options.trials,
                )
        means = result[row].mean(1)
        shown = "  ".join(f"{m} {v:.1f}" for m, v in zip(options.modes, means, strict=True))
        print(f"{' -> '.join(pair)}: {shown}", flush=True)
    ratios = result.mean(2) / result.mean(2)[:, :1]
    for column, mode in enumerate(options.modes):
        mean = np.exp(np.log(ratios[:, column]).mean())
        print(f"{mode:20} against cold {mean:.2f}, worst pair {ratios[:, column].max():.2f}")


if __name__ == "__main__":
    main()
