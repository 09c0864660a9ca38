"""Bilinear enlargement of maps, about one of two centres of their cells."""

from torch import Tensor
from torch.nn import functional


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly to the height and width of `like`; centres of pixels keep their places."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def about_centres(
    x: Tensor,  # (B, D, h, w)
    stride: int,
    like: Tensor,  # (B, E, H, W) with h = ceil(H / stride)
) -> Tensor:  # (B, D, H, W)
    """Enlarge bilinearly a map whose cell i is centred on row i `stride` of the finer one, which is
    where strided kernels of odd size, padded by half, look.

    Half-pixel centres would look (stride - 1) / 2 rows beside. Beyond the last cell its value
    continues.
    """
    height, width = like.shape[-2:]
    rows, columns = x.shape[-2:]
    continued = functional.pad(x, (0, 1, 0, 1), mode="replicate")
    enlarged = functional.interpolate(
        continued,
        size=(rows * stride + 1, columns * stride + 1),
        mode="bilinear",
        align_corners=True,
    )
    return enlarged[..., :height, :width]
