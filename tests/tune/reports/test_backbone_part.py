"""The backbone's part of the spread over searches, against made-up searches and SciPy."""

import numpy as np
import pytest
from scipy import stats

from search_spaces.classify import A_TO_E
from tune.experiments import EXPERIMENTS
from tune.reports.backbone_part import backbone_part, crossed_settings

NAMES = ("B", "C", "D", "E")
BACKBONE, SEARCH, COMMON = 0.02, 0.015, 0.03  # standard deviations


def drawn(
    random: np.random.Generator, searches: int, backbone: float = BACKBONE
) -> dict[str, np.ndarray]:
    """Accuracies of searches: B and D share one backbone, C and E another, and all the draws."""
    common = random.normal(0, COMMON, searches)
    supervised, ssl = random.normal(0, backbone, (2, searches))
    own = random.normal(0, SEARCH, (4, searches))
    of_backbone = (supervised, ssl, supervised, ssl)
    return {
        name: mean + common + shared + alone
        for name, mean, shared, alone in zip(
            NAMES, (0.8, 0.6, 0.7, 0.3), of_backbone, own, strict=True
        )
    }


def test_many_searches_give_the_true_part() -> None:
    found = backbone_part(drawn(np.random.default_rng(0), 20_000))
    assert found is not None
    assert found.settings == NAMES
    assert found.variance == pytest.approx(BACKBONE**2, rel=0.05)
    assert found.low < found.variance < found.high
    assert found.high - found.low < 0.2 * found.variance
    assert found.deviations == pytest.approx((BACKBONE,) * 3, rel=0.1)


def test_what_shares_a_backbone_varies_together_beyond_what_does_not() -> None:
    of = drawn(np.random.default_rng(1), 8)

    def cov(first: str, second: str) -> float:
        return float(np.cov(of[first], of[second])[0, 1])

    shared = (cov("B", "D") + cov("C", "E")) / 2
    apart = (cov("B", "E") + cov("C", "D")) / 2
    found = backbone_part(of)
    assert found is not None
    assert found.variance == pytest.approx(shared - apart)
    less = backbone_part(of, of_images=1e-4)
    assert less is not None
    assert less.variance == pytest.approx(shared - apart - 0.5e-4)


def test_a_part_is_never_negative() -> None:
    rising = np.array([0.5, 0.52, 0.55, 0.51, 0.53])
    found = backbone_part({"B": rising, "C": np.full(5, 0.5), "D": 1 - rising, "E": np.zeros(5)})
    assert found is not None
    assert (found.variance, found.low, found.high) == (0, 0, 0)
    assert not found.told


def test_it_is_told_where_the_correlation_is() -> None:
    random = np.random.default_rng(3)
    told = 0
    for _ in range(60):
        of = drawn(random, 5, backbone=0.04)
        p = stats.pearsonr(of["B"] - of["C"], of["D"] - of["E"], alternative="greater").pvalue
        if abs(p - 0.025) > 0.003:
            found = backbone_part(of)
            assert found is not None
            assert found.told == (p < 0.025)
            told += found.told
    assert 10 < told < 55


@pytest.mark.parametrize(("searches", "backbone"), [(5, 0.0), (5, 0.02), (11, 0.04)])
def test_the_interval_holds_the_true_part(searches: int, backbone: float) -> None:
    random = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        found = backbone_part(drawn(random, searches, backbone))
        assert found is not None
        covered += found.low <= backbone**2 <= found.high
    assert covered / 300 >= 0.92


def test_equal_searches_and_too_few() -> None:
    equal = dict.fromkeys(NAMES, np.full(5, 0.5))
    found = backbone_part(equal)
    assert found is not None
    assert (found.variance, found.low, found.high) == (0, 0, 0)
    assert backbone_part(dict.fromkeys(NAMES, np.array([0.5, 0.6]))) is None


def test_settings_that_cross_two_backbones() -> None:
    assert crossed_settings(A_TO_E) == NAMES
    assert crossed_settings(A_TO_E.without({"E"})) is None
    assert crossed_settings(EXPERIMENTS["fewshot"].comparisons["distance"]) is None
