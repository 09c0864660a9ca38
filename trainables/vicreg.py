"""VICReg: variance, invariance and covariance regularization (Bardes et al. 2022,
https://arxiv.org/abs/2105.04906), with expander and loss of lightly.

    python tune/run.py ssl-vicreg                    # glyphs of matplotlib's fonts
    python tune/run.py ssl-vicreg --data FOLDER      # ResNet50 at 128 px

The embeddings of two views become equal, while each dimension keeps its variance over the batch and
no two dimensions are redundant. Neither negatives nor a second network are needed.
"""

from torch import Tensor, nn

from trainables.base import Batch
from trainables.config import Annotated, Field, config
from trainables.engine import distributed
from trainables.lightly_methods import LightlyConfig, LightlyMethod, import_lightly
from trainables.self_supervised import Encoder

Weight = Annotated[float, Field(ge=0, le=1000)]


@config
class VICRegHeadConfig:
    """Expander, and the weights of the three terms (equation 6)."""

    projection_size: Annotated[int, Field(ge=8, le=16384)] = 8192
    """Width of the embedding, in units."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] = 8192
    """Width of the expander's two hidden layers, in units."""
    invariance: Weight = 25.0
    """Weight lambda of the distance between the views, >= 0."""
    variance: Weight = 25.0
    """Weight mu of the penalty on standard deviations below 1, >= 0."""
    covariance: Weight = 1.0
    """Weight nu of the covariances, >= 0."""


@config
class VICRegConfig(LightlyConfig):
    """A VICReg pre-training run."""

    head: VICRegHeadConfig = VICRegHeadConfig()


class VICReg(LightlyMethod[VICRegConfig]):
    """VICReg on a `DataSet`.

    Algorithm 1 of the paper: `draw` samples two augmentations; `forward` computes the embeddings Z
    and Z' of both views, and lambda s(Z, Z') + mu (v(Z) + v(Z')) + nu (c(Z) + c(Z')). As in the
    authors' code, the two variance terms are averaged, not added.
    """

    def build_learner(self, backbone: nn.Module, feature_dim: int) -> Encoder:
        heads, losses = import_lightly()
        head = self.config.head

        self.loss = losses.VICRegLoss(
            lambda_param=head.invariance,
            mu_param=head.variance,
            nu_param=head.covariance,
            gather_distributed=distributed.world_size() > 1,
        )
        expander = heads.VICRegProjectionHead(feature_dim, head.hidden_size, head.projection_size)
        return Encoder(backbone, expander)

    def forward(self, batch: Batch) -> Tensor:
        view_one, view_two = self.augmented(batch)  # (B, 3, S, S) each
        embedding_one, _ = self.learner(view_one)  # (B, P)
        embedding_two, _ = self.learner(view_two)
        return self.loss_of(embedding_one.float(), embedding_two.float())
