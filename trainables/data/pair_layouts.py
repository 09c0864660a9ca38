"""Folders of images with masks, for segmentation. Each layout works with or without train/,
validation/ (val/) and test/:

    satellite pairs       0000_sat.jpg beside 0000_mask.png, in seven colours (`masks.SATELLITE`)
    images and masks      images/a.jpg and masks/a.png; train/images/ and images/train/ are equally
                          good, and so are imgs, JPEGImages, labels, SegmentationClass, ...
    folder and its masks  train/a.png and trainannot/a.png, train_labels/a_L.png, train_masks/ ...
    names of masks        a.jpg beside a_mask.png, a_label.png, a_L.png or a_gt.png
    Pascal VOC            JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/train.txt

If several layouts match, the one that pairs the most files is used, so a single odd name has no
effect. To add a layout, write a class with `matches` and `read`, and add it to `PAIR_LAYOUTS`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from trainables.data.class_list import ClassList, distinct_colors, read_class_list
from trainables.data.layout_base import Match
from trainables.data.mask_code import ReadLines, lines_of
from trainables.data.mask_words import Kind, bare_key
from trainables.data.masks import SATELLITE, satellite_values
from trainables.data.pairing import (
    FOLDERS,
    RARER_FOLDERS,
    KindAndKey,
    PairedFiles,
    described_folder,
    folders_of,
    paired,
    without_ending,
)

_SATELLITE = re.compile(r"(.+)_(sat|mask)\.\w+")
_VOC_IMAGES, _VOC_MASKS = "JPEGImages", "SegmentationClass"
VOC_LISTS = tuple(f"ImageSets/Segmentation/{part}.txt" for part in ("train", "val", "test"))
"""Lists of the names in each part, without extensions."""
_VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Everingham et al. 2010, in the order of mask values; 255 is void."""


class PairLayout(Protocol):
    """One way to arrange images and masks in a folder."""

    name: str
    """Name in notes and messages; part of the fingerprint."""
    expects: str
    """Contents of such a folder, for messages."""

    def matches(self, files: Sequence[str]) -> Match:
        """Decide if the paths have this layout, and if not, what they lack."""

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        """Pair the paths of a folder that matches."""

    def class_list(self, root: Path) -> ClassList | None:
        """The classes; None if the folder does not name them.

        Raises:
            UserError: the class file cannot be used.
        """

    def line_reader(self) -> ReadLines:
        """Return the function that reads an opened mask."""


class SatellitePairs:
    """<id>_sat.jpg beside <id>_mask.png, in the colours of `SATELLITE`."""

    name = "satellite pairs"
    expects = "<id>_sat.jpg beside <id>_mask.png"

    def matches(self, files: Sequence[str]) -> Match:
        for file in files:
            if _SATELLITE.fullmatch(file.split("/")[-1]):
                return Match()
        return Match("no <id>_sat.jpg with <id>_mask.png")

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        return paired(files, self._key)

    def _key(self, file: str) -> KindAndKey | None:
        """The path without `_sat` or `_mask` and without extension; None for other names."""
        folder, _, name = file.rpartition("/")
        match = _SATELLITE.fullmatch(name)
        if match is None:
            return None
        return "image" if match[2] == "sat" else "mask", f"{folder}/{match[1]}"

    def class_list(self, root: Path) -> ClassList | None:
        return ClassList("", tuple(SATELLITE), tuple(SATELLITE.values()))

    def line_reader(self) -> ReadLines:
        return satellite_values


class _NamedByFile:
    """A layout with a class file in the folder."""

    def class_list(self, root: Path) -> ClassList | None:
        return read_class_list(root)

    def line_reader(self) -> ReadLines:
        return lines_of


class PascalVOC(_NamedByFile):
    """JPEGImages/ and SegmentationClass/. Lists name the parts, and most images have no mask.

    VOC2012/
        JPEGImages/2007_000032.jpg
        SegmentationClass/2007_000032.png
        ImageSets/Segmentation/train.txt      names without extension; also val.txt and test.txt
    """

    name = "pascal voc"
    expects = "JPEGImages/a.jpg and SegmentationClass/a.png"

    def matches(self, files: Sequence[str]) -> Match:
        folders = {folder for file in files for folder in file.split("/")[:-1]}
        missing = {_VOC_IMAGES, _VOC_MASKS} - folders
        if missing:
            return Match(f"no folder {min(missing)}/")
        return Match()

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        found = paired(files, self._key)
        lists: dict[str, str] = {}
        for prefix in sorted({key.rpartition("/")[0] for key in found.masks}):
            lists |= _voc_lists(root, prefix)
        return PairedFiles(
            found.images, found.masks, found.twice, lists or None, masks_needed=False
        )

    def _key(self, file: str) -> KindAndKey | None:
        """The path without its last folder and without extension.

        Instance masks (SegmentationObject/) are not used.
        """
        folder, _, name = file.rpartition("/")
        prefix, _, last = folder.rpartition("/")
        key = f"{prefix}/{Path(name).stem}"
        if last == _VOC_IMAGES:
            return "image", key
        if last == _VOC_MASKS:
            return "mask", key
        return None

    def class_list(self, root: Path) -> ClassList | None:
        named = read_class_list(root)
        if named is not None:
            return named
        return ClassList("Pascal VOC", _VOC_CLASSES, distinct_colors(_VOC_CLASSES))


