"""Searches in memory with a Gaussian process over configurations and epochs, compiled by Numba.

The model sees the values of every trial at its first and latest epoch, as normal scores. Its
covariance (after Swersky et al. 2014, "Freeze-Thaw Bayesian Optimization", and Wistuba et al. 2022,
DyHPO) is a sum of four parts: configuration, configuration by epoch, trial by epoch, epoch:

    k = Kx (a + b Kt) + same trial (c + d Kt) + e Kt + noise

Kx: Matern 5/2 over ranges, exponential in the choices that differ. Kt: squared exponential in the
logarithm of the epoch. Length scales and weights: a random walk towards the maximum a posteriori.

`search_thaw` uses the model in two places, each of which can be switched off. It proposes a
configuration (the largest expected improvement at the last epoch among 80). And it replaces rungs:
a trial pauses at its look, and the best among all paused trials and a new one runs to its next
look.
"""

import math

import numpy as np
from numba import njit

from benchmarks.search_memory import (
    AT_A_TIME,
    COMPLETE,
    RUNNING,
    STARTUP,
    STOPPED,
    among_best,
    at_random,
    hypercube,
    nearest,
    order_of,
    propose,
)

POOL, NEAR = 60, 20  # random candidates, and candidates near the best trials
STEPS = 3  # steps of the random walk per fit
MOST = 120  # largest number of observations


