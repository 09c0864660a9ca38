"""Make upright photographs with masks: photographed cut-outs on photographs, from Debian packages.

    apt-get download tuxpaint-stamps-default mate-backgrounds lomiri-wallpapers-16.04 \\
        lomiri-wallpapers-20.04 plasma-workspace-wallpapers
    for file in *.deb; do dpkg -x $file packages; done       # of Debian 12
    python benchmarks/scenes.py packages scenes
    python tune/run.py segment --data scenes --preset tiny --set data.image_size=48

No package has photographs with masks of what they show. So the masks come from the cut-outs'
transparency, as in Dwibedi et al. 2017, "Cut, Paste and Learn". Classes: background, bird, mammal,
food, flower, tool.

- **Nothing is in two splits**: neither a cut-out, nor another one of its subject (`pig.png`,
  `pig_golden.png`), nor a photograph.
- **Images of val and test come in groups**, a folder each, of three cut-outs that no other group
  has. vistune takes the images of a folder for one cluster, so intervals cover other cut-outs too.
"""

import argparse
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 96
"""Side of a scene in px."""
HEIGHT = 288
"""Height in px to which a photograph is scaled before a scene's background is cut from it."""
SHARES = {"train": 0.5, "val": 0.15, "test": 0.35}
"""Part of the subjects of every class, and of the photographs."""
TRAIN_IMAGES = 800
IMAGES_PER_GROUP = 10
"""Images of each group of val and test."""

STAMPS = "usr/share/tuxpaint/stamps"
CLASSES: dict[str, tuple[str, ...]] = {
    "bird": ("animals/birds/*.png",),
    "mammal": ("animals/mammals/*.png", "animals/mammals/*/*.png"),
    "food": ("food/fruit/*.png", "food/nuts/*.png", "food/vegetables/*.png"),
    "flower": ("plants/flowers/*.png",),
    "tool": ("household/*.png", "household/arttools/*.png", "household/tools/*.png"),
}
"""Class -> files of the cut-outs, below `STAMPS`."""
DRAWN = ("hedgehog", "echidna", "rubberduck", "Lightbulb")
"""Names of cut-outs that are drawings, toys or transparent."""

