"""The rules that decide, over many simulated tables at once: those of the product, and others to
compare them with.

A rule about settings reads replicates, a rule about one search reads its repeats. Each returns a
sign for every question: 1 if the first side is called better, -1 if the second is, 0 if nothing is
decided. `agrees_with_product` compares the product's rules, table by table, with
`tune.reports.statistics`.

Shapes: T tables, Q questions, R replicates, S seeds, L configurations.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from search_spaces.classify import A_TO_E
from search_spaces.settings import sides
from tune.reports import statistics
from tune.reports.verdict import difference

ALPHA = 0.05
LOWEST_P, HIGHEST_P, HALVINGS = 1e-8, 0.2, 24
"""Range in which p-values are searched, exact to one in a million. A higher one counts as 1."""
FIVE = A_TO_E.without(A_TO_E.controls)
QUESTIONS = tuple(sides(name) for name in FIVE.questions)
"""(first, second) setting of the four questions of A to E."""
SETTINGS = tuple(FIVE.settings)


@dataclass(frozen=True)
class Scores:
    """Scores of the settings in many tables."""

    replicates: Mapping[str, np.ndarray]
    """Setting -> (T, R) test accuracy, NaN where it is missing."""
    sampling: Mapping[tuple[str, str], np.ndarray]
    """Question -> (T,) variance that its difference owes to the sample of test images."""

    def first(self, count: int) -> "Scores":
        """Return the first replicates only."""
        some = {name: values[:, :count] for name, values in self.replicates.items()}
        return Scores(some, self.sampling)

    def sampling_of(self, question: tuple[str, str]) -> np.ndarray:
        """Return the variance of one question, 0 if images are always the same."""
        tables = len(next(iter(self.replicates.values())))
        return self.sampling.get(question, np.zeros(tables))


@dataclass(frozen=True)
class Estimate:
    """Differences with their p-values, both of the same shape."""

    mean: np.ndarray
    p: np.ndarray

    def signs(self, alpha: float) -> np.ndarray:
        """Return decisions. A mean of NaN that counts as certain decides for the first side."""
        return np.where(self.p < alpha, np.where(self.mean < 0, -1, 1), 0)

    def corrected(self, alpha: float) -> np.ndarray:
        """Return decisions over all questions, (T, Q), by Holm's rule."""
        order = self.p.argsort(1, kind="stable")
        questions = self.p.shape[1]
        scaled = np.take_along_axis(self.p, order, 1) * (questions - np.arange(questions))
        adjusted = np.empty_like(scaled)
        np.put_along_axis(adjusted, order, np.maximum.accumulate(scaled, 1), 1)
        return Estimate(self.mean, adjusted).signs(alpha)


def _student(mean: np.ndarray, variance: np.ndarray, freedom: np.ndarray) -> Estimate:
    """Estimate by Student's t; p is 1 where there is no variance."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = abs(mean) / np.sqrt(variance)
        p = 2 * special.stdtr(np.minimum(freedom, 1e9), -t)
    known = (variance > 0) & np.isfinite(p)
    return Estimate(np.where(known, mean, 0.0), np.where(known, p, 1.0))


def _with_sampling(
    mean: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]], sampling: np.ndarray
) -> Estimate:
    """Estimate seeds by Student's t and images by the normal distribution, as
    `statistics._interval` does: the squares of the half-widths add up (Zou & Donner 2008)."""
    of_seeds = sum(variance for variance, _ in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = sum(variance**2 / freedom for variance, freedom in parts)
        freedom = np.where(weights > 0, of_seeds**2 / weights, 1.0)
    if not sampling.any():
        return _student(mean, of_seeds, freedom)

    def reaches(p: np.ndarray, where: np.ndarray) -> np.ndarray:
        seeds = special.stdtrit(freedom[where], 1 - p / 2) ** 2 * of_seeds[where]
        images = special.ndtri(1 - p / 2) ** 2 * sampling[where]
        found: np.ndarray = seeds + images < mean[where] ** 2
        return found

    known = np.flatnonzero(np.isfinite(of_seeds) & (of_seeds + sampling > 0))
    small = known[reaches(np.full(len(known), HIGHEST_P), known)]
    low, high = np.full(len(small), LOWEST_P), np.full(len(small), HIGHEST_P)
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        reached = reaches(middle, small)
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    p = np.ones(mean.shape)
    p[small] = high
    return Estimate(np.nan_to_num(mean), p)


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (number, mean, variance) of the finite values along the last axis. The variance is NaN
    for fewer than two values."""
    finite = np.isfinite(values)
    count = finite.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(finite, values, 0).sum(-1) / count
        squares = np.where(finite, (values - mean[..., None]) ** 2, 0).sum(-1)
        variance = squares / (count - 1)
    return count, mean, np.where(count > 1, variance, np.nan)


