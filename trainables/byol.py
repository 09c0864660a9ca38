"""Bootstrap your own latent (BYOL; Grill et al. 2020, https://arxiv.org/abs/2006.07733), with
encoder, projector and predictor from the byol-pytorch package.

    python tune/run.py ssl                    # glyphs of matplotlib's fonts, minutes on two cores
    python tune/run.py ssl --data FOLDER      # ResNet50 at 128 px

Never select by the BYOL loss: easier augmentation, or collapse, lowers it. The objective is
weighted kNN top-1 on held-out labels, or retrieval of strong views if a data set has no labels.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.base import Batch
from trainables.config import Annotated, Field, config
from trainables.momentum import momentum_at, move_towards
from trainables.self_supervised import SelfSupervised, SelfSupervisedConfig


@config
class HeadConfig:
    """Projector and predictor, and the momentum of the target network (sections 3.1 and 3.2)."""

    projection_size: Annotated[int, Field(ge=8, le=4096)] = 256
    """Width of the projection, in units."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] = 4096
    """Hidden width of projector and predictor, in units."""
    tau0: Annotated[float, Field(ge=0, lt=1)] = 0.996
    """Momentum of the moving average at step 0; rises to 1 along a cosine. Use less for short runs,
    such as .97."""
    simplicial: bool = False
    """Simplicial embeddings before the projector (Lavoie et al. 2022). Not in the BYOL paper; the
    package's default is True."""


@config
class BYOLConfig(SelfSupervisedConfig):
    """A BYOL pre-training run."""

    head: HeadConfig = HeadConfig()


class OnlineAndTarget(nn.Module):
    """The online network with weights theta and the target network with weights xi (section 3.1).

    Both have a backbone f and a projector g; only the online network has a predictor q. Module
    names are keys of checkpoints, including `net` (the online backbone once more).
    """

    def __init__(self, backbone: nn.Module, config: HeadConfig, image_size: int):
        # Imported here because it imports torchvision, accelerate and boto3, which takes seconds;
        # a process without networks, such as a driver, need not wait for them.
        from byol_pytorch.byol_pytorch import MLP, NetWrapper

        super().__init__()
        self.net = backbone
        # No SyncBatchNorm, which does not run on a CPU: the engine synchronises every BatchNorm.
        self.online_encoder = NetWrapper(
            backbone,
            config.projection_size,
            config.hidden_size,
            layer=-1,
            sync_batchnorm=False,
            use_simplicial_embeddings=config.simplicial,
        )
        self.online_predictor = MLP(
            config.projection_size,
            config.projection_size,
            config.hidden_size,
            sync_batchnorm=False,
        )

        # The package builds the projector in the first forward pass, from the width that it sees
        # there. Pass two views of two random images, as its own constructor does, so that a seed
        # gives the same weights as there.
        with torch.no_grad():
            self.online_encoder(torch.randn(2, 3, image_size, image_size).repeat(2, 1, 1, 1))
        for module in self.online_encoder.modules():
            if isinstance(module, _BatchNorm):
                module.reset_running_stats()

        self.target_encoder = copy.deepcopy(self.online_encoder)
        self.target_encoder.requires_grad_(False)

    def predict(
        self,
        views: Tensor,  # (n, 3, S, S)
    ) -> Tensor:  # (n, P)
        """q(g(f(v))): the online network's predictions of the target projections."""
        projections, _ = self.online_encoder(views)
        predictions: Tensor = self.online_predictor(projections)
        return predictions

    @torch.no_grad()
    def project_target(
        self,
        views: Tensor,  # (n, 3, S, S)
    ) -> Tensor:  # (n, P)
        """g(f(v)) with the target's weights; no gradient flows back."""
        projections: Tensor
        projections, _ = self.target_encoder(views)
        return projections

    def move_target(self, tau: float) -> None:
        """xi <- tau xi + (1 - tau) theta, in place and in one call."""
        move_towards(self.target_encoder, self.online_encoder, tau)


class BYOL(SelfSupervised[BYOLConfig]):
    """BYOL on a `DataSet`.

    Algorithm 1 of the paper: `draw` samples the parameters of two views, `forward` computes the
    loss, the engine takes the optimizer step, and `after_step` updates the moving average.
    """

    learner: OnlineAndTarget

    def build_learner(self, backbone: nn.Module, feature_dim: int) -> OnlineAndTarget:
        self.tau = self.config.head.tau0
        return OnlineAndTarget(backbone, self.config.head, self.config.data.image_size)

    @property
    def encoder(self) -> nn.Module:
        """The online network without its predictor."""
        encoder: nn.Module = self.learner.online_encoder
        return encoder

    @property
    def backbone(self) -> nn.Module:
        """The online backbone f, the result of pre-training."""
        backbone: nn.Module = self.learner.online_encoder.net
        return backbone

    def compiled_networks(self) -> list[nn.Module]:
        return [self.backbone, self.learner.target_encoder.net]

    def network(self) -> nn.Module:
        """The online network. The target has the same backbone and projector, which do not
        train."""
        encoder = self.learner.online_encoder
        predictor = self.learner.online_predictor
        return nn.Sequential(
            OrderedDict(backbone=encoder.net, projector=encoder.projector, predictor=predictor)
        )

    def forward(self, batch: Batch) -> Tensor:
        view_one, view_two = self.augmented(batch)  # (B, 3, S, S) each
        prediction_one, prediction_two = self._of_each(self.learner.predict, view_one, view_two)
        target_one, target_two = self._of_each(self.learner.project_target, view_one, view_two)

        loss_one = regression_loss(prediction_one, target_two)
        loss_two = regression_loss(prediction_two, target_one)
        return (loss_one + loss_two).mean()

    def _of_each(
        self,
        network: Callable[[Tensor], Tensor],  # (n, 3, S, S) -> (n, P)
        view_one: Tensor,  # (B, 3, S, S)
        view_two: Tensor,  # (B, 3, S, S)
    ) -> tuple[Tensor, Tensor]:  # (B, P) each, float32
        """Outputs of a network for both views.

        Each view gets its own pass, as in the paper's code, so BatchNorm takes its statistics from
        one view. Under version 1 of the rules both views shared a pass, as in the package, and
        the loss was computed in bfloat16 if the network was.
        """
        if self.config.train.rules > 1:
            return network(view_one).float(), network(view_two).float()
        one, two = network(torch.cat([view_one, view_two])).chunk(2)
        return one, two

    def before_step(self, step: int, total_steps: int) -> None:
        self.tau = momentum_at(step, total_steps, self.config.head.tau0)

    def after_step(self) -> None:
        self.learner.move_target(self.tau)


def regression_loss(
    predictions: Tensor,  # (B, P)
    targets: Tensor,  # (B, P)
) -> Tensor:  # (B,), in [0, 4]
    """Squared distance between L2-normalised vectors, 2 - 2 cos (equation 2)."""
    predictions = functional.normalize(predictions, dim=-1)
    targets = functional.normalize(targets, dim=-1)
    return 2 - 2 * (predictions * targets).sum(dim=-1)
