"""Small folders in the course's layouts, and what a student would hand out and hand in."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32
CLASSES = ("Alarm Clock", "Bike", "Calendar")
COLORS = np.array(  # urban, agriculture, rangeland, forest, water, barren
    [[0, 255, 255], [255, 255, 0], [255, 0, 255], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
)


def write_csv(path: Path, lines: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def picture(label: int, number: int, side: int = 20) -> Image.Image:
    """Stripes whose direction and width are the label. The noise makes some hard to tell apart."""
    rng = np.random.default_rng([label, number])
    y, x = np.mgrid[:side, :side]
    angle = np.pi * (label % 8) / 8
    width = 1 + 0.5 * (label // 8)
    phase = rng.uniform(0, 6)
    stripes = np.sin((x * np.cos(angle) + y * np.sin(angle)) / width + phase)
    pixels = 128 + 70 * stripes[..., None] + rng.normal(0, 50, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def office_home(root: Path, train: int = 24, val: int = 10) -> Path:
    """train/, val/ with train.csv, val.csv: id, filename, label."""
    for part, each in (("train", train), ("val", val)):
        (root / part).mkdir(parents=True)
        lines: list[list[object]] = [["id", "filename", "label"]]
        for label, name in enumerate(CLASSES):
            for number in range(each):
                file = f"{part}{label}{number:02d}.jpg"
                picture(label, number + 100 * (part == "val")).save(root / part / file)
                lines.append([len(lines) - 1, file, name])
        write_csv(root / f"{part}.csv", lines)
    return root


def mini_imagenet(root: Path, each: int = 12) -> Path:
    """train/ of 15 classes, val/ of 4 others, and val_testcase.csv: 3-way 2-shot episodes."""
    for part, classes in (("train", range(15)), ("val", range(15, 19))):
        (root / part).mkdir(parents=True)
        lines: list[list[object]] = [["id", "filename", "label"]]
        for label in classes:
            for number in range(each):
                file = f"n{label:02d}_{number}.jpg"
                picture(label, number).save(root / part / file)
                lines.append([len(lines) - 1, file, f"n{label:02d}"])
        write_csv(root / f"{part}.csv", lines)

    rng = np.random.default_rng(0)
    header = ["episode_id"]
    header += [f"class{n}_support{k}" for n in range(3) for k in range(2)]
    header += [f"query{m}" for m in range(9)]
    episodes: list[list[object]] = [[*header]]
    for number in range(30):
        chosen = [
            each * c + rng.choice(each, 5, replace=False) for c in rng.choice(4, 3, replace=False)
        ]
        support = [ids[k] for ids in chosen for k in range(2)]
        query = rng.permutation([ids[k] for ids in chosen for k in range(2, 5)])
        episodes.append([number, *support, *query])
    write_csv(root / "val_testcase.csv", episodes)
    return root


def satellite(root: Path, train: int = 32, val: int = 9) -> Path:
    """train/, validation/ with <id>_sat.jpg and <id>_mask.png: land, water, some of unknown
    class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("validation", val)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            edge = rng.integers(8, 25, SIDE)
            water = np.arange(SIDE)[:, None] < np.sort(edge)[None]
            classes = np.where(water, 4, 3)
            classes[rng.integers(0, 20) :, rng.integers(16, SIDE) :] = 1
            tone = np.array([[0, 0, 0], [150, 150, 60], [0, 0, 0], [60, 110, 60], [60, 80, 130]])
            pixels = tone[classes] + rng.normal(0, 35, (SIDE, SIDE, 3))
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(root / part / f"{number:04d}_sat.jpg", quality=95)

            mask = COLORS[classes]
            mask[:2, :2] = 0  # unknown class
            Image.fromarray(mask.astype(np.uint8)).save(root / part / f"{number:04d}_mask.png")
    return root


def course_miou(folder: Path, truth: Path) -> float:
    """mIoU of all masks in `folder`, as the course's own script computes it: pooled over the set,
    classes 0 to 5, predictions on unknown pixels count as wrong."""
    hits = np.zeros(6)
    predicted = np.zeros(6)
    true = np.zeros(6)
    for path in sorted(folder.glob("*_mask.png")):
        answer = _code(path)
        right = _code(truth / path.name)
        for number, code in enumerate((3, 6, 5, 2, 1, 7)):
            hits[number] += ((answer == code) & (right == code)).sum()
            predicted[number] += (answer == code).sum()
            true[number] += (right == code).sum()
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(hits / (predicted + true - hits)))


def _code(path: Path) -> np.ndarray:
    bits = np.asarray(Image.open(path).convert("RGB")) >= 128
    return 4 * bits[..., 0] + 2 * bits[..., 1] + bits[..., 2]


def hand_out(part: Path, to: Path, pattern: str = "*.jpg") -> Path:
    """Copy only the images of a split."""
    to.mkdir(parents=True)
    for path in sorted(part.glob(pattern)):
        shutil.copy(path, to)
    return to