def paired(first: np.ndarray, second: np.ndarray, sampling: np.ndarray) -> Estimate:
    """Estimate from paired differences along the last axis."""
    count, mean, variance = _moments(first - second)
    with np.errstate(divide="ignore", invalid="ignore"):
        return _with_sampling(mean, [(variance / count, count - 1)], sampling)


def welch(first: np.ndarray, second: np.ndarray, sampling: np.ndarray) -> Estimate:
    """Estimate without pairing, with a variance for each side."""
    parts = []
    means = []
    for values in (first, second):
        count, mean, variance = _moments(values)
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append((variance / count, count - 1))
        means.append(mean)
    return _with_sampling(means[0] - means[1], parts, sampling)


def paired_or_welch(first: np.ndarray, second: np.ndarray, sampling: np.ndarray) -> Estimate:
    """Estimate with pairs if no partner is missing, otherwise without, as
    `tune.reports.verdict.difference`."""
    whole = (np.isfinite(first) == np.isfinite(second)).all(-1)
    pairs, others = paired(first, second, sampling), welch(first, second, sampling)
    mean = np.where(whole, pairs.mean, others.mean)
    return Estimate(mean, np.where(whole, pairs.p, others.p))


# -- rules about settings

SettingRule = Callable[[Scores, float], np.ndarray]


def _every_question(scores: Scores, estimate: Callable[..., Estimate]) -> Estimate:
    found = [
        estimate(scores.replicates[a], scores.replicates[b], scores.sampling_of((a, b)))
        for a, b in QUESTIONS
    ]
    return Estimate(np.stack([e.mean for e in found], 1), np.stack([e.p for e in found], 1))


def paired_replicates(scores: Scores, alpha: float = ALPHA) -> np.ndarray:
    """Version 2: decide by the paired differences of the replicates that both settings have."""
    return _every_question(scores, paired).corrected(alpha)


def welch_replicates(scores: Scores, alpha: float = ALPHA) -> np.ndarray:
    """Decide by all replicates of both settings, without pairing."""
    return _every_question(scores, welch).corrected(alpha)


def pooled_replicates(scores: Scores, alpha: float = ALPHA) -> np.ndarray:
    """Decide with one variance for all settings."""
    count, mean, variance = _moments(np.stack([scores.replicates[name] for name in SETTINGS]))
    freedom = (count - 1).sum(0)
    pooled = (variance * (count - 1)).sum(0) / freedom
    means, p_values = [], []
    for a, b in QUESTIONS:
        first, second = SETTINGS.index(a), SETTINGS.index(b)
        with np.errstate(divide="ignore", invalid="ignore"):
            runs = 1 / count[first] + 1 / count[second]
            error = pooled * runs + scores.sampling_of((a, b))
        found = _student(mean[first] - mean[second], error, freedom)
        means.append(found.mean)
        p_values.append(found.p)
    return Estimate(np.stack(means, 1), np.stack(p_values, 1)).corrected(alpha)


def bartlett(values: np.ndarray) -> np.ndarray:
    """Return p-values of equal spreads (Bartlett 1937); values (settings, T, R)."""
    count, _, variance = _moments(values)
    freedom = count - 1
    total = freedom.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = np.log((variance * freedom).sum(0) / total)
        statistic = total * pooled - (freedom * np.log(variance)).sum(0)
        correction = 1 + ((1 / freedom).sum(0) - 1 / total) / (3 * (len(values) - 1))
    p: np.ndarray = special.chdtrc(len(values) - 1, statistic / correction)
    return p


def brown_forsythe(values: np.ndarray) -> np.ndarray:
    """Return robust p-values of equal spreads (Brown & Forsythe 1974); values (settings, T, R)."""
    distance = abs(values - np.nanmedian(values, axis=-1, keepdims=True))
    count, mean, variance = _moments(distance)
    total = count.sum(0)
    grand = (count * mean).sum(0) / total
    between = (count * (mean - grand) ** 2).sum(0) / (len(values) - 1)
    within = (variance * (count - 1)).sum(0) / (total - len(values))
    p: np.ndarray = special.fdtrc(len(values) - 1, total - len(values), between / within)
    return p


