"""Momentum contrast, version 2 (MoCo; He et al. 2020, https://arxiv.org/abs/1911.05722, and Chen et
al. 2020, https://arxiv.org/abs/2003.04297), with projection head and queue of lightly.

    python tune/run.py ssl-moco                    # glyphs of matplotlib's fonts
    python tune/run.py ssl-moco --data FOLDER      # ResNet50 at 128 px

A query is matched with the key of its own image, among a queue of keys from earlier batches. A
slowly moving encoder makes the keys. BatchNorm takes its statistics over all workers, instead of
the shuffling of section 3.3, which a single worker could not do.
"""

import copy

import torch
from torch import Tensor, nn

from trainables.base import Batch, Metrics
from trainables.config import Annotated, Field, config
from trainables.data import DataSet
from trainables.engine import distributed
from trainables.lightly_methods import LightlyConfig, LightlyMethod, import_lightly
from trainables.momentum import move_towards
from trainables.self_supervised import Encoder

_KEYS, _END = "queue.keys", "queue.end"


@config
class MoCoHeadConfig:
    """Projection head, queue and momentum (He et al. 2020, section 3.3; Chen et al. 2020, section
    3)."""

    projection_size: Annotated[int, Field(ge=8, le=4096)] = 128
    """Width of queries and keys, in units."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] = 2048
    """Hidden width of the projection head, in units."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.2
    """Temperature tau of the similarities, > 0 (version 2: .2)."""
    queue: Annotated[int, Field(ge=1, le=1 << 20)] = 65536
    """Keys in the queue; at most the number of training images. In a longer queue, a query would
    meet several keys of its own image among the negatives."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Momentum m of the key encoder, the same at every step. Use less for short runs, such as
    .99."""


@config
class MoCoConfig(LightlyConfig):
    """A MoCo pre-training run."""

    head: MoCoHeadConfig = MoCoHeadConfig()


class QueryAndKey(nn.Module):
    """The query encoder f_q, which learns, and the key encoder f_k, which follows it."""

    def __init__(self, query: Encoder):
        super().__init__()
        self.query = query
        self.key = copy.deepcopy(query)
        self.key.requires_grad_(False)


def queue_keys(config: MoCoConfig, data: DataSet) -> int:
    """Return the number of keys in the queue: `head.queue`, but at most one per training image."""
    return min(config.head.queue, len(data.train))


class MoCo(LightlyMethod[MoCoConfig]):
    """MoCo v2 on a `DataSet`.

    Algorithm 1 of He et al. 2020: `forward` computes the loss of queries against keys and queue,
    and adds the keys to the queue; the engine takes the optimizer step; `after_step` updates the
    key encoder.
    """

    learner: QueryAndKey

    @classmethod
    def check_startup(cls, config: MoCoConfig, data: DataSet) -> str:
        super().check_startup(config, data)
        keys = queue_keys(config, data)
        most = len(data.train)
        return f"queue of {keys} keys (in every trial at most {most}: one a training image)"

    def build_learner(self, backbone: nn.Module, feature_dim: int) -> QueryAndKey:
        heads, losses = import_lightly()
        head = self.config.head

        self.loss = losses.NTXentLoss(
            temperature=head.temperature,
            memory_bank_size=(queue_keys(self.config, self.data), head.projection_size),
            gather_distributed=distributed.world_size() > 1,
        )
        projector = heads.MoCoProjectionHead(feature_dim, head.hidden_size, head.projection_size)
        return QueryAndKey(Encoder(backbone, projector))

    @property
    def encoder(self) -> nn.Module:
        """The query encoder."""
        return self.learner.query

    def compiled_networks(self) -> list[nn.Module]:
        return [self.backbone, self.learner.key.backbone]

    def forward(self, batch: Batch) -> Tensor:
        view_one, view_two = self.augmented(batch)  # (B, 3, S, S) each
        queries, _ = self.learner.query(view_one)  # (B, P)
        with torch.no_grad():
            keys, _ = self.learner.key(view_two)
        return self.loss_of(queries.float(), keys.float())

    def costs(self) -> Metrics:
        """Record the length of the queue, which may be smaller than `head.queue`."""
        keys = float(len(self.loss.memory_bank.bank))
        return super().costs() | {"train/queue": keys}

    def after_step(self) -> None:
        move_towards(self.learner.key, self.learner.query, self.config.head.momentum)

    def changing_state(self) -> dict[str, Tensor]:
        # lightly keeps the queue out of the state_dict.
        queue = self.loss.memory_bank
        return super().changing_state() | {_KEYS: queue.bank, _END: queue.bank_ptr}

    def load_changing_state(self, state: dict[str, Tensor]) -> None:
        queue = self.loss.memory_bank
        keys = state[_KEYS]
        if keys.shape != queue.bank.shape:  # from before queues were shortened: keep its length
            queue.size = tuple(keys.shape)
            queue.bank = torch.empty_like(keys, device=queue.bank.device)
        queue.bank.copy_(keys)
        queue.bank_ptr.copy_(state[_END])
        weights = {key: value for key, value in state.items() if key not in (_KEYS, _END)}
        super().load_changing_state(weights)