@njit(cache=True)
def inverse_normal(p):
    """Return the quantile of the normal distribution (Acklam's approximation, 1e-9 relative)."""
    a = (
        -39.69683028665376,
        220.9460984245205,
        -275.9285104469687,
        138.3577518672690,
        -30.66479806614716,
        2.506628277459239,
    )
    b = (
        -54.47609879822406,
        161.5858368580409,
        -155.6989798598866,
        66.80131188771972,
        -13.28068155288572,
    )
    c = (
        -0.007784894002430293,
        -0.3223964580411365,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    )
    d = (0.007784695709041462, 0.3224671290700398, 2.445134137142996, 3.754408661907416)
    if p < 0.02425:
        q = math.sqrt(-2 * math.log(p))
        return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) / (
            (((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1
        )
    if p > 1 - 0.02425:
        return -inverse_normal(1 - p)
    q = p - 0.5
    r = q * q
    return (
        (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5])
        * q
        / (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1)
    )


@njit(cache=True)
def configuration_kernel(one, other, choices, theta):
    away = 0.0
    differ = 0.0
    for axis in range(choices.shape[0]):
        length = math.exp(theta[axis])
        if choices[axis] > 0:
            if one[axis] != other[axis]:
                differ += 0.5 / length
        else:
            step = (one[axis] - other[axis]) / length
            away += step * step
    root = math.sqrt(5.0 * away)
    return (1.0 + root + 5.0 * away / 3.0) * math.exp(-root - differ)


@njit(cache=True)
def epoch_kernel(one, other):
    step = (one - other) / 0.5
    return math.exp(-0.5 * step * step)


@njit(cache=True)
def covariance(x, t, own, y_x, y_t, y_own, choices, theta):
    """Return the covariance of two observations: point, epoch on its scale, trial."""
    dimension = choices.shape[0]
    weights = theta[dimension:]
    kt = epoch_kernel(t, y_t)
    total = math.exp(weights[4]) * kt
    total += configuration_kernel(x, y_x, choices, theta) * (
        math.exp(weights[0]) + math.exp(weights[1]) * kt
    )
    if own == y_own:
        total += math.exp(weights[2]) + math.exp(weights[3]) * kt
    return total


@njit(cache=True)
def start_theta(dimension):
    theta = np.empty(dimension + 6)
    theta[:dimension] = math.log(0.5)
    theta[dimension:] = np.log(np.array([0.6, 0.2, 0.05, 0.05, 0.4, 0.01]))
    return theta


@njit(cache=True)
def fit(x, t, own, z, choices, theta):
    """Return the Cholesky factor, weights of the mean, and logarithm of the posterior density."""
    count = z.shape[0]
    dimension = choices.shape[0]
    matrix = np.empty((count, count))
    noise = math.exp(theta[dimension + 5])
    for i in range(count):
        for j in range(i + 1):
            matrix[i, j] = covariance(x[i], t[i], own[i], x[j], t[j], own[j], choices, theta)
            matrix[j, i] = matrix[i, j]
        matrix[i, i] += noise + 1e-6
    lower = np.linalg.cholesky(matrix)
    alpha = solve_lower(lower, z)
    value = -0.5 * np.dot(alpha, alpha) - np.log(np.diag(lower)).sum()
    away = (theta - start_theta(dimension)) / 0.8
    value -= 0.5 * np.dot(away, away)
    return lower, alpha, value


@njit(cache=True)
def solve_lower(lower, right):
    count = right.shape[0]
    found = np.empty(count)
    for i in range(count):
        total = right[i]
        for j in range(i):
            total -= lower[i, j] * found[j]
        found[i] = total / lower[i, i]
    return found


@njit(cache=True)
def predict(point, own, x, t, trials, lower, alpha, choices, theta):
    """Return mean and standard deviation at the last epoch, which has t = 1."""
    count = alpha.shape[0]
    cross = np.empty(count)
    for i in range(count):
        cross[i] = covariance(point, 1.0, own, x[i], t[i], trials[i], choices, theta)
    half = solve_lower(lower, cross)
    variance = covariance(point, 1.0, own, point, 1.0, own, choices, theta) - np.dot(half, half)
    return np.dot(half, alpha), math.sqrt(max(variance, 1e-9))


@njit(cache=True)
def improvement(mean, sd, best):
    u = (mean - best) / sd
    cdf = 0.5 * math.erfc(-u / math.sqrt(2.0))
    return sd * (u * cdf + math.exp(-0.5 * u * u) / 2.5066282746310002)


@njit(cache=True)
def observe(points, rows, seen, count, curves):
    """Return observations at the first and the latest epoch of every trial, and scores of their
    values."""
    epochs = curves.shape[1]
    most = 2 * count
    x = np.empty((most, points.shape[1]))
    t = np.empty(most)
    own = np.empty(most, np.int64)
    values = np.empty(most)
    found = 0
    for number in range(count):
        for epoch in (1, seen[number]):
            if epoch > seen[number] or (epoch == 1 and seen[number] > 1 and found > MOST // 2):
                continue
            x[found] = points[number]
            t[found] = math.log(epoch) / math.log(epochs)
            own[found] = number
            values[found] = curves[rows[number], epoch - 1]
            found += 1
            if seen[number] == 1:
                break
    # at most MOST, the latest ones
    begin = max(0, found - MOST)
    x, t, own, values = x[begin:found], t[begin:found], own[begin:found], values[begin:found]
    order = np.argsort(values, kind="mergesort")
    z = np.empty(values.shape[0])
    place = 0
    while place < order.shape[0]:
        end = place
        while end + 1 < order.shape[0] and values[order[end + 1]] == values[order[place]]:
            end += 1
        score = inverse_normal((0.5 * (place + end) + 0.5) / order.shape[0])
        for index in range(place, end + 1):
            z[order[index]] = score
        place = end + 1
    return x, t, own, z


@njit(cache=True)
def search_thaw(
    seed,
    pool_points,
    choices,
    curves,
    default,
    rungs,
    first_look,
    budget,
    looks,
    by_model,
    thaws,
    cost_power,
    sampled,
):
    """Run a search with the model.

    Args:
        rungs, first_look, budget: as in `search`; rungs count only if it does not thaw.
        looks: (L,) epochs that the model sees, and at which a trial pauses; ascending.
        by_model: propose by the model, otherwise by TPE.
        thaws: pause and resume by the model, otherwise stop at rungs.
        cost_power: the expected improvement is divided by the remaining epochs to this power.
        sampled: compare draws of the posterior (Thompson) instead of expected improvements.
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
    theta = start_theta(dimension)
    live = [-1 for _ in range(AT_A_TIME)]
    count = ended = spent = 0
    incumbent = -np.inf
    while True:
        for slot in range(AT_A_TIME):
            if live[slot] >= 0:
                continue
            new = np.empty(dimension)
            resumed = -1
            if count == 0:
                new = default
            elif count < STARTUP:
                new = first[count % STARTUP]
            else:
                uses = by_model or thaws
                if uses:
                    x, t, own, z = observe(points, rows, seen, count, curves)
                    lower, alpha, value = fit(x, t, own, z, choices, theta)
                    for _ in range(STEPS):
                        moved = theta + 0.35 * np.random.normal(0.0, 1.0, theta.shape[0])
                        other = fit(x, t, own, z, choices, moved)
                        if other[2] > value:
                            theta = moved
                            lower, alpha, value = other
                    top = z.max()
                if by_model:
                    new, gain = best_new(
                        points,
                        state,
                        seen,
                        last,
                        best,
                        count,
                        x,
                        t,
                        own,
                        lower,
                        alpha,
                        choices,
                        theta,
                        top,
                        sampled,
                    )
                else:
                    new = propose(points, state, seen, last, best, count, choices, True)
                if thaws:
                    mean, sd = predict(new, -2, x, t, own, lower, alpha, choices, theta)
                    utility = merit(mean, sd, top, sampled) / epochs**cost_power
                    for number in range(count):
                        if state[number] != STOPPED or seen[number] == epochs:
                            continue
                        mean, sd = predict(
                            points[number], number, x, t, own, lower, alpha, choices, theta
                        )
                        other_utility = merit(mean, sd, top, sampled)
                        other_utility /= (epochs - seen[number]) ** cost_power
                        if other_utility > utility:
                            utility = other_utility
                            resumed = number
            if resumed >= 0:
                live[slot] = resumed
                state[resumed] = RUNNING
                ended -= 1
                continue
            points[count] = new
            rows[count] = nearest(new, pool_points, choices)
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
            if thaws:
                goes_on = not np.any(looks == seen[number]) or number < first_look
            else:
                for rung in range(rungs.shape[0]):
                    if seen[number] != rungs[rung, 0]:
                        continue
                    goes_on = among_best(value, reached[rung], arrived[rung], rungs[rung, 1])
                    reached[rung, arrived[rung]] = value
                    arrived[rung] += 1
                    if number == 0 or (rung == 0 and number < first_look):
                        goes_on = True
            done = seen[number] == epochs
            if done or not goes_on:
                state[number] = COMPLETE if done else STOPPED
                live[slot] = -1
                ended += 1


@njit(cache=True)
def merit(mean, sd, top, sampled):
    if sampled:
        return math.exp(mean + sd * np.random.normal())
    return improvement(mean, sd, top)


@njit(cache=True)
def best_new(
    points, state, seen, last, best, count, x, t, own, lower, alpha, choices, theta, top, sampled
):
    """Return the candidate with the largest expected improvement at the last epoch."""
    ranked = order_of(state, seen, last, best, count)
    chosen = np.empty(choices.shape[0])
    highest = -np.inf
    for index in range(POOL + NEAR):
        point = at_random(choices)
        if index >= POOL and ranked.shape[0] > 0:
            centre = points[ranked[np.random.randint(min(3, ranked.shape[0]))]]
            for axis in range(choices.shape[0]):
                if choices[axis] > 0:
                    if np.random.random() < 0.8:
                        point[axis] = centre[axis]
                else:
                    moved = centre[axis] + 0.1 * np.random.normal()
                    point[axis] = min(max(moved, 0.0), 1.0)
        mean, sd = predict(point, -2, x, t, own, lower, alpha, choices, theta)
        gain = merit(mean, sd, top, sampled)
        if gain > highest:
            highest = gain
            chosen = point
    return chosen, highest