def pooled_if_alike(test: Callable[[np.ndarray], np.ndarray], above: float) -> SettingRule:
    """Return a rule that pools if a test finds no difference of spreads (p > `above`), and pairs
    otherwise."""

    def rule(scores: Scores, alpha: float = ALPHA) -> np.ndarray:
        values = np.stack([scores.replicates[name] for name in SETTINGS])
        alike = test(values) > above
        both = pooled_replicates(scores, alpha), paired_replicates(scores, alpha)
        return np.where(alike[:, None], *both)

    return rule


def sign_flips(scores: Scores, alpha: float = ALPHA) -> np.ndarray:
    """Decide by the exact test over all signs of the differences (Fisher 1935)."""
    differences = [scores.replicates[a] - scores.replicates[b] for a, b in QUESTIONS]
    stacked = np.stack(differences, 1)
    mean = np.nan_to_num(_moments(stacked)[1])
    return Estimate(mean, flip_p(stacked)).corrected(alpha)


def flip_p(differences: np.ndarray) -> np.ndarray:
    """Return two-sided p-values of mean 0 by all changes of signs, along the last axis. A missing
    difference counts as 0."""
    values = np.nan_to_num(differences)
    signs = np.array(list(itertools.product((-1, 1), repeat=values.shape[-1])))
    reached = abs(values.sum(-1))[..., None] * (1 - 1e-12)
    p: np.ndarray = (abs(values @ signs.T) >= reached).mean(-1)
    return p


# -- version 1: one search per setting


@dataclass(frozen=True)
class Finalists:
    """The repeated leaders of T searches: (T, L, S)."""

    validation: np.ndarray
    test: np.ndarray
    lost: np.ndarray
    exist: np.ndarray  # (T, L): a search may have fewer leaders

    def best(self, seeds: np.ndarray) -> np.ndarray:  # (T,)
        """Return the position of the best mean validation over some seeds, (T, S)."""
        means = np.where(seeds[:, None], self.validation, 0).sum(2)
        return np.where(self.exist, means, -np.inf).argmax(1)


def block_design(
    scores: np.ndarray,  # (T, L, S)
    exist: np.ndarray,  # (T, L)
    seeds: np.ndarray,  # (T, S)
    row: np.ndarray,  # (T,)
    other: np.ndarray,  # (T,)
) -> Estimate:
    """Version 1: estimate one noise from all rows, in a randomised block design (Montgomery, Design
    and Analysis of Experiments, chapter 4). It took NaN for certainty."""
    inside = exist[:, :, None] & seeds[:, None]
    values = np.where(inside, scores, 0)
    rows, columns = exist.sum(1), seeds.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        row_means = values.sum(2) / columns[:, None]
        seed_means = values.sum(1) / rows[:, None]
        grand = values.sum((1, 2)) / (rows * columns)
        residuals = scores - row_means[:, :, None] - seed_means[:, None] + grand[:, None, None]
        freedom = (rows - 1) * (columns - 1)
        variance = np.where(inside, residuals**2, 0).sum((1, 2)) / freedom
        table = np.arange(len(scores))
        mean = row_means[table, row] - row_means[table, other]
        found = _student(mean, 2 * variance / columns, freedom)
    missing = (columns < 2) | (row == other)
    certain = ~np.isfinite(mean) & ~missing
    p = np.where(certain, 0.0, np.where(missing, 1.0, found.p))
    return Estimate(np.where(certain, np.nan, found.mean), p)


def first_common(lost: np.ndarray, count: int) -> np.ndarray:  # (T, S)
    """Return the first seeds under which no repeat is lost; `lost` is (T, L, S)."""
    common = ~lost.any(1)
    return common & (common.cumsum(1) <= count)


def one_search_each(finalists: Mapping[str, Finalists], seeds: int = 3) -> np.ndarray:
    """Version 1: one search per setting, three leaders under three seeds that all settings share. A
    lost repeat removes its seed from both settings."""
    found = []
    for a, b in QUESTIONS:
        first, second = finalists[a], finalists[b]
        lost = np.concatenate([first.lost, second.lost], 1)
        common = first_common(lost, seeds)
        scores = np.concatenate([first.test, second.test], 1)
        exist = np.concatenate([first.exist, second.exist], 1)
        other = first.exist.shape[1] + second.best(common)
        found.append(block_design(scores, exist, common, first.best(common), other))
    every = Estimate(np.stack([e.mean for e in found], 1), np.stack([e.p for e in found], 1))
    return every.corrected(ALPHA)


