"""Folders of images: which layout it is, which label and which part (train, val, test) each file
has. Nothing is decoded here.

Looked for, in this order (names that start with a dot are ignored; a single folder around
everything is entered):

    csv              train.csv [val.csv] [test.csv] with columns filename, label; images in train/ val/ test/, images/ or beside the csv
    folder per class [train/ val/ test/] <class>/*.jpg
    file-name prefix [train_50/ val_50/ test_50/] <label>_<n>.png, where nearly all names are like that
    flat             [train/ val/ test/] *.jpg without labels
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np

from trainables.data.images import EXTENSIONS
from trainables.data.store import digest
from trainables.data.tables import LABEL_COLUMNS, read_table
from trainables.errors import UserError

PARTS = ("train", "val", "test")
_PART = re.compile(r"(train|val|test)(?:ing|id|idation)?(?:[_-]\d+)?", re.IGNORECASE)
_PREFIX = re.compile(r"(.+)_\d+\.\w+")
_NEARLY_ALL = 0.9  # of the names in a folder must be <label>_<n>
_LOOKED_FOR = "train.csv (filename, label), <class>/*.jpg, <label>_<n>.jpg, a flat folder of images; the last three also in train/ and val/"


@dataclass(frozen=True)
class Entry:
    """One image."""

    path: str
    """Relative to the root, with forward slashes."""
    part: str = ""
    """One of `PARTS`, or empty where the layout has no parts."""
    label: str | None = None


@dataclass(frozen=True, eq=False)
class Listing:
    """A recognised folder; rows are sorted by path."""

    root: Path
    layout: str
    files: tuple[str, ...]  # N paths, relative to the root
    parts: np.ndarray  # (N,) of PARTS or ""
    labels: np.ndarray  # (N,) int64, -1 = unlabeled
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def rows(self, part: str) -> np.ndarray:  # (n,) int64
        return np.flatnonzero(self.parts == part)


def read_layout(root: Path, task: str = "ssl") -> Listing:
    """Recognises the layout of `root` and checks it for `task`: "classify" needs a label for every
    image and every class in train, "fewshot" labels too, and no class in two of train, val and
    test.

    Raises:
        UserError: no such folder, no images, a csv that cannot be used, files without labels or
            labels without files.
    """
    root = root.expanduser()
    if not root.exists():
        raise UserError(
            f"data folder {root} does not exist; give an existing folder of images or an embedded set"
        )
    if not root.is_dir():
        raise UserError(
            f"data {root} is a file, not a folder; give the folder that holds the images"
        )
    files = _without_masks(find_images(root))
    if not files:
        raise UserError(
            f"data folder {root} holds no images ({' '.join(EXTENSIONS)}); looked for: {_LOOKED_FOR}"
        )
    tables = {part: path for path in sorted(root.glob("*.csv")) if (part := part_of(path.stem))}
    layout, entries, notes = (
        _from_tables(root, tables, files, task) if tables else _from_folders(root, files)
    )
    entries = sorted(entries, key=lambda entry: entry.path)
    labels = sorted({entry.label for entry in entries if entry.label is not None}, key=_natural)
    if task != "ssl":
        _check_labels(root, layout, entries, task)
    number = {label: i for i, label in enumerate(labels)} | {None: -1}
    return Listing(
        root,
        layout,
        tuple(entry.path for entry in entries),
        np.array([entry.part for entry in entries]),
        np.array([number[entry.label] for entry in entries], np.int64),
        tuple(labels),
        fingerprint_of(root, entries),
        tuple(notes),
    )


def some(paths: Sequence[str], most: int = 3) -> str:
    """The first paths and how many more there are: `a.jpg, b.jpg, c.jpg and 12 more`."""
    more = f" and {len(paths) - most:,} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def _without_masks(files: list[str]) -> list[str]:
    """Masks of the satellite layout (`pairs.py`) are no images."""
    pictured = {file.rpartition("_sat.")[0] for file in files if "_sat." in file}
    return [
        file
        for file in files
        if "_mask." not in file or file.rpartition("_mask.")[0] not in pictured
    ]


def find_images(root: Path) -> list[str]:
    """Relative paths, sorted. Symbolic links are followed, each real folder once."""
    found: list[str] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = (
            [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        )
        if real in seen:
            continue
        seen.add(real)
        below = Path(folder).relative_to(root).as_posix()
        names = [
            name for name in names if not name.startswith(".") and name.lower().endswith(EXTENSIONS)
        ]
        found += names if below == "." else [f"{below}/{name}" for name in names]
    return sorted(found)


def _from_tables(
    root: Path, tables: dict[str, Path], files: list[str], task: str
) -> tuple[str, list[Entry], list[str]]:
    if "train" not in tables:
        raise UserError(
            f"{next(iter(tables.values()))} has no train.csv beside it; add train.csv with columns {', '.join(LABEL_COLUMNS)}"
        )
    known = set(files)
    folders = {
        part: [name for name in _top_folders(files) if part_of(name) == part] for part in PARTS
    }
    entries: dict[str, Entry] = {}
    used: set[str] = set()
    for part, path in tables.items():
        bases = [
            *folders[part],
            "images",
            *(f"images/{name}" for name in (part, *folders[part])),
            "",
        ]
        missing: list[str] = []
        for row in read_table(path):
            places = [f"{base}/{row.filename}" if base else row.filename for base in bases]
            found = next((place for place in places if place in known), None)
            if found is None:
                missing.append(row.filename)
                continue
            entry = Entry(found, part, row.label)
            if entries.setdefault(found, entry) != entry:
                other = entries[found]
                listed = f"{part}/{row.label} and {other.part}/{other.label}"
                raise UserError(
                    f"{path} line {row.line}: {found} is listed as {listed}; keep one of them"
                )
            used.add(str(Path(found).parent))
        if missing:
            raise UserError(
                f"{path} names {len(missing):,} files that are not in {root} ({some(missing)}); "
                f"put them into {part}/ or images/, or remove their lines"
            )
    unlisted = [file for file in files if file not in entries and str(Path(file).parent) in used]
    left_out = len(files) - len(entries) - len(unlisted)
    if unlisted and task != "ssl":
        raise UserError(
            f"{len(unlisted):,} images in {root} have no line in a csv ({some(unlisted)}); add their labels or move them away"
        )
    notes = (
        [f"{left_out:,} images outside the folders that the csv files use are left out"]
        if left_out
        else []
    )
    return "csv", [*entries.values(), *(Entry(file, "train") for file in unlisted)], notes


def _from_folders(root: Path, files: list[str]) -> tuple[str, list[Entry], list[str]]:
    depth = _enter(files)
    parts = _part_folders(root, [file.split("/")[depth:] for file in files])
    inner = depth + bool(parts)
    entries = [Entry(file, parts.get(file.split("/")[depth], "")) for file in files]
    inside = [entry for entry in entries if entry.part or not parts]
    notes = (
        [f"{len(entries) - len(inside):,} images outside train, val and test are left out"]
        if len(inside) < len(entries)
        else []
    )
    train = [entry.path.split("/")[inner:] for entry in inside if entry.part in ("", "train")]
    if (
        sum(len(path) > 1 for path in train) * 2 > len(train)
        and len({path[0] for path in train if len(path) > 1}) > 1
    ):
        labelled = [replace(entry, label=_class_folder(entry.path, inner)) for entry in inside]
        return "folder per class", labelled, notes
    if _is_prefix_layout([path[-1] for path in train]):
        return (
            "file-name prefix",
            [replace(entry, label=_prefix(entry.path)) for entry in inside],
            notes,
        )
    return "flat folder without labels", inside, notes


def _enter(files: list[str]) -> int:
    """How many folders contain everything and are no part: root/images/*.jpg is as good as
    root/*.jpg."""
    # sorted, so these two differ the most
    first, last = (file.split("/")[:-1] for file in (files[0], files[-1]))
    common = [
        a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    ]
    return next((depth for depth, name in enumerate(common) if part_of(name)), len(common))


def _part_folders(root: Path, paths: list[list[str]]) -> dict[str, str]:
    """{"train_50": "train", ...}; empty where the top folders are no parts."""
    tops = sorted({path[0] for path in paths if len(path) > 1})
    parts = {name: part for name in tops if (part := part_of(name))}
    found = set(parts.values())
    alone = len(parts) == len(tops) and all(len(path) > 1 for path in paths)
    if not parts or not (alone or ("train" in found and len(found) > 1)):
        return {}
    if "train" not in found:
        raise UserError(
            f"data folder {root} has {some(list(parts))} but no train folder; add train/, or give the folder of images itself"
        )
    if len(parts) > len(found):
        raise UserError(
            f"data folder {root} has several folders of one kind ({', '.join(parts)}); keep one for each of train, val, test"
        )
    return parts


def _check_labels(root: Path, layout: str, entries: list[Entry], task: str) -> None:
    bare = [entry.path for entry in entries if entry.label is None]
    if len(bare) == len(entries):
        raise UserError(
            f"data folder {root} has no labels ({layout}), classification needs them; looked for: {_LOOKED_FOR}"
        )
    if bare:
        raise UserError(
            f"{len(bare):,} images in {root} have no label ({layout}): {some(bare)}; label them or move them away"
        )
    if task == "fewshot":
        _check_new_classes(root, entries)
        return
    known = {entry.label for entry in entries if entry.part in ("", "train")}
    for entry in entries:
        if entry.label not in known:
            raise UserError(
                f"class {entry.label!r} of {root} occurs in {entry.part} but not in train; add training images or remove it"
            )


def _check_new_classes(root: Path, entries: list[Entry]) -> None:
    part_of: dict[str | None, str] = {}
    for entry in entries:
        if (other := part_of.setdefault(entry.label, entry.part)) != entry.part:
            raise UserError(
                f"class {entry.label!r} of {root} occurs in {other} and in {entry.part}: few-shot classes of val and test must be new; "
                "move it to one of them, or give all classes without train and val, which are then chosen by seed"
            )


def fingerprint_of(root: Path, entries: list[Entry]) -> str:
    """Of paths, labels, parts, sizes and samples of the content: equal for a copied folder,
    whatever its dates and place."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        paths = [f"{root}/{entry.path}" for entry in entries]
        blocks = [paths[start : start + 1000] for start in range(0, len(paths), 1000)]
        contents = [content for block in pool.map(_samples_of, blocks) for content in block]
    return digest(
        *(
            f"{e.path}\n{e.part}\n{e.label}\n{content}"
            for e, content in zip(entries, contents, strict=True)
        )
    )


_sampled: dict[tuple[str, int, int], str] = {}


def _samples_of(paths: list[str]) -> list[str]:
    return [_sample(path) for path in paths]


def _sample(path: str) -> str:
    """Hash of size and 4 KB each of head, middle and tail; remembered while size and modification
    time stay, for the next trial's sake."""
    try:
        state = os.stat(path)  # noqa: PTH116  # strings and descriptors: pathlib doubles the time for 50,000 files
        key = (path, state.st_size, state.st_mtime_ns)
        if key not in _sampled:
            handle = os.open(path, os.O_RDONLY)
            try:
                wanted = (
                    [(0, 12288)]
                    if state.st_size <= 12288
                    else [(0, 4096), (state.st_size // 2, 4096), (state.st_size - 4096, 4096)]
                )
                pieces = [os.pread(handle, length, start) for start, length in wanted]
            finally:
                os.close(handle)
            _sampled[key] = digest(str(state.st_size), *pieces)
        return _sampled[key]
    except OSError as error:
        return f"unreadable: {error.strerror}"


def part_of(name: str) -> str | None:
    match = _PART.fullmatch(name)
    return match[1].lower() if match else None


def _top_folders(files: Iterable[str]) -> list[str]:
    return sorted({file.split("/")[0] for file in files if "/" in file})


def _class_folder(path: str, depth: int) -> str | None:
    below = path.split("/")[depth:]
    return below[0] if len(below) > 1 else None


def _prefix(path: str) -> str | None:
    match = _PREFIX.fullmatch(path.split("/")[-1])
    return match[1] if match else None


def _is_prefix_layout(names: list[str]) -> bool:
    labels = Counter(match[1] for name in names if (match := _PREFIX.fullmatch(name)))
    named = sum(labels.values())
    return len(labels) > 1 and named >= _NEARLY_ALL * len(names) and named >= 2 * len(labels)


def _natural(label: str) -> tuple[object, ...]:
    """Sort key that puts 2 before 10."""
    return tuple(
        (0, int(word), "") if word.isdecimal() else (1, 0, word)
        for word in re.split(r"(\d+)", label)
        if word
    )
