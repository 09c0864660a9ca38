"""Baselines that a segmentation network on `earth` has to beat: the most frequent class, a random
forest that sees one pixel, and one that sees the pixel's surroundings too.

    python benchmarks/earth_forest.py                  # about two minutes on one core
    python benchmarks/earth_forest.py --seed 1 --pixels 200000 --trees 200

All learn from the train split of `--seed` and are scored by the project's own metric on val and
test. The first forest gets red, green and blue of each pixel, as a network does. The second also
gets their means, and the deviation of the brightness, over squares of 5 and 17 pixels around it.
Like the network, neither knows the place on the globe.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from sklearn.ensemble import RandomForestClassifier

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from trainables.data import IGNORE, DataConfig, Split, load_dataset
from trainables.miou import class_iou, confusion_matrix, mean_iou, pixel_accuracy

WINDOWS = (5, 17)  # side lengths in pixels
Windows = tuple[int, ...]


# (n, 3, S, S) uint8 -> (n, S, S, 3 + 4 * len(windows)) float32
def features(images: np.ndarray, windows: Windows) -> np.ndarray:
    values = images.astype(np.float32)
    gray = values.mean(1, keepdims=True)
    parts = [values]
    for side in windows:
        window = (1, 1, side, side)
        mean = uniform_filter(gray, window)
        variance = uniform_filter(gray**2, window) - mean**2
        parts += [uniform_filter(values, window), np.sqrt(variance.clip(0))]
    return np.concatenate(parts, 1).transpose(0, 2, 3, 1)


def sampled(
    split: Split, pixels: int, seed: int, windows: Windows
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, F) features and (n,) classes of at most `pixels` pixels whose class is known."""
    positions = np.arange(len(split))
    truth = split.masks(positions).numpy().ravel()
    known = np.flatnonzero(truth != IGNORE)
    chosen = np.sort(
        np.random.default_rng(seed).choice(known, min(pixels, len(known)), replace=False)
    )
    x = features(split.batch(positions).numpy(), windows)
    return x.reshape(-1, x.shape[-1])[chosen], truth[chosen]


def confusion(
    split: Split, classes: int, predict: "RandomForestClassifier | int", windows: Windows
) -> torch.Tensor:
    """Return the (C, C + 1) confusion matrix of a forest, or of predicting one class everywhere."""
    total = torch.zeros(classes, classes + 1, dtype=torch.int64)
    for position in range(len(split)):
        mask = split.masks(np.array([position]))
        if isinstance(predict, int):
            answer = torch.full(mask.shape, predict)
        else:
            x = features(split.batch(np.array([position])).numpy(), windows)
            answer = torch.from_numpy(
                predict.predict(x.reshape(-1, x.shape[-1])).astype(np.int64)
            ).view(mask.shape)
        total += confusion_matrix(answer, mask, classes)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64, help="side of the tiles, pixels")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split, the sampled pixels and the forests"
    )
    parser.add_argument("--pixels", type=int, default=60_000, help="training pixels")
    parser.add_argument("--trees", type=int, default=60)
    args = parser.parse_args()
    data = load_dataset(DataConfig(name="earth", image_size=args.size, seed=args.seed), "segment")
    print(data.headline())
    contenders: dict[str, tuple[RandomForestClassifier | int, Windows]] = {}
    for name, windows in (
        ("random forest, one pixel", ()),
        ("random forest, surroundings", WINDOWS),
    ):
        x, y = sampled(data.train, args.pixels, args.seed, windows)
        forest = RandomForestClassifier(args.trees, min_samples_leaf=5, random_state=args.seed).fit(
            x, y
        )
        majority = int(np.bincount(y).argmax())
        contenders |= {
            f"majority ({data.classes[majority]})": (majority, ()),
            name: (forest, windows),
        }
    print(
        f"\n{'':30}{'val mIoU':>10}{'test mIoU':>11}{'test pixels':>13}   IoU of each class on test"
    )
    for name, (predict, windows) in contenders.items():
        val, test = (
            confusion(split, len(data.classes), predict, windows) for split in (data.val, data.test)
        )
        ious = ", ".join(
            f"{c} {iou:.2f}" for c, iou in zip(data.classes, class_iou(test).tolist(), strict=True)
        )
        print(
            f"{name:30}{mean_iou(val):10.3f}{mean_iou(test):11.3f}{pixel_accuracy(test):13.3f}   "
            f"{ious}"
        )


if __name__ == "__main__":
    main()
