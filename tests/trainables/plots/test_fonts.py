"""Class names in scripts that DejaVu lacks are drawn with an installed font, or a note says that
none has their letters."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from trainables.plots import fonts
from trainables.plots.fonts import missing_note, uncovered
from trainables.plots.style import caption

CAT, DOG = "\u732b", "\u72ac"


def write_font(path: Path, letters: str, family: str) -> None:
    """Write a font whose letters are black squares of one em."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()

    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"uni{ord(letter):04X}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=1000)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of the machine's fonts, which is empty."""
    monkeypatch.setattr(
        font_manager, "findSystemFonts", lambda: [str(path) for path in tmp_path.glob("*.ttf")]
    )
    before = font_manager.fontManager.ttflist.copy()
    fonts._add_font_with.cache_clear()
    fonts._present.cache_clear()
    with matplotlib.rc_context():
        yield tmp_path
    font_manager.fontManager.ttflist = before
    fonts._add_font_with.cache_clear()
    fonts._present.cache_clear()


def drawn(text: str) -> np.ndarray:
    """Return the pixels of a text, black on white. A warning about a missing glyph is an error."""
    figure = plt.figure(figsize=(2, 1), dpi=100)
    figure.text(0.1, 0.1, text, fontsize=36)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[:, :, 0]  # type: ignore[attr-defined]
    plt.close(figure)
    return pixels


def test_names_are_drawn_by_the_installed_font_that_has_their_letters(machine: Path) -> None:
    write_font(machine / "a.ttf", "\u732a", "Wrong Animal")
    write_font(machine / "b.ttf", CAT + DOG, "Right Animal")
    black = drawn(caption(CAT)) < 128
    rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
    inside = black[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert inside.mean() > 0.95  # a square of one em: 36 points at 100 dots an inch
    assert abs(len(rows) - 50) <= 2
    assert missing_note(["cat", CAT, DOG]) == ""
    assert matplotlib.rcParams["font.family"] == ["sans-serif", "Right Animal"]


def test_letters_that_no_font_has_are_named(machine: Path) -> None:
    write_font(machine / "b.ttf", CAT, "Cats Only")
    note = missing_note(["chat", "кот", CAT, DOG])
    assert note.startswith(f"no installed font has {DOG}: pictures show boxes in their place; ")
    assert uncovered([CAT, "\u00e9t\u00e9"]) == ""


def test_a_damaged_font_file_is_passed_over(machine: Path) -> None:
    (machine / "noto.ttf").write_bytes(b"no font")
    assert DOG in missing_note([DOG])