class ImagesAndMasks(_NamedByFile):
    """Folders images/ and masks/ with files of the same names.

    images/a.jpg
    masks/a.png        or a_mask.png
    classes.txt
    """

    name = "images and masks"
    expects = "images/a.jpg and masks/a.png"

    def matches(self, files: Sequence[str]) -> Match:
        kinds = _kinds(files, self._roles(files))
        if "image" not in kinds:
            return Match("no folder images/ with images")
        if "mask" not in kinds:
            return Match("no folder masks/ with images")
        return Match()

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        roles = self._roles(files)
        return paired(files, lambda file: _key_by_folder(file, roles))

    def _roles(self, files: Sequence[str]) -> Sequence[Mapping[str, Kind]]:
        """Folder names that distinguish images from masks among these files."""
        if len(_kinds(files, FOLDERS)) == 2:
            return FOLDERS
        return (*FOLDERS, RARER_FOLDERS)


class FolderAndItsMasks(_NamedByFile):
    """A folder such as train/ beside one that is named after it, such as trainannot/.

    train/a.png
    trainannot/a.png   or train_labels/a_L.png, train_masks/a_mask.gif
    val/
    valannot/
    classes.txt        or class_dict.csv
    """

    name = "folder and its masks"
    expects = "train/a.png and trainannot/a.png or train_labels/a_L.png"

    def matches(self, files: Sequence[str]) -> Match:
        folders = folders_of(files)
        for folder in folders:
            if described_folder(folder, folders) is not None:
                return Match()
        return Match("no folder beside another of its name with annot, _labels or _masks added")

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        folders = folders_of(files)

        def key(file: str) -> KindAndKey:
            folder, _, name = file.rpartition("/")
            described = described_folder(folder, folders)
            kind: Kind = "image" if described is None else "mask"
            return kind, f"{described or folder}/{Path(name).stem}"

        return paired(files, key)


class NamesOfMasks(_NamedByFile):
    """Masks beside their images, with a word added to the name.

    a.jpg
    a_mask.png         or a_label.png, a_L.png, a_gt.png
    classes.txt
    """

    name = "names of masks"
    expects = "a.jpg beside a_mask.png, a_label.png, a_L.png or a_gt.png"

    def matches(self, files: Sequence[str]) -> Match:
        if self.read(Path(), files).masks:
            return Match()
        return Match("no a.jpg beside a_mask.png, a_label.png, a_L.png or a_gt.png")

    def read(self, root: Path, files: Sequence[str]) -> PairedFiles:
        stems = {without_ending(file) for file in files}
        named = stems | {bare_key("image", stem) for stem in stems}

        def key(file: str) -> KindAndKey:
            stem = without_ending(file)
            bare = bare_key("mask", stem)
            is_mask = bare != stem and bare in named
            return ("mask", bare) if is_mask else ("image", stem)

        return paired(files, key)


PAIR_LAYOUTS: tuple[PairLayout, ...] = (
    SatellitePairs(),
    PascalVOC(),
    ImagesAndMasks(),
    FolderAndItsMasks(),
    NamesOfMasks(),
)
"""All layouts; if two pair equally many files, the first is used."""


def _kinds(files: Sequence[str], roles: Sequence[Mapping[str, Kind]]) -> set[Kind]:
    keys = [_key_by_folder(file, roles) for file in files]
    return {key[0] for key in keys if key is not None}


def _key_by_folder(file: str, roles: Sequence[Mapping[str, Kind]]) -> KindAndKey | None:
    """The path without its folder images/ or masks/ and without extension."""
    *folders, name = file.split("/")
    for kind_of in roles:
        for position, folder in enumerate(folders):
            kind = kind_of.get(folder.lower())
            if kind is not None:
                others = folders[:position] + folders[position + 1 :]
                return kind, "/".join([*others, Path(name).stem])
    return None


def _voc_lists(root: Path, prefix: str) -> dict[str, str]:
    """Key -> part, from the lists of names beside the images.

    Args:
        prefix: folder that contains JPEGImages/, relative to the root; "" for the root itself.
    """
    parts: dict[str, str] = {}
    for name in VOC_LISTS:
        path = root / prefix / name
        if path.exists():
            words = path.read_text(encoding="utf-8", errors="replace").split()
            parts |= {f"{prefix}/{word}": path.stem for word in words}
    return parts
