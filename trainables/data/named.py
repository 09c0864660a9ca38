"""Data sets by name: `--data torchvision:OxfordIIITPet`, `--data hf:owner/name`.

A data set of torchvision or Hugging Face is converted once into a folder of images. Everything else
reads it like any other folder: layout, fingerprint, splits, contents.

    <cache>/named/<key>/torchvision-OxfordIIITPet/train/abyssinian/000000.jpg
                                                  test/...
    <cache>/named/<key>/torchvision-VOCSegmentation/train/images/, train/masks/, classes.txt

Files that are already in a cache are linked, not copied; encoded images are written unchanged. The
folder is built under a lock in `<...>.building` and renamed when it is complete, so the next start
removes everything that a kill leaves behind.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from PIL import Image

from trainables.data.embedded import EMBEDDED
from trainables.data.source import progress_bar
from trainables.data.store import digest
from trainables.data.store_building import BUILDING, disk_error
from trainables.errors import UserError
from trainables.files import default_cache_dir

__all__ = ["Example", "Examples", "Name", "data_name", "is_named", "named_folder", "parse_name"]

SOURCES = ("torchvision", "hf")
"""Allowed words before the colon."""
_VERSION = "1"
"""Increase it when a code change writes other files for the same data."""
_CLASSES = "classes.txt"
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg"}
"""Pillow's format -> file extension, if it is not the format's own name."""


@dataclass(frozen=True)
class Name:
    """The name of a data set, as typed."""

    typed: str
    source: str
    """One of `SOURCES`."""
    name: str
    options: dict[str, str]


@dataclass(frozen=True)
class Example:
    """One image of a data set."""

    part: str
    """train, val, test, or "" if the data set has no splits."""
    label: str | None
    """Class name; None without labels."""
    image: Path | bytes | Image.Image
    """A file, encoded bytes, or pixels."""
    mask: Path | bytes | Image.Image | None = None


@dataclass(frozen=True)
class Examples:
    """All images of a data set."""

    count: int
    examples: Iterable[Example]
    pixel_classes: tuple[str, ...] = ()
    """Names of the mask values, from 0; 255 is unknown."""


def is_named(data: str) -> bool:
    """True if a value of `--data` names a data set of torchvision or Hugging Face."""
    return data.partition(":")[0] in SOURCES and ":" in data


def parse_name(typed: str) -> Name:
    """Read `torchvision:NAME[,option=value...]` or `hf:owner/name[,option=value...]`.

    Raises:
        UserError: the name is empty, or an option is not KEY=VALUE.
    """
    source, _, rest = typed.partition(":")
    name, *words = rest.split(",")
    if not name:
        raise UserError(f"--data {typed!r} names no data set; give one such as torchvision:CIFAR10")
    options = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise UserError(
                f"--data {typed!r}: {word!r} must be OPTION=VALUE, such as "
                "torchvision:EMNIST,split=letters"
            )
        options[key] = value
    return Name(typed, source, name, options)


def data_name(typed: str) -> str:
    """The value of `--data` with paths resolved, so that it means the same in every folder."""
    if typed in EMBEDDED:
        return typed
    if not is_named(typed):
        return _resolved(typed)

    name = parse_name(typed)
    word = name.name
    if name.source == "hf" and Path(word).expanduser().is_dir():
        word = _resolved(word)
    options = dict(name.options)
    if name.source == "torchvision" and "root" in options:
        options["root"] = _resolved(options["root"])
    given = [f"{option}={value}" for option, value in options.items()]
    return ",".join([f"{name.source}:{word}", *given])


def _resolved(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def named_folder(
    typed: str, task: str, cache_dir: Path | None = None, progress: bool = False
) -> Path:
    """The folder of a data set, built first if it does not exist.

    Args:
        typed: value of `--data`.
        task: "segment" uses masks; other tasks use labels, if there are any.
    Raises:
        UserError: a name or option is unknown, a package is missing, the data is in no cache and
            cannot be downloaded, or there is no space.
    """
    name = parse_name(typed)
    masks = task == "segment"
    key = digest(_VERSION, name.source, name.name, *sorted(map(str, name.options.items())))
    # For a folder, use only its last name.
    short = Path(name.name).name if Path(name.name).is_absolute() else name.name
    word = re.sub(r"[^\w.-]+", "-", f"{name.source}-{short}")
    kind = "masks" if masks else "labels"
    cache = (cache_dir or default_cache_dir()) / "named"
    final = cache / f"{key[:12]}-{kind}" / word
    if final.exists():
        return final

    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{final}.lock"):
            if not final.exists():
                _build(final, _examples(name, masks), progress)
    except OSError as error:
        raise disk_error(error, cache) from None
    return final


def _examples(name: Name, masks: bool) -> Examples:
    if name.source == "torchvision":
        from trainables.data.named_torchvision import examples_of
    else:
        from trainables.data.named_hf import examples_of
    return examples_of(name, masks)


# ---------------------------------------------------------------- writing


def _build(final: Path, examples: Examples, progress: bool) -> None:
    """Write all images into a folder beside the final one. The caller holds the lock."""
    building = final.with_name(final.name + BUILDING)
    shutil.rmtree(building, ignore_errors=True)  # left by a kill
    building.mkdir()
    try:
        _write_all(building, examples, progress)
        os.sync()
        building.rename(final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _write_all(root: Path, examples: Examples, progress: bool) -> None:
    shown = progress and sys.stderr.isatty()
    with progress_bar("preparing", examples.count, shown) as advance:
        for number, example in enumerate(examples.examples):
            stem = f"{number:06d}"
            if example.mask is None:
                _write(root / example.part / _folder_name(example.label), stem, example.image)
            else:
                _write(root / example.part / "images", stem, example.image)
                _write(root / example.part / "masks", stem, example.mask)
            advance(1)
    if examples.pixel_classes:
        (root / _CLASSES).write_text("".join(f"{name}\n" for name in examples.pixel_classes))


def _folder_name(label: str | None) -> str:
    """A class name as a folder name; "" for None. A leading dot would hide the folder."""
    if label is None:
        return ""
    return re.sub(r"^\.|/|\0", "_", label.strip()) or "_"


def _write(folder: Path, stem: str, image: Path | bytes | Image.Image) -> None:
    """Write an image unchanged; pixels as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path):
        target = folder / f"{stem}{image.suffix.lower()}"
        with suppress(OSError):  # the folder is on another disk, or links are not supported
            os.link(image.resolve(), target)
            return
        shutil.copy(image, target)
    elif isinstance(image, bytes):
        (folder / f"{stem}{_ending(image)}").write_bytes(image)
    else:
        image.save(folder / f"{stem}.png")


def _ending(content: bytes) -> str:
    """Extension of an encoded image; ".jpg" if Pillow cannot read it, which is reported later."""
    import io

    try:
        with Image.open(io.BytesIO(content)) as image:
            found = str(image.format)
    except Exception:  # Pillow raises many types
        return ".jpg"
    return _ENDINGS.get(found, f".{found.lower()}")
