"""Segmentation: predict a mask for every image, with the naming and style of the training masks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from trainables.data import EMBEDDED
from trainables.data.images import CorruptImage, one_line, open_image
from trainables.data.layouts import chosen_folder
from trainables.data.listing import find_images
from trainables.data.mask_code import MaskCode
from trainables.data.masks import ReadValues
from trainables.data.named import is_named, named_folder
from trainables.data.pair_reading import Recognized, mask_code, recognize
from trainables.data.pairs import Pairs, read_pairs
from trainables.errors import UserError
from trainables.files import atomic_file
from trainables.miou import confusion_matrix
from tune.prediction.batches import Reader
from tune.prediction.inputs import Images, images_of_folder, images_of_table, read_table
from tune.prediction.mask_style import style_of
from tune.prediction.output import folder_of_files
from tune.prediction.request import Request
from tune.prediction.scores import score_masks
from tune.prediction.trained import Trained

_IMAGE_FOLDERS = ("images", "image", "imgs")
_IMAGE, _MASK = "_sat", "_mask"
_LOOKED_AT = 50  # training masks whose names show the naming scheme


@dataclass(frozen=True)
class Task:
    """Images, the names of their masks, and the true masks that exist."""

    images: Images
    masks: tuple[str, ...]
    truths: tuple[Path | None, ...]
    read_values: ReadValues | None = None
    """Converts an opened true mask to class numbers; None if no image has a true mask."""


def predict_masks(trained: Trained, reader: Reader, request: Request) -> list[str]:
    """Write a mask for every image of a folder or csv into the output folder, at the image's size.
    Return lines for the user.

    Raises:
        UserError: there are no images, files cannot be read, or some masks already exist in `out`.
    """
    classes = trained.served.classes
    pairs = _training_pairs(trained)
    task = _task(request.source, trained, pairs)
    style = style_of(pairs, classes, trained.served.colors)
    confusion = torch.zeros(len(classes), len(classes) + 1, dtype=torch.int64)
    scored = 0

    with folder_of_files(request.out, task.masks, request.overwrite) as folder:
        for number, mask in reader.answers(task.images.files):
            path = folder / task.masks[number]
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                style.save(mask, file)

            truth = task.truths[number]
            if truth is not None and task.read_values is not None:
                values = _read_truth(truth, mask, task.read_values)
                found = torch.from_numpy(mask), torch.from_numpy(values)
                confusion += confusion_matrix(*found, len(classes))
                scored += 1

    written = len(task.masks) - len(reader.left_out)
    told = [f"{written:,} masks -> {request.out}", *task.images.notes, *reader.said()]
    if scored:
        told += score_masks(confusion.numpy(), scored, classes, trained)
    return told


def _read_truth(path: Path, mask: np.ndarray, read_values: ReadValues) -> np.ndarray:
    """Return the class numbers of a true mask, which must have the size of its image.

    Raises:
        UserError: it has another size, or cannot be read.
    """
    try:
        with open_image(path) as image:
            values = read_values(image)
    except CorruptImage as error:
        raise UserError(
            f"mask {path} cannot be read: {one_line(error)}; repair it, or move the masks away"
        ) from None
    if values.shape != mask.shape:
        height, width = values.shape
        raise UserError(
            f"mask {path} is {width}x{height} pixels, its image {mask.shape[1]}x{mask.shape[0]}; "
            "repair it, or move the masks away"
        )
    return np.array(values)


# ---------------------------------------------------------------- names


def _training_pairs(trained: Trained) -> Pairs | None:
    """Return the folder on which the model was trained; None if it is not a folder or no longer
    readable."""
    if trained.data in EMBEDDED:
        return None
    try:
        folder = Path(trained.data)
        if is_named(trained.data):
            folder = named_folder(trained.data, "segment")
        if trained.domain:
            folder = chosen_folder(folder, trained.domain)
        return read_pairs(folder, trained.ignore, layout=trained.layout)
    except UserError:
        return None


def _task(source: Path, trained: Trained, pairs: Pairs | None) -> Task:
    if source.is_dir():
        return _task_of_folder(source, trained, pairs)
    return _without_truth(images_of_table(read_table(source)), pairs)


def _without_truth(images: Images, pairs: Pairs | None) -> Task:
    names = _names(images.names, {}, _mask_end(pairs))
    return Task(images, names, (None,) * len(images.files))


def _mask_end(pairs: Pairs | None) -> str | None:
    """Return the suffix that the names of training masks have in addition to those of their images:
    "_mask", "_L", or "" for equal names. None if the suffixes differ or there are no masks."""
    if pairs is None:
        return None
    ends: set[str | None] = set()
    for image, mask in zip(pairs.listing.files[:_LOOKED_AT], pairs.masks, strict=False):
        stem = PurePosixPath(image).stem.removesuffix(_IMAGE)
        name = PurePosixPath(mask).stem
        ends.add(name.removeprefix(stem) if name.startswith(stem) else None)
    return ends.pop() if len(ends) == 1 else None


def _task_of_folder(folder: Path, trained: Trained, pairs: Pairs | None) -> Task:
    """Return the images of a folder, without the masks that a layout finds in it."""
    try:
        found = recognize(folder, find_images(folder))
    except UserError:
        return _without_truth(images_of_folder(folder), pairs)

    files = found.files
    mask_of = {file: files.masks.get(key) for key, file in files.images.items()}
    images = images_of_folder(folder, sorted(mask_of))
    truths = [_below(folder, mask_of[name]) for name in images.names]
    known = {name: mask for name, mask in mask_of.items() if mask is not None}
    names = _names(images.names, known, _mask_end(pairs))
    masks = [path for path in truths if path is not None]
    code = _code_of(folder, found, masks, trained) if pairs is None else pairs.code
    return Task(images, names, tuple(truths), code)


def _code_of(
    folder: Path, found: Recognized, masks: Sequence[Path], trained: Trained
) -> MaskCode | None:
    """Return the rule by which the folder's own list of classes reads its masks; None if its
    classes are not those of the model."""
    try:
        code = mask_code(folder, found.layout, masks, trained.ignore)
    except UserError:
        return None
    return code if code.names == trained.served.classes else None


def _below(folder: Path, name: str | None) -> Path | None:
    return None if name is None else folder / name


def _names(images: Sequence[str], known: dict[str, str], end: str | None = None) -> tuple[str, ...]:
    """Return the path of each image's mask below the output folder; all are distinct.

    Args:
        known: image -> its mask in the folder.
        end: suffix of the other masks' names; None if it is unknown.
    """
    names = [_png(known[image]) if image in known else mask_name(image, end) for image in images]
    count = Counter(names)
    found: dict[str, None] = {}
    for image, name in zip(images, names, strict=True):
        if count[name] > 1:  # a.jpg beside a.png
            name = mask_name(image, end, keep_ending=True)
        while name in found:  # images/a.png beside imgs/a.png
            name = PurePosixPath(name).with_stem(f"{PurePosixPath(name).stem}-2").as_posix()
        found[name] = None
    return tuple(found)


def mask_name(image: str, end: str | None = None, keep_ending: bool = False) -> str:
    """Return the path of a mask: `a/0016_mask.png` for `a/0016_sat.jpg`, `masks/b.png` for
    `images/b.jpg`, `c_mask.png` for `c.jpg`.

    Args:
        end: suffix of its name, such as "_mask" or ""; None for the suffixes of these examples.
        keep_ending: return `c.jpg_mask.png`, because another image has the same stem.
    """
    path = PurePosixPath(image)
    stem = path.name if keep_ending else path.stem
    folders = list(path.parts[:-1])
    for position, folder in enumerate(folders):
        if folder.lower() in _IMAGE_FOLDERS:
            folders[position] = "masks"
            return "/".join([*folders, f"{stem}{end or ''}.png"])
    own_end = _MASK if end is None else end
    return "/".join([*folders, f"{stem.removesuffix(_IMAGE)}{own_end}.png"])


def _png(mask: str) -> str:
    return PurePosixPath(mask).with_suffix(".png").as_posix()
