"""Conformalised quantile regression as a sampler in memory, compiled by Numba (Salinas et al. 2023,
"Optimizing Hyperparameters with Conformal Quantile Regression", sections 3 and 4).

Every trial counts with its last value, at whichever epoch: a trial that a rung has stopped is known
to be worse, so all rungs teach one model. Quantiles are regressed by gradient boosting (Friedman
2001) of trees of depth 3 on the pinball loss, and widened by the errors on held-out trials. A
proposal is the best of many random points, each judged by a randomly drawn quantile, which is
Thompson sampling.

Shapes: N trials, D parameters, T trees, L nodes of a tree.
"""

import math

import numpy as np
from numba import njit

QUANTILES = 5
TREES = 100
DEPTH = 3
NODES = 2 ** (DEPTH + 1) - 1
RATE = 0.1
CANDIDATES = 2000
CONFORMAL_FROM = 32
"""Number of trials from which a tenth is held out."""
_LEAF = -1


@njit(cache=True)
def quantile(values, level):
    """Interpolate linearly between order statistics, as NumPy does by default."""
    ordered = np.sort(values)
    place = level * (ordered.shape[0] - 1)
    below = math.floor(place)
    above = min(below + 1, ordered.shape[0] - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@njit(cache=True)
def best_split(points, gradient, rows, choices):
    """Return the axis and value of the split with the largest reduction of squared error.

    A choice is split as one value against all others. The axis is -1 if no split reduces the error.

    Args:
        points: (N, D).
        gradient: (N,).
        rows: rows of the node.
    """
    total = gradient[rows].sum()
    count = rows.shape[0]
    most = total * total / count + 1e-12
    axis = -1
    value = 0.0
    for candidate in range(points.shape[1]):
        own = points[rows, candidate]
        if choices[candidate] > 0:
            for choice in range(choices[candidate]):
                inside = own == choice
                held = inside.sum()
                if held == 0 or held == count:
                    continue
                part = gradient[rows][inside].sum()
                gain = part * part / held + (total - part) * (total - part) / (count - held)
                if gain > most:
                    most = gain
                    axis = candidate
                    value = float(choice)
            continue
        order = np.argsort(own)
        part = 0.0
        for place in range(count - 1):
            part += gradient[rows[order[place]]]
            low, high = own[order[place]], own[order[place + 1]]
            if low == high:
                continue
            held = place + 1
            gain = part * part / held + (total - part) * (total - part) / (count - held)
            if gain > most:
                most = gain
                axis = candidate
                value = 0.5 * (low + high)
    return axis, value


@njit(cache=True)
def goes_left(point, axis, value, choices):
    if choices[axis] > 0:
        return point[axis] == value
    return point[axis] <= value


@njit(cache=True)
def fit(points, values, choices, level):
    """Fit boosted trees for one quantile.

    Returns:
        start, axes (T, L) with -1 at a leaf, splits (T, L), leaves (T, L). The children of node i
        are 2 i + 1 and 2 i + 2.
    """
    count = points.shape[0]
    axes = np.full((TREES, NODES), _LEAF)
    splits = np.zeros((TREES, NODES))
    leaves = np.zeros((TREES, NODES))
    start = quantile(values, level)
    found = np.full(count, start)
    gradient = np.empty(count)
    node = np.zeros(count, np.int64)
    for tree in range(TREES):
        for row in range(count):
            gradient[row] = level if values[row] > found[row] else level - 1.0
            node[row] = 0
        for number in range(NODES):
            rows = np.flatnonzero(node == number)
            if rows.shape[0] == 0:
                continue
            axis = _LEAF
            value = 0.0
            is_inner = number < 2**DEPTH - 1
            if is_inner and rows.shape[0] > 1:
                axis, value = best_split(points, gradient, rows, choices)
            if axis == _LEAF:
                residuals = values[rows] - found[rows]
                leaves[tree, number] = RATE * quantile(residuals, level)
                continue
            axes[tree, number] = axis
            splits[tree, number] = value
            for row in rows:
                is_left = goes_left(points[row], axis, value, choices)
                node[row] = 2 * number + 1 if is_left else 2 * number + 2
        for row in range(count):
            found[row] += leaves[tree, node[row]]
    return start, axes, splits, leaves


@njit(cache=True)
def predict(point, model, choices):
    """Return the quantile at a point."""
    start, axes, splits, leaves = model
    value = start
    for tree in range(axes.shape[0]):
        node = 0
        while axes[tree, node] != _LEAF:
            axis = axes[tree, node]
            is_left = goes_left(point, axis, splits[tree, node], choices)
            node = 2 * node + 1 if is_left else 2 * node + 2
        value += leaves[tree, node]
    return value


@njit(cache=True)
def widenings(points, values, choices, models):
    """Return what is added to each quantile, (QUANTILES,), so that pairs of them cover the held-out
    trials as often as they should (Romano et al. 2019)."""
    added = np.zeros(QUANTILES)
    held = points.shape[0]
    scores = np.empty(held)
    for index in range(QUANTILES // 2):
        other = QUANTILES - 1 - index
        for row in range(held):
            low = predict(points[row], models[index], choices)
            high = predict(points[row], models[other], choices)
            scores[row] = max(low - values[row], values[row] - high)
        level = 1.0 - 2.0 * (index + 1) / (QUANTILES + 1)
        wide = quantile(scores, min(1.0, level * (1.0 + 1.0 / held)))
        added[index] = -wide
        added[other] = wide
    return added


@njit(cache=True)
def propose_cqr(points, values, choices):
    """Propose a point by Thompson sampling from the quantiles.

    Args:
        points: (N, D) trials.
        values: (N,) their last values, larger is better.
    """
    count = points.shape[0]
    order = np.random.permutation(count)
    held = count // 10 if count >= CONFORMAL_FROM else 0
    known = order[held:]
    models = [
        fit(points[known], values[known], choices, (index + 1) / (QUANTILES + 1))
        for index in range(QUANTILES)
    ]
    added = np.zeros(QUANTILES)
    if held > 0:
        added = widenings(points[order[:held]], values[order[:held]], choices, models)

    chosen = np.empty(points.shape[1])
    point = np.empty(points.shape[1])
    highest = -np.inf
    for _ in range(CANDIDATES):
        for axis in range(choices.shape[0]):
            if choices[axis] > 0:
                point[axis] = np.random.randint(choices[axis])
            else:
                point[axis] = np.random.random()
        index = np.random.randint(QUANTILES)
        score = predict(point, models[index], choices) + added[index]
        if score > highest:
            highest = score
            chosen[:] = point
    return chosen
