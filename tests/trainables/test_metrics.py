"""Evaluation metrics against NumPy loops, scikit-learn, SciPy and closed forms."""

import itertools

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy

from trainables.metrics import (
    OnlineProbe,
    calibrate_batchnorm,
    embedding_std,
    knn_right,
    mean_interval,
    rankme,
    retrieval_ranks,
    share,
    view_rank,
    view_retrieval,
)


def knn_top1(*arguments, **options):
    return share(knn_right(*arguments, **options))


def clouds(n, d, classes, seed, spread=1.5):
    """Return overlapping Gaussian classes, on which a classifier is neither at chance nor
    perfect."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    labels = rng.integers(classes, size=n)
    features = (centres[labels] + spread * rng.normal(size=(n, d))).astype(np.float32)
    return torch.from_numpy(features), torch.from_numpy(labels)


def knn_numpy(gallery, gallery_labels, queries, query_labels, k, temperature):
    """Weighted kNN of Wu et al. 2018, section 3.4, one query at a time in float64."""
    gallery = gallery.astype(np.float64) / np.linalg.norm(gallery, axis=1, keepdims=True)
    right = 0
    for query, label in zip(queries.astype(np.float64), query_labels, strict=True):
        similarity = gallery @ (query / np.linalg.norm(query))
        votes = np.zeros(gallery_labels.max() + 1)
        for i in np.argsort(-similarity)[:k]:
            votes[gallery_labels[i]] += np.exp(similarity[i] / temperature)
        right += votes.argmax() == label
    return right / len(queries)


@pytest.mark.parametrize(
    ("k", "temperature"), [(1, 0.1), (5, 0.1), (50, 0.05), (200, 0.1), (1000, 1.0)]
)
@pytest.mark.parametrize("chunk", [7, 512])
def test_knn_same_as_numpy(k, temperature, chunk):
    gallery, gallery_labels = clouds(300, 8, 6, seed=0)
    queries, query_labels = clouds(100, 8, 6, seed=1)
    expected = knn_numpy(
        *(t.numpy() for t in (gallery, gallery_labels, queries, query_labels)), k, temperature
    )
    assert 0.3 < expected < 0.95
    assert (
        knn_top1(gallery, gallery_labels, queries, query_labels, k, temperature, chunk) == expected
    )


def test_nearest_neighbour_same_as_scikit_learn():
    gallery, gallery_labels = clouds(300, 8, 6, seed=2)
    queries, query_labels = clouds(100, 8, 6, seed=3)
    reference = KNeighborsClassifier(1, metric="cosine").fit(gallery, gallery_labels)
    assert knn_top1(gallery, gallery_labels, queries, query_labels, k=1) == reference.score(
        queries, query_labels
    )


def test_knn_low_temperature_is_the_nearest_neighbour():
    gallery, gallery_labels = clouds(300, 8, 6, seed=2)
    queries, query_labels = clouds(100, 8, 6, seed=3)
    cold = knn_top1(gallery, gallery_labels, queries, query_labels, k=200, temperature=1e-5)
    assert cold == knn_top1(gallery, gallery_labels, queries, query_labels, k=1)


def test_knn_class_missing_in_the_gallery_is_wrong_and_votes_outweigh_the_nearest():
    gallery = torch.tensor([[1.0, 0.0], [0.99, 0.14], [0.99, -0.14]])
    labels = torch.tensor([0, 1, 1])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_top1(gallery, labels, query, torch.tensor([1]), k=3) == 1.0
    assert knn_top1(gallery, labels, query, torch.tensor([0]), k=1) == 1.0
    assert knn_top1(gallery, labels, query, torch.tensor([7]), k=3) == 0.0


def test_embedding_std():
    torch.manual_seed(0)
    assert embedding_std(torch.randn(20_000, 64)) == pytest.approx(1, abs=0.01)
    # lengths of the vectors do not matter
    assert embedding_std(torch.randn(20_000, 64) * torch.rand(20_000, 1)) == pytest.approx(
        1, abs=0.01
    )
    assert embedding_std(torch.rand(1, 64).expand(100, 64)) == pytest.approx(0, abs=1e-5)
    z = np.random.default_rng(0).normal(1, 2, size=(50, 7)).astype(np.float32)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    assert embedding_std(torch.from_numpy(z)) == pytest.approx(
        unit.std(0).mean() * 7**0.5, rel=1e-5
    )


def test_view_retrieval_is_the_mean_reciprocal_rank_of_scipy() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(40, 8))
    second = first + 0.8 * rng.normal(size=(40, 8))
    distance = scipy.spatial.distance.cdist(first, second, "cosine")
    forth = np.diag(scipy.stats.rankdata(distance, axis=1))
    back = np.diag(scipy.stats.rankdata(distance, axis=0))
    assert 1 < forth.mean() < 20

    one, other = (torch.from_numpy(x).float() for x in (first, second))
    assert retrieval_ranks(one, other, chunk=7).tolist() == forth.tolist()
    assert retrieval_ranks(other, one).tolist() == back.tolist()
    expected = (np.mean(1 / forth) + np.mean(1 / back)) / 2
    assert view_retrieval(10 * one, other) == pytest.approx(expected)  # by cosine


def test_view_rank_is_the_mean_logarithm_of_the_ranks_of_scipy() -> None:
    pictures = [torch.randn(40, 6, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    pictures = [pictures[0], pictures[0] + 0.5 * pictures[1], pictures[0] + 0.7 * pictures[2]]
    logarithms = []
    for one, other in itertools.permutations(pictures, 2):
        distances = scipy.spatial.distance.cdist(one, other, "cosine")
        ranks = [scipy.stats.rankdata(row)[image] for image, row in enumerate(distances)]
        logarithms.append(np.log(ranks).mean())

    found = view_rank([10 * pictures[0], *pictures[1:]])  # by cosine
    assert found == pytest.approx(1 - np.mean(logarithms) / np.log(40))
    assert 0.3 < found < 0.95


def test_view_rank_of_an_encoder_that_knows_all_and_of_one_that_knows_nothing() -> None:
    images = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    assert view_rank([images, images, images]) == 1
    assert view_rank([torch.ones(30, 5)] * 3) == pytest.approx(0)
    assert view_rank([images[:1]] * 3) == 1


def test_view_retrieval_of_an_encoder_that_knows_all_and_of_one_that_knows_nothing() -> None:
    images = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    assert view_retrieval(images, images) == 1
    assert view_retrieval(torch.ones(30, 5), torch.ones(30, 5)) == pytest.approx(1 / 30)
    assert view_retrieval(torch.zeros(30, 5), torch.zeros(30, 5)) == pytest.approx(1 / 30)

    one, other = torch.randn(2, 2000, 5, generator=torch.Generator().manual_seed(1))
    harmonic = (1 / np.arange(1, 2001)).sum()
    assert view_retrieval(one, other) == pytest.approx(harmonic / 2000, rel=0.5)


def test_rankme_closed_forms():
    assert rankme(torch.eye(32)) == pytest.approx(32, rel=1e-4)
    assert rankme(5 * torch.eye(64)[:, :10]) == pytest.approx(10, rel=1e-4)
    assert rankme(torch.outer(torch.rand(100), torch.rand(32))) == pytest.approx(1, abs=1e-3)
    assert rankme(torch.zeros(10, 4)) == pytest.approx(1, abs=1e-3)
    assert np.isnan(rankme(torch.tensor([[1.0, float("nan")], [0.0, 1.0]])))


@pytest.mark.parametrize("shape", [(200, 16), (16, 200)])
def test_rankme_same_as_numpy(shape):
    rng = np.random.default_rng(0)
    z = rng.normal(size=shape) * np.logspace(0, -3, shape[1])
    sigma = np.linalg.svd(z, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    assert rankme(torch.from_numpy(z)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-4)


def digits():
    images, labels = load_digits(return_X_y=True)
    fit = np.arange(len(images)) % 3 > 0
    features, labels = torch.from_numpy(images).float(), torch.from_numpy(labels).long()
    return features[fit], labels[fit], features[~fit], labels[~fit]


def wide():
    """Return more features than images, which a line separates."""
    x, y = clouds(80, 200, 6, seed=5, spread=6.0)
    test_x, test_y = clouds(500, 200, 6, seed=6, spread=6.0)
    return x, y, test_x, test_y


def accuracy(probe, x, y, **options):
    return share(probe.right(x, y, **options))


def logistic_regression(x, y):
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000, tol=1e-6))
    return pipeline.fit(x.numpy(), y.numpy())


@pytest.mark.parametrize("data", [digits, wide], ids=["digits", "wider than long"])
def test_probe_is_logistic_regression(data):
    x, y, test_x, test_y = data()
    reference = logistic_regression(x, y)
    probe = OnlineProbe(x.shape[1], int(y.max()) + 1)
    probe.fit(x, y)
    theirs = torch.from_numpy(reference.predict_proba(test_x.numpy())).float()
    torch.testing.assert_close(probe(test_x).softmax(1), theirs, rtol=0, atol=0.01)
    expected = reference.score(test_x.numpy(), test_y.numpy())
    assert accuracy(probe, test_x, test_y) == pytest.approx(expected, abs=0.002)
    assert accuracy(probe, test_x, test_y, chunk=11) == accuracy(probe, test_x, test_y)


def test_probe_of_constant_features_is_at_chance_however_often_it_is_fitted():
    y = torch.arange(200) % 10
    x = torch.full((200, 8), 3.0)
    probe = OnlineProbe(8, 10)
    for _ in range(12):
        probe.fit(x, y)
        assert accuracy(probe, x, y) == pytest.approx(0.1)


def test_probe_does_not_depend_on_earlier_fits():
    x, y, *_ = digits()
    fresh, used = OnlineProbe(64, 10), OnlineProbe(64, 10)
    for _ in range(3):
        used.fit(x + torch.randn(x.shape), y)
    fresh.fit(x, y)
    used.fit(x, y)
    assert torch.equal(fresh.weight, used.weight)
    assert torch.equal(fresh.bias, used.bias)


def test_probe_accuracy_same_as_torchmetrics():
    x, y = clouds(300, 8, 5, seed=4)
    probe = OnlineProbe(8, 5)
    probe.fit(x, y)
    theirs = multiclass_accuracy(probe(x), y, num_classes=5, average="micro")
    assert accuracy(probe, x, y) == pytest.approx(theirs.item(), abs=1e-6)


def test_probe_standardises():
    x, y, test_x, _ = digits()
    probe = OnlineProbe(64, 10)
    probe.fit(x, y)
    alive = x.numpy().std(0) > 0.1
    expected = StandardScaler().fit(x.numpy()).transform(test_x.numpy())[:, alive]
    actual = ((test_x - probe.mean) / probe.scale).numpy()[:, alive]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_probe_is_out_of_reach_of_optimizers_and_of_gradients():
    probe = OnlineProbe(4, 2)
    assert not list(probe.parameters())
    features = torch.randn(32, 4, requires_grad=True)
    with torch.no_grad():
        probe.fit(features, torch.arange(32) % 2)
    assert probe.weight.any()
    assert features.grad is None
    assert not any(buffer.requires_grad for buffer in probe.buffers())


def test_probe_survives_dead_dimensions():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    x[:, 3] = 0
    probe = OnlineProbe(4, 2)
    probe.fit(x, y)
    assert accuracy(probe, x, y) > 0.95
    collapsed = torch.full((64, 4), 3.0)
    probe.fit(collapsed, y)
    assert probe(collapsed).isfinite().all()


def test_calibrated_statistics_same_as_numpy():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 5),
        nn.BatchNorm1d(5),
    )
    net[1].momentum, net[6].momentum = 0.3, 0.01
    net[2].eval()  # a mode that differs from its parent's is restored too
    net(torch.randn(8, 3, 8, 8))  # statistics and counters that calibration must forget
    batches = [3 * torch.randn(n, 3, 8, 8) + 1 for n in (16, 16, 10)]
    modes = [m.training for m in net.modules()]
    weights = [p.clone() for p in net.parameters()]

    # a last batch of one image does not count
    calibrate_batchnorm(net, iter([*batches, torch.full((1, 3, 8, 8), 1e3)]))

    assert [m.training for m in net.modules()] == modes
    assert (net[1].momentum, net[6].momentum) == (0.3, 0.01)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), weights, strict=True))
    with torch.no_grad():
        first = [
            net[0](b).numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(4, -1)
            for b in batches
        ]
    np.testing.assert_allclose(
        net[1].running_mean, np.mean([a.mean(1) for a in first], axis=0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        net[1].running_var, np.mean([a.var(1, ddof=1) for a in first], axis=0), rtol=1e-4
    )

    # the deeper layer sees activations that the first layer normalised with the statistics of their
    # own batch
    def second(activations):
        mean, var = activations.mean(1)[:, None], activations.var(1)[:, None]
        x = np.maximum((activations - mean) / np.sqrt(var + 1e-5), 0)
        x = x.reshape(4, -1, 36).transpose(1, 0, 2).reshape(-1, 144)
        return x @ net[5].weight.detach().numpy().T + net[5].bias.detach().numpy()

    outputs = [second(a) for a in first]
    np.testing.assert_allclose(
        net[6].running_mean, np.mean([o.mean(0) for o in outputs], axis=0), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        net[6].running_var, np.mean([o.var(0, ddof=1) for o in outputs], axis=0), rtol=1e-3
    )


def test_calibration_restores_after_a_failure_and_needs_a_batch():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    with pytest.raises(RuntimeError):
        calibrate_batchnorm(net, [torch.rand(4, 5, 8, 8)])
    assert net.training
    assert net[1].training
    assert net[1].momentum == 0.1
    with pytest.raises(ValueError, match="no batch"):
        calibrate_batchnorm(net, [])


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 5, 40])
def test_interval_same_as_scipy(n, confidence):
    values = np.random.default_rng(n).normal(0.7, 0.1, size=n)
    mean, low, high = mean_interval(list(values), confidence)
    expected = scipy.stats.t.interval(
        confidence, n - 1, loc=values.mean(), scale=scipy.stats.sem(values)
    )
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(expected)


def test_interval_of_one_value_is_unbounded():
    assert mean_interval([0.5]) == (0.5, -np.inf, np.inf)
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)
