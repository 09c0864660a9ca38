"""The part of the spread over searches that comes from the backbone.

In search r, settings B and D start from one supervised backbone and C and E from one
self-supervised backbone, while all four share split, test images and random draws. What B and D
have in common beyond what B and E have in common is due to the backbone. So half the covariance
over searches of B - C and D - E,

    (cov(B, D) - cov(B, E) - cov(C, D) + cov(C, E)) / 2,

estimates the variance that another backbone causes (method of moments). If fine-tuning makes B less
dependent on its backbone than D is, it is the geometric mean of both variances. The part of the
covariance that the test images cause is subtracted. Whatever else suits one kind of backbone more
than the other, such as a split, counts as the backbone's.

The interval is the generalized confidence interval of a covariance of bivariate normal values: the
fiducial distribution of Cholesky factors (Berger and Sun 2008, "Objective priors for the bivariate
normal model"). It excludes 0 exactly if the correlation's t test does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces.classify import BackboneSetting
from search_spaces.settings import Comparison

FEWEST = 3
"""Minimum number of searches for an estimate; with three the interval covers nearly everything."""

_DRAWS = 20_000
_SEED = 0  # of the interval's random numbers, so that the same record gives the same page
_TAIL = 2.5  # percent, on either side


@dataclass(frozen=True)
class BackbonePart:
    """Variance of a search's accuracy that another backbone causes, with its 95 % interval."""

    settings: tuple[str, ...]
    """The settings that it is estimated from, and holds for on average."""

    variance: float
    low: float
    high: float
    """At least 0."""

    @property
    def told(self) -> bool:
        """True if the searches are enough to tell it from 0."""
        return self.low > 0

    @property
    def deviations(self) -> tuple[float, float, float]:
        """Standard deviation if it were the only component, with its interval."""
        return self.variance**0.5, self.low**0.5, self.high**0.5

    @property
    def label(self) -> str:
        """The standard deviation with its interval."""
        sd, low, high = self.deviations
        return f"{sd:.3f} [{low:.3f}, {high:.3f}]"


def crossed_settings(comparison: Comparison) -> tuple[str, str, str, str] | None:
    """Return four settings of two backbones and two ways to train: first with first way, second
    with first, first with second, second with second (B, C, D, E); None if there are none."""
    names: dict[tuple[str, str], str] = {}
    for name, setting in comparison.settings.items():
        if isinstance(setting, BackboneSetting) and setting.init != "scratch":
            names[setting.init, setting.trains] = name
    four = [("supervised", "all"), ("ssl", "all"), ("supervised", "head"), ("ssl", "head")]
    if not all(cell in names for cell in four):
        return None
    first, second, third, fourth = (names[cell] for cell in four)
    return first, second, third, fourth


def backbone_part(
    accuracies: Mapping[str, Sequence[float]],
    of_images: float = 0.0,
) -> BackbonePart | None:
    """Estimate the backbone's part from four settings.

    Args:
        accuracies: setting -> (R,) accuracies of its searches, in the order of `crossed_settings`.
        of_images: part of the covariance of the two differences that the test images cause.
    Returns:
        None for fewer than `FEWEST` searches.
    """
    b, c, d, e = (np.asarray(values, np.float64) for values in accuracies.values())
    if len(b) < FEWEST:
        return None
    differences = np.stack([b - c, d - e])
    covariance = np.cov(differences)
    low, high = _interval(covariance, len(b) - 1)
    halves = (float(covariance[0, 1]), low, high)
    variance, low, high = (max(0.0, (value - of_images) / 2) for value in halves)
    return BackbonePart(tuple(accuracies), variance, low, high)


def _interval(
    covariance: np.ndarray,  # (2, 2) of the sample
    freedom: int,
) -> tuple[float, float]:
    """Return the 95 % interval of the true covariance."""
    first = np.sqrt(covariance[0, 0])
    if first == 0:
        return 0.0, 0.0
    slope = covariance[0, 1] / first
    rest = np.sqrt(max(0.0, covariance[1, 1] - slope**2))

    random = np.random.default_rng(_SEED)
    squares = random.chisquare(freedom, _DRAWS)
    ratio = random.standard_normal(_DRAWS) / np.sqrt(random.chisquare(freedom - 1, _DRAWS))
    drawn = freedom * first * (slope - rest * ratio) / squares
    low, high = np.percentile(drawn, [_TAIL, 100 - _TAIL])
    return float(low), float(high)
