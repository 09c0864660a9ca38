"""Folders of images without masks: the layout, and the part (train, val, test) and label of each
file. Nothing is decoded here.

A single folder that contains everything is entered. Layouts are tried in this order:

    csv                train.csv [val.csv] [test.csv] with columns filename, label; images in
                       train/ val/ test/, in images/ or beside the csv
    nested classes     [train/ val/ test/] <alphabet>/<character01>/*.png
    domains            <domain>/<class>/*.jpg, from which `data.domain` chooses
    folder per class   [train/ val/ test/] <class>/*.jpg
    label file         train_labels.csv, labels.csv, ... with columns of the usual names
    file-name prefix   [train_50/ val_50/ test_50/] <label>_<n>.png, for nearly all names
    flat folder        [train/ val/ test/] *.jpg without labels

To add a layout, write a class with `matches` and `read`, and add it to `LAYOUTS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.data.class_layouts import (
    ALL_DOMAINS,
    ClassFolders,
    Domains,
    FlatFolder,
    NestedClasses,
)
from trainables.data.csv_layout import label_tables
from trainables.data.folder_uses import folder_uses
from trainables.data.label_files import CsvLayout, OtherCsv
from trainables.data.labels import (
    about_new_classes,
    check_labels,
    doubtful_labels,
    equal_as_numbers,
    in_order,
    of_new_classes,
    one_spelling,
)
from trainables.data.layout_base import AUTO, Contents, Folder, Layout, chosen, tried, typed
from trainables.data.layout_checks import (
    check_images,
    check_lost_classes,
    check_masks,
    check_names_of_classes,
    remedy,
)
from trainables.data.listing import Entry, Listing, fingerprint_of, shortened
from trainables.data.mask_names import MaskedImages, find_masks
from trainables.data.name_layouts import PrefixedNames
from trainables.data.scan import Scan, folders_in, scan_folder
from trainables.data.store import digest
from trainables.data.tables import columns_of, is_of_episodes
from trainables.data_summary import LeftOut
from trainables.errors import UserError

LAYOUTS: tuple[Layout, ...] = (
    CsvLayout(),
    NestedClasses(),
    Domains(),
    ClassFolders(),
    OtherCsv(),
    PrefixedNames(),
    FlatFolder(),
)
"""All layouts, in the order in which they are tried."""

_LABELS_ARE_FOLDERS = (NestedClasses, Domains, ClassFolders)


@dataclass(frozen=True)
class Recognized:
    """The layout of a folder."""

    layout: Layout
    why: str
    why_not: dict[str, str]
    """Layout -> what the folder lacks, for layouts tried before."""


def read_layout(root: Path, task: str = "ssl", layout: str = AUTO, domain: str = "") -> Listing:
    """Recognise the layout of `root` and check its labels for `task`.

    "classify" needs a label for every image, and every class in train. "pretrain" leaves out
    classes that train lacks. "fewshot" needs labels too, and no class in two of train, val, test.

    Args:
        layout: name of the folder's layout, or "auto".
        domain: top folder of a tree <domain>/<class>/, several separated by commas, or "all".

    Raises:
        UserError: the folder does not exist or has no images; layout or domain is unknown; folders
            may be splits or classes; a csv cannot be used; files lack labels, or labels lack
            files.
    """
    root = root.expanduser()
    check_folder(root)
    root, domain = _domain_folder(root, domain)
    root = _folder_with_tables(root)
    scan = scan_folder(root)
    check_images(root, scan, LAYOUTS)

    masked = None if layout != AUTO else find_masks(scan.images)
    images = scan.images if masked is None else masked.images
    folder = Folder(root, images, task, domain, forced=layout != AUTO)
    found = recognize(folder, layout)
    contents = found.layout.read(folder)
    return _listing(folder, scan, found, contents, masked)


def recognize(folder: Folder, name: str = AUTO) -> Recognized:
    """Return the forced layout, or the first that matches.

    Raises:
        UserError: the folder does not match the forced layout, or its folders may be splits or
            classes.
    """
    if name != AUTO:
        layout = chosen(LAYOUTS, name)
        match = layout.matches(folder)
        if not match:
            raise UserError(
                f"--layout {typed(layout.name)}: data folder {folder.root} has another layout "
                f"({match.why_not}); expected {layout.expects}"
            )
        return Recognized(layout, f"--layout {typed(layout.name)}", {})

    why_not: dict[str, str] = {}
    for layout in LAYOUTS:
        match = layout.matches(folder)
        if match:
            _check_clear(folder, layout)
            return Recognized(layout, match.why, why_not)
        why_not[layout.name] = match.why_not
    raise UserError(f"data folder {folder.root} has no known layout; {tried(why_not)}")


def _check_clear(folder: Folder, layout: Layout) -> None:
    """Refuse folders that may be splits or classes, unless label files make it clear."""
    by_table = isinstance(layout, CsvLayout | OtherCsv)
    if not by_table and folder.tree.problem:
        raise UserError(folder.tree.problem)
    if folder.domain and not isinstance(layout, Domains):
        raise UserError(
            f"data.domain={folder.domain}: data folder {folder.root} has no domains "
            f"(it is {layout.name!r}); leave data.domain out"
        )


def _listing(
    folder: Folder,
    scan: Scan,
    found: Recognized,
    contents: Contents,
    masked: MaskedImages | None,
) -> Listing:
    root = folder.root
    layout = found.layout.name
    entries, spelling = one_spelling(sorted(contents.entries, key=lambda entry: entry.path))
    untrained: list[Entry] = []
    if folder.task == "pretrain":
        untrained = of_new_classes(entries)
        left_out = set(untrained)
        entries = [entry for entry in entries if entry not in left_out]
    of_folders = isinstance(found.layout, _LABELS_ARE_FOLDERS)
    if folder.task != "ssl":
        check_masks(folder, entries, masked)
        if of_folders:
            check_lost_classes(folder, scan)
        check_labels(root, layout, entries, folder.task, remedy(folder, found.why_not))

    names = {entry.label for entry in entries if entry.label is not None}
    classes = in_order(names)
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    number[None] = -1
    fingerprint = fingerprint_of(root, entries)
    if equal_as_numbers(classes):
        # stores of earlier versions have such labels in arbitrary order
        fingerprint = digest("labels in order", fingerprint)

    if of_folders:
        check_names_of_classes(folder, classes)
    lost = [name for name in scan.empty if of_folders and name.split("/")[-1] not in names]
    return Listing(
        root=root,
        layout=layout,
        files=tuple(entry.path for entry in entries),
        parts=np.array([entry.part for entry in entries]),
        labels=np.array([number[entry.label] for entry in entries], np.int64),
        classes=tuple(classes),
        fingerprint=fingerprint,
        notes=(*contents.notes, *spelling, *([] if masked is None else [str(masked)])),
        why=found.why,
        folders=folder_uses(entries, contents.outside, scan.empty, untrained),
        left_out=_left_out(root, scan, contents, masked),
        warnings=(
            *contents.warnings,
            *about_new_classes(untrained, entries),
            *doubtful_labels(classes),
            *_about_lost(scan, lost),
        ),
        hidden=tuple(contents.hidden),
        tables=contents.tables,
    )


def check_folder(root: Path) -> None:
    """Refuse a path that is not a folder.

    Raises:
        UserError: the path does not exist, or is a file.
    """
    if not root.exists():
        raise UserError(
            f"data folder {root} does not exist; "
            "give an existing folder of images or an embedded set"
        )
    if not root.is_dir():
        raise UserError(f"data {root} is a file, not a folder; give the folder with the images")


def _domain_folder(root: Path, domain: str) -> tuple[Path, str]:
    """The folder of a single domain, or the root and the domains to use of it."""
    if not domain or domain == ALL_DOMAINS or "," in domain:
        return root, domain
    return chosen_folder(root, domain), ""


def chosen_folder(root: Path, domain: str) -> Path:
    """Return the folder inside `root` that `data.domain` names.

    Raises:
        UserError: there is no such folder.
    """
    check_folder(root)
    inside = [path.name for path in folders_in(root)]
    if domain not in inside:
        raise UserError(
            f"data.domain={domain}: {root} has no such folder; valid: {ALL_DOMAINS}, "
            f"{shortened(inside, 10)}"
        )
    return root / domain


def _folder_with_tables(root: Path) -> Path:
    """The only folder inside the root, if it has a train.csv and the root has no label files.

    Raises:
        UserError: several folders have a train.csv, so each is a data set of its own.
    """
    if label_tables(root):
        return root
    inside = folders_in(root)
    sets = [path for path in inside if "train" in label_tables(path)]
    if len(sets) > 1:
        names = [path.name for path in sets]
        raise UserError(
            f"{shortened([f'{name}/' for name in names])} of {root} are data sets of their own, "
            f"each with its train.csv; give one: --data {sets[0]}"
        )
    return sets[0] if sets and sets == inside else root


# ---------------------------------------------------------------- facts for the summary


def _left_out(
    root: Path, scan: Scan, contents: Contents, masked: MaskedImages | None
) -> tuple[LeftOut, ...]:
    read = {path.name for path in contents.tables.values()}
    read.update(name for name in scan.tables if is_of_episodes(columns_of(root / name).names))
    found = list(scan.others(read))
    if contents.outside:
        reason = "outside the folders in use"
        found.append(LeftOut(reason, len(contents.outside), min(contents.outside)))
    if masked is not None:
        found.append(LeftOut("that are masks", len(masked.masks), masked.masks[0]))
    return tuple(found)


def _about_lost(scan: Scan, empty: Sequence[str]) -> list[str]:
    warnings: list[str] = []
    if empty:
        warnings.append(f"empty folders are not classes: {shortened(empty)}")
    for folder, ending in sorted(scan.unread.items()):
        warnings.append(f"nothing in {folder}/ can be read: Pillow does not open {ending}")
    return warnings
