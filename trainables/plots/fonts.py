"""Fonts for class names in any script. DejaVu, which ships with matplotlib, covers Latin, Greek,
Cyrillic and a few other scripts, but no Chinese, Japanese or Korean letters."""

import contextlib
import functools
from collections.abc import Iterable
from pathlib import Path

# Parts of file names to try first: one of these families covers most scripts.
_LIKELY = ("cjk", "noto", "droid", "wqy", "gothic", "ming", "hei", "song", "unifont")
_COMMON = 0x250
"""Letters below this code point are in every font."""
_SHOWN = 6


def cover(text: str) -> None:
    """Let matplotlib draw every letter of a text for which a font is installed."""
    lacking = frozenset(uncovered([text]))
    if lacking:
        _add_font_with(lacking)


def uncovered(names: Iterable[str]) -> str:
    """Letters that are in none of matplotlib's current fonts, sorted."""
    rare = {letter for name in names for letter in name if ord(letter) >= _COMMON}
    if not rare:
        return ""
    return "".join(sorted(letter for letter in rare if ord(letter) not in _present()))


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
def _add_font_with(letters: frozenset[str]) -> None:
    """Add the installed font with the most of these letters to matplotlib's fallback fonts."""
    import matplotlib
    from matplotlib import font_manager

    wanted = {ord(letter) for letter in letters}
    best, found = None, 0
    for path in _installed():
        has = len(wanted & _letters(path))
        if has > found:
            best, found = path, has
        if found == len(wanted):
            break
    if best is None:
        return

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
