"""Quality of a representation: kNN, linear probe, retrieval of views, spread and rank of
embeddings; also intervals over repeated runs.

Features are float32 tensors (n, d) on any device; labels int64 (n,). Functions that return Python
floats wait for the device once.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.devices import to_double

_PROBE_ITERATIONS = 200
# The probe has converged when no component of the gradient of its loss is larger than this.
_PROBE_TOLERANCE = 1e-5


@torch.no_grad()
def knn_right(
    gallery: Tensor,  # (n, d)
    gallery_labels: Tensor,  # (n,) in [0, C)
    queries: Tensor,  # (m, d)
    query_labels: Tensor,  # (m,)
    k: int = 200,
    temperature: float = 0.1,
    chunk: int = 512,
) -> Tensor:  # (m,) bool
    """Return which queries the weighted kNN classifier gets right (Wu et al. 2018, section 3.4).

    Each of the k most cosine-similar gallery images votes for its class with weight exp(similarity
    / temperature).

    Args:
        k: neighbours, >= 1; the whole gallery votes if it is smaller.
        chunk: queries per step; memory is about 4 chunk (n + d + C) bytes.
    """
    gallery = F.normalize(gallery.float(), dim=1)
    k = min(k, len(gallery))
    num_classes = int(gallery_labels.max()) + 1
    right = []
    chunks = zip(torch.split(queries, chunk), torch.split(query_labels, chunk), strict=True)
    for some, labels in chunks:
        similarities = F.normalize(some.float(), dim=1) @ gallery.T  # (b, n)
        similarity, index = similarities.topk(k, dim=1)  # (b, k) each

        # Relative to the nearest neighbour: same vote, but no overflow at low temperatures.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weight.new_zeros(len(some), num_classes)
        votes.scatter_add_(1, gallery_labels[index], weight)
        right.append(votes.argmax(1) == labels)
    return torch.cat(right)


@torch.no_grad()
def retrieval_ranks(
    queries: Tensor,  # (n, d): features of one view of each image
    views: Tensor,  # (n, d): of another view, in the same order
    chunk: int = 1024,
) -> Tensor:  # (n,) int64 in [1, n]
    """Rank of each image's other view among the views of all images, by cosine similarity to its
    query.

    Ties count against the image: if all features point the same way, every rank is n.

    Args:
        chunk: queries per step; memory is about 8 chunk n bytes.
    """
    queries = F.normalize(queries.float(), dim=1)
    views = F.normalize(views.float(), dim=1)
    places = torch.arange(len(queries), device=queries.device)
    ranks = []
    for rows in torch.split(places, chunk):
        similarities = queries[rows] @ views.T  # (b, n)
        own = similarities.gather(1, rows[:, None])
        ranks.append((similarities >= own).sum(1))
    return torch.cat(ranks)


def view_retrieval(
    first: Tensor,  # (n, d): features of one view of each image
    second: Tensor,  # (n, d): of another view, in the same order
) -> float:
    """Mean reciprocal rank at which two views of an image find each other, over both directions.

    In (0, 1]: 1 if each is the other's nearest, 1 / n if all features coincide, about ln(n) / n at
    random.
    """
    forth = retrieval_ranks(first, second)
    back = retrieval_ranks(second, first)
    reciprocal = 1 / to_double(torch.cat([forth, back]))
    mean: float = reciprocal.mean().item()
    return mean


def view_rank(
    pictures: Sequence[Tensor],  # (n, d) each: features of several pictures of each image
) -> float:
    """1 - (mean log rank) / ln(n), where the rank is that at which pictures of one image find each
    other, over all pairs and both directions.

    In [0, 1]: 1 if each is the other's nearest, 0 if all features coincide, about 1 / ln(n) at
    random. Unlike the reciprocal rank, it distinguishes networks that find few images, and far
    ranks from hopeless ones.
    """
    count = len(pictures[0])
    if count == 1:
        return 1.0
    ranks = [
        retrieval_ranks(queries, others) for queries, others in itertools.permutations(pictures, 2)
    ]
    logarithm = to_double(torch.cat(ranks)).log()
    mean: float = logarithm.mean().item()
    return 1 - mean / math.log(count)


def share(
    right: Tensor,  # (n,) bool
) -> float:
    """Share of answers that are right, in [0, 1]."""
    count: int = right.sum().item()  # type: ignore[assignment]
    return count / len(right)


@torch.no_grad()
def embedding_std(
    z: Tensor,  # (n, d)
) -> float:
    """Standard deviation of each dimension of the L2-normalised embeddings, averaged, times
    sqrt(d).

    In [0, 1]: 1 for a centred isotropic cloud, 0 if all embeddings point the same way (Chen & He
    2021, section 4.1).
    """
    z = F.normalize(z.float(), dim=1)
    mean_std = z.std(0, correction=0).mean()
    spread: float = (mean_std * z.shape[1] ** 0.5).item()
    return spread


@torch.no_grad()
def rankme(
    z: Tensor,  # (n, d)
    eps: float = 1e-7,
) -> float:
    """Effective rank: exp of the entropy of the singular values, normalised to sum 1 (Garrido et
    al. 2023, equation 1).

    In [1, min(n, d)] up to `eps`, the paper's constant. Embeddings are not centred, as in the
    paper. NaN if any embedding is not finite.
    """
    if not z.isfinite().all():
        return float("nan")
    sigma = torch.linalg.svdvals(z.float())
    total = sigma.sum().clamp_min(torch.finfo(sigma.dtype).tiny)
    p = sigma / total + eps
    entropy = -(p * p.log()).sum()
    rank: float = torch.exp(entropy).item()
    return rank


class OnlineProbe(nn.Module):
    """Linear softmax classifier on standardised, detached features. It measures how much can be
    read linearly from a representation that is still learning.

    Weights and statistics are buffers, so they are saved in the checkpoint but not trained by the
    optimizer of the representation.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, num_classes: int):
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_classes, dim))
        self.register_buffer("bias", torch.zeros(num_classes))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def forward(
        self,
        features: Tensor,  # (n, d)
    ) -> Tensor:  # (n, C)
        standardised = (features.float() - self.mean) / self.scale
        return F.linear(standardised, self.weight, self.bias)

    @torch.no_grad()
    def fit(
        self,
        features: Tensor,  # (n, d)
        labels: Tensor,  # (n,) in [0, C)
    ) -> None:
        """Minimise cross-entropy plus |weight|^2 / 2n, from zero to convergence, so the result does
        not depend on earlier fits.

        The same as scikit-learn's `LogisticRegression` with its default penalty, C = 1. Classes
        without training features are never predicted.
        """
        self._standardise(features.float())
        x = (features.float() - self.mean) / self.scale
        present, targets = torch.unique(labels, return_inverse=True)
        weight = x.new_zeros(len(present), x.shape[1]).requires_grad_()
        bias = x.new_zeros(len(present)).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=_PROBE_ITERATIONS,
            tolerance_grad=_PROBE_TOLERANCE,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

        def loss_and_gradient() -> float:
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(x, weight, bias), targets)
            loss = loss + weight.square().sum() / (2 * len(x))
            torch.autograd.backward(loss)
            return loss.item()

        optimizer.step(loss_and_gradient)  # type: ignore[no-untyped-call]
        self.weight.zero_()
        self.bias.fill_(-torch.inf)
        self.weight[present] = weight
        self.bias[present] = bias

    @torch.no_grad()
    def right(
        self,
        features: Tensor,  # (n, d)
        labels: Tensor,  # (n,)
        chunk: int = 8192,
    ) -> Tensor:  # (n,) bool
        """Return for which features the predicted class is right."""
        right = []
        chunks = zip(torch.split(features, chunk), torch.split(labels, chunk), strict=True)
        for some, truth in chunks:
            right.append(self(some).argmax(1) == truth)
        return torch.cat(right)

    def _standardise(self, features: Tensor) -> None:
        """Store mean and standard deviation of the features."""
        std, mean = torch.std_mean(features, dim=0, correction=0)
        # A dimension that is constant here may vary in a query. Without a floor on its scale, it
        # would outweigh all others.
        typical = features.square().mean().sqrt()
        tiny = torch.finfo(features.dtype).tiny
        floor = 1e-3 * typical + tiny
        self.mean.copy_(mean)
        self.scale.copy_(std.clamp_min(floor))


