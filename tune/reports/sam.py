"""`python tune/report.py sam IMAGE... --checkpoint FOLDER`: automatic masks by Segment Anything.

The model (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643) is the one of transformers. It is
read from a folder with safetensors: nothing is downloaded or unpickled.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data.images import CorruptImage, read_rgb
from trainables.errors import UserError, first_line
from trainables.plots.class_colours import COLOURS
from tune.command_line import install_command

_NEEDED = ("config.json", "preprocessor_config.json", "model.safetensors")
_OPACITY = 0.5
_POINTS_PER_BATCH = 64  # bounds the memory


@dataclass(frozen=True)
class Thresholds:
    """Thresholds for keeping a mask; the defaults are those of the paper."""

    points: int = 32
    """Number of prompts along each side of the image, points * points in total."""

    quality: float = 0.88
    """Minimum IoU that the model predicts for its mask, in [0, 1]; 0 keeps all masks."""

    stability: float = 0.95
    """Minimum IoU between the masks at a higher and a lower cutoff, in [0, 1]; 0 keeps all
    masks."""


def draw_masks(
    images: Sequence[Path], checkpoint: Path, out: Path | None, keep: Thresholds
) -> Iterator[str]:
    """Write `<name>_sam.png`, the image overlaid with its masks, for every image.

    Args:
        checkpoint: folder with the model.
        out: folder for the pictures; default: beside each image.
    Yields:
        A line about each image.
    Raises:
        UserError: transformers is not installed, or `checkpoint` is not a folder with a SAM model.
    """
    generate = load(checkpoint)
    for path in images:
        try:
            pixels = np.asarray(read_rgb(path))
        except (CorruptImage, OSError) as error:
            yield f"{path}: left out, {error}"
            continue

        masks = automatic_masks(generate, pixels, keep)
        folder = path.parent if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / f"{path.stem}_sam.png"
        Image.fromarray(overlay(pixels, masks)).save(picture)
        yield f"{picture}: {len(masks)} masks"


def load(checkpoint: Path) -> Any:
    """Return transformers' mask-generation pipeline. Raises the same errors as `draw_masks`."""
    try:
        import transformers
    except ImportError:
        raise UserError(f"Segment Anything needs transformers: {install_command('sam')}") from None
    from trainables.devices import choose_device

    _check_files(checkpoint)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model = transformers.SamModel.from_pretrained(
            str(checkpoint), local_files_only=True, use_safetensors=True
        )
        processor = transformers.SamImageProcessor.from_pretrained(
            str(checkpoint), local_files_only=True
        )
    except Exception as error:  # safetensors and transformers raise many types
        raise UserError(
            f"--checkpoint {str(checkpoint)!r} cannot be read ({first_line(error)}); fetch it again"
        ) from None
    return transformers.pipeline(
        "mask-generation", model=model, image_processor=processor, device=choose_device()
    )


def _check_files(checkpoint: Path) -> None:
    missing = [name for name in _NEEDED if not (checkpoint / name).is_file()]
    if missing:
        raise UserError(
            f"--checkpoint {str(checkpoint)!r} lacks {', '.join(missing)}; give a folder such as "
            "`hf download facebook/sam-vit-base --local-dir FOLDER` makes"
        )
    kind = json.loads((checkpoint / "config.json").read_text()).get("model_type")
    if kind != "sam":
        raise UserError(f"--checkpoint {str(checkpoint)!r} is a model of type {kind!r}, not 'sam'")


def automatic_masks(
    generate: Any,
    pixels: np.ndarray,  # (H, W, 3) uint8
    keep: Thresholds,
) -> np.ndarray:  # (M, H, W) bool, largest first
    """Prompt the model with a grid of points, and drop doubtful masks and duplicates.

    Args:
        generate: the pipeline returned by `load`.
    """
    found = generate(
        Image.fromarray(pixels),
        points_per_batch=_POINTS_PER_BATCH,
        points_per_crop=keep.points,
        pred_iou_thresh=keep.quality,
        stability_score_thresh=keep.stability,
    )["masks"]
    height, width = pixels.shape[:2]
    masks = np.array([np.asarray(mask, bool) for mask in found]).reshape(-1, height, width)
    largest_first = np.argsort(-masks.sum((1, 2)), kind="stable")
    ordered: np.ndarray = masks[largest_first]
    return ordered


def overlay(
    pixels: np.ndarray,  # (H, W, 3) uint8
    masks: np.ndarray,  # (M, H, W) bool; later ones lie above
) -> np.ndarray:  # (H, W, 3) uint8
    """Draw each mask over the image in its own colour, with a white edge."""
    drawn = pixels.astype(np.float32)
    for number, mask in enumerate(masks):
        colour = _rgb(COLOURS[number % len(COLOURS)])
        drawn[mask] = (1 - _OPACITY) * pixels[mask] + _OPACITY * colour
        drawn[_edge(mask)] = 255
    return drawn.round().astype(np.uint8)


def _rgb(colour: str) -> np.ndarray:  # (3,) float32, in [0, 255]
    """Parse `#rrggbb`."""
    return np.array(list(bytes.fromhex(colour.removeprefix("#"))), np.float32)


def _edge(mask: np.ndarray) -> np.ndarray:  # (H, W) bool
    """Return the mask's pixels that have a neighbour outside of it; the image border is not an
    edge."""
    padded = np.pad(mask, 1, mode="edge")
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    inside: np.ndarray = above & below & left & right
    edge: np.ndarray = mask & ~inside
    return edge
