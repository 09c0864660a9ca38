"""Prototypical networks (Snell et al. 2017, https://arxiv.org/abs/1703.05175): few-shot
classification by distance to class means.

    python tune/run.py fewshot                                     # 5-way 1-shot on letters of alphabets that training lacks
    python tune/run.py fewshot --study cosine --set head.distance=cosine
    python tune/run.py fewshot --study shot5 --set val.shot=5      # 5 support images of each class; training follows

The objective is val/episode_top1, the mean accuracy over fixed episodes of classes that training
has not seen.
"""

from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.augment.image_ops import Normalization
from trainables.augment.view_config import ViewConfig
from trainables.backbone.freezing import FreezeConfig
from trainables.backbone.networks import BackboneConfig
from trainables.base import Batch, Metrics, TrainConfig
from trainables.config import Annotated, Field, config
from trainables.data import DataConfig, DataSet, FewShotData, Split
from trainables.data.episodes import Episodes, EpisodeSampler
from trainables.finetune import FineTuned, InitConfig, check_image_size
from trainables.metrics import mean_interval
from trainables.optim import OptimConfig, ScheduleConfig

_CHUNK_FLOATS = 1 << 24  # of query-prototype differences held at a time in evaluation

Count = Annotated[int, Field(ge=1, le=1000)]


@config
class TrainEpisodeConfig:
    """An episode of training. A step has as many whole ones as fit into `train.batch_size` images,
    at least one."""

    way: Annotated[int, Field(ge=2, le=1000)] = 20
    """Classes N of an episode: more than in evaluation helps (Snell et al. 2017, section 3.1)."""
    shot: Annotated[int, Field(ge=0, le=1000)] = 0
    """Support images K of each class; 0 = as many as in evaluation, which section 3.1 finds
    best."""
    query: Count = 5
    """Query images of each class."""


@config
class EvaluationConfig:
    """The fixed episodes of val and test, drawn by `data.seed`, so that all trials and repeats
    answer the same."""

    way: Annotated[int, Field(ge=2, le=1000)] = 5
    """Classes N of an episode; chance is 1 / N."""
    shot: Count = 1
    """Support images K of each class."""
    query: Count = 15
    """Query images of each class."""
    episodes: Annotated[int, Field(ge=2)] = 600
    """Number of episodes; 600 is usual, and fewer widen the interval."""


@config
class MetricConfig:
    """How near a query is to a prototype."""

    distance: Literal["euclidean", "cosine", "parametric"] = "euclidean"
    """euclidean: negative squared distance (Snell et al. 2017, equation 2). cosine: cosine
    similarity times a learned scale. parametric: a small network scores each pair of query and
    prototype (as Sung et al. 2018 do)."""
    scale: Annotated[float, Field(gt=0, le=100)] = 10.0
    """cosine: the scale at the start, > 0. Raw cosines, at most 2 apart, cap a 5-way softmax at .65
    (Gidaris & Komodakis 2018, section 3.2)."""
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
    """The first view of a policy."""
    normalize: Normalization = "imagenet"
    """Mean and standard deviation taken off each channel, in every policy: those that a loaded
    backbone was trained with."""
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
                "freeze.policy=all with head.distance=euclidean leaves nothing to train; choose another policy or distance"
            )

    @property
    def train_shot(self) -> int:
        return self.episode.shot or self.val.shot


