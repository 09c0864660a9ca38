"""Data sets by name or folder: `load_dataset(DataConfig(name="glyphs"))` returns train, gallery,
val and test over one memory-mapped store."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from trainables.config import Annotated, Field, config, nearest
from trainables.data.carving import SplitRules, carver_of
from trainables.data.decoding import MEGAPIXELS
from trainables.data.earth import load_earth
from trainables.data.embedded import EMBEDDED, counts, fingerprint, load_glyphs, load_scikit_digits
from trainables.data.episodes import FewShotData
from trainables.data.folders import load_folder
from trainables.data.given_episodes import with_given_episodes
from trainables.data.grouping import Grouping
from trainables.data.layout_base import AUTO
from trainables.data.layouts import chosen_folder, read_layout
from trainables.data.listing import HIDDEN, PARTS, Listing
from trainables.data.named import is_named, named_folder
from trainables.data.pairs import Pairs, load_pairs, read_pairs
from trainables.data.placement import OnDevice
from trainables.data.splits import IGNORE, DataSet, Split, limited, transductive, with_note
from trainables.data.store import Store, digest
from trainables.data.summarize import with_counts
from trainables.errors import UserError

__all__ = [
    "EMBEDDED",
    "IGNORE",
    "DataConfig",
    "DataSet",
    "FewShotData",
    "Inspection",
    "Split",
    "Store",
    "Task",
    "inspect",
    "load_dataset",
]

Task = Literal["ssl", "classify", "pretrain", "fewshot", "segment"]


@config
class DataConfig:
    """The images of a run, and their size."""

    name: Annotated[str, Field(min_length=1)] = "glyphs"
    """An embedded set ("glyphs", "digits", "earth"), a folder's path, `torchvision:NAME` or
    `hf:owner/name`. Write `./glyphs` for a folder with the name of an embedded set."""
    image_size: Annotated[int, Field(ge=8, le=512)] = 28
    """Side S of the square images, in pixels, 8 to 512."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of carved splits, for parts that a layout lacks, and of rendered glyphs."""
    skip_corrupt: bool = False
    """Leave out (and record) files that cannot be decoded, instead of stopping."""
    max_megapixels: Annotated[int, Field(ge=1)] = MEGAPIXELS
    """Largest image that is read, in megapixels, each of which takes 3 MB of memory. Larger files
    are treated as decompression bombs."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Largest number of training images to use; 0 = all. The store still contains all of them."""
    split: Annotated[int, Field(ge=1, le=3)] = 3
    """Version of the split rules. 3: by content and seed. Earlier studies use 2, which searched for
    near-duplicates in other thumbnails, or 1, which split by pixels at training size."""
    group: Grouping = "near"
    """Images that belong together and stay in one split. near: near-duplicates, found by their
    pixels. none: only identical files. folder: images of one folder. prefix: images of one folder
    whose names are equal up to the last number. Embedded sets use near."""
    ignore: Annotated[int, Field(ge=0, le=255)] = IGNORE
    """Only for `segment`: void value of the masks, 0 to 255, which is not a class; its line in the
    file of classes is ignored. 255 is always unknown, unless it is the only class of masks with
    values 0 and 255."""
    judged: Literal["whole", "square"] = "whole"
    """Only for `segment`: validate and test on whole images, resized to a shorter side of S, or on
    their largest centred squares, as in earlier studies. Training always uses squares."""
    up: Literal["unset", "none", "horizontal", "all"] = "unset"
    """Flips and quarter turns that keep images of this data valid, and that a search may draw:
    "none" (letters), "horizontal" (photographs), "all" (images from above: also vertical flips and
    quarter turns). "unset": decided by the data; in `ssl` the policies keep their own flips."""
    transductive: bool = False
    """Only for `ssl`: also train on the images of val and test, without their labels."""
    layout: str = AUTO
    """Layout of a folder (docs/data.md); "auto" recognises it."""
    on_device: OnDevice = "auto"
    """Place of the image store while a GPU trains. auto: on the GPU, if it takes at most 40 % of
    the free memory there; never: in main memory, from which batches are copied ahead."""
    domain: str = ""
    """Folder inside the data folder to use instead of it. In a tree <domain>/<class>/, several
    folders separated by commas, or "all"."""


