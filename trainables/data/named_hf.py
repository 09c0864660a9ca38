"""Data sets of Hugging Face, as examples for a folder: `hf:owner/name`, or a folder written by
`save_to_disk`, `hf:/path/to/folder`.

    ,config=NAME                       one of several configurations
    ,revision=NAME                     a branch, tag or commit
    ,image=COLUMN ,label=COLUMN ,mask=COLUMN
    ,train=SPLIT ,val=SPLIT ,test=SPLIT
    ,classes=background|pet            names of the mask values, from 0
"""

import io
import os
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from trainables.data.named import Example, Examples, Name
from trainables.errors import UserError, first_line
from trainables.packages import install

__all__ = ["examples_of"]

_OPTIONS = ("config", "revision", "image", "label", "mask", "train", "val", "test", "classes")
_PART_OF = {
    "train": "train",
    "training": "train",
    "validation": "val",
    "valid": "val",
    "val": "val",
    "dev": "val",
    "test": "test",
}
"""Usual split names -> part."""
_LABELS = ("label", "labels", "class", "target", "fine_label")
_HUB = "https://huggingface.co"
_PROBE_S = 3.0
_UNKNOWN = 255  # value of a mask without class


def examples_of(name: Name, masks: bool) -> Examples:
    """All images of a data set, downloaded if they are in no cache.

    Raises:
        UserError: a package is missing, an option is unknown, columns are missing, or the data is
            in no cache and cannot be downloaded.
    """
    for option in name.options:
        if option not in _OPTIONS:
            raise UserError(
                f"--data {name.typed}: unknown option {option!r}; valid: {', '.join(_OPTIONS)}"
            )
    parts = _parts(name, _opened(name))
    columns = _Columns(name, next(iter(parts.values())), masks)
    raw = {part: columns.undecoded(split) for part, split in parts.items()}
    if not masks:
        raw = {part: split for part, split in raw.items() if not columns.hides_labels(part, split)}

    classes = _pixel_classes(name, raw, columns.mask) if masks else ()
    count = sum(len(split) for split in raw.values())
    return Examples(count, _examples(raw, columns), classes)


def _examples(parts: Mapping[str, Any], columns: "_Columns") -> Iterator[Example]:
    for part, split in parts.items():
        for row in split:
            image = _encoded(row[columns.image])
            if columns.mask is not None:
                yield Example(part, None, image, _encoded(row[columns.mask]))
            else:
                yield Example(part, columns.class_of(row), image)


def _encoded(value: Mapping[str, Any]) -> bytes | Path:
    """An image as stored in the data set: its bytes, or the path of its file."""
    content = value["bytes"]
    return Path(value["path"]) if content is None else bytes(content)


# ---------------------------------------------------------------- opening


def _opened(name: Name) -> Any:
    """A `Dataset` or `DatasetDict`."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"--data {name.typed} needs Hugging Face's datasets: {install('datasets')}"
        ) from None

    folder = Path(name.name).expanduser()
    try:
        if folder.is_dir():
            return datasets.load_from_disk(str(folder))
        return _from_hub(datasets, name)
    except Exception as error:  # from the hub, the network, the disk, or the data set itself
        raise UserError(
            f"--data {name.typed} cannot be loaded ({first_line(error)}): it is in no cache of "
            f"datasets ({datasets.config.HF_DATASETS_CACHE}) and {_shown_hub()} does not provide "
            "it; check the name, connect once, or give a folder of save_to_disk: hf:/path"
        ) from None


def _from_hub(datasets: Any, name: Name) -> Any:
    """The data set from the hub, or from the cache if the hub is unreachable."""
    import huggingface_hub.constants

    options = name.options
    reachable = _hub_answers()
    flags = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    before = [getattr(module, flag) for module, flag in flags]
    if not reachable:  # otherwise every file request waits for half a minute
        for module, flag in flags:
            setattr(module, flag, True)
    try:
        return datasets.load_dataset(
            name.name, options.get("config"), revision=options.get("revision")
        )
    finally:
        for (module, flag), value in zip(flags, before, strict=True):
            setattr(module, flag, value)


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT") or _HUB


def _shown_hub() -> str:
    """The hub's address, without a password."""
    hub = urlsplit(_hub())
    return hub._replace(netloc=hub.netloc.rpartition("@")[2]).geturl()


def _hub_answers() -> bool:
    """True if the hub answers, or if there is a proxy: then this cannot be tested in advance."""
    if urllib.request.getproxies().get("https"):
        return True
    address = urlsplit(_hub())
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_PROBE_S).close()
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- splits and columns


