"""Class names in scripts that DejaVu lacks are drawn with an installed font, or a note says that
none has their letters."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from PIL import Image

from trainables.plots import fonts, lettering
from trainables.plots.fonts import dejavu, has_letter, missing_note
from trainables.plots.lettering import Type

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
    builder.setupGlyf(dict.fromkeys(names, square) | {".notdef": TTGlyphPen(None).glyph()})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=1000)
    builder.setupPost()
    builder.save(path)


@pytest.fixture
def machine_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of the machine's fonts, which is empty."""
    monkeypatch.setattr(
        font_manager, "findSystemFonts", lambda: [str(path) for path in tmp_path.glob("*.ttf")]
    )
    fonts._installed_font_with.cache_clear()
    yield tmp_path
    fonts._installed_font_with.cache_clear()


def drawn(text: str) -> np.ndarray:
    """Return the pixels of a text on a canvas, black on white."""
    picture = Image.new("L", (200, 100), "white")
    lettering.draw(picture, 20, 90, text, Type(50), "black")
    return np.asarray(picture)


def test_installed_font_with_the_letters_of_a_name_draws_it(machine_fonts: Path) -> None:
    write_font(machine_fonts / "a.ttf", "\u732a", "Wrong Animal")
    write_font(machine_fonts / "b.ttf", CAT + DOG, "Right Animal")
    black = drawn(CAT) < 128
    rows, columns = np.flatnonzero(black.any(1)), np.flatnonzero(black.any(0))
    inside = black[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert inside.mean() > 0.95  # a square of one em
    assert abs(len(rows) - 50) <= 2
    assert missing_note(["cat", CAT, DOG]) == ""


def test_note_lists_letters_that_no_font_has(machine_fonts: Path) -> None:
    write_font(machine_fonts / "b.ttf", CAT, "Cats Only")
    note = missing_note(["chat", "кот", CAT, DOG])
    assert note.startswith(f"no installed font has {DOG}: pictures show boxes in their place; ")
    assert missing_note([CAT, "\u00e9t\u00e9"]) == ""


def test_damaged_font_file_is_skipped(machine_fonts: Path) -> None:
    (machine_fonts / "noto.ttf").write_bytes(b"no font")
    assert DOG in missing_note([DOG])


def test_font_changes_within_a_line(machine_fonts: Path) -> None:
    write_font(machine_fonts / "b.ttf", CAT, "Cats Only")
    kind = Type(50)
    em = kind.pixels
    apart = [lettering.width(part, kind) for part in ("a ", " b")]
    assert lettering.width(f"a {CAT} b", kind) == pytest.approx(sum(apart) + em, abs=1)


@pytest.mark.parametrize("bold", [False, True])
def test_known_letters_of_dejavu_are_those_in_its_file(bold: bool) -> None:
    listed = TTFont(dejavu(bold)).getBestCmap()
    letters = [chr(code) for code in range(0x250, 0x3000, 3) if code in listed]
    others = [chr(code) for code in range(0x250, 0x3000, 3) if code not in listed]
    assert [letter for letter in letters if not has_letter(dejavu(bold), letter)] == []
    assert [letter for letter in others if has_letter(dejavu(bold), letter)] == []
