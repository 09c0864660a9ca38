"""DINO, self-distillation without labels (Caron et al. 2021, https://arxiv.org/abs/2104.14294),
with projection head and loss of lightly.

    python tune/run.py ssl-dino                    # glyphs of matplotlib's fonts
    python tune/run.py ssl-dino --data FOLDER      # ResNet50 at 128 px

From any view, a student predicts the classes that a teacher assigns to another view. The classes
have no names; the teacher is the student's moving average. Centering and a low teacher temperature
prevent collapse (section 3.1). The schedule of the weight decay is left out.
"""

import copy
import warnings
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainables.augment.view_config import AugmentConfig
from trainables.augment.views import Augment
from trainables.base import Batch
from trainables.config import Annotated, Field, config
from trainables.lightly_methods import LightlyConfig, LightlyMethod, import_lightly
from trainables.momentum import momentum_at, move_towards
from trainables.self_supervised import Encoder

Temperature = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@config
class DINOHeadConfig:
    """Projection head, temperatures, center, teacher and local views (sections 3.1 and 3.2)."""

    projection_size: Annotated[int, Field(ge=8, le=1 << 17)] = 65536
    """Outputs K of the head: the nameless classes."""
    hidden_size: Annotated[int, Field(ge=8, le=16384)] = 2048
    """Hidden width of the head, in units."""
    bottleneck_size: Annotated[int, Field(ge=8, le=4096)] = 256
    """Width of the head's last hidden layer, in units."""
    student_temperature: Temperature = 0.1
    """Temperature tau_s of the student's softmax, in (0, 1]."""
    teacher_temperature: Temperature = 0.04
    """Temperature tau_t of the teacher's softmax after its warm-up, in (0, 1]."""
    first_temperature: Temperature = 0.04
    """Temperature of the teacher at the first step."""
    temperature_warmup: Fraction = 0.3
    """Share of the steps over which the teacher's temperature changes linearly."""
    tau0: Annotated[float, Field(ge=0, lt=1)] = 0.996
    """Momentum of the teacher at step 0; rises to 1 along a cosine. Short runs: less, such as
    .97."""
    center_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum m of the center (equation 4)."""
    freeze_last: Fraction = 0.01
    """Share of the steps in which the head's last layer is frozen; the paper's: 1 of 100 epochs."""
    local_views: Annotated[int, Field(ge=0, le=16)] = 0
    """Number of small views besides the two global ones, for the student only (multi-crop)."""
    local_scale: Annotated[float, Field(gt=0.05, le=1)] = 0.4
    """Largest share of an image's area in a local view; the smallest is .05. Global views range
    from aug.crop_scale_min to 1."""


@config
class DINOConfig(LightlyConfig):
    """A DINO pre-training run."""

    head: DINOHeadConfig = DINOHeadConfig()


class StudentAndTeacher(nn.Module):
    """The student g_s, which learns, and the teacher g_t, its moving average."""

    def __init__(self, student: Encoder, teacher: Encoder):
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.teacher.load_state_dict(student.state_dict())
        self.teacher.requires_grad_(False)


class DINO(LightlyMethod[DINOConfig]):
    """DINO on a `DataSet`.

    Algorithm 1 of the paper: `forward` computes the cross-entropy between the teacher's centered
    and sharpened outputs and the student's, and moves the center; the engine takes the optimizer
    step; `after_step` updates the teacher's moving average.
    """

    learner: StudentAndTeacher

    def build_views(self, policies: tuple[AugmentConfig, ...]) -> tuple[Augment, ...]:
        """Build two global views and the local ones, 96 px for global views of 224 px."""
        head = self.config.head
        local = replace(policies[0], crop_scale_min=0.05, crop_scale_max=head.local_scale)
        local_size = round(self.config.data.image_size * 96 / 224)
        small = tuple(Augment(local, local_size) for _ in range(head.local_views))
        return super().build_views(policies) + small

    def build_learner(self, backbone: nn.Module, feature_dim: int) -> StudentAndTeacher:
        heads, losses = import_lightly()
        head = self.config.head
        self.tau = head.tau0
        self.temperature = head.first_temperature

        self.loss = losses.DINOLoss(
            output_dim=head.projection_size,
            student_temp=head.student_temperature,
            center_momentum=head.center_momentum,
        )
        sizes = (feature_dim, head.hidden_size, head.bottleneck_size, head.projection_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # weight_norm has moved in torch
            projector = heads.DINOProjectionHead(*sizes)
            # Not a copy: torch cannot copy a layer with weight_norm.
            followers = heads.DINOProjectionHead(*sizes)
        return StudentAndTeacher(
            Encoder(backbone, projector), Encoder(copy.deepcopy(backbone), followers)
        )

    @property
    def encoder(self) -> nn.Module:
        """The student."""
        return self.learner.student

    def spread_out(self, features: Tensor, projections: Tensor) -> Tensor:
        """Return the features. At first, the outputs of all images are nearly the same, and the
        loss looks at their distance to the center, at a temperature."""
        return features

    def network(self) -> nn.Module:
        """The student up to the bottleneck. The printed table copies the network, and torch cannot
        copy the last layer."""
        hidden: Any = self.learner.student.projector.layers
        return nn.Sequential(OrderedDict(backbone=self.backbone, projector=hidden))

    def compiled_networks(self) -> list[nn.Module]:
        return [self.backbone, self.learner.teacher.backbone]

    def forward(self, batch: Batch) -> Tensor:
        views = self.augmented(batch)  # two of (B, 3, S, S), then smaller ones
        students = [self.learner.student(view)[0].float() for view in views]  # (B, K) each
        with torch.no_grad():
            teachers = [self.learner.teacher(view)[0].float() for view in views[:2]]
        return self.loss_of(teachers, students, teacher_temp=self.temperature)

    def before_step(self, step: int, total_steps: int) -> None:
        head = self.config.head
        self.tau = momentum_at(step, total_steps, head.tau0)
        self.temperature = teacher_temperature_at(step, total_steps, head)
        learns = step >= round(head.freeze_last * total_steps)
        last_layer: Any = self.learner.student.projector.last_layer
        last_layer.weight_v.requires_grad_(learns)

    def after_step(self) -> None:
        move_towards(self.learner.teacher, self.learner.student, self.tau)


def teacher_temperature_at(step: int, total_steps: int, head: DINOHeadConfig) -> float:
    """Temperature of the teacher: linear from the first to the final one during the warm-up
    (section 3.2, implementation details)."""
    warmup = round(head.temperature_warmup * total_steps)
    if step >= warmup:
        return head.teacher_temperature
    rise = head.teacher_temperature - head.first_temperature
    return head.first_temperature + rise * step / warmup