# -- the best trial of one search and the default


@dataclass(frozen=True)
class OneSearch:
    """T searches, repeated under fresh seeds."""

    leaders: Finalists
    default: np.ndarray  # (T, S) test, NaN where lost
    default_leads: np.ndarray  # (T, L): True for the leader that is the default
    challenger: np.ndarray  # (T, S) the best other trial
    sampling: np.ndarray  # (T,) variance of challenger minus default due to test images


def version_1(search: OneSearch, seeds: int = 3) -> np.ndarray:
    """Version 1: compare the best leader with the default, chosen by the same runs; all rows
    estimate the noise."""
    leaders = search.leaders
    leads = search.default_leads.any(1)
    scores = np.concatenate([leaders.test, search.default[:, None]], 1)
    exist = np.concatenate([leaders.exist, ~leads[:, None]], 1)
    lost = np.concatenate([leaders.lost, np.isnan(search.default)[:, None]], 1)
    common = first_common(lost & exist[:, :, None], seeds)
    last = leaders.exist.shape[1]
    default = np.where(leads, search.default_leads.argmax(1), last)
    return block_design(scores, exist, common, leaders.best(common), default).signs(ALPHA)


def version_1_extended(search: OneSearch) -> np.ndarray:
    """Version 1 for users who follow its advice: twice the repeats while nothing is decided."""
    return first_decision([version_1(search, seeds) for seeds in (3, 6, 12)])


def first_decision(looks: list[np.ndarray]) -> np.ndarray:
    """Return the sign of the first look that decides."""
    signs = looks[0]
    for later in looks[1:]:
        signs = np.where(signs == 0, later, signs)
    return signs


def paired_runs(
    search: OneSearch, seeds: int, alpha: float = ALPHA, images: bool = True
) -> np.ndarray:
    """Version 2: compare fresh runs of the best trial and of the default under the same seeds."""
    sampling = search.sampling * images
    found = paired_or_welch(search.challenger[:, :seeds], search.default[:, :seeds], sampling)
    return found.signs(alpha)


def flipped_runs(search: OneSearch, seeds: int) -> np.ndarray:
    """Decide by the exact test over all signs of the same differences."""
    difference = search.challenger[:, :seeds] - search.default[:, :seeds]
    mean = np.nan_to_num(_moments(difference)[1])
    return Estimate(mean, flip_p(difference)).signs(ALPHA)


# -- the product's own functions


def agrees_with_product(scores: Scores, tables: int) -> None:
    """Compare the first tables, one by one, with the functions that pages use.

    Raises:
        AssertionError: a p-value or a decision differs.
    """
    for ours in (paired, welch, paired_or_welch):
        found = _every_question(scores, ours)
        signs = found.corrected(ALPHA)
        for table in range(tables):
            p_values = [_product_p(ours, scores, table, question) for question in QUESTIONS]
            searched = np.where(np.array(p_values) > HIGHEST_P, 1.0, p_values)
            ours_p = np.where(found.p[table] > HIGHEST_P, 1.0, found.p[table])
            np.testing.assert_allclose(ours_p, searched, rtol=1e-5, atol=1e-7)
            adjusted = statistics.holm(p_values, len(QUESTIONS))
            decided = [p < ALPHA for p in adjusted]
            assert (signs[table] != 0).tolist() == decided, (signs[table], adjusted)


def _product_p(
    ours: Callable[..., Estimate], scores: Scores, table: int, question: tuple[str, str]
) -> float:
    """Return the p-value of the product's counterpart of an estimate."""
    sides = [scores.replicates[name][table] for name in question]
    known = [
        {seed: value for seed, value in enumerate(side.tolist()) if np.isfinite(value)}
        for side in sides
    ]
    if ours is paired:
        both = known[0].keys() & known[1].keys()
        known = [{seed: side[seed] for seed in both} for side in known]
    if min(map(len, known)) < 2:
        return 1.0

    sampling = float(scores.sampling_of(question)[table])
    if ours is paired_or_welch:
        return difference(*known, sampling).p
    interval = statistics.paired if ours is paired else statistics.welch
    values = [[side[seed] for seed in sorted(side)] for side in known]
    return interval(*values, sampling).p