PHOTOS = (
    *("backgrounds/Bridge_by_Sander_Klootwijk.jpg", "backgrounds/Dragonfly_by_Bolly.jpg"),
    *("backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg", "backgrounds/mate/nature/Blinds.jpg"),
    *("backgrounds/life_by_Aitzol_Berasategi.jpg", "backgrounds/mate/nature/Dune.jpg"),
    *("backgrounds/mate/nature/GreenMeadow.jpg", "backgrounds/mate/nature/RainDrops.jpg"),
    *("backgrounds/mate/nature/Storm.jpg", "backgrounds/mate/nature/Wood.jpg"),
    *("backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg", "backgrounds/mate/nature/Aqua.jpg"),
    *("backgrounds/sunset_by_Aitzol_Berasategi.jpg", "wallpapers/BytheWater"),
    *("wallpapers/ColdRipple", "wallpapers/DarkestHour", "wallpapers/EveningGlow"),
    *("wallpapers/FallenLeaf", "wallpapers/Grey", "wallpapers/Kite", "wallpapers/OneStandsOut"),
    *("wallpapers/Path", "wallpapers/summer_1am"),
)
"""Photographs of landscapes and surfaces in usr/share, which show none of the classes. The packages
have wallpapers in several sizes, and the first one is taken."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, help="folder of the unpacked packages")
    parser.add_argument("out", type=Path, help="folder to make")
    args = parser.parse_args()

    cut_outs = {name: _cut_outs(args.packages, name) for name in CLASSES}
    photos = _split({name: [_photo(args.packages, name)] for name in PHOTOS})

    args.out.mkdir(parents=True)
    lines = "".join(f"{name}\n" for name in ("background", *CLASSES))
    (args.out / "classes.txt").write_text(lines)
    for number, split in enumerate(SHARES):
        rng = np.random.default_rng(number)
        files = {name: parts[split] for name, parts in cut_outs.items()}
        if split == "train":
            _write_train(args.out / split, files, photos[split], rng)
        else:
            _write_groups(args.out / split, files, photos[split], rng)
        count = sum(map(len, files.values()))
        print(f"{split}: {count} cut-outs, {len(photos[split])} photographs")


def _write_train(
    folder: Path, files: dict[str, list[Path]], photos: list[Path], rng: np.random.Generator
) -> None:
    """Write scenes of one to three cut-outs, drawn anew for every scene."""
    names = list(files)
    for number in range(TRAIN_IMAGES):
        drawn = rng.choice(names, size=rng.integers(1, 4))
        shown = [(name, files[name][rng.integers(len(files[name]))]) for name in drawn]
        photo = photos[rng.integers(len(photos))]
        _write_scene(folder, f"{number:04d}", shown, photo, rng)


def _write_groups(
    folder: Path, files: dict[str, list[Path]], photos: list[Path], rng: np.random.Generator
) -> None:
    """Write the scenes of groups that share no cut-out: one to three of the group's cut-outs on
    its photograph."""
    members = [(name, file) for name, of_class in files.items() for file in of_class]
    order = rng.permutation(len(members))
    groups = [[members[at] for at in order[start : start + 3]] for start in range(0, len(order), 3)]
    for number, group in enumerate(groups):
        photo = photos[number % len(photos)]
        for scene in range(IMAGES_PER_GROUP):
            count = int(rng.integers(1, len(group) + 1))
            shown = [group[at] for at in rng.permutation(len(group))[:count]]
            _write_scene(folder, f"group{number:02d}/{scene:02d}", shown, photo, rng)


def _write_scene(
    folder: Path,
    name: str,
    shown: Sequence[tuple[str, Path]],
    photo: Path,
    rng: np.random.Generator,
) -> None:
    """Paste cut-outs, upright, onto a random part of a photograph, and write image and mask."""
    scene = _background(photo, rng)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for class_name, file in shown:
        cut_out, (left, top) = _placed(file, rng)
        scene.paste(cut_out, (left, top), cut_out)
        _mark(mask, np.asarray(cut_out)[:, :, 3], left, top, 1 + list(CLASSES).index(class_name))

    image_file = folder / "images" / f"{name}.png"
    mask_file = folder / "masks" / f"{name}.png"
    for file, content in ((image_file, scene), (mask_file, Image.fromarray(mask))):
        file.parent.mkdir(parents=True, exist_ok=True)
        content.save(file)


def _background(photo: Path, rng: np.random.Generator) -> Image.Image:
    image = _scaled(photo)
    side = int(rng.integers(SIDE, min(image.size) + 1))
    left = int(rng.integers(0, image.width - side + 1))
    top = int(rng.integers(0, HEIGHT - side + 1))
    part = image.crop((left, top, left + side, top + side))
    return part.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


@cache
def _scaled(photo: Path) -> Image.Image:
    with Image.open(photo) as opened:
        image = opened.convert("RGB")
    size = (max(SIDE, round(image.width * HEIGHT / image.height)), HEIGHT)
    return image.resize(size, Image.Resampling.LANCZOS)


def _placed(file: Path, rng: np.random.Generator) -> tuple[Image.Image, tuple[int, int]]:
    """Scale a cut-out to .35 to .8 of a scene, mirror it by chance, and choose a place that shows
    at least two thirds of its width and height."""
    with Image.open(file) as opened:
        image = opened.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    scale = rng.uniform(0.35, 0.8) * SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def start(length: int) -> int:
        hidden = length // 3
        return int(rng.integers(-hidden, SIDE - length + hidden + 1))

    return image, (start(image.width), start(image.height))


def _mark(mask: np.ndarray, alpha: np.ndarray, left: int, top: int, label: int) -> None:
    """Write `label` where a cut-out at (`left`, `top`) covers more than half of a pixel."""
    rows = slice(max(0, top), min(SIDE, top + alpha.shape[0]))
    columns = slice(max(0, left), min(SIDE, left + alpha.shape[1]))
    seen = alpha[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    mask[rows, columns][seen > 127] = label


def _cut_outs(packages: Path, class_name: str) -> dict[str, list[Path]]:
    """Split the cut-outs of a class; those of one subject stay together."""
    root = packages / STAMPS
    subjects: dict[str, list[Path]] = {}
    for pattern in CLASSES[class_name]:
        for file in sorted(root.glob(pattern)):
            if file.stem not in DRAWN and not file.stem.endswith("_mirror"):
                subjects.setdefault(_subject(file), []).append(file)
    if not subjects:
        raise SystemExit(f"no cut-outs of {class_name} in {root}: unpack tuxpaint-stamps-default")
    return _split(subjects)


def _subject(file: Path) -> str:
    """Return the first word of a file's name: `pig` of `pig_golden2.png`."""
    return re.split(r"[-_ 0-9]", file.stem.lower())[0]


def _photo(packages: Path, name: str) -> Path:
    at = packages / "usr/share" / name
    if at.is_file():
        return at
    sizes = sorted(at.glob("contents/images/*.*"))
    if not sizes:
        raise SystemExit(f"{at} does not exist: unpack the packages of wallpapers")
    return sizes[0]


def _split(groups: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Split the files of groups by `SHARES`: whole groups, in the order of their names' hashes."""
    parts: dict[str, list[Path]] = {name: [] for name in SHARES}
    whole = sum(map(len, groups.values()))
    ends = np.cumsum(list(SHARES.values())) * whole
    order = sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest())
    taken = 0
    for name in order:
        part = int(np.searchsorted(ends, taken + 0.5))
        parts[list(SHARES)[part]] += groups[name]
        taken += len(groups[name])
    return parts


if __name__ == "__main__":
    main()
