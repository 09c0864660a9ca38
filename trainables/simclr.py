"""SimCLR, a simple framework for contrastive learning (Chen et al. 2020,
https://arxiv.org/abs/2002.05709), with projection head and loss of lightly.

    python tune/run.py ssl-simclr                    # glyphs of matplotlib's fonts
    python tune/run.py ssl-simclr --data FOLDER      # ResNet50 at 128 px

Two views of an image attract each other; all other views in the batch repel them. A larger batch
has more of these negatives (section 5.1).
"""

from torch import Tensor, nn

from trainables.base import Batch
from trainables.config import Annotated, Field, config
from trainables.engine import distributed
from trainables.lightly_methods import LightlyConfig, LightlyMethod, import_lightly
from trainables.self_supervised import Encoder


@config
class SimCLRHeadConfig:
    """Projection head and loss (sections 2.1 and 4.2)."""

    projection_size: Annotated[int, Field(ge=8, le=4096)] = 128
    """Width of the projection z, in units."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] = 2048
    """Hidden width of the projection head, in units."""
    temperature: Annotated[float, Field(gt=0, le=10)] = 0.1
    """Temperature tau of the similarities, > 0 (section 5.1: .1 on ImageNet, .5 on CIFAR-10)."""


@config
class SimCLRConfig(LightlyConfig):
    """A SimCLR pre-training run."""

    head: SimCLRHeadConfig = SimCLRHeadConfig()


class SimCLR(LightlyMethod[SimCLRConfig]):
    """SimCLR on a `DataSet`.

    Algorithm 1 of the paper: `draw` samples two augmentations t and t'; `forward` computes
    h = f(t(x)), z = g(h) and the loss NT-Xent.
    """

    def build_learner(self, backbone: nn.Module, feature_dim: int) -> Encoder:
        heads, losses = import_lightly()
        head = self.config.head

        self.loss = losses.NTXentLoss(
            temperature=head.temperature,
            gather_distributed=distributed.world_size() > 1,
        )
        projector = heads.SimCLRProjectionHead(feature_dim, head.hidden_size, head.projection_size)
        return Encoder(backbone, projector)

    def forward(self, batch: Batch) -> Tensor:
        view_one, view_two = self.augmented(batch)  # (B, 3, S, S) each
        z_one, _ = self.learner(view_one)  # (B, P)
        z_two, _ = self.learner(view_two)
        return self.loss_of(z_one.float(), z_two.float())
