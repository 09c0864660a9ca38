"""Pairs of image and mask per second on one core: vistune's joint augmentation against torchvision
v2 per sample.

    python benchmarks/joint_augment.py  # scale .5-2, flips, quarter turns, jitter; 64 to 256 px
    python benchmarks/joint_augment.py --sizes 512 --batch 8

Both draw scale, position, flips, turn and jitter anew for every pair and end with normalised
float32 views and uint8 masks. Times are CPU times of the process. The contenders take turns within
a round and the ratio is the median over the rounds, so other load on the machine affects both
equally. The process keeps freed memory, as a trial's process does, which helps both.
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import add_record_option, record_speed, rounded
from trainables.augment.image_ops import MEAN_STD
from trainables.augment.joint_augment import JointAugment, JointAugmentConfig
from trainables.data import IGNORE
from trainables.engine.allocator import keep_freed_memory

POLICY = JointAugmentConfig(
    scale_min=0.5, scale_max=2.0, hflip=0.5, vflip=0.5, rot90=0.75, jitter=0.8
)
Pairs = tuple[Tensor, Tensor]  # (B, 3, S, S) uint8 or float32, (B, S, S) uint8


class _Scale(v2.Transform):
    """The policy's log-uniform scaling, antialiased for the image and nearest-neighbour for the
    mask."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, int]:
        low, high = math.log(POLICY.scale_min), math.log(POLICY.scale_max)
        return {
            "side": max(1, round(math.exp(random.uniform(low, high)) * flat_inputs[0].shape[-1]))
        }

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        mode = (
            v2.InterpolationMode.NEAREST_EXACT
            if isinstance(inpt, tv_tensors.Mask)
            else v2.InterpolationMode.BILINEAR
        )
        return TF.resize(inpt, [params["side"]] * 2, mode, antialias=True)


class _Turn(v2.Transform):
    """Rotation by one of four quarter turns."""

    def make_params(self, flat_inputs: list[Tensor]) -> dict[str, int]:
        return {"turns": random.randrange(4)}

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        return tv_tensors.wrap(torch.rot90(inpt, params["turns"], (-2, -1)), like=inpt)


def torchvision(size: int) -> Callable[[Tensor, Tensor], Pairs]:
    c = POLICY
    transform = v2.Compose(
        [
            _Scale(),
            v2.RandomCrop(
                size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
            ),
            v2.RandomHorizontalFlip(c.hflip),
            v2.RandomVerticalFlip(c.vflip),
            _Turn(),
            v2.RandomApply(
                [v2.ColorJitter(c.brightness, c.contrast, c.saturation, c.hue)], c.jitter
            ),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(*MEAN_STD["imagenet"]),
        ]
    )

    def each(images: Tensor, masks: Tensor) -> Pairs:
        done = [
            transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
            for image, mask in zip(images, masks, strict=True)
        ]
        return torch.stack([view for view, _ in done]), torch.stack([mask for _, mask in done])

    return each


def ours(size: int) -> Callable[[Tensor, Tensor], Pairs]:
    augment, generator = JointAugment(POLICY, size), torch.Generator().manual_seed(0)
    return lambda images, masks: augment.apply(images, masks, augment.draw(len(images), generator))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[64, 128, 256], help="sides, pixels"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    add_record_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    random.seed(0)
    found = []
    for size in args.sizes:
        images = torch.randint(0, 256, (args.batch, 3, size, size), dtype=torch.uint8)
        masks = torch.randint(0, 6, (args.batch, size, size), dtype=torch.uint8)
        contenders = {
            "vistune, batched": ours(size),
            "torchvision v2 uint8, per sample": torchvision(size),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(args.rounds + 1):
            for name, augment in contenders.items():
                start = time.process_time()
                augment(images, masks)
                if round_:  # the first round is a warm-up
                    times[name].append(time.process_time() - start)
        print(f"\n{size} px, batches of {args.batch}, {args.rounds} rounds, 1 core")
        for name, taken in times.items():
            ratio = statistics.median(
                theirs / mine for theirs, mine in zip(taken, times["vistune, batched"], strict=True)
            )
            print(
                f"{name:34}{args.batch / statistics.median(taken):10.0f} pairs/s   vistune is "
                f"faster by {ratio:.1f}x"
            )
        seconds = {name: rounded(taken) for name, taken in times.items()}
        found.append({"size": size, "seconds": seconds})
    record_speed(args.record, {"batch": args.batch, "sizes": found})


if __name__ == "__main__":
    main()
