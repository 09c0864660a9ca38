"""The choice of a layout for a folder of pairs, and the use of every file in it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.class_list import CLASSES, FILES
from trainables.data.layout_base import AUTO, chosen, tried
from trainables.data.listing import Entry, shortened
from trainables.data.mask_code import MaskCode
from trainables.data.mask_survey import values_of_binary, what_to_write
from trainables.data.pair_layouts import PAIR_LAYOUTS, PairLayout
from trainables.data.pair_parts import parts_of_images
from trainables.data.pairing import PairedFiles
from trainables.data.scan import Scan
from trainables.data_summary import Became, FolderUse, LeftOut
from trainables.errors import UserError

_SHOWN = 20  # most files without partner that a message names


@dataclass(frozen=True)
class Recognized:
    """A layout, and the pairs that it finds in a folder."""

    layout: PairLayout
    files: PairedFiles
    why: str


@dataclass(frozen=True)
class UsedFiles:
    """The use of the images of a folder."""

    entries: tuple[Entry, ...]
    """Images with a mask, sorted by path."""
    masks: tuple[str, ...]
    """Masks of `entries`, in the same order."""
    hidden: tuple[str, ...]
    """Images of a test part that has no masks at all."""
    without_mask: tuple[str, ...]
    """Other images without a mask, if the layout allows them."""
    other: tuple[str, ...]
    """Images that the layout ignores."""


def recognize(
    root: Path, files: Sequence[str], wanted: str = AUTO, others: Sequence[LeftOut] = ()
) -> Recognized:
    """Return the layout that pairs the most files.

    Args:
        wanted: name of the only layout to try; "auto" tries all.
        others: files that are not images, for the error message: masks may be among them.
    Raises:
        UserError: no layout finds a pair; the message says what was tried and what was missing.
    """
    why_not: dict[str, str] = {}
    matching: list[Recognized] = []
    layouts = PAIR_LAYOUTS if wanted == AUTO else (chosen(PAIR_LAYOUTS, wanted),)
    for layout in layouts:
        match = layout.matches(files)
        if not match:
            why_not[layout.name] = match.why_not
            continue
        found = layout.read(root, files)
        if found.pairs:
            why = f"{found.pairs:,} pairs: {layout.expects}"
            if found.end:
                why += f"; names of masks end in {found.end}"
            matching.append(Recognized(layout, found, why))
            continue
        images = len(found.images)
        masks = len(found.masks)
        why_not[layout.name] = f"{images:,} images and {masks:,} masks, no two of one name"

    if not matching:
        raise UserError(
            f"data folder {root} has no pairs of image and mask, segmentation needs them; "
            f"{tried(why_not)}{_besides(others)}"
        )
    return max(matching, key=lambda found: found.files.pairs)


def _besides(others: Sequence[LeftOut]) -> str:
    """The most frequent kinds of files that are not images, as the end of an error message."""
    if not others:
        return ""
    seen = ", ".join(f"{found.files:,} {found.reason}" for found in others[:3])
    return f"; no images: {seen}"


def use_files(root: Path, files: Sequence[str], found: PairedFiles) -> UsedFiles:
    """Sort the files of a folder into pairs, hidden test images and files that are left out.

    Raises:
        UserError: two files for one side of a pair, files without partner, or pairs outside the
            parts.
    """
    for other, file in found.twice:
        raise UserError(f"{root} has {other} and {file} for one pair; keep one of them")

    keys = sorted(found.images.keys() & found.masks.keys(), key=lambda key: found.images[key])
    parts = parts_of_images(root, found)
    hidden = _hidden_keys(found, parts)
    alone = found.images.keys() - found.masks.keys() - hidden
    masks_alone = found.masks.keys() - found.images.keys()
    if found.masks_needed:
        _check_partners(root, [found.images[key] for key in alone], found, masks_alone)
        alone = set()
    else:
        _check_partners(root, [], found, masks_alone)

    unlisted = {key for key in keys if found.lists is not None and key not in found.lists}
    keys = [key for key in keys if key not in unlisted]
    entries = tuple(Entry(found.images[key], parts[key]) for key in keys)
    _check_parts(root, entries)
    assigned = {*found.images.values(), *found.masks.values()}
    return UsedFiles(
        entries=entries,
        masks=tuple(found.masks[key] for key in keys),
        hidden=tuple(sorted(found.images[key] for key in hidden)),
        without_mask=tuple(sorted(found.images[key] for key in alone | unlisted)),
        other=tuple(file for file in files if file not in assigned),
    )


def mask_code(
    root: Path,
    layout: PairLayout,
    masks: Sequence[Path],
    ignore: int,
    remembered: Path | None = None,
) -> MaskCode:
    """Return the rule that reads the masks of a folder.

    Args:
        remembered: file that stores the values found in the masks.
    Raises:
        UserError: there is no class file; the message names the values found and what to write.
    """
    lines = layout.class_list(root)
    if lines is None:
        raise UserError(f"data folder {root} has no {CLASSES}; {what_to_write(masks)}")
    code = MaskCode(lines, ignore, read_lines=layout.line_reader())
    if len(code.kept) < 2:
        raise UserError(
            f"data.ignore={ignore} leaves one class of {len(lines.names)} in {root / lines.file}; "
            "segmentation needs two"
        )
    if len(lines.names) > 2 or lines.coloured:
        return code
    foreground = values_of_binary(masks, remembered).foreground(ignore)
    return MaskCode(lines, ignore, foreground, layout.line_reader())


def folder_uses(used: UsedFiles) -> tuple[FolderUse, ...]:
    """The use of the images, folder by folder."""
    carved = "val and test are carved from it"
    parts = {entry.part for entry in used.entries}
    images: dict[tuple[str, str], int] = defaultdict(int)
    masks: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry, mask in zip(used.entries, used.masks, strict=True):
        place = (_folder(entry.path), entry.part)
        images[place] += 1
        masks[place].add(_folder(mask))

    uses: list[FolderUse] = []
    order = ("", "train", "val", "test")
    for folder, part in sorted(images, key=lambda place: (order.index(place[1]), place[0])):
        reason = f"masks in {', '.join(sorted(masks[folder, part]))}"
        if parts == {""}:
            reason += f"; {carved}"
        uses.append(FolderUse(folder, _became(part), images[folder, part], reason))

    hidden: dict[str, int] = defaultdict(int)
    for file in used.hidden:
        hidden[_folder(file)] += 1
    for folder, count in hidden.items():
        uses.append(FolderUse(folder, "hidden test", count, "no masks"))
    return tuple(uses)


def left_out(used: UsedFiles, scan: Scan) -> tuple[LeftOut, ...]:
    """Files that are not images, and images that are not used, by reason."""
    reasons = {
        "image without a mask, or in no list of a part": used.without_mask,
        "neither image nor mask of the layout": used.other,
    }
    unused = [LeftOut(reason, len(files), files[0]) for reason, files in reasons.items() if files]
    return (*scan.others(read=FILES), *unused)


def _became(part: str) -> Became:
    """Use of the images in one part. Without parts, all are for training, before carving."""
    if part == "val":
        return "val"
    return "test" if part == "test" else "train"


def _folder(path: str) -> str:
    """The folder of a file, relative to the root; "." for the root itself."""
    return path.rpartition("/")[0] or "."


def _hidden_keys(found: PairedFiles, parts: dict[str, str]) -> set[str]:
    """Images of the test part, if none of them has a mask."""
    test = {key for key, part in parts.items() if part == "test"}
    if test & found.masks.keys():
        return set()
    return test


def _check_partners(
    root: Path, images_alone: Sequence[str], found: PairedFiles, masks_alone: set[str]
) -> None:
    """Refuse images and masks without partner.

    Raises:
        UserError: there are such files.
    """
    alone = sorted([*images_alone, *(found.masks[key] for key in masks_alone)])
    if alone:
        raise UserError(
            f"{len(alone):,} files in {root} have no partner: {shortened(alone, _SHOWN)}; "
            "add their masks or images, or remove them"
        )


def _check_parts(root: Path, entries: Sequence[Entry]) -> None:
    """Refuse pairs outside the parts, and folders without training images.

    Raises:
        UserError: there are pairs outside the parts, or there is no training part.
    """
    parts = {entry.part for entry in entries}
    if "" in parts and len(parts) > 1:
        outside = next(entry.path for entry in entries if not entry.part)
        raise UserError(
            f"{root} has pairs inside and outside of train, val and test (such as {outside}); "
            "move them into one of these"
        )
    if "" not in parts and "train" not in parts:
        raise UserError(
            f"data folder {root} has no train folder; "
            "add train/, or give the folder of pairs itself"
        )
