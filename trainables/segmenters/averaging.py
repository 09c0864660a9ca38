"""Test-time averaging of predictions over versions of an image: scaled and mirrored.

    python tune/run.py segment --set eval.flip=true --set eval.scales=0.75,1,1.25

It gains a few tenths of a percent at several times the cost (Chen et al. 2017, section 4.1).
Validation, test and the exported model all use it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import Annotated, Field, config
from trainables.segmenters.networks import MIN_IMAGE_SIZE

_TINY = 1e-12  # smallest probability of a class
_UPRIGHT: tuple[tuple[int, ...], ...] = ((), (3,))
_FROM_ABOVE: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))

Network = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""(B, 3, H, W) -> logits (B, C, H, W), and auxiliary logits."""


@config
class AveragingConfig:
    """Versions of an image whose probabilities are averaged; by default only the image itself."""

    scales: Annotated[str, Field(min_length=1)] = "1"
    """Comma-separated scale factors, each in [0.25, 4], such as 0.75,1,1.25."""
    flip: bool = False
    """Average with the mirrored image; if `data.up` is all, also with the image upside down, and
    both."""

    def factors(self) -> tuple[float, ...]:
        """The scale factors as numbers.

        Raises:
            ValueError: a word is not a number, or out of range.
        """
        found = []
        for word in self.scales.split(","):
            try:
                factor = float(word)
            except ValueError:
                factor = 0.0
            if not 0.25 <= factor <= 4:
                raise ValueError(
                    f"scales={self.scales!r} must be numbers from 0.25 to 4 with commas between "
                    f"them, such as 0.75,1,1.25, but one is {word!r}"
                )
            found.append(factor)
        return tuple(found)

    def check(self, image_size: int, up: str) -> None:
        """Raise ValueError if images with this side would become too small, or must not be
        mirrored."""
        smallest = round(min(self.factors()) * image_size)
        if smallest < MIN_IMAGE_SIZE:
            raise ValueError(
                f"eval.scales={self.scales} makes images of {smallest} px of those of "
                f"{image_size}; {MIN_IMAGE_SIZE} is the least"
            )
        if self.flip and up == "none":
            raise ValueError(
                "eval.flip=True mirrors images, which data.up=none forbids; leave one of them out"
            )

    def versions(self, up: str) -> list[tuple[float, tuple[int, ...]]]:
        """Scale factor of each version, and the dimensions along which it is flipped.

        Args:
            up: `data.up`.
        """
        flips = _FROM_ABOVE if up == "all" else _UPRIGHT
        if not self.flip:
            flips = ((),)
        return [(factor, flip) for factor in self.factors() for flip in flips]


def averaged_scores(
    net: Network,
    views: Tensor,  # (B, 3, H, W)
    config: AveragingConfig,
    up: str,  # `data.up`
) -> Tensor:  # (B, C, H, W) float32
    """Logits of the views; with several versions of each, the logarithm of their mean
    probability."""
    versions = config.versions(up)
    if versions == [(1.0, ())]:
        return net(views)[0].float()

    # An enlarged image needs proportionally more memory.
    most = max(1.0, *config.factors())
    images = max(1, int(len(views) / most**2))
    parts = torch.split(views, images)
    return torch.cat([_averaged(net, part, versions) for part in parts])


def _averaged(
    net: Network, views: Tensor, versions: Sequence[tuple[float, tuple[int, ...]]]
) -> Tensor:
    """Logarithm of the mean probability over versions."""
    total = torch.zeros(())
    for factor, flip in versions:
        probabilities = _probabilities(net, views, factor, flip)
        total = total.to(probabilities) + probabilities

    mean = total / len(versions)
    return mean.clamp_min(_TINY).log()


def _probabilities(net: Network, views: Tensor, factor: float, flip: tuple[int, ...]) -> Tensor:
    """Probabilities (B, C, H, W) of one version, mapped back onto the views."""
    height, width = views.shape[-2:]
    version = views
    if factor != 1:
        size = (round(factor * height), round(factor * width))
        version = _resized(views, size, antialias=True)
    if flip:
        version = version.flip(flip)

    logits = net(version)[0].float()
    if flip:
        logits = logits.flip(flip)
    probabilities = logits.softmax(1)
    if factor == 1:
        return probabilities
    return _resized(probabilities, (height, width), antialias=False)


def _resized(x: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    return functional.interpolate(
        x, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
