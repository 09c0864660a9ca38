"""DeepLabV3 (Chen et al. 2017) around a dilated ResNet."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from trainables.segmenters.enlarging import about_centres, resized

_STRIDE = 8
"""Output stride of a ResNet after `dilate`, in pixels."""


class DeepLabV3(nn.Module):
    """torchvision's DeepLabV3 with the auxiliary head of its FCN, around a dilated ResNet.

    Returns logits and, in training, auxiliary logits. The state_dict has torchvision's keys, except
    for `backbone.fc`.

    Args:
        backbone: a ResNet after `dilate`.
        auxiliary: add the auxiliary head.
        dropout: probability of dropping a unit after ASPP's projection.
        centred: enlarge logits about the centres of their cells (`about_centres`). False: as
            torchvision does.
    """

    def __init__(
        self,
        backbone: Any,
        classes: int,
        auxiliary: bool,
        dropout: float = 0.5,
        centred: bool = True,
    ):
        # Imported here for the reason given in `backbone.networks`.
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead
        from torchvision.models.segmentation.fcn import FCNHead

        super().__init__()
        self.centred = centred
        layers = {"layer3": "aux", "layer4": "out"} if auxiliary else {"layer4": "out"}
        self.backbone = IntermediateLayerGetter(backbone, return_layers=layers)
        self.classifier = DeepLabHead(backbone.feature_dim, classes)
        self.aux_classifier = FCNHead(backbone.feature_dim // 2, classes) if auxiliary else None

        aspp = self.classifier[0]
        aspp.project[3].p = dropout
        pooling = aspp.convs[-1]
        pooling[2] = _NormOfOne(pooling[2].num_features)

    def forward(
        self,
        images: Tensor,  # (B, 3, H, W)
    ) -> tuple[Tensor, Tensor | None]:  # (B, C, H, W)
        maps = self.backbone(images)

        auxiliary = None
        head = self.aux_classifier
        # Not `self.training`: with a frozen backbone, `FineTuned.train` only sets the mode of the
        # heads.
        if head is not None and head.training:
            auxiliary = self._enlarged(head(maps["aux"]), images)

        logits = self.classifier(maps["out"])
        return self._enlarged(logits, images), auxiliary

    def _enlarged(self, logits: Tensor, images: Tensor) -> Tensor:
        if self.centred:
            return about_centres(logits, _STRIDE, like=images)
        return resized(logits, like=images)

    def features(self, images: Tensor) -> Tensor:
        """Last map (B, D, h, w) of the backbone."""
        last_map: Tensor = self.backbone(images)["out"]
        return last_map


class _NormOfOne(nn.BatchNorm2d):
    """BatchNorm of ASPP's globally pooled map that accepts a batch of one image, which a
    micro-batch may contain if memory is short.

    Such a batch has one value per channel and thus no variance, so torch refuses it. Here it is
    normalised by the running statistics.
    """

    def forward(self, pooled: Tensor) -> Tensor:
        if self.training and pooled.numel() == self.num_features:
            return functional.batch_norm(
                pooled,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                momentum=0.0,
                eps=self.eps,
            )
        return super().forward(pooled)


def dilate(resnet: Any) -> None:
    """Keep the resolution in a ResNet's last two stages, with dilations 2 and 4 (Chen et al. 2017,
    section 3.2), in place.

    The result is torchvision's `replace_stride_with_dilation=[False, True, True]`.
    """
    for layer, dilation in ((resnet.layer3, 2), (resnet.layer4, 4)):
        for number, block in enumerate(layer):
            # A stage's first block has the dilation of the previous stage, whose map it sees.
            own = dilation // 2 if number == 0 else dilation
            block.conv2.stride = (1, 1)
            block.conv2.dilation = (own, own)
            block.conv2.padding = (own, own)
            if block.downsample is not None:
                block.downsample[0].stride = (1, 1)
