"""Prototypical networks (Snell et al. 2017, https://arxiv.org/abs/1703.05175): few-shot
classification by distance to class means.

5-way 1-shot, on letters of alphabets that training lacks:

    python tune/run.py fewshot
    python tune/run.py fewshot --study cosine --set head.distance=cosine

With 5 support images per class in evaluation, and therefore in training:

    python tune/run.py fewshot --study shot5 --set val.shot=5

The objective is val/episode_top1, the mean accuracy over fixed episodes with classes that training
has not seen.
"""

from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.augment.image_ops import Normalization
from trainables.augment.view_config import ViewConfig
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.initial import InitConfig, check_image_size, initial_backbone
from trainables.backbone.networks import BackboneConfig
from trainables.base import Batch, Metrics, TrainConfig
from trainables.config import Annotated, Field, config
from trainables.data import DataConfig, FewShotData, Split, Task
from trainables.data.episodes import Episodes, EpisodeSampler
from trainables.devices import in_float32
from trainables.finetune import FineTuned, labels_of
from trainables.metrics import mean_interval
from trainables.optim import OptimConfig
from trainables.outcomes import ImageOutcomes, digest_of, numbered
from trainables.schedules import ScheduleConfig

# Limit on the query-prototype differences in memory at a time during evaluation.
_CHUNK_FLOATS = 1 << 24

Count = Annotated[int, Field(ge=1, le=1000)]


@config
class TrainEpisodeConfig:
    """A training episode. A step has as many whole episodes as fit into `train.batch_size` images,
    but at least one."""

    way: Annotated[int, Field(ge=2, le=1000)] = 20
    """Classes N per episode. More than in evaluation helps (Snell et al. 2017, section 3.1)."""
    shot: Annotated[int, Field(ge=0, le=1000)] = 0
    """Support images K per class; 0 = as many as in evaluation, which is best (section 3.1)."""
    query: Count = 5
    """Query images per class."""
    every_support: bool = False
    """Every image of a class is support K times: K + Q episodes from the features of one, which
    teach more than one (Laenen & Bertinetto 2021). False: the first K images are support (Snell et
    al. 2017, algorithm 1)."""


@config
class EvaluationConfig:
    """Fixed episodes of val and test. They are drawn from `data.seed`, so all trials and repeats
    are evaluated on the same ones."""

    way: Annotated[int, Field(ge=2, le=1000)] = 5
    """Classes N per episode; chance is 1 / N."""
    shot: Count = 1
    """Support images K per class."""
    query: Count = 15
    """Query images per class."""
    episodes: Annotated[int, Field(ge=2)] = 600
    """Number of episodes; 600 is usual, fewer give a wider interval."""


@config
class MetricConfig:
    """Similarity of a query and a prototype."""

    distance: Literal["euclidean", "cosine", "parametric"] = "euclidean"
    """euclidean: negative squared distance (Snell et al. 2017, equation 2). cosine: cosine
    similarity times a learned scale. parametric: a small network scores each pair of query and
    prototype (as in Sung et al. 2018)."""
    scale: Annotated[float, Field(gt=0, le=100)] = 10.0
    """cosine: the initial scale, in (0, 100]. Raw cosines differ by at most 2, which limits a 5-way
    softmax to .65 (Gidaris & Komodakis 2018, section 3.2)."""
    hidden: Annotated[int, Field(ge=4, le=1024)] = 64
    """parametric: width of the pair network, in units."""


