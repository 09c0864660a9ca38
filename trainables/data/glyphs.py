"""Embedded set `glyphs`: letters of matplotlib's own fonts, white on black, each drawn with a
seeded rotation, scale and shift.

Pre-training letters (Latin, Greek and others) are unlabeled images; held-out letters (Cyrillic,
Armenian, Georgian) measure what was learned. Held-out letters that look like a pre-training letter,
or like another held-out letter, are removed. Letters and faces are apart:

    train     pre-training letters, all 16 faces
    gallery   held-out letters, 12 faces
    val       queries: one half of the held-out letters, the 4 other faces (one a family, each of another style)
    test      queries: the other half, likewise

The halves are split by letter: cases and accented forms of one letter stay together. A query is
classified among all held-out letters.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from trainables.data.store import Source, digest

SANS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique")
MONO = (
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
)
SERIF = ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic")
STIX = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
FACES = (*SANS, *MONO, *SERIF, *STIX)
QUERIES = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif", "STIXGeneralItalic")
GALLERY = tuple(face for face in FACES if face not in QUERIES)
HELD_OUT = ("CYRILLIC", "ARMENIAN", "GEORGIAN")

ROTATION = 15.0  # degrees, either way
SCALE = (0.85, 1.15)  # of the face's natural size
SHIFT = 0.07  # of the image's side, either way
HOMOGLYPH = 0.97
"""Letters whose clean, size-normalised drawings have at least this cosine similarity, in one of
`COMPARED`, count as the same shape."""
COMPARED = ("DejaVuSans", "DejaVuSerif")
QUERY_DRAWINGS = 3  # of each (held-out letter, query face)
_EM = 0.9  # natural size of a face, of the image's side
_OVERSAMPLE = 3
_RENDERING = 2  # raise it when the code draws otherwise than before


@dataclass(frozen=True)
class GlyphPlan:
    """Every drawing of the set, in the order of the store's rows."""

    classes: tuple[str, ...]
    """Held-out letters first (labels 0 to `held_out` - 1), then the pre-training letters."""
    held_out: int
    letter: tuple[int, ...]
    """Label of each row."""
    face: tuple[int, ...]
    """Position in `FACES` of each row."""
    drawing: tuple[int, ...]
    """Which drawing of the same letter and face a row is."""
    test_letters: tuple[int, ...]
    """Labels of the held-out letters that belong to test; the other held-out letters belong to
    val."""
    homoglyphs: str
    """Held-out letters that were removed."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "GlyphPlan":
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()
        }
        return GlyphPlan(**values)


def fingerprint(seed: int) -> str:
    """Of the fonts and of every constant that shapes a drawing."""
    fonts = [_path(face).read_bytes() for face in FACES]
    constants = (
        seed,
        _RENDERING,
        QUERIES,
        ROTATION,
        SCALE,
        SHIFT,
        HOMOGLYPH,
        COMPARED,
        QUERY_DRAWINGS,
        _EM,
        _OVERSAMPLE,
        HELD_OUT,
    )
    return digest("glyphs", repr(constants), *fonts)


def source(seed: int) -> Source:
    """All drawings, as rows of a store."""
    plan = make_plan(seed)

    def read(row: int, size: int) -> np.ndarray:
        letter, face, drawing = (
            plan.classes[plan.letter[row]],
            FACES[plan.face[row]],
            plan.drawing[row],
        )
        rng = np.random.default_rng([seed, ord(letter), plan.face[row], drawing])
        return np.broadcast_to(draw(letter, face, size, rng), (3, size, size))

    labels = np.array(plan.letter, np.int64)
    return Source(
        len(labels),
        read,
        lambda row: plan.classes[plan.letter[row]],
        labels,
        extra={"plan": plan.to_json()},
    )


def draw(
    letter: str,
    face: str,
    size: int,  # S, pixels
    rng: np.random.Generator,
) -> np.ndarray:  # (S, S) uint8, white on black
    """One jittered drawing, made at three times the size and reduced by antialiased bicubic.

    The ink is centred before the shift, and shifted as far as it stays inside; wide letters are
    drawn smaller rather than cut.
    """
    angle = rng.uniform(-ROTATION, ROTATION)
    scale = rng.uniform(*SCALE)
    side = size * _OVERSAMPLE
    shift = rng.uniform(-SHIFT, SHIFT, 2) * side
    ink = _ink(letter, face, max(1, round(_EM * side)))
    turned = ink.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    scale = min(scale, 0.95 * side / max(turned.size))
    width, height = (max(1, round(length * scale)) for length in turned.size)
    left, top = (
        round((side - length) / 2 + by) for length, by in zip((width, height), shift, strict=True)
    )
    canvas = Image.new("L", (side, side))
    corner = (min(max(0, left), side - width), min(max(0, top), side - height))
    canvas.paste(turned.resize((width, height), Image.Resampling.BILINEAR), corner)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC))


def make_plan(seed: int) -> GlyphPlan:
    """Chooses letters and faces; deterministic in (fonts, seed)."""
    covered = {face: _letters(face) for face in FACES}
    common = sorted(set.intersection(*(covered[face] for face in (*SANS, *SERIF))))
    training = [c for c in common if not _is_held_out(c) and _has_ink(c)]
    candidates = [c for c in common if _is_held_out(c) and all(c in covered[face] for face in MONO)]
    held_out, removed = without_homoglyphs(candidates, training)
    classes = (*held_out, *training)
    rows: list[tuple[int, int, int]] = []
    for label, letter in enumerate(classes):
        for face, name in enumerate(FACES):
            if letter in covered[name]:
                drawings = QUERY_DRAWINGS if label < len(held_out) and name in QUERIES else 1
                rows += [(label, face, drawing) for drawing in range(drawings)]
    letter_of, face_of, drawing_of = zip(*rows, strict=True)
    return GlyphPlan(
        classes,
        len(held_out),
        letter_of,
        face_of,
        drawing_of,
        _test_letters(held_out, seed),
        "".join(removed),
    )


def without_homoglyphs(
    letters: Sequence[str],
    known: Sequence[str],
) -> tuple[list[str], list[str]]:  # (kept, removed)
    """Removes letters that look like one of `known` or like an earlier kept letter (see
    `HOMOGLYPH`)."""
    pool = [*known, *letters]
    similar = np.zeros((len(letters), len(pool)))
    for face in COMPARED:
        shapes = np.stack([_shape(c, face) for c in pool])  # (L, 1024), unit length
        similar = np.maximum(similar, shapes[len(known) :] @ shapes.T)
    rivals = list(range(len(known)))
    kept, removed = [], []
    for i, letter in enumerate(letters):
        if similar[i, rivals].max(initial=0.0) >= HOMOGLYPH:
            removed.append(letter)
        else:
            kept.append(letter)
            rivals.append(len(known) + i)
    return kept, removed


def base_letter(letter: str) -> str:
    """What the cases and accented forms of one letter share: that of 'Й' and 'и' is "CYRILLIC
    LETTER I"."""
    base = unicodedata.normalize("NFD", letter)[0].lower()
    name = unicodedata.name(base, base)
    return name.split(" WITH ")[0].replace(" CAPITAL", "").replace(" SMALL", "")


