"""Data sets by name or folder: `load_dataset(DataConfig(name="glyphs"))` -> train, gallery, val and
test over one memory-mapped store."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainables.config import Annotated, Field, config, nearest
from trainables.data.earth import load_earth
from trainables.data.embedded import EMBEDDED, counts, fingerprint, load_glyphs, load_scikit_digits
from trainables.data.episodes import FewShotData, with_given_episodes
from trainables.data.folders import load_folder
from trainables.data.layouts import PARTS, read_layout
from trainables.data.pairs import load_pairs, read_pairs
from trainables.data.splits import IGNORE, DataSet, Split, limited
from trainables.data.store import Store
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
    """Which images, at which size."""

    name: Annotated[str, Field(min_length=1)] = "glyphs"
    """An embedded set ("glyphs", "digits", "earth") or the path of a folder; a folder that is
    called like an embedded set is `./glyphs`."""
    image_size: Annotated[int, Field(ge=8, le=512)] = 28
    """Side S of the square images, in pixels, 8 to 512."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of splits that a layout lacks, and of rendered glyphs."""
    skip_corrupt: bool = False
    """Leave out files that cannot be decoded (they are recorded) instead of stopping."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Use at most so many training images; 0 = all. The store still holds all of them."""


@dataclass(frozen=True)
class Inspection:
    """What can be said without decoding."""

    name: str
    layout: str
    classes: int
    """Number of classes; 0 for unlabeled data."""
    counts: dict[str, int]
    """Images of each part that the layout has, before anything is carved or left out."""
    fingerprint: str
    store_bytes: int
    """Size of the image store."""


def load_dataset(
    cfg: DataConfig, task: Task = "ssl", cache_dir: Path | None = None, progress: bool = False
) -> DataSet:
    """Splits over a store, which is built first where there is none (a bar on a terminal if
    `progress`).

    `cache_dir` defaults to $VISTUNE_CACHE or ~/.cache/vistune. For "ssl" train may be unlabeled;
    "classify" and "pretrain" need labels everywhere. "pretrain" differs from "classify" where a set
    has classes for pre-training: in `glyphs`. "fewshot" gives `FewShotData`, whose val and test
    classes train lacks.

    Raises:
        UserError: unknown name, unusable folder, corrupt files, no room or no right to write the
            store.
    """
    _check_name(cfg.name)
    listing = None
    if cfg.name == "glyphs":
        data = load_glyphs(cfg.image_size, cfg.seed, task, cache_dir, progress)
    elif cfg.name == "digits":
        data = load_scikit_digits(cfg.image_size, cfg.seed, task, cache_dir, progress)
    elif cfg.name == "earth":
        data = load_earth(cfg.image_size, cfg.seed, cache_dir, progress)
    elif task == "segment":
        data = load_pairs(
            read_pairs(Path(cfg.name)),
            cfg.image_size,
            cfg.seed,
            cfg.skip_corrupt,
            cache_dir,
            progress,
        )
    else:
        kind = "classify" if task == "pretrain" else task
        listing = read_layout(Path(cfg.name), kind)
        data = load_folder(
            listing, cfg.image_size, cfg.seed, kind, cfg.skip_corrupt, cache_dir, progress
        )
    if task == "segment" and data.train.mask_images is None:
        raise UserError(
            f"data {cfg.name!r} has no masks, segmentation needs them; use --data earth or a folder of images and masks"
        )
    data = limited(data, cfg.limit, cfg.seed, by_class=task != "ssl")
    return with_given_episodes(data, listing) if task == "fewshot" else data


def inspect(cfg: DataConfig, task: Task = "ssl", cache_dir: Path | None = None) -> Inspection:
    """A cheap look before any trial starts: files, layout, labels and fingerprint, with the errors
    of `load_dataset` that need no decoding.

    Raises:
        UserError: unknown name or unusable folder.
    """
    _check_name(cfg.name)
    if cfg.name in EMBEDDED:
        classes, found = counts(cfg.name, cfg.image_size, cfg.seed, cache_dir)
        key, layout, name = fingerprint(cfg.name, cfg.seed), EMBEDDED[cfg.name], cfg.name
    else:
        pairs = read_pairs(Path(cfg.name)) if task == "segment" else None
        listing = (
            pairs.listing
            if pairs
            else read_layout(Path(cfg.name), "classify" if task == "pretrain" else task)
        )
        found = {
            part or "images": int(np.sum(listing.parts == part))
            for part in ("", *PARTS)
            if part in listing.parts
        }
        key, layout, name, classes = (
            listing.fingerprint,
            listing.layout,
            listing.root.resolve().name,
            len((pairs or listing).classes),
        )
    channels = 4 if task == "segment" else 3  # a mask is one more
    return Inspection(
        name,
        layout,
        classes,
        found,
        key,
        math.prod((sum(found.values()), channels, cfg.image_size, cfg.image_size)),
    )


def _check_name(name: str) -> None:
    if name not in EMBEDDED and not Path(name).expanduser().exists():
        raise UserError(
            f"data {name!r} is neither an embedded set nor an existing folder{nearest(name, EMBEDDED)}"
        )
