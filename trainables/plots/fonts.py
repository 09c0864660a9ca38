"""Fonts for class names in any script. DejaVu, which ships with matplotlib, covers Latin, Greek,
Cyrillic and a few other scripts, but no Chinese, Japanese or Korean letters."""

import functools
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

# Parts of file names to try first: one of these families covers most scripts.
_LIKELY = ("cjk", "noto", "droid", "wqy", "gothic", "ming", "hei", "song", "unifont")
_COMMON = 0x250
"""Letters below this code point are in every font."""
_NO_LETTER = "\uffff"
_PIXELS = 32  # at this size, no letter looks like the box of a missing one
_SHOWN = 6


@functools.cache
def dejavu(bold: bool = False) -> str:
    """Path of the font that all pictures use. It ships with matplotlib, which is not imported."""
    matplotlib = find_spec("matplotlib")
    assert matplotlib is not None
    assert matplotlib.origin is not None
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.origin).parent / "mpl-data/fonts/ttf" / name)


def has_letter(path: str, letter: str) -> bool:
    """True if a font file has the letter.

    Raises:
        OSError: the file cannot be read.
    """
    if ord(letter) < _COMMON:
        return True
    return _pixels(path, letter) != _pixels(path, _NO_LETTER)


def fallback_font(text: str, usual: str) -> tuple[frozenset[str], str | None]:
    """Letters of a text that the usual font (a path) lacks, and the path of the installed font that
    has the most of them; None if no font has any, or none is needed."""
    lacking = frozenset(letter for letter in text if not has_letter(usual, letter))
    return lacking, _installed_font_with(lacking) if lacking else None


def missing_note(names: Iterable[str]) -> str:
    """Note about letters in the names that no installed font can draw; "" if there are none."""
    missing: set[str] = set()
    for name in set(names):
        lacking, font = fallback_font(name, dejavu())
        missing |= {letter for letter in lacking if font is None or not has_letter(font, letter)}
    if not missing:
        return ""

    letters = "".join(sorted(missing))
    shown = letters[:_SHOWN] + ("..." if len(letters) > _SHOWN else "")
    return (
        f"no installed font has {shown}: pictures show boxes in their place; "
        "install one that does, such as fonts-noto-cjk, or put its file into ~/.fonts"
    )


@functools.cache
def _installed_font_with(letters: frozenset[str]) -> str | None:
    best, found = None, 0
    for path in _installed():
        has = _count(path, letters)
        if has > found:
            best, found = path, has
        if found == len(letters):
            break
    return best


def _installed() -> list[str]:
    """Paths of the machine's fonts, likely ones first."""
    from matplotlib import font_manager  # only for rare letters, as it takes a quarter of a second

    def order(path: str) -> tuple[bool, str]:
        name = Path(path).name.lower()
        return not any(word in name for word in _LIKELY), name

    return sorted(font_manager.findSystemFonts(), key=order)


def _count(path: str, letters: frozenset[str]) -> int:
    """Number of these letters in a font file; 0 if it cannot be read."""
    try:
        return sum(has_letter(path, letter) for letter in letters)
    except OSError:
        return 0


@functools.cache
def _pixels(path: str, letter: str) -> bytes:
    """Pixels of a letter, or of the box that stands for a missing one."""
    return bytes(_opened(path).getmask(letter))


@functools.cache
def _opened(path: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, _PIXELS, layout_engine=ImageFont.Layout.BASIC)