@dataclass(frozen=True)
class Inspection:
    """Facts about a data set that are known without decoding images."""

    name: str
    layout: str
    """Name of the layout, or description of an embedded set."""
    classes: int
    """Number of classes; 0 for unlabeled data."""
    counts: dict[str, int]
    """Number of images in each part of the layout, before anything is carved or left out."""
    fingerprint: str
    store_bytes: int
    """Size of the image store, in bytes."""


def load_dataset(
    cfg: DataConfig, task: Task = "ssl", cache_dir: Path | None = None, progress: bool = False
) -> DataSet:
    """Load the splits of a data set, and build its store first if there is none (with a progress
    bar on a terminal if `progress`).

    `cache_dir` defaults to $VISTUNE_CACHE or ~/.cache/vistune. For "ssl", train may be unlabeled;
    "classify" and "pretrain" need labels everywhere. "pretrain" differs from "classify" only if a
    set has separate classes for pre-training, as `glyphs` does. "fewshot" returns `FewShotData`,
    whose val and test classes are not in train.

    Raises:
        UserError: unknown name, unusable folder, corrupt files, no space or no permission to write
            the store.
    """
    _check_name(cfg)
    _check_group(cfg)
    if cfg.transductive and task != "ssl":
        raise UserError(
            "--transductive is for ssl, which uses no labels; "
            f"{task} would train on the answers of its own test: leave it out"
        )
    found = _as_folder(cfg, task, cache_dir, progress)
    data, listing = _load(found, task, cache_dir, progress)
    if found is not cfg:
        data = with_note(data, f"{cfg.name} is kept as a folder of images, {found.name}")
    if task == "segment" and data.train.mask_images is None:
        raise UserError(
            f"data {cfg.name!r} has no masks, segmentation needs them; "
            "use --data earth or a folder of images and masks"
        )
    data = _with_training_images(data, cfg, task)
    if task == "fewshot":
        data = with_given_episodes(data, listing)
    if cfg.name in EMBEDDED:
        data = _described(data, cfg.name)
    return with_counts(data)


def _as_folder(
    cfg: DataConfig, task: Task, cache_dir: Path | None, progress: bool = False
) -> DataConfig:
    """The config with a named data set replaced by its folder."""
    if not is_named(cfg.name):
        return cfg
    folder = named_folder(cfg.name, task, cache_dir, progress)
    return replace(cfg, name=str(folder))


def _described(data: DataSet, name: str) -> DataSet:
    """The data set with the description of an embedded set instead of a layout."""
    summary = replace(data.summary, layout=EMBEDDED[name])
    return replace(data, summary=summary)


def _with_training_images(data: DataSet, cfg: DataConfig, task: Task) -> DataSet:
    """The data set with the training images that the config asks for."""
    if cfg.transductive:
        data = transductive(data)
    assert data.contents is not None  # every store has contents
    unlabeled = np.full(len(data.train.images), -1)
    carver = carver_of(_rules(cfg), unlabeled, (), data.contents)
    return limited(data, cfg.limit, carver, by_class=task != "ssl")


def _rules(cfg: DataConfig) -> SplitRules:
    return SplitRules(cfg.split, cfg.seed, cfg.group)


def _load(
    cfg: DataConfig, task: Task, cache_dir: Path | None, progress: bool
) -> tuple[DataSet, Listing | None]:
    """The data set and, for a folder of labelled images, its listing."""
    size = cfg.image_size
    rules = _rules(cfg)
    if cfg.name == "glyphs":
        return load_glyphs(size, rules, task, cache_dir, progress), None
    if cfg.name == "digits":
        return load_scikit_digits(size, rules, task, cache_dir, progress), None
    if cfg.name == "earth":
        return load_earth(size, rules, task, cache_dir, progress), None
    if task == "segment":
        pairs = _pairs(cfg, cache_dir)
        data = load_pairs(
            pairs,
            size,
            rules,
            cfg.skip_corrupt,
            cache_dir,
            progress,
            cfg.max_megapixels,
            whole=cfg.judged == "whole",
        )
        return data, None

    kind = _label_rules(task)
    listing = read_layout(Path(cfg.name), task, cfg.layout, cfg.domain)
    listing = _for_size(listing, cfg)
    data = load_folder(
        listing, size, rules, kind, cfg.skip_corrupt, cache_dir, progress, cfg.max_megapixels
    )
    return data, listing