@config
class ProtoNetConfig:
    """A few-shot training run."""

    data: DataConfig = DataConfig()
    backbone: BackboneConfig = BackboneConfig()
    episode: TrainEpisodeConfig = TrainEpisodeConfig()
    head: MetricConfig = MetricConfig()
    init: InitConfig = InitConfig()
    freeze: FreezeConfig = FreezeConfig()
    aug: ViewConfig = ViewConfig(policy="none")
    """Training uses the first of its two views."""
    normalize: Normalization = "imagenet"
    """Mean and standard deviation that normalise every channel, in every policy: those that a
    loaded backbone was trained with."""
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    val: EvaluationConfig = EvaluationConfig()
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initialisation, training episodes and augmentation."""

    def __post_init__(self) -> None:
        check_image_size(self)
        if self.freeze.policy == "all" and self.head.distance == "euclidean":
            raise ValueError(
                "freeze.policy=all with head.distance=euclidean leaves nothing to train; "
                "choose another policy or distance"
            )

    @property
    def train_shot(self) -> int:
        """Support images K per class in training."""
        return self.episode.shot or self.val.shot


class ProtoNet(FineTuned[ProtoNetConfig, FewShotData]):
    """Compares features with class means of a few examples, so classes may be new."""

    task: ClassVar[Task] = "fewshot"

    def __init__(self, config: ProtoNetConfig, data: FewShotData):
        backbone = initial_backbone(config.backbone, config.init)
        super().__init__(config, data, backbone, Metric(config.head, backbone.feature_dim))

    @classmethod
    def objective_for(cls, data: FewShotData) -> str:
        return "val/episode_top1"

    @classmethod
    def check_startup(cls, config: ProtoNetConfig, data: FewShotData) -> str:
        """Also check that every split has enough classes for its episodes."""
        model = cls(config, data)
        fixed = model.fixed_episodes
        classes = len(model.sampler().members)

        evaluation = (
            f"{config.val.way}-way {config.val.shot}-shot, "
            f"{len(fixed['val'])} of val and {len(fixed['test'])} of test"
        )
        training = f"{config.episode.way}-way {config.train_shot}-shot of {classes} classes"
        clauses = (
            model.describe_start(),
            f"episodes: {evaluation}; training {training}",
        )
        return "; ".join(clause for clause in clauses if clause)

    def network(self) -> nn.Module:
        return _Compared(self.backbone, self.head)

    # -- a training step

    def sampler(self) -> EpisodeSampler:
        return EpisodeSampler(
            labels_of(self.data.train),
            self.config.episode.way,
            self.config.train_shot,
            self.config.episode.query,
            self.config.train.batch_size,
            self.config.seed,
        )

    @classmethod
    def max_workers(cls, config: ProtoNetConfig) -> int:
        """Number of episodes per step: a worker needs at least one."""
        images = config.episode.way * (config.train_shot + config.episode.query)
        return max(1, config.train.batch_size // images)

    def draw(
        self,
        positions: np.ndarray,  # (B,) of whole episodes, in the order of `EpisodeSampler`
        generator: torch.Generator,
    ) -> Batch:
        images = self.data.train.input_batch(positions)
        view = self.augment.draw(len(positions), generator)
        return Batch(images, (view,))

    def forward(self, batch: Batch) -> Tensor:
        way = self.config.episode.way
        shot = self.config.train_shot
        query = self.config.episode.query

        views = self.augment.apply(batch.images, batch.draws[0])
        features = self.backbone(self.to_memory_format(views)).float()
        features = features.view(-1, way, shot + query, features.shape[1])  # (E, N, K + Q, D)
        if self.config.episode.every_support:
            # Every cyclic shift has other images in the first K places.
            shifted = [features.roll(shift, 2) for shift in range(shot + query)]
            features = torch.cat(shifted)  # E is K + Q times as large from here on
        prototypes = features[:, :, :shot].mean(2)  # (E, N, D), equation 1
        queries = features[:, :, shot:].flatten(1, 2)  # (E, N Q, D)

        # In float32: a distance is a small difference of large squares.
        with in_float32(self.device):
            logits = self.head(queries, prototypes)  # (E, N Q, N)

        truth = torch.arange(way, device=logits.device).repeat_interleave(query)  # (N Q,)
        truth = truth.expand(len(logits), -1)
        return functional.cross_entropy(logits.flatten(0, 1), truth.flatten())

    # -- evaluation

    @cached_property
    def fixed_episodes(self) -> dict[str, Episodes]:
        """Episodes of "val" and "test"."""
        val = self.config.val
        return {
            name: self.data.episodes(
                name, val.way, val.shot, val.query, val.episodes, self.config.data.seed
            )
            for name in ("val", "test")
        }

    def evaluate(self, split: Split, prefix: str) -> Metrics:
        """Pass every image through the backbone once; the episodes index its features."""
        self.eval()
        features = self.split_features(split)
        episodes = self.fixed_episodes[prefix]
        accuracies, losses = evaluate(self.head, features, episodes)
        if prefix == "test":
            self._outcomes = episode_outcomes(self.data, episodes, accuracies.numpy())

        mean, low, high = mean_interval(accuracies.tolist())
        return {
            f"{prefix}/episode_top1": mean,
            f"{prefix}/episode_top1_ci95": (high - low) / 2,
            f"{prefix}/loss": losses.mean().item(),
        }


class Metric(nn.Module):
    """Queries (E, M, D) and prototypes (E, N, D) -> logits (E, M, N)."""

    def __init__(self, config: MetricConfig, feature_dim: int):
        super().__init__()
        self.distance = config.distance
        if config.distance == "cosine":
            self.scale = nn.Parameter(torch.tensor(config.scale))
        elif config.distance == "parametric":
            self.embed = nn.Linear(feature_dim, config.hidden, bias=False)
            self.score = nn.Sequential(
                nn.Linear(2 * config.hidden, config.hidden),
                nn.ReLU(inplace=True),
                nn.Linear(config.hidden, 1),
            )

    def forward(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        if self.distance == "cosine":
            return self._scaled_cosines(queries, prototypes)
        if self.distance == "parametric":
            return self._scores(queries, prototypes)
        return _negative_squared_distances(queries, prototypes)

    def _scaled_cosines(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        queries = functional.normalize(queries, dim=2)
        prototypes = functional.normalize(prototypes, dim=2)
        return self.scale * queries @ prototypes.mT

    def _scores(self, queries: Tensor, prototypes: Tensor) -> Tensor:
        query = self.embed(queries)[:, :, None]  # (E, M, 1, H)
        prototype = self.embed(prototypes)[:, None]  # (E, 1, N, H)

        # Distances and cosines are built from the difference and the product, which are symmetric.
        # Given concatenated features, a network would first have to learn to compare them.
        difference = (query - prototype).abs()
        pairs = torch.cat([difference, query * prototype], dim=3)  # (E, M, N, 2 H)
        scores: Tensor = self.score(pairs)
        return scores.squeeze(3)


def _negative_squared_distances(queries: Tensor, prototypes: Tensor) -> Tensor:
    """-|q - p|^2 of every query and prototype (Snell et al. 2017, equation 2)."""
    query_squares = queries.square().sum(2)[:, :, None]
    prototype_squares = prototypes.square().sum(2)[:, None]
    return 2 * queries @ prototypes.mT - (query_squares + prototype_squares)


class _Compared(nn.Module):
    """Backbone and metric as one network. It compares every image (B, 3, S, S) with every image, as
    if each were a prototype -> (1, B, B)."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)[None]
        logits: Tensor = self.head(features, features)
        return logits


