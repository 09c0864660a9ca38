"""Groups of images that belong together, which no split separates."""

import re
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np

from trainables.data.components import Components
from trainables.data.contents import Contents

Grouping = Literal["near", "none", "folder", "prefix"]
"""near: near-duplicates. none: only identical files. folder: images of one folder. prefix: images
of one folder whose names are equal up to the last number, such as `clip3_0001.png` and
`clip3_0002.png`."""

_LAST_NUMBER = re.compile(r"\d+\D*$")


def grouped(contents: Contents, files: tuple[str, ...], by: Grouping) -> Contents:
    """The same contents with another kind of groups. Identical files always share a group.

    Args:
        files: path of each row, relative to the data folder.
    """
    if by == "near":
        return contents

    components = Components(len(files))
    digests = np.ascontiguousarray(contents.digests).view("V32").ravel()
    _join_equal(components, digests)
    if by != "none":
        key_of = _folder if by == "folder" else _prefix
        keys = [key_of(file) for file in files]
        _join_equal(components, np.array(keys))
    return replace(contents, groups=components.numbered())


def _join_equal(
    components: Components,
    keys: np.ndarray,  # (N,)
) -> None:
    """Join rows with equal keys."""
    _, first, key_of = np.unique(keys, return_index=True, return_inverse=True)
    components.add_edges(np.arange(len(keys)), first[key_of])


def _folder(file: str) -> str:
    """The folder of a file."""
    return str(PurePosixPath(file).parent)


def _prefix(file: str) -> str:
    """Folder and name of a file, up to the last number."""
    path = PurePosixPath(file)
    return f"{path.parent}/{_LAST_NUMBER.sub('', path.stem)}"
