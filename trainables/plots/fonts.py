"""Fonts for class names in any script. DejaVu, which ships with matplotlib, covers Latin, Greek,
Cyrillic and a few other scripts, but no Chinese, Japanese or Korean letters."""

import contextlib
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
    """True if a font file has the letter."""
    if ord(letter) < _COMMON:
        return True
    return _pixels(path, letter) != _pixels(path, _NO_LETTER)


def cover(text: str) -> None:
    """Let matplotlib draw every letter of a text for which a font is installed."""
    lacking = frozenset(uncovered([text]))
    if lacking:
        _add_font_with(lacking)


def uncovered(names: Iterable[str]) -> str:
    """Letters that are in none of matplotlib's current fonts, sorted."""
    letters = {letter for name in names for letter in name}
    rare = [letter for letter in sorted(letters) if not has_letter(dejavu(), letter)]
    return "".join(letter for letter in rare if ord(letter) not in _present())


def missing_note(names: Iterable[str]) -> str:
    """Note about letters in the names that no installed font can draw; "" if there are none."""
    names = list(names)
    for name in names:
        cover(name)
    lacking = uncovered(names)
    if not lacking:
        return ""

    shown = lacking[:_SHOWN] + ("..." if len(lacking) > _SHOWN else "")
    return (
        f"no installed font has {shown}: pictures show boxes in their place; "
        "install one that does, such as fonts-noto-cjk, or put its file into ~/.fonts"
    )


@functools.cache
def installed_font_with(letters: frozenset[str]) -> str | None:
    """Path of the installed font with the most of these letters; None if no font has any."""
    wanted = {ord(letter) for letter in letters}
    best, found = None, 0
    for path in _installed():
        has = len(wanted & _letters(path))
        if has > found:
            best, found = path, has
        if found == len(wanted):
            break
    return best


@functools.cache
def _add_font_with(letters: frozenset[str]) -> None:
    """Add the installed font with the most of these letters to matplotlib's fallback fonts."""
    best = installed_font_with(letters)
    if best is None:
        return

    import matplotlib
    from matplotlib import font_manager

    font_manager.fontManager.addfont(best)
    family = font_manager.FontProperties(fname=best).get_name()
    # matplotlib searches each of these families for a letter, but only one font of "sans-serif"
    matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], family]
    _present.cache_clear()


def _installed() -> list[str]:
    """Paths of the machine's fonts, likely ones first."""
    from matplotlib import font_manager

    def order(path: str) -> tuple[bool, str]:
        name = Path(path).name.lower()
        return not any(word in name for word in _LIKELY), name

    return sorted(font_manager.findSystemFonts(), key=order)


@functools.cache
def _present() -> frozenset[int]:
    """Letters in the font families that matplotlib currently draws with."""
    import matplotlib
    from matplotlib import font_manager

    letters: set[int] = set()
    for family in matplotlib.rcParams["font.family"]:
        with contextlib.suppress(ValueError):  # not installed
            wanted = font_manager.FontProperties(family=[family])
            letters |= _letters(font_manager.findfont(wanted, fallback_to_default=False))
    return frozenset(letters)


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """Code points in a font file; empty if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@functools.cache
def _pixels(path: str, letter: str) -> bytes:
    """Pixels of a letter, or of the box that stands for a missing one."""
    return bytes(_opened(path).getmask(letter))


@functools.cache
def _opened(path: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, _PIXELS, layout_engine=ImageFont.Layout.BASIC)