def episode_outcomes(
    data: FewShotData,
    episodes: Episodes,  # T of them over the test split
    accuracies: np.ndarray,  # (T,) float64 in [0, 1]
) -> ImageOutcomes:
    """Outcome of every test episode, with its classes."""
    queries = episodes.query.shape[1]
    right = np.round(accuracies * queries)
    classes = labels_of(data.test)[episodes.support[:, :, 0]]  # (T, N)
    members = numbered(classes)
    images = data.test.indices
    return ImageOutcomes(
        test_set=digest_of(data.fingerprint, images, episodes.support, episodes.query),
        right={"test/episode_top1": right.astype(np.int64)},
        answers=queries,
        members=members,
        pool=digest_of(data.pool),
        ids=None if members is None else np.unique(classes),
    )


@torch.no_grad()
def evaluate(
    head: nn.Module,
    features: Tensor,  # (n, D) of a split
    episodes: Episodes,  # T of them over that split
) -> tuple[Tensor, Tensor]:  # both (T,) float64, on the CPU
    """Accuracy in [0, 1] and cross-entropy of every episode."""
    support = torch.from_numpy(np.ascontiguousarray(episodes.support))  # (T, N, K)
    query = torch.from_numpy(np.ascontiguousarray(episodes.query))  # (T, M)
    truth = torch.from_numpy(np.ascontiguousarray(episodes.truth))  # (T, M)

    floats_per_episode = query.shape[1] * features.shape[1] * episodes.way
    chunk = max(1, _CHUNK_FLOATS // floats_per_episode)

    accuracies, losses = [], []
    for start in range(0, len(truth), chunk):
        part = slice(start, start + chunk)
        prototypes = features[support[part]].mean(2)  # (T', N, D)
        logits = head(features[query[part]], prototypes).cpu()  # (T', M, N)

        right = logits.argmax(2) == truth[part]
        loss = functional.cross_entropy(logits.mT, truth[part], reduction="none")
        accuracies.append(right.double().mean(1))
        losses.append(loss.double().mean(1))
    return torch.cat(accuracies), torch.cat(losses)
