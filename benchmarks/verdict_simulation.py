"""Simulated comparisons on recorded trainings: tables of settings, and one search's best trial
against the default. `verdict_calibration.py` applies rules to them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.recorded_seeds import Searches, Side, TrialSeeds, draw_searches
from benchmarks.verdict_rules import QUESTIONS, Finalists, OneSearch, Scores

LEADERS = 3
"""Number of finalists in version 1."""
_AT_ONCE = 1000  # tables whose test samples are drawn together; bounds memory
_OVERLAPPING_AT_ONCE = 200  # as above, with a sample for every search


@dataclass(frozen=True)
class Design:
    """R searches of n trials each, whose choice is trained again under m fresh seeds.

    The mean of those m runs is a replicate. For a single search, the m runs themselves are the
    scores.
    """

    searches: int
    trials: int
    finals: int

    def __str__(self) -> str:
        return f"{self.searches} x ({self.trials} + {self.finals})"


@dataclass(frozen=True)
class Trouble:
    """Probabilities of trouble in a run that estimates."""

    lost: float = 0.0
    """The run leaves no result."""
    diverged: float = 0.0
    """The run ends at chance level."""
    nan: float = 0.0
    """The run's test metric is NaN."""

    def happen(
        self, rng: np.random.Generator, values: np.ndarray, chance: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the values after trouble, and which of them are lost."""
        values = np.where(rng.random(values.shape) < self.diverged, chance, values)
        values = np.where(rng.random(values.shape) < self.nan, np.nan, values)
        return values, rng.random(values.shape) < self.lost


@dataclass(frozen=True)
class World:
    """The settings of a table, by name, and the conditions of their runs."""

    sides: Mapping[str, Side]
    trouble: Trouble = Trouble()
    images: bool = False
    """True if every table has its own test sample, drawn from the recorded images."""
    overlap: float | None = None
    """Every table has its own pool of images, of which each search tests on this share."""
    seeds: TrialSeeds = "one"
    shared: bool = False
    """True if search r of all settings has the same draws and training seed, as in the product."""
    bank: Mapping[str, Searches] | None = None
    """Searches by the product for every setting; None for random draws."""

    @property
    def any_side(self) -> Side:
        """One of the settings, as all have the same test images and seeds."""
        return next(iter(self.sides.values()))

    def search(
        self, setting: str, rng: np.random.Generator, shape: tuple[int, ...], trials: int
    ) -> Searches:
        """Return searches of a setting."""
        if self.bank is not None:
            return self.bank[setting].pick(rng, shape)
        return draw_searches(self.sides[setting], rng, shape, trials, self.seeds)


@dataclass(frozen=True)
class Runs:
    """Runs of a setting under recorded seeds, of any shape whose first axis is the table."""

    side: Side
    rows: np.ndarray
    seeds: np.ndarray

    def test(self, weights: np.ndarray | None) -> np.ndarray:
        """Return the test accuracy.

        Args:
            weights: (T, N) or (T, R, N) of the images in the test sample of every table, or of
                every search of a table; None for the recorded sample.
        """
        values: np.ndarray = self.side.test[self.rows, self.seeds]
        if weights is None:
            return values
        configurations, seeds, images = self.side.right.shape
        flat = self.side.right.reshape(-1, images)
        samples = weights.reshape(-1, images)
        moved = flat @ (samples - 1 / images).T.astype(np.float32)  # (C * S, samples)
        axes = weights.ndim - 1
        sample = np.arange(len(samples)).reshape(*weights.shape[:axes], *[1] * (values.ndim - axes))
        recorded = self.side.origin[self.seeds]
        return values + moved.reshape(configurations, seeds, -1)[self.rows, recorded, sample]

    def right(self) -> np.ndarray:  # (T, N)
        """Return the share of a table's runs that classify an image right."""
        configurations, seeds, images = self.side.right.shape
        flat = (self.rows * seeds + self.side.origin[self.seeds]).reshape(len(self.rows), -1)
        table = np.repeat(np.arange(len(flat)), flat.shape[1])
        counts = np.zeros((len(flat), configurations * seeds), dtype=np.float32)
        np.add.at(counts, (table, flat.ravel()), 1 / flat.shape[1])
        found: np.ndarray = counts @ self.side.right.reshape(-1, images)
        return found

    def right_by_search(self) -> np.ndarray:  # (T, R, N)
        """Return the share of a search's runs that classify an image right."""
        finals = range(self.rows.shape[-1])
        origin = self.side.origin[self.seeds]
        each = (self.side.right[self.rows[..., n], origin[..., n]] for n in finals)
        found: np.ndarray = sum(each) / len(finals)
        return found


@dataclass(frozen=True)
class OverlappingSets:
    """Test sets of the searches of many tables, each drawn from the pool of its table.

    P is the number of images in a pool.
    """

    pools: np.ndarray  # (T, P) recorded image of each image of the pool
    members: np.ndarray  # (T, R, P) bool

    @classmethod
    def draw(
        cls, rng: np.random.Generator, tables: int, searches: int, images: int, share: float
    ) -> "OverlappingSets":
        """Draw pools from the recorded images, and as many test images for every search."""
        size = round(images / share)
        pools = rng.integers(images, size=(tables, size))
        ranks = rng.random((tables, searches, size), dtype=np.float32).argsort(2)
        members = np.zeros(ranks.shape, dtype=bool)
        np.put_along_axis(members, ranks[:, :, :images], True, 2)
        return cls(pools, members)

    def weights(self, images: int) -> np.ndarray:  # (T, R, N)
        """Return the weights of the recorded images in each test set; they sum to 1."""
        tables, searches, _ = self.members.shape
        table, search, place = np.nonzero(self.members)
        sets = table * searches + search
        image = sets * images + self.pools[table, place]
        counts = np.bincount(image, minlength=tables * searches * images)
        return counts.reshape(tables, searches, images) / images

    def shared_variance(self, differences: np.ndarray) -> np.ndarray:
        """Return the variance (T,) of the mean over searches that is due to the images that they
        share, as `sampling_error.sampling_variance` estimates it.

        Args:
            differences: (T, R, N) by which each recorded image moves a search's difference.
        """
        searches, images = differences.shape[1:]
        own = np.take_along_axis(differences, self.pools[:, None], 2)  # (T, R, P)
        mean = np.where(self.members, own, 0).sum(2, keepdims=True) / images
        influences = np.where(self.members, own - mean, 0) / images
        every_pair = (influences.sum(1) ** 2).sum(1)
        themselves = (influences**2).sum((1, 2))
        between = (every_pair - themselves) / (searches * (searches - 1))
        return np.maximum(0.0, between * images / (images - 1))


def in_parts(count: int, size: int = _AT_ONCE) -> list[int]:
    """Return the sizes of parts that are simulated together."""
    whole, rest = divmod(count, size)
    return [size] * whole + [rest] * (rest > 0)


def tables(world: World, rng: np.random.Generator, count: int, design: Design) -> Scores:
    """Simulate tables of replicates."""
    size = _AT_ONCE if world.overlap is None else _OVERLAPPING_AT_ONCE
    parts = [_tables(world, rng, some, design) for some in in_parts(count, size)]
    replicates = {n: np.concatenate([p.replicates[n] for p in parts]) for n in world.sides}
    sampling = {q: np.concatenate([p.sampling[q] for p in parts]) for q in parts[0].sampling}
    return Scores(replicates, sampling)


def _tables(world: World, rng: np.random.Generator, count: int, design: Design) -> Scores:
    shape = (count, design.searches, design.finals)
    images = world.any_side.right.shape[2]
    sets, weights = None, None
    if world.images:
        weights = resample(rng, count, images)
    if world.overlap is not None:
        sets = OverlappingSets.draw(rng, count, design.searches, images, world.overlap)
        weights = sets.weights(images)

    replicates, every = {}, {}
    state = int(rng.integers(2**63))
    for name, side in world.sides.items():
        draws = np.random.default_rng(state) if world.shared else rng
        chosen = world.search(name, draws, shape[:2], design.trials).chosen
        seeds = rng.integers(side.test.shape[1], size=shape)
        runs = every[name] = Runs(side, np.broadcast_to(chosen[..., None], shape), seeds)
        values, lost = world.trouble.happen(rng, runs.test(weights), side.chance)
        usable = np.where(lost, np.nan, values)
        replicates[name] = usable[:, 0] if design.searches == 1 else usable.mean(2)

    sampling = {}
    if sets is not None:
        by_search = {name: runs.right_by_search() for name, runs in every.items()}
        sampling = {(a, b): sets.shared_variance(by_search[a] - by_search[b]) for a, b in QUESTIONS}
    elif weights is not None:
        right = {name: runs.right() for name, runs in every.items()}
        sampling = {(a, b): sampling_variance(right[a] - right[b], weights) for a, b in QUESTIONS}
    return Scores(replicates, sampling)


def resample(rng: np.random.Generator, count: int, images: int) -> np.ndarray:
    """Return weights of bootstrap samples of images, (count, images); each sample sums to 1."""
    return rng.multinomial(images, np.full(images, 1 / images), size=count) / images


def sampling_variance(differences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the variance of the mean of per-image differences, (T, N), due to the sample of
    images: the limit of a bootstrap over images."""
    mean = (weights * differences).sum(1, keepdims=True)
    spread: np.ndarray = (weights * (differences - mean) ** 2).sum(1)
    return spread / (differences.shape[1] - 1)


def finalists(
    world: World, rng: np.random.Generator, count: int, trials: int, seeds: int
) -> dict[str, Finalists]:
    """Simulate tables of version 1: one search per setting, its leaders repeated under seeds that
    all settings share."""
    drawn = rng.integers(world.any_side.test.shape[1], size=(count, 1, seeds))
    weights = resample(rng, count, world.any_side.right.shape[2]) if world.images else None
    found = {}
    for name, side in world.sides.items():
        searches = world.search(name, rng, (count,), trials)
        leading, exist = _leaders(searches.shown)
        rows = np.take_along_axis(searches.rows, leading, 1)
        found[name] = _repeated(world, side, rows, drawn, rng, weights, exist)
    return found


def _repeated(
    world: World,
    side: Side,
    rows: np.ndarray,
    seeds: np.ndarray,
    rng: np.random.Generator,
    weights: np.ndarray | None,
    exist: np.ndarray,
) -> Finalists:
    shape = (*rows.shape, seeds.shape[2])
    rows, seeds = np.broadcast_to(rows[..., None], shape), np.broadcast_to(seeds, shape)
    test, lost = world.trouble.happen(rng, Runs(side, rows, seeds).test(weights), side.chance)
    return Finalists(side.peaks[rows, seeds], test, lost & exist[..., None], exist)


def _leaders(shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the best trials, best first, (T, 3), and whether they are leaders. The
    first always is; the others only if better than trial 0, the default."""
    ranked = np.argsort(-shown, 1, kind="stable")[:, :LEADERS]
    values = np.take_along_axis(shown, ranked, 1)
    exist = values > shown[:, :1]
    exist[:, 0] = True
    return ranked, exist


def one_searches(
    world: World, rng: np.random.Generator, count: int, trials: int, seeds: int
) -> OneSearch:
    """Simulate searches of a world with one setting, and their repeats."""
    (name, side), *_ = world.sides.items()
    searches = world.search(name, rng, (count,), trials)
    drawn = rng.integers(side.test.shape[1], size=(count, 1, seeds))
    weights = resample(rng, count, side.right.shape[2]) if world.images else None

    leading, exist = _leaders(searches.shown)
    default = np.full((count, 1), side.default)
    leaders = np.take_along_axis(searches.rows, leading, 1)
    rows = np.concatenate([leaders, searches.challenger[:, None], default], 1)
    every = np.concatenate([exist, np.ones((count, 2), dtype=bool)], 1)
    runs = _repeated(world, side, rows, drawn, rng, weights, every)
    usable = np.where(runs.lost, np.nan, runs.test)

    sampling = np.zeros(count)
    if weights is not None:
        right = [
            Runs(side, np.repeat(rows[:, [index]], seeds, 1), drawn[:, 0]).right()
            for index in (-2, -1)
        ]
        sampling = sampling_variance(right[0] - right[1], weights)
    best = Finalists(runs.validation[:, :-2], runs.test[:, :-2], runs.lost[:, :-2], exist)
    # without trouble the default's repeats equal those of the leader that is the default
    return OneSearch(best, usable[:, -1], exist & (leading == 0), usable[:, -2], sampling)
