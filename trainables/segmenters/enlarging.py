"""Bilinear enlargement of maps, with one of two definitions of cell centres."""

from torch import Tensor
from torch.nn import functional


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly to the height and width of `like`, with half-pixel centres."""
    return functional.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def about_centres(
    x: Tensor,  # (B, D, h, w)
    stride: int,
    like: Tensor,  # (B, E, H, W) with h = ceil(H / stride)
) -> Tensor:  # (B, D, H, W)
    """Enlarge a map bilinearly whose cell i is centred on row i `stride` of the finer map. This is
    where strided kernels of odd size are centred if they are padded by half their size.

    Half-pixel centres would be off by (stride - 1) / 2 rows. Beyond the last cell, its value is
    repeated.
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
