"""t-SNE and principal components against scikit-learn's."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.manifold._t_sne import _joint_probabilities
from sklearn.metrics import pairwise_distances

from trainables.plots.tsne import divergence, joint_probabilities, principal_components, tsne

PERPLEXITY = 20.0


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    images: np.ndarray = load_digits().data[:250]
    return images / np.linalg.norm(images, axis=1, keepdims=True)


def test_joint_probabilities_equal_scikit_learns(features: np.ndarray) -> None:
    distances = pairwise_distances(features, squared=True).astype(np.float32)
    expected = _joint_probabilities(distances, PERPLEXITY, verbose=0)
    found = joint_probabilities(features, PERPLEXITY)
    pairs = np.triu_indices(len(features), 1)
    np.testing.assert_allclose(2 * found[pairs], 2 * expected, rtol=0.01, atol=1e-7)
    assert found.sum() == pytest.approx(1, abs=1e-4)


def test_divergence_is_nearly_as_low_as_scikit_learns(features: np.ndarray) -> None:
    exact = TSNE(perplexity=PERPLEXITY, init="pca", random_state=0, method="exact", max_iter=500)
    reference = exact.fit_transform(features)
    found = tsne(features, principal_components(features)[0], PERPLEXITY)
    joint = joint_probabilities(features, PERPLEXITY)
    assert exact.kl_divergence_ == pytest.approx(divergence(joint, reference), rel=0.01)
    assert divergence(joint, found) < 1.06 * exact.kl_divergence_
    assert trustworthiness(features, found) > trustworthiness(features, reference) - 0.01


def test_gradient_equals_finite_differences_of_the_divergence() -> None:
    """The reference is finite differences of the divergence."""
    from trainables.plots.tsne import _Work

    rng = np.random.default_rng(1)
    joint = joint_probabilities(rng.normal(size=(12, 5)), 4)
    points = rng.normal(size=(12, 2)).astype(np.float32)
    gradient = _Work(joint).gradient(points, exaggerated=False)
    for row, column in [(0, 0), (5, 1), (11, 0)]:
        step = np.zeros((12, 2))
        step[row, column] = 1e-3
        above = divergence(joint, points + step)
        below = divergence(joint, points - step)
        assert gradient[row, column] == pytest.approx((above - below) / 2e-3, abs=1e-4)


@pytest.mark.parametrize("count", [4, 5, 8])
def test_few_points_and_equal_points_are_mapped(count: int) -> None:
    few = np.random.default_rng(0).normal(size=(count, 6))
    for features in (few, np.repeat(few, 4, axis=0)):
        start, _ = principal_components(features)
        points = tsne(features, start, min(30.0, (len(features) - 1) / 3))
        assert np.isfinite(points).all()
        assert np.ptp(points) > 0


@pytest.mark.filterwarnings("error")
def test_a_collapsed_network_is_mapped() -> None:
    """No width of a Gaussian gives a point 20 neighbours if 60 others are equal to it."""
    rng = np.random.default_rng(0)
    features = np.abs(rng.normal(size=(100, 16)))
    features[40:] = features[0]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    points = tsne(features, principal_components(features)[0], PERPLEXITY)
    assert np.isfinite(points).all()
    assert np.ptp(points[40:], axis=0).max() < np.ptp(points, axis=0).max() / 2


@pytest.mark.parametrize("width", [8, 90])
def test_principal_components_equal_scikit_learns(width: int) -> None:
    """Compared with fewer and with more features than images."""
    features = np.random.default_rng(0).normal(size=(40, width)) * np.arange(1, width + 1)
    reference = PCA(2, svd_solver="full")
    expected = reference.fit_transform(features)
    found, shares = principal_components(features)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-6, atol=1e-8)
    assert shares == pytest.approx(reference.explained_variance_ratio_)
    turned, _ = principal_components(-features)
    assert np.abs(turned).max(0) == pytest.approx(found.max(0))  # signs are arbitrary
