"""Class names of a folder with masks, from a file in it.

classes.txt       one name per line, in the order of mask values; for coloured masks,
                  `name,red,green,blue`
class_dict.csv    name,r,g,b, as in Kaggle's CamVid
label_colors.txt  red green blue name, as in the original CamVid
"""

import colorsys
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.splits import IGNORE
from trainables.errors import UserError

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

CLASSES = "classes.txt"
FILES = (CLASSES, "class_dict.csv", "label_colors.txt")
"""Names of such files; the first that exists is used."""

_BACKGROUND: Color = (224, 224, 224)
_BETWEEN = r"[\s,;]+"
_NUMBERS = rf"(\d{{1,3}}){_BETWEEN}(\d{{1,3}}){_BETWEEN}(\d{{1,3}})"
_NAME_FIRST = re.compile(rf"(?P<name>.+?){_BETWEEN}{_NUMBERS}[\s,;]*")
_NUMBERS_FIRST = re.compile(rf"{_NUMBERS}{_BETWEEN}(?P<name>.+?)")
_HEADER = re.compile(rf"(?:class|name|label)\w*{_BETWEEN}r\w*{_BETWEEN}g\w*{_BETWEEN}b\w*")


@dataclass(frozen=True)
class ClassList:
    """The lines of a class file: line n, counted from 0, names value n of a mask."""

    file: str
    """Name of the file, for messages; empty if the layout itself defines the classes."""
    names: tuple[str, ...]
    colors: tuple[Color, ...]
    """Colour of each line, for pictures."""
    coloured: bool = False
    """True if the file gives colours, so masks may contain them instead of values."""


def read_class_list(root: Path) -> ClassList | None:
    """Read the first of `FILES` in a folder; None if there is none.

    Raises:
        UserError: the file cannot be read, or does not name 2 to 254 different classes.
    """
    for name in FILES:
        path = root / name
        if path.exists():
            return _parse(path)
    return None


def _parse(path: Path) -> ClassList:
    """Read a file that exists. It is coloured if every line has three numbers.

    Raises:
        UserError: as `read_class_list`.
    """
    lines = _lines(path)
    found = [_coloured_line(line) for line in lines]
    known = [line for line in found if line is not None]
    if lines and len(known) == len(lines):
        names = tuple(name for name, _ in known)
        colors = tuple(color for _, color in known)
        _check(path, names)
        _check_colors(path, colors)
        return ClassList(path.name, names, colors, coloured=True)

    if path.name != CLASSES:
        wrong = next(line for line, read in zip(lines, found, strict=True) if read is None)
        raise UserError(f"{path} has the line {wrong!r}; it must be name,red,green,blue")
    _check(path, lines)
    return ClassList(path.name, tuple(lines), distinct_colors(lines))


def _lines(path: Path) -> list[str]:
    """Non-empty lines, without a header such as "name,r,g,b".

    Raises:
        UserError: the file cannot be read as text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError):
        raise UserError(
            f"{path} cannot be read; "
            "write one class name a line, in the order of the values in the masks"
        ) from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and _HEADER.fullmatch(lines[0].lower()):
        return lines[1:]
    return lines


def _coloured_line(line: str) -> tuple[str, Color] | None:
    """Name and colour, in either order; None if the line has no three levels."""
    match = _NAME_FIRST.fullmatch(line) or _NUMBERS_FIRST.fullmatch(line)
    if match is None:
        return None
    numbers = [int(part) for part in match.groups() if part != match["name"]]
    if len(numbers) != 3 or max(numbers) > 255:
        return None
    red, green, blue = numbers
    return match["name"].strip(), (red, green, blue)


def _check(path: Path, names: Sequence[str]) -> None:
    """Refuse a number of classes that a mask cannot represent, and duplicate names.

    Raises:
        UserError: the names are refused.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if 2 <= len(names) <= IGNORE - 1 and not twice:
        return
    counted = str(len(names))
    if twice:
        counted += f", {', '.join(twice)} twice"
    raise UserError(
        f"{path} must name 2 to {IGNORE - 1} different classes, one per line, but names {counted}"
    )


def _check_colors(path: Path, colors: Sequence[Color]) -> None:
    """Refuse a colour that two classes share.

    Raises:
        UserError: two classes share a colour.
    """
    twice = [color for color, count in Counter(colors).items() if count > 1]
    if twice:
        raise UserError(f"{path} gives the colour {written(twice[0])} to two classes; change one")


def written(color: Color) -> str:
    """The colour as written in a class file: `128,0,64`."""
    return ",".join(str(level) for level in color)


def distinct_colors(names: Sequence[str]) -> tuple[Color, ...]:
    """Evenly spaced hues, every other one darker; a light grey for the background."""
    objects = [name for name in names if not _is_background(name)]
    colors: dict[str, Color] = dict.fromkeys(names, _BACKGROUND)
    for number, name in enumerate(objects):
        value = 0.9 - 0.3 * (number % 2)
        red, green, blue = colorsys.hsv_to_rgb(number / len(objects), 0.75, value)
        colors[name] = (round(255 * red), round(255 * green), round(255 * blue))
    return tuple(colors.values())


def _is_background(name: str) -> bool:
    return name.lower() == "background"