class ProtoNet(FineTuned):
    """Features are compared with the class means of a few examples, so that classes may be new."""

    config: ProtoNetConfig
    data: FewShotData
    task = "fewshot"

    @classmethod
    def objective_for(cls, data: DataSet) -> str:
        return "val/episode_top1"

    @classmethod
    def check_startup(cls, config: ProtoNetConfig, data: FewShotData) -> str:
        """Also that every split has classes enough for its episodes."""
        model = cls(config, data)
        members, fixed = model.sampler().members, model.fixed_episodes
        asked = f"{config.val.way}-way {config.val.shot}-shot, {len(fixed['val'])} of val and {len(fixed['test'])} of test"
        training = (
            f"training {config.episode.way}-way {config.train_shot}-shot of {len(members)} classes"
        )
        return "; ".join(
            filter(None, (model.describe_start(), f"episodes: {asked}; {training}", *data.notes))
        )

    def make_head(self, feature_dim: int) -> nn.Module:
        return Metric(self.config.head, feature_dim)

    def network(self) -> nn.Module:
        return _Compared(self.backbone, self.head)

    def sampler(self) -> EpisodeSampler:
        episode, train = self.config.episode, self.config.train
        return EpisodeSampler(
            _targets(self.data.train),
            episode.way,
            self.config.train_shot,
            episode.query,
            train.batch_size,
            self.config.seed,
        )

    @classmethod
    def max_workers(cls, config: ProtoNetConfig) -> int:
        """An episode each."""
        return max(
            1,
            config.train.batch_size
            // (config.episode.way * (config.train_shot + config.episode.query)),
        )

    def draw(self, positions: np.ndarray, generator: torch.Generator) -> Batch:
        """`positions` are those of whole episodes, as `EpisodeSampler` orders them."""
        return Batch(
            self.data.train.batch(positions), (self.augment.draw(len(positions), generator),)
        )

    def forward(self, batch: Batch) -> Tensor:
        way, shot, query = (
            self.config.episode.way,
            self.config.train_shot,
            self.config.episode.query,
        )
        features = self.backbone(
            self.to_memory_format(self.augment.apply(batch.images, batch.draws[0]))
        ).float()
        features = features.view(-1, way, shot + query, features.shape[1])  # (E, N, K + Q, D)
        prototypes = features[:, :, :shot].mean(2)  # (E, N, D), equation 1
        # a distance is a small difference of large squares
        with torch.autocast(self.device.type, enabled=False):
            logits = self.head(features[:, :, shot:].flatten(1, 2), prototypes)  # (E, N Q, N)
        truth = (
            torch.arange(way, device=logits.device).repeat_interleave(query).expand(len(logits), -1)
        )
        return functional.cross_entropy(logits.flatten(0, 1), truth.flatten())

    @cached_property
    def fixed_episodes(self) -> dict[str, Episodes]:
        """Of val and test."""
        val, seed = self.config.val, self.config.data.seed
        return {
            name: self.data.episodes(name, val.way, val.shot, val.query, val.episodes, seed)
            for name in ("val", "test")
        }

    def evaluate(self, split: Split, prefix: str) -> Metrics:
        """Every image goes through the backbone once; the episodes are index operations on the
        features."""
        self.eval()
        accuracies, losses = evaluate(self.head, self._features(split), self.fixed_episodes[prefix])
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
            return (
                self.scale
                * functional.normalize(queries, dim=2)
                @ functional.normalize(prototypes, dim=2).mT
            )
        if self.distance == "parametric":
            return self._scores(self.embed(queries)[:, :, None], self.embed(prototypes)[:, None])
        squares = queries.square().sum(2)[:, :, None] + prototypes.square().sum(2)[:, None]
        return 2 * queries @ prototypes.mT - squares

    def _scores(self, query: Tensor, prototype: Tensor) -> Tensor:
        """Of pairs, (E, M, 1, H) and (E, 1, N, H). Difference and product, both symmetric, are what
        distances and cosines are made of: from features laid side by side a network would have to
        discover that they are to be compared."""
        pairs = torch.cat([(query - prototype).abs(), query * prototype], dim=3)  # (E, M, N, 2 H)
        return self.score(pairs).squeeze(3)


class _Compared(nn.Module):
    """Backbone and metric as one network: every image (B, 3, S, S) against every image, as if each
    were a prototype -> (1, B, B)."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)[None]
        return self.head(features, features)


@torch.no_grad()
def evaluate(
    head: nn.Module,
    features: Tensor,  # (n, D) of a split
    episodes: Episodes,  # T of them over that split
) -> tuple[Tensor, Tensor]:  # (T,) float64 on the CPU, both
    """Accuracy in [0, 1] and cross-entropy of every episode."""
    support, query, truth = (
        torch.from_numpy(np.ascontiguousarray(a))
        for a in (episodes.support, episodes.query, episodes.truth)
    )
    chunk = max(1, _CHUNK_FLOATS // (query.shape[1] * features.shape[1] * episodes.way))
    accuracies, losses = [], []
    for s, q, t in zip(support.split(chunk), query.split(chunk), truth.split(chunk), strict=True):
        logits = head(features[q], features[s].mean(2)).cpu()  # (T', M, N)
        accuracies.append((logits.argmax(2) == t).double().mean(1))
        losses.append(functional.cross_entropy(logits.mT, t, reduction="none").double().mean(1))
    return torch.cat(accuracies), torch.cat(losses)


def _targets(split: Split) -> np.ndarray:
    targets = split.targets()
    assert targets is not None  # few-shot data has labels
    return targets