def _for_size(listing: Listing, cfg: DataConfig) -> Listing:
    """Give the listing its own fingerprint if the config changes the limit of megapixels, because
    the limit decides which images are read."""
    if cfg.max_megapixels == MEGAPIXELS:
        return listing
    limit = f"up to {cfg.max_megapixels} megapixels"
    return replace(listing, fingerprint=digest(listing.fingerprint, limit))


def inspect(cfg: DataConfig, task: Task = "ssl", cache_dir: Path | None = None) -> Inspection:
    """Read files, layout, labels and fingerprint before any trial starts. Raises the errors of
    `load_dataset` that can be found without decoding images.

    Raises:
        UserError: unknown name or unusable folder.
    """
    _check_name(cfg)
    cfg = _as_folder(cfg, task, cache_dir)
    if cfg.name in EMBEDDED:
        classes, images = counts(cfg.name, cfg.image_size, cfg.seed, cache_dir)
        name = cfg.name
        layout = EMBEDDED[cfg.name]
        key = fingerprint(cfg.name, _rules(cfg))
    else:
        listing, classes = _listing_and_classes(cfg, task, cache_dir)
        images = _count_parts(listing)
        name = listing.root.resolve().name
        layout = listing.layout
        key = listing.fingerprint

    channels = 4 if task == "segment" else 3  # a mask adds one
    shape = (sum(images.values()), channels, cfg.image_size, cfg.image_size)
    return Inspection(name, layout, classes, images, key, store_bytes=math.prod(shape))


def _listing_and_classes(
    cfg: DataConfig, task: Task, cache_dir: Path | None
) -> tuple[Listing, int]:
    if task == "segment":
        pairs = _pairs(cfg, cache_dir)
        return pairs.listing, len(pairs.classes)
    listing = read_layout(Path(cfg.name), task, cfg.layout, cfg.domain)
    listing = _for_size(listing, cfg)
    return listing, len(listing.classes)


def _pairs(cfg: DataConfig, cache_dir: Path | None) -> Pairs:
    """Pairs of the folder, or of the folder inside it that `data.domain` names."""
    root = Path(cfg.name).expanduser()
    if cfg.domain:
        root = chosen_folder(root, cfg.domain)
    pairs = read_pairs(root, cfg.ignore, cache_dir, cfg.layout)
    return replace(pairs, listing=_for_size(pairs.listing, cfg))


def _label_rules(task: Task) -> Task:
    """The task whose label rules apply to a folder."""
    return "classify" if task == "pretrain" else task


def _count_parts(listing: Listing) -> dict[str, int]:
    """Part -> number of images; "images" if there are no parts."""
    found = Counter(listing.parts.tolist())
    return {part or "images": found[part] for part in ("", *PARTS, HIDDEN) if part in found}


def _check_group(cfg: DataConfig) -> None:
    if cfg.group == "near":
        return
    if cfg.name in EMBEDDED:
        raise UserError(
            f"data.group={cfg.group} is for folders of images; leave it out for {cfg.name!r}"
        )
    if cfg.split == 1:
        raise UserError(
            f"data.group={cfg.group} needs data.split=3, the rules of new studies; leave it out"
        )


def _check_name(cfg: DataConfig) -> None:
    name = cfg.name
    if is_named(name):
        if cfg.layout != AUTO or cfg.domain:
            raise UserError(
                f"--layout and data.domain are for folders, {name!r} has a layout: leave them out"
            )
        return
    if name not in EMBEDDED and not Path(name).expanduser().exists():
        suggestion = nearest(Path(name).name, EMBEDDED)
        raise UserError(
            f"data {name!r} is neither an embedded set nor an existing folder{suggestion}"
        )
    if name in EMBEDDED and (cfg.layout != AUTO or cfg.domain):
        raise UserError(
            f"--layout and data.domain are for folders, {name!r} is an embedded set: leave them out"
        )