def _parts(name: Name, opened: Any) -> dict[str, Any]:
    """Part -> split; "" if the data set has only one split."""
    if not isinstance(opened, Mapping):
        return {"": opened}

    known = ("train", "val", "test")
    asked: dict[str, str] = {p: name.options[p] for p in known if p in name.options}
    for part, split in asked.items():
        if split not in opened:
            raise UserError(
                f"--data {name.typed}: there is no split {split!r} for {part}; "
                f"valid: {', '.join(opened)}"
            )
    of_part: dict[str, str] = {_PART_OF[s]: s for s in opened if s in _PART_OF}
    of_part |= asked
    taken = {part: opened[split] for part, split in of_part.items()}
    if "train" in taken:
        return {part: taken[part] for part in ("train", "val", "test") if part in taken}
    if len(opened) == 1:
        return {"": next(iter(opened.values()))}
    raise UserError(
        f"--data {name.typed} has the splits {', '.join(opened)}, none of which is for training; "
        f"name one: --data {name.typed},train=SPLIT"
    )


class _Columns:
    """The columns of a data set that are used.

    Raises:
        UserError: a column does not exist.
    """

    def __init__(self, name: Name, split: Any, masks: bool):
        self.features = split.features
        images = [key for key, kind in self.features.items() if _kind(kind) == "Image"]
        self._typed = name.typed
        self._given = name.options

        self.image = self._chosen("image", images)
        if self.image is None:
            raise UserError(
                f"--data {name.typed} has no column of images: {', '.join(self.features)}"
            )
        others = [key for key in images if key != self.image]
        self.mask = self._chosen("mask", others) if masks else None
        if masks and self.mask is None:
            raise UserError(
                f"--data {name.typed} has no column of masks, segmentation needs one: "
                f"{', '.join(self.features)}; name it with ,mask=COLUMN"
            )
        classes = [key for key, kind in self.features.items() if _kind(kind) == "ClassLabel"]
        usual = [key for key in _LABELS if key in self.features]
        self.label = None if masks else self._chosen("label", [*classes, *usual])
        self._names = getattr(self.features.get(self.label), "names", None)

    def _chosen(self, role: str, candidates: list[str]) -> str | None:
        """The column given for a role, or the first candidate."""
        wanted = self._given.get(role)
        if wanted is None:
            return candidates[0] if candidates else None
        if wanted not in self.features:
            raise UserError(
                f"--data {self._typed}: there is no column {wanted!r}; "
                f"valid: {', '.join(self.features)}"
            )
        return wanted

    def undecoded(self, split: Any) -> Any:
        """The split with images as bytes, and without unused columns."""
        import datasets

        used = [column for column in (self.image, self.label, self.mask) if column is not None]
        split = split.select_columns(used)
        for column in (self.image, self.mask):
            if column is not None:
                split = split.cast_column(column, datasets.Image(decode=False))
        return split

    def hides_labels(self, part: str, split: Any) -> bool:
        """True if a test split has no labels: the hub stores -1 or nothing."""
        if part != "test" or self.label is None:
            return False
        return all(self._class(label) is None for label in split[self.label])

    def class_of(self, row: Mapping[str, Any]) -> str | None:
        """The class of a row; None without a label."""
        return None if self.label is None else self._class(row[self.label])

    def _class(self, label: Any) -> str | None:
        if label is None or (isinstance(label, int) and label < 0):
            return None
        if isinstance(label, list | dict):
            raise UserError(
                f"--data {self._typed}: column {self.label!r} holds {label!r}; one label an image "
                "is needed: name another column with ,label=COLUMN"
            )
        if self._names is not None:
            return str(self._names[label])
        return str(label)


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _pixel_classes(name: Name, parts: Mapping[str, Any], column: str | None) -> tuple[str, ...]:
    """Names of the mask values: those that were typed, or the values themselves."""
    typed = name.options.get("classes")
    if typed is not None:
        return tuple(typed.split("|"))

    largest = 0
    for split in parts.values():
        for row in split:
            values = _values(name, row[column])
            largest = max(largest, int(values[values != _UNKNOWN].max(initial=0)))
    return tuple(str(value) for value in range(largest + 1))


def _values(name: Name, value: Mapping[str, Any]) -> np.ndarray:  # (H, W)
    encoded = _encoded(value)
    with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as mask:
        values = np.asarray(mask)
    if values.ndim != 2:
        raise UserError(
            f"--data {name.typed}: its masks are coloured; save it as a folder with a classes.txt "
            "that names the colours (docs/data.md)"
        )
    return values
