"""A survey of the values in a folder's masks before they are read. It decides if 255 is a class or
unknown, and supplies the error message for a folder that does not name its classes."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainables.data.images import CorruptImage, open_image
from trainables.data.mask_code import BLURRED, colours_in, plain_values
from trainables.data.splits import IGNORE
from trainables.files import write_atomically

_CHUNK = 64  # masks that are read between two checks of the result
_LOOKED_AT = 64  # most masks on which an error message is based
_SHOWN = 12  # most values or colours named in an error message


@dataclass(frozen=True)
class MaskValues:
    """Values and colours in masks."""

    values: tuple[int, ...]
    """Sorted values in masks that contain only greys."""
    colours: tuple[str, ...] = ()
    """Colours in the other masks, as written in a class file; most frequent first per mask."""

    def foreground(self, ignore: int) -> int | None:
        """The only value besides 0, if it is not 1; otherwise None."""
        others = [value for value in self.values if value not in (0, ignore)]
        if ignore == IGNORE and IGNORE in self.values:
            others.append(IGNORE)
        if self.colours or len(others) != 1 or others == [1] or 0 not in self.values:
            return None
        return others[0]


def values_of_binary(paths: Sequence[Path], remembered: Path | None = None) -> MaskValues:
    """Values in masks of two classes. Reading stops at the first mask with a 1, which shows that
    masks contain class numbers.

    Args:
        remembered: file that stores the result, so that masks are read only once.
    """
    kept = None if remembered is None else _read(remembered)
    if kept is not None:
        return kept

    found = MaskValues(())
    for found in _growing(paths):
        if 1 in found.values or found.colours:
            break
    if remembered is not None:
        _keep(remembered, found)
    return found


def _read(remembered: Path) -> MaskValues | None:
    """Values found by an earlier survey; None if there was none."""
    try:
        kept = json.loads(remembered.read_text())
        return MaskValues(tuple(kept["values"]), tuple(kept["colours"]))
    except (OSError, ValueError, KeyError):
        return None


def _keep(remembered: Path, found: MaskValues) -> None:
    """Store the values for later. If the cache is not writable, building the store reports it."""
    with suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(remembered, json.dumps(asdict(found)))


def what_to_write(paths: Sequence[Path]) -> str:
    """Describe the values or colours in some of the masks, and the class file that they need."""
    spread = np.linspace(0, len(paths) - 1, min(_LOOKED_AT, len(paths)))
    some = [paths[position] for position in np.unique(spread.round().astype(int))]
    *_, found = _growing(some)
    if paths and paths[0].suffix.lower() in (".jpg", ".jpeg") and len(found.values) > _SHOWN:
        low, high = found.values[0], found.values[-1]
        return f"its masks hold {len(found.values)} values from {low} to {high}: {BLURRED}"
    if found.colours:
        shown = " ".join(found.colours[:_SHOWN])
        hidden = len(found.colours) - _SHOWN
        if hidden > 0:
            shown += f" and {hidden} more"
        return f"its masks have the colours {shown}: write a line name,red,green,blue for each"

    shown = ", ".join(str(value) for value in found.values[:_SHOWN])
    if len(found.values) > _SHOWN:
        shown += f" ... {found.values[-1]}"
    if found.foreground(IGNORE) is not None:
        return f"its masks have the values {shown}: write two lines, such as background and object"
    known = [value for value in found.values if value != IGNORE]
    highest = max(known, default=0)
    return (
        f"its masks have the values {shown}: write one class name a line for the values 0 to "
        f"{highest}, in their order; 255 is unknown"
    )


def _growing(paths: Sequence[Path]) -> Iterator[MaskValues]:
    """All values and colours found so far, after each chunk of masks."""
    values: set[int] = set()
    colours: dict[str, None] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            for found in pool.map(_look, chunk):
                values.update(found.values)
                colours.update(dict.fromkeys(found.colours))
            yield MaskValues(tuple(sorted(values)), tuple(colours))


def _look(path: Path) -> MaskValues:
    """Values or colours of one mask. Empty if the file cannot be read; building the store reports
    such files."""
    try:
        with open_image(path) as image:
            plain = plain_values(image)
    except CorruptImage:
        return MaskValues(())
    if plain.ndim == 3:
        return MaskValues((), tuple(colours_in(plain)))
    present: list[int] = np.unique(plain).tolist()
    return MaskValues(tuple(present))
