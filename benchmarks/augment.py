"""Images per second of loading and augmenting on one core: vistune against torchvision v2 per image
and kornia per batch.

    python benchmarks/augment.py  # BYOL's first view, to 128 px, from 84 x 84 and 375 x 500
    python benchmarks/augment.py --policy simclr --size 96 --rounds 10

Every contender reads the same shuffled positions of the same memory-mapped uint8 array and ends
with normalised float32 batches. Times are CPU times of the process. The contenders take turns
within a round and a ratio is the median over the rounds, so other load on the machine affects all
of them equally.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import add_record_option, record_speed, rounded
from trainables.augment.image_ops import MEAN_STD
from trainables.augment.view_config import PRESETS, AugmentConfig
from trainables.augment.views import Augment

Loader = Callable[[np.ndarray], Tensor]  # positions (B,) -> (B, 3, S, S) float32


def ours(store: np.ndarray, policy: AugmentConfig, size: int) -> Loader:
    augment, generator = Augment(policy, size), torch.Generator().manual_seed(0)
    return lambda positions: augment(torch.from_numpy(store[positions]), generator)


def torchvision(store: np.ndarray, policy: AugmentConfig, size: int, *, as_float: bool) -> Loader:
    c, kernel = policy, Augment(policy, size).kernel
    to_float = v2.ToDtype(torch.float32, scale=True)
    steps = [
        v2.RandomResizedCrop(
            size, (c.crop_scale_min, c.crop_scale_max), (1 / c.crop_ratio, c.crop_ratio)
        ),
        v2.RandomHorizontalFlip(c.hflip),
        v2.RandomApply([v2.ColorJitter(c.brightness, c.contrast, c.saturation, c.hue)], c.jitter),
        v2.RandomGrayscale(c.grayscale),
        v2.RandomApply([v2.GaussianBlur(kernel, (c.blur_sigma_min, c.blur_sigma_max))], c.blur),
        v2.RandomSolarize(
            c.solarize_threshold if as_float else 255 * c.solarize_threshold, c.solarize
        ),
    ]
    steps = [to_float, *steps] if as_float else [*steps, to_float]
    transform = v2.Compose([*steps, v2.Normalize(*MEAN_STD[c.normalize])])
    return lambda positions: torch.stack(
        [transform(torch.from_numpy(store[i].copy())) for i in positions]
    )


def kornia(store: np.ndarray, policy: AugmentConfig, size: int) -> Loader:
    c, kernel = policy, Augment(policy, size).kernel
    transform = torch.nn.Sequential(
        K.RandomResizedCrop(
            (size, size), (c.crop_scale_min, c.crop_scale_max), (1 / c.crop_ratio, c.crop_ratio)
        ),
        K.RandomHorizontalFlip(p=c.hflip),
        K.ColorJitter(c.brightness, c.contrast, c.saturation, c.hue, p=c.jitter),
        K.RandomGrayscale(p=c.grayscale),
        K.RandomGaussianBlur((kernel, kernel), (c.blur_sigma_min, c.blur_sigma_max), p=c.blur),
        K.RandomSolarize(
            thresholds=(c.solarize_threshold, c.solarize_threshold),
            additions=(0.0, 0.0),
            p=c.solarize,
        ),
        K.Normalize(*(torch.tensor(v) for v in MEAN_STD[c.normalize])),
    )
    return lambda positions: transform(torch.from_numpy(store[positions]).float() / 255)


def seconds_per_image(loader: Loader, positions: np.ndarray, batch: int) -> float:
    start = time.process_time()
    for first in range(0, len(positions), batch):
        loader(positions[first : first + batch])
    return (time.process_time() - start) / len(positions)


def compare(height: int, width: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Print and return the seconds per image of each contender, round by round."""
    rng = np.random.default_rng(0)
    path = folder / f"{height}x{width}.npy"
    np.save(path, rng.integers(0, 256, (4 * args.batch, 3, height, width), dtype=np.uint8))
    store = np.load(path, mmap_mode="r")
    policy = PRESETS[args.policy][args.view]
    loaders = {
        "vistune, batched": ours(store, policy, args.size),
        "torchvision v2 uint8, per image": torchvision(store, policy, args.size, as_float=False),
        "torchvision v2 float, per image": torchvision(store, policy, args.size, as_float=True),
        "kornia, batched": kornia(store, policy, args.size),
    }
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for round_ in range(args.rounds + 1):
        positions = rng.permutation(len(store))[: 2 * args.batch]
        for name, loader in loaders.items():
            taken = seconds_per_image(loader, positions, args.batch)
            if round_:  # the first round is a warm-up
                times[name].append(taken)
    print(
        f"\n{args.policy} view {args.view + 1}, {height} x {width} -> {args.size} px, batches of "
        f"{args.batch}, {args.rounds} rounds, 1 core"
    )
    print(f"{'':34}{'images/s':>10}{'vistune is faster by':>24}")
    first = times["vistune, batched"]
    for name, taken in times.items():
        ratio = statistics.median(theirs / mine for theirs, mine in zip(taken, first, strict=True))
        print(f"{name:34}{1 / statistics.median(taken):10.0f}{ratio:23.1f}x")
    seconds = {name: rounded(taken) for name, taken in times.items()}
    return {"height": height, "width": width, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--policy",
        choices=[name for name, views in PRESETS.items() if not views[0].one_of],
        default="byol",
    )
    parser.add_argument("--view", type=int, choices=(0, 1), default=0, help="0 = first view")
    parser.add_argument("--size", type=int, default=128, help="side of the output, pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    add_record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        inputs = [
            compare(height, width, args, Path(folder)) for height, width in ((84, 84), (375, 500))
        ]
    about = {"policy": args.policy, "view": args.view, "size": args.size, "batch": args.batch}
    record_speed(args.record, about | {"inputs": inputs})


if __name__ == "__main__":
    main()