@torch.no_grad()
def calibrate_batchnorm(
    module: nn.Module,
    batches: Iterable[Tensor],  # each (b, C, H, W)
) -> None:
    """Set BatchNorm statistics to those of `batches`: the plain average of batch means and of
    unbiased batch variances.

    An untrained network needs this to be a fair baseline. All other layers run in eval mode; modes
    and momenta are restored. A single-image batch is skipped unless it is the first: projectors
    refuse it, and it would count as much as a full one.

    Raises:
        ValueError: there is no batch.
    """
    modes = {m: m.training for m in module.modules()}
    norms = [m for m in modes if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # None means a cumulative average in torch
        norm.training = True
    empty = True
    try:
        for images in batches:
            if empty or len(images) > 1:
                module(images)
            empty = False
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for m, training in modes.items():
            m.training = training
    if empty:
        raise ValueError("calibrate_batchnorm got no batch; give at least one")


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student's t interval of independent repeats: (mean, low, high). For a paired
    comparison, pass the differences.

    A single value has no interval: low and high are -inf and inf.

    Args:
        confidence: in (0, 1).
    """
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) == 1:
        return mean, -np.inf, np.inf
    from scipy.special import stdtrit  # imported here: most experiments do not need it

    quantile = stdtrit(len(x) - 1, 0.5 + confidence / 2)
    spread = x.std(ddof=1)
    half = float(quantile * spread / np.sqrt(len(x)))
    return mean, mean - half, mean + half
