"""The use that a layout makes of the images, folder by folder."""

from collections.abc import Sequence

from trainables.data.listing import HIDDEN, Entry
from trainables.data_summary import Became, FolderUse

_BECAME: dict[str, Became] = {
    "": "train",
    "train": "train",
    "val": "val",
    "test": "test",
    HIDDEN: "hidden test",
}


def folder_uses(
    entries: Sequence[Entry],
    outside: Sequence[str],  # images that are left out
    empty: Sequence[str],  # folders without files
    untrained: Sequence[Entry] = (),  # also left out: images of classes that train lacks
) -> tuple[FolderUse, ...]:
    """One line per folder and use; the folder is the one that all images of the use share."""
    groups: dict[Became, list[str]] = {}
    labelled = any(entry.label is not None for entry in entries)
    for entry in entries:
        use = _BECAME[entry.part]
        if use == "train" and labelled and entry.label is None:
            use = "unlabeled"
        groups.setdefault(use, []).append(entry.path)

    by_use: list[FolderUse] = []
    no_parts = all(entry.part == "" for entry in entries)
    for use, paths in groups.items():
        reason = "no folders of splits" if use == "train" and no_parts else ""
        beside = [entry.path for entry in untrained if entry.part == use]
        by_use.append(FolderUse(_around([*paths, *beside]), use, len(paths), reason))
    order = list(dict.fromkeys([*_BECAME.values(), "unlabeled"]))
    by_use.sort(key=lambda line: (order.index(line.became), line.folder))

    left_out = [*_untrained(untrained), *_left_out(outside)]
    unused = [FolderUse(folder, "left out", 0, "empty") for folder in empty]
    return (*by_use, *left_out, *unused)


def _around(paths: Sequence[str]) -> str:
    """The folder that contains all images; "*/train" for one of that name in several folders."""
    folders = {tuple(path.split("/")[:-1]) for path in paths}
    depth = min(len(folder) for folder in folders)
    columns = [{folder[level] for folder in folders} for level in range(depth)]
    names = [column.pop() if len(column) == 1 else "*" for column in columns]
    while names and names[-1] == "*":
        names.pop()
    return "/".join(names) or "."


def _untrained(entries: Sequence[Entry]) -> list[FolderUse]:
    lines: list[FolderUse] = []
    for part in ("val", "test"):
        paths = [entry.path for entry in entries if entry.part == part]
        if paths:
            reason = "classes that train lacks"
            lines.append(FolderUse(_around(paths), "left out", len(paths), reason))
    return lines


def _left_out(outside: Sequence[str]) -> list[FolderUse]:
    """One line for each top folder with images that are left out."""
    tops: dict[str, int] = {}
    for path in outside:
        top = path.split("/")[0] if "/" in path else "."
        tops[top] = tops.get(top, 0) + 1
    lines: list[FolderUse] = []
    for top, images in sorted(tops.items()):
        reason = "beside the folders in use" if top == "." else "no folder of the layout"
        lines.append(FolderUse(top, "left out", images, reason))
    return lines
