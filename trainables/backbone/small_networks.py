"""Small backbones for small images and machines without a GPU."""

from torch import Tensor, nn


class TinyResNet(nn.Module):
    """ResNet with 3 basic blocks of widths w, 2w, 4w and strides 1, 2, 2 after a 3x3 stem.

    Modules are named as in torchvision's ResNet.

    Args:
        width: channels w of the stem and the first block.
        pool: side of the grid to which the last map is averaged. Letters and digits differ in
            layout, which a grid keeps, just as few-shot Conv-4 does by flattening its last map.
        stem_stride: 2 halves the image first, so at 28 px the last map is 4x4. With 1 it is 7x7, at
            4 times the cost.
        in_channels: channels of the images.
    """

    def __init__(self, width: int, pool: int = 4, stem_stride: int = 2, in_channels: int = 3):
        super().__init__()
        self.feature_dim = 4 * width * pool**2
        self.conv1 = nn.Conv2d(in_channels, width, 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = BasicBlock(width, width, stride=1)
        self.layer2 = BasicBlock(width, 2 * width, stride=2)
        self.layer3 = BasicBlock(2 * width, 4 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init_conv(module)

    def forward(
        self,
        images: Tensor,  # (B, C, H, W)
    ) -> Tensor:  # (B, 4 width pool^2)
        x: Tensor = self.relu(self.bn1(self.conv1(images)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.avgpool(x)
        return x.flatten(1)


class ConvBlocks(nn.Module):
    """Blocks of a 3x3 convolution, ReLU and a 2x2 max-pool. The last map is averaged to a grid and
    flattened.

    Args:
        channels: output channels of each block.
        pool: side of the grid.
        norm: BatchNorm before each ReLU.
        in_channels: channels of the images.
    """

    def __init__(self, channels: tuple[int, ...], pool: int, norm: bool, in_channels: int = 3):
        super().__init__()
        self.feature_dim = channels[-1] * pool**2

        self.blocks = nn.Sequential()
        inputs = in_channels
        for number, outputs in enumerate(channels, 1):
            block = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1))
            if norm:
                block.append(nn.BatchNorm2d(outputs))
            block.append(nn.ReLU(inplace=True))
            block.append(nn.MaxPool2d(2))
            self.blocks.add_module(f"block{number}", block)
            inputs = outputs

        self.pool = nn.AdaptiveAvgPool2d(pool)

    def forward(
        self,
        images: Tensor,  # (B, C, H, W)
    ) -> Tensor:  # (B, channels[-1] pool^2)
        x: Tensor = self.pool(self.blocks(images))
        return x.flatten(1)


class ResNet12(nn.Module):
    """The residual network of few-shot learning (Lee et al. 2019, section 4.2), without the paper's
    DropBlock.

    It has 4 blocks with w, 2.5 w, 5 w and 10 w channels. Each has three 3x3 convolutions with
    BatchNorm and LeakyReLU .1, a 1x1 shortcut and a 2x2 max-pool.

    Args:
        width: channels w of the first block.
        pool: side of the grid to which the last map is averaged; 1 is the paper's global average.
        in_channels: channels of the images.
    """

    def __init__(self, width: int, pool: int = 1, in_channels: int = 3):
        super().__init__()
        channels = (width, 5 * width // 2, 5 * width, 10 * width)
        self.feature_dim = channels[-1] * pool**2

        self.blocks = nn.Sequential()
        inputs = in_channels
        for number, outputs in enumerate(channels, 1):
            self.blocks.add_module(f"block{number}", ResNet12Block(inputs, outputs))
            inputs = outputs

        self.pool = nn.AdaptiveAvgPool2d(pool)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, 0.1, mode="fan_out", nonlinearity="leaky_relu"
                )

    def forward(
        self,
        images: Tensor,  # (B, C, H, W)
    ) -> Tensor:  # (B, 10 width pool^2)
        x: Tensor = self.pool(self.blocks(images))
        return x.flatten(1)


class ResNet12Block(nn.Module):
    """(B, inputs, H, W) -> (B, outputs, H // 2, W // 2)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, outputs, outputs):
            layers += [
                nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.1, inplace=True),
            ]
        # The last activation comes after the sum.
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.activation = nn.LeakyReLU(0.1, inplace=True)
        self.halve = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        total = self.branch(x) + self.shortcut(x)
        halved: Tensor = self.halve(self.activation(total))
        return halved


def init_conv(conv: nn.Conv2d) -> None:
    """Initialise a convolution as torchvision's ResNet does."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions (He et al. 2016, figure 5, left): (B, inputs, H, W) ->
    (B, outputs, H / stride, W / stride).

    Its modules have the names, order and random draws of torchvision's block, so that weights, and
    the result of a seed, are the same. torchvision itself takes seconds to import, and imports
    torch's compiler.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        # Drawn first but registered last, as in torchvision.
        shortcut = None if stride == 1 else _shortcut(inputs, outputs, stride)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        total: Tensor = self.relu(y)
        return total


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Build the shortcut convolution of a block that reduces the map."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
        nn.BatchNorm2d(outputs),
    )
