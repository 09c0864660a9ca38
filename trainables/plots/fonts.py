"""Fonts for class names in any script. DejaVu, which comes with matplotlib, has Latin, Greek,
Cyrillic and a few more, but no Chinese, Japanese or Korean letters."""

import contextlib
import functools
from collections.abc import Iterable
from pathlib import Path

# Names of files to look at first: one of these families covers most of the world.
_LIKELY = ("cjk", "noto", "droid", "wqy", "gothic", "ming", "hei", "song", "unifont")
_COMMON = 0x250
"""Letters below it are in every font."""
_SHOWN = 6


def cover(text: str) -> None:
    """Let matplotlib draw every letter of a text, as far as an installed font has it."""
    lacking = frozenset(uncovered([text]))
    if lacking:
        _add_font_with(lacking)


def uncovered(names: Iterable[str]) -> str:
    """The letters that none of matplotlib's present fonts has, in order."""
    rare = {letter for name in names for letter in name if ord(letter) >= _COMMON}
    if not rare:
        return ""
    return "".join(sorted(letter for letter in rare if ord(letter) not in _present()))


def missing_note(names: Iterable[str]) -> str:
    """Say which letters of the names cannot be drawn by any installed font; "" where all can."""
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
    """Add the installed font that has most of these letters to those that matplotlib falls back
    to."""
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
    # matplotlib looks for a letter in each of these in turn, but of "sans-serif" takes one alone
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
    """Letters of the families that matplotlib draws from now."""
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
    """Code points that a font file has; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
