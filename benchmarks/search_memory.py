"""Searches in memory, compiled by Numba: the study's sampler and rungs, and candidates for their
successors, on the tables of `search_tables.py`.

A search of 16 trainings takes some milliseconds here and seconds as a real study, so hundreds of
seeds are a matter of minutes (`search_methods.py` runs them). Two trials run at a time, epoch by
epoch; trial 0 is the default.

A configuration is a point: for a range its position in [0, 1] on its scale, for a choice its index.
The answer to a point is the nearest configuration of the table, which is a grid or a pool of random
ones. The number of choices that differ counts first, then the distance over the ranges.

Shapes: N trials, D parameters, C configurations, E epochs, R rungs, K kernels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from benchmarks.search_cqr import propose_cqr
from benchmarks.search_tables import Table

AT_A_TIME = 2
STARTUP = 6
CANDIDATES = 24

RUNNING, STOPPED, COMPLETE = 0, 1, 2


@dataclass(frozen=True)
class Pool:
    """The configurations of a table and their curves."""

    name: str
    points: np.ndarray  # (C, D)
    choices: np.ndarray  # (D,) number of choices; 0 for a range
    curves: np.ndarray  # (C, E)
    default: np.ndarray  # (D,)

    @property
    def epochs(self) -> int:
        return int(self.curves.shape[1])

    @property
    def best(self) -> float:
        return float(self.curves.max())

    @property
    def span(self) -> float:
        """Best value minus the median one: the unit of regret."""
        return self.best - float(np.median(self.curves.max(1)))


def pool_of(table: Table) -> Pool:
    """Return a complete grid as a pool."""
    names = list(table.axes)
    points = np.empty((len(table.curves), len(names)))
    choices = np.zeros(len(names), np.int64)
    default = np.empty(len(names))
    for axis, name in enumerate(names):
        values = table.axes[name]
        one = next(iter(values.values())) if isinstance(values, dict) else values
        is_choice = len(one) < 5 or isinstance(one[0], str)
        choices[axis] = len(one) if is_choice else 0
    for row, key in enumerate(table.curves):
        said = {}
        for axis, name in enumerate(names):
            values = table.values_of(name, said)
            said[name] = values[key[axis]]
            points[row, axis] = key[axis] if choices[axis] else _position(said[name], values)
    for axis, name in enumerate(names):
        values = table.values_of(name, table.default)
        value = table.default[name]
        default[axis] = values.index(value) if choices[axis] else _position(value, values)
    curves = np.array([list(curve) for curve in table.curves.values()], float)
    return Pool(table.name, points, choices, curves, default)


def _position(value: float, values: list[float]) -> float:
    low, high = math.log(min(values)), math.log(max(values))
    return (math.log(value) - low) / (high - low)


@njit(cache=True)
def nearest(point, points, choices):
    """Return the row of the nearest configuration."""
    best = 0
    least = np.inf
    for row in range(points.shape[0]):
        away = 0.0
        for axis in range(points.shape[1]):
            if choices[axis] > 0:
                if points[row, axis] != point[axis]:
                    away += 1000.0
            else:
                away += abs(points[row, axis] - point[axis])
            if away >= least:
                break
        if away < least:
            least = away
            best = row
    return best


# -- the density of Optuna's TPE


@njit(cache=True)
def _phi(x):
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@njit(cache=True)
def bandwidths(centres):
    """Return each kernel's distance to its further neighbour, clipped as in Optuna.

    Args:
        centres: (K,) positions in one range.
    """
    count = centres.shape[0]
    order = np.argsort(centres)
    sigma = np.empty(count)
    for place in range(count):
        here = centres[order[place]]
        left = here - (centres[order[place - 1]] if place > 0 else 0.0)
        right = (centres[order[place + 1]] if place < count - 1 else 1.0) - here
        wide = max(left, right)
        if count >= 2 and place == 0:
            wide = right
        if count >= 2 and place == count - 1:
            wide = left
        sigma[order[place]] = wide
    least = 1.0 / min(100.0, 2.0 + count)
    for index in range(count):
        sigma[index] = min(max(sigma[index], least), 1.0)
    return sigma


@njit(cache=True)
def density(points, choices):
    """Return the kernels of Optuna's Parzen estimator, the prior last.

    Returns:
        weights (K,), centres (K, D), widths (K, D), mass (K, D) of every kernel within [0, 1].
    """
    count, dimension = points.shape
    weights = np.ones(count + 1)
    if count >= 25:
        ramp = count - 25
        for index in range(ramp):
            weights[index] = 1.0 / count
            if ramp > 1:
                weights[index] += (1.0 - 1.0 / count) * index / (ramp - 1)
    weights /= weights.sum()
    centres = np.full((count + 1, dimension), 0.5)
    widths = np.ones((count + 1, dimension))
    mass = np.ones((count + 1, dimension))
    for axis in range(dimension):
        for index in range(count):
            centres[index, axis] = points[index, axis]
        if choices[axis] > 0:
            continue
        if count > 0:
            widths[:count, axis] = bandwidths(points[:, axis].copy())
        for index in range(count + 1):
            mu, sigma = centres[index, axis], widths[index, axis]
            mass[index, axis] = _phi((1.0 - mu) / sigma) - _phi(-mu / sigma)
    return weights, centres, widths, mass


@njit(cache=True)
def densities(points, good, count, choices):
    """Return kernels of the good trials, l(x), and of all others among the first `count`, g(x)."""
    is_good = np.zeros(count, np.bool_)
    for index in good:
        is_good[index] = True
    l_x = density(points[:count][is_good], choices)
    g_x = density(points[:count][~is_good], choices)
    return l_x, g_x


@njit(cache=True)
def log_density(point, kernels, choices):
    """Return the logarithm of the density at a point."""
    weights, centres, widths, mass = kernels
    count, dimension = centres.shape
    terms = np.empty(count)
    prior = 1.0 / count
    for index in range(count):
        log = math.log(weights[index])
        for axis in range(dimension):
            if choices[axis] > 0:
                own = prior
                if index == count - 1:
                    own = 1.0 / choices[axis]
                    log += math.log(own)
                    continue
                if centres[index, axis] == point[axis]:
                    own += 1.0
                log += math.log(own / (1.0 + prior * choices[axis]))
            else:
                away = (point[axis] - centres[index, axis]) / widths[index, axis]
                log -= 0.5 * away * away
                log -= math.log(widths[index, axis] * mass[index, axis] * 2.5066282746310002)
        terms[index] = log
    peak = terms.max()
    return peak + math.log(np.exp(terms - peak).sum())


@njit(cache=True)
def draw(kernels, choices):
    """Draw a point from the density."""
    weights, centres, widths, mass = kernels
    count, dimension = centres.shape
    chance = np.random.random()
    kernel = 0
    below = weights[0]
    while below < chance and kernel < count - 1:
        kernel += 1
        below += weights[kernel]
    point = np.empty(dimension)
    for axis in range(dimension):
        if choices[axis] > 0:
            prior = 1.0 / count
            keeps = 1.0 / (1.0 + prior * choices[axis])
            if kernel < count - 1 and np.random.random() < keeps:
                point[axis] = centres[kernel, axis]
            else:
                point[axis] = np.random.randint(choices[axis])
            continue
        while True:
            value = centres[kernel, axis] + widths[kernel, axis] * np.random.normal()
            if 0.0 <= value <= 1.0:
                break
        point[axis] = value
    return point


@njit(cache=True)
def order_of(state, seen, last, best, count):
    """Return the finished trials, best first: complete ones by value, then the others by the epoch
    that they reached and their last value."""
    finished = np.empty(count, np.int64)
    keys = np.empty(count)
    found = 0
    for number in range(count):
        if state[number] == RUNNING:
            continue
        finished[found] = number
        if state[number] == COMPLETE:
            keys[found] = -1e6 - best[number]
        else:
            keys[found] = -1e3 * seen[number] - last[number]
        found += 1
    return finished[:found][np.argsort(keys[:found], kind="mergesort")]


@njit(cache=True)
def propose(points, state, seen, last, best, count, choices, root):
    """Propose a point by multivariate TPE.

    Args:
        root: True if half the root of the number of finished trials is good, as in the study;
            False for a tenth, as in Optuna. In both cases at most 25 trials are good.
    """
    ranked = order_of(state, seen, last, best, count)
    finished = ranked.shape[0]
    good = math.ceil(0.5 * math.sqrt(finished)) if root else math.ceil(0.1 * finished)
    good = min(good, 25)
    l_x, g_x = densities(points, ranked[:good], count, choices)
    chosen = np.empty(points.shape[1])
    highest = -np.inf
    for _ in range(CANDIDATES):
        point = draw(l_x, choices)
        score = log_density(point, l_x, choices) - log_density(point, g_x, choices)
        if score > highest:
            highest = score
            chosen = point
    return chosen


@njit(cache=True)
def at_random(choices):
    """Draw a point uniformly."""
    point = np.empty(choices.shape[0])
    for axis in range(choices.shape[0]):
        if choices[axis] > 0:
            point[axis] = np.random.randint(choices[axis])
        else:
            point[axis] = np.random.random()
    return point


@njit(cache=True)
def hypercube(choices):
    """Return six points, (6, D), that cover every sixth of a range, and all choices equally
    often."""
    points = np.empty((STARTUP, choices.shape[0]))
    for axis in range(choices.shape[0]):
        sixth = np.random.permutation(STARTUP)
        count = choices[axis]
        shuffled = np.random.permutation(max(count, 1))
        for place in range(STARTUP):
            if count > 0:
                points[place, axis] = shuffled[sixth[place] % count]
            else:
                points[place, axis] = (sixth[place] + np.random.random()) / STARTUP
    return points


@njit(cache=True)
def among_best(value, others, count, factor):
    """Apply ASHA's rule: True if the value is among the best `1 / factor`, at least one, of itself
    and the others."""
    better = 0
    for index in range(count):
        if others[index] > value:
            better += 1
    return better < max(1, (count + 1) // factor)


@njit(cache=True)
def search(seed, pool_points, choices, curves, default, rungs, first_look, guarded, budget, tpe):
    """Run a search that stops trials at rungs.

    Args:
        rungs: (R, 2) epoch and factor, ascending; one trial in `factor` continues.
        first_look: number of first trials that are never stopped at the first rungs.
        guarded: number of these rungs.
        budget: in epochs.
        tpe: 0 random, 1 the study's, 2 Optuna's, 3 quantile regression instead of TPE.
    Returns:
        (budget,) best value after every epoch that was spent.
    """
    np.random.seed(seed)
    epochs = curves.shape[1]
    most = budget + AT_A_TIME
    dimension = choices.shape[0]
    points = np.empty((most, dimension))
    rows = np.zeros(most, np.int64)
    state = np.zeros(most, np.int64)
    seen = np.zeros(most, np.int64)
    last = np.full(most, -np.inf)
    best = np.full(most, -np.inf)
    reached = np.empty((rungs.shape[0], most))
    arrived = np.zeros(rungs.shape[0], np.int64)
    trace = np.empty(budget)
    first = hypercube(choices)
    live = [-1 for _ in range(AT_A_TIME)]
    count = ended = spent = 0
    incumbent = -np.inf
    while True:
        for slot in range(AT_A_TIME):
            if live[slot] >= 0:
                continue
            if count == 0:
                point = default
            elif (tpe == 1 or tpe == 3) and ended < STARTUP:
                point = first[count % STARTUP]
            elif tpe == 0 or (tpe == 2 and ended < 10):
                point = at_random(choices)
            elif tpe == 3:
                known = np.flatnonzero(seen[:count] > 0)
                point = propose_cqr(points[known], last[known], choices)
            else:
                point = propose(points, state, seen, last, best, count, choices, tpe == 1)
            points[count] = point
            rows[count] = nearest(point, pool_points, choices)
            live[slot] = count
            count += 1
        for slot in range(AT_A_TIME):
            number = live[slot]
            value = curves[rows[number], seen[number]]
            seen[number] += 1
            last[number] = value
            best[number] = max(best[number], value)
            incumbent = max(incumbent, value)
            trace[spent] = incumbent
            spent += 1
            if spent == budget:
                return trace
            goes_on = True
            for rung in range(rungs.shape[0]):
                if seen[number] != rungs[rung, 0]:
                    continue
                goes_on = among_best(value, reached[rung], arrived[rung], rungs[rung, 1])
                reached[rung, arrived[rung]] = value
                arrived[rung] += 1
                if number == 0 or (rung < guarded and number < first_look):
                    goes_on = True
            done = seen[number] == epochs
            if done or not goes_on:
                state[number] = COMPLETE if done else STOPPED
                live[slot] = -1
                ended += 1


def rungs_at(parts: tuple[tuple[int, int], ...], epochs: int) -> np.ndarray:  # (R, 2)
    """Return rungs from (part of the epochs, one in so many); the last epoch is no rung."""
    found: dict[int, int] = {}
    for part, factor in parts:
        found.setdefault(math.ceil(epochs / part), factor)
    kept = [[epoch, factor] for epoch, factor in sorted(found.items()) if epoch < epochs]
    return np.array(kept, np.int64).reshape(-1, 2)