def _test_letters(held_out: Sequence[str], seed: int) -> tuple[int, ...]:
    bases = [base_letter(c) for c in held_out]
    shuffled = np.random.default_rng([seed, 1]).permutation(sorted(set(bases))).tolist()
    chosen: list[int] = []
    for base in shuffled:
        if len(chosen) < len(held_out) // 2:
            chosen += [label for label, other in enumerate(bases) if other == base]
    return tuple(sorted(chosen))


def _is_held_out(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(HELD_OUT)


def _letters(face: str) -> set[str]:
    """Letters in the face's character map: what is not in it would be drawn as a box. Modifier
    letters (accents, ticks) are left out."""
    with TTFont(_path(face), lazy=True) as font:
        return {
            chr(code)
            for code in font.getBestCmap()
            if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt", "Lo")
        }


def _has_ink(letter: str) -> bool:
    return all(_ink(letter, face, 64).getbbox() is not None for face in COMPARED)


def _shape(letter: str, face: str) -> np.ndarray:  # (1024,) float32, unit length
    """Clean drawing, its ink fitted into 32 x 32 pixels with the aspect kept."""
    ink = _ink(letter, face, 64)
    scale = 32 / max(ink.size)
    fitted = ink.resize(
        (max(1, round(ink.width * scale)), max(1, round(ink.height * scale))),
        Image.Resampling.BICUBIC,
    )
    canvas = Image.new("L", (32, 32))
    canvas.paste(fitted, ((32 - fitted.width) // 2, (32 - fitted.height) // 2))
    flat = np.asarray(canvas, np.float32).ravel()
    return flat / max(float(np.linalg.norm(flat)), 1e-6)


def _ink(letter: str, face: str, em: int) -> Image.Image:
    """Grayscale drawing at `em` pixels, cropped to its ink."""
    font = _font(face, em)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(letter))
    image = Image.new("L", (max(1, right - left) + 2, max(1, bottom - top) + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), letter, fill=255, font=font)
    return image.crop(image.getbbox() or (0, 0, 1, 1))


@cache
def _font(face: str, em: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(face), em, layout_engine=ImageFont.Layout.BASIC)


def _path(face: str) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
