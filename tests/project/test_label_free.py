"""Measures without labels, against closed forms, SciPy and scikit-learn. Scores of a collapsed
network, and of one that recognises every image."""

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from benchmarks import label_free_measures as measures
from benchmarks.label_free_report import correlation
from trainables.metrics import view_rank, view_retrieval

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(60, 8)).astype(np.float32)
NOISY = (IMAGES + 0.6 * RNG.normal(size=IMAGES.shape)).astype(np.float32)
ONE_POINT = np.ones((60, 8), np.float32)


def test_the_benchmark_measures_what_the_product_selects_by() -> None:
    found = measures.retrieval(IMAGES, NOISY)["rank"]
    product = view_retrieval(torch.from_numpy(IMAGES), torch.from_numpy(NOISY))
    assert found == pytest.approx(product)
    assert 0.1 < found < 0.9

    pictures = [IMAGES, NOISY, IMAGES + 1]
    product = view_rank([torch.from_numpy(one) for one in pictures])
    assert measures.view_rank(*pictures) == pytest.approx(product)


def test_ranks_are_those_of_scipy() -> None:
    distance = scipy.spatial.distance.cdist(IMAGES, NOISY, "cosine")
    ranks = [
        scipy.stats.rankdata(row)[image]
        for table in (distance, distance.T)
        for image, row in enumerate(table)
    ]
    found = measures.retrieval(IMAGES, NOISY)
    assert found["rank"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert found["cross"] == pytest.approx(np.mean(np.array(ranks) == 1))


def test_a_collapsed_network_finds_nothing_and_a_perfect_one_everything() -> None:
    collapsed = measures.retrieval(ONE_POINT, ONE_POINT)
    perfect = measures.retrieval(IMAGES, IMAGES)
    for name in ("mutual", "nearest", "cross"):
        assert (collapsed[name], perfect[name]) == (0, 1)
    assert collapsed["rank"] == pytest.approx(1 / 60)
    assert collapsed["contrast"] == pytest.approx(-np.log(60))
    assert perfect["rank"] == 1


def test_alignment_and_uniformity_are_those_of_scipy() -> None:
    one, other = measures.unit(IMAGES), measures.unit(NOISY)
    between = scipy.spatial.distance.cdist(one, other, "sqeuclidean")
    assert measures.alignment(IMAGES, NOISY) == pytest.approx(between.diagonal().mean(), rel=1e-5)
    among = scipy.spatial.distance.pdist(one, "sqeuclidean")
    expected = scipy.special.logsumexp(-2 * among) - np.log(len(among))
    assert measures.uniformity(IMAGES) == pytest.approx(expected, rel=1e-5)
    assert measures.uniformity(ONE_POINT) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_decay_of_a_spectrum_that_is_a_power_law(alpha: float) -> None:
    rotation = np.linalg.qr(RNG.normal(size=(400, 16)))[0]
    rotation -= rotation.mean(0)
    columns = np.linalg.qr(rotation)[0]  # centred and orthogonal
    z = columns * np.arange(1, 17) ** (-alpha / 2)
    assert measures.spectral_decay(z) == pytest.approx(alpha, rel=1e-3)


def test_lidar_is_the_rank_of_scikit_learns_discriminants() -> None:
    views = IMAGES + 0.5 * RNG.normal(size=(6, *IMAGES.shape))
    labels = np.tile(np.arange(60), 6)
    lda = LinearDiscriminantAnalysis(solver="eigen").fit(views.reshape(-1, 8), labels)
    shares = lda.explained_variance_ratio_
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert measures.lidar(views) == pytest.approx(expected, rel=1e-3)
    assert measures.lidar(np.stack([ONE_POINT] * 4)) == 1


def test_clusters_agree_where_views_do() -> None:
    centres = 10 * RNG.normal(size=(4, 8))
    clean = np.repeat(centres, 15, axis=0) + RNG.normal(size=(60, 8))
    moved = clean + 0.1 * RNG.normal(size=(60, 8))
    assert measures.cluster_agreement(clean, clean, clean) == 1
    assert measures.cluster_agreement(clean, clean, moved) > 0.8
    assert abs(measures.cluster_agreement(clean, clean, RNG.permutation(clean))) < 0.2
    assert measures.cluster_agreement(ONE_POINT, ONE_POINT, ONE_POINT) == 0


def test_correlation_is_that_of_scipy_with_an_interval_around_it() -> None:
    score = RNG.normal(size=40)
    truth = score + RNG.normal(size=40)
    estimate, low, high = correlation(score, truth)
    assert estimate == pytest.approx(scipy.stats.spearmanr(score, truth).statistic)
    assert 0 < low < estimate < high < 1
