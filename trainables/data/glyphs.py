"""Embedded set `glyphs`: letters of matplotlib's own fonts, white on black, each drawn with a
seeded rotation, scale and shift.

Pre-training letters (Latin, Greek and others) are unlabeled images; held-out letters (Cyrillic,
Armenian, Georgian) evaluate what was learned. Held-out letters that look like a pre-training
letter, or like another held-out letter, are removed. `glyph_splits.py` decides which drawings are
for training and which for evaluation.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from trainables.data.images import Picture, sha256
from trainables.data.source import Source
from trainables.data.store import digest

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

ROTATION = 15.0
"""Largest rotation either way, in degrees."""
SCALE = (0.85, 1.15)
"""Smallest and largest size, as a factor on the face's natural size."""
SHIFT = 0.07
"""Largest shift either way, as a share of the image's side."""
HOMOGLYPH = 0.97
"""Letters count as the same shape if their clean, size-normalised drawings in one of the faces
`COMPARED` have at least this cosine similarity."""
COMPARED = ("DejaVuSans", "DejaVuSerif")
QUERY_DRAWINGS = 3
"""Number of drawings of each held-out letter in each query face."""

_EM = 0.9  # natural size of a face, as a share of the image's side
_MARGIN = 0.95  # largest drawing, as a share of the image's side
_OVERSAMPLE = 3
_SHAPE = 32  # side of the drawings that are compared, pixels
_SHAPE_EM = 64  # em size at which they are drawn, pixels
_LETTERS = ("Lu", "Ll", "Lt", "Lo")  # Unicode categories; modifier letters are left out
_RENDERING = 2  # increase when a code change alters drawings


@dataclass(frozen=True)
class GlyphPlan:
    """All drawings of the set, in the order of the store's rows."""

    classes: tuple[str, ...]
    """Held-out letters first (labels 0 to `held_out` - 1), then the pre-training letters."""
    held_out: int
    """Number of held-out letters."""
    letter: tuple[int, ...]
    """Label of each row."""
    face: tuple[int, ...]
    """Position in `FACES` of each row."""
    drawing: tuple[int, ...]
    """Number of each row among the drawings of its letter and face."""
    test_letters: tuple[int, ...]
    """Labels of the held-out letters that are in test; the others are in val."""
    homoglyphs: str
    """Held-out letters that were removed."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "GlyphPlan":
        values: dict[str, Any] = {}
        for key, value in tree.items():
            values[key] = tuple(value) if isinstance(value, list) else value
        return GlyphPlan(**values)


def fingerprint(seed: int) -> str:
    """Hash of the fonts and of every constant that affects drawings."""
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

    def pixels(row: int, size: int) -> np.ndarray:
        letter = plan.classes[plan.letter[row]]
        face = plan.face[row]
        drawing = plan.drawing[row]
        rng = np.random.default_rng([seed, ord(letter), face, drawing])
        gray = draw(letter, FACES[face], size, rng)
        return np.broadcast_to(gray, (3, size, size))

    def open_drawing(row: int) -> Picture:
        letter = plan.classes[plan.letter[row]]
        return Picture(content(letter, FACES[plan.face[row]]), partial(pixels, row))

    return Source(
        count=len(plan.letter),
        open=open_drawing,
        describe=lambda row: plan.classes[plan.letter[row]],
        labels=np.array(plan.letter, np.int64),
        has_copies=False,
        extra={"plan": plan.to_json()},
    )


def content(letter: str, face: str) -> bytes:
    """The 32 bytes that identify a drawing, from its letter and face without the jitter. So all
    drawings of one letter and face are one picture, under any seed."""
    return sha256(f"glyph {face} {letter}".encode())


# ---------------------------------------------------------------- drawing


def draw(
    letter: str,
    face: str,
    size: int,  # S, pixels
    rng: np.random.Generator,
) -> np.ndarray:  # (S, S) uint8, white on black
    """Draw one jittered letter, at three times the size, reduced by an antialiased bicubic filter.

    The ink is centred, then shifted only as far as it stays inside. Wide letters are scaled down
    rather than cut.
    """
    side = size * _OVERSAMPLE
    angle = rng.uniform(-ROTATION, ROTATION)
    scale = rng.uniform(*SCALE)
    shift_x, shift_y = rng.uniform(-SHIFT, SHIFT, 2) * side

    ink = _ink(letter, face, max(1, round(_EM * side)))
    turned = ink.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    scale = min(scale, _MARGIN * side / max(turned.size))
    width = max(1, round(turned.width * scale))
    height = max(1, round(turned.height * scale))
    scaled = turned.resize((width, height), Image.Resampling.BILINEAR)

    left = _corner(side, width, shift_x)
    top = _corner(side, height, shift_y)
    canvas = Image.new("L", (side, side))
    canvas.paste(scaled, (left, top))
    reduced = canvas.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(reduced)


def _corner(side: int, length: int, shift: float) -> int:
    """Start of a drawing of `length` pixels that is centred, shifted and kept inside."""
    wanted = round((side - length) / 2 + shift)
    return min(max(0, wanted), side - length)


def _ink(letter: str, face: str, em: int) -> Image.Image:
    """Grayscale drawing at `em` pixels, cropped to its ink."""
    font = _font(face, em)
    edges = [round(edge) for edge in font.getbbox(letter)]
    left, top, right, bottom = edges
    width = max(1, right - left) + 2  # one pixel of margin on each side
    height = max(1, bottom - top) + 2
    origin = (1 - left, 1 - top)
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text(origin, letter, fill=255, font=font)
    ink = image.getbbox() or (0, 0, 1, 1)
    return image.crop(ink)


@cache
def _font(face: str, em: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(face), em, layout_engine=ImageFont.Layout.BASIC)


def _path(face: str) -> Path:
    import matplotlib  # imported here: only this data set needs it

    data = Path(matplotlib.get_data_path())
    return data / "fonts" / "ttf" / f"{face}.ttf"


# ---------------------------------------------------------------- letters


def make_plan(seed: int) -> GlyphPlan:
    """Choose letters and faces, as a deterministic function of (fonts, seed)."""
    covered = {face: _letters(face) for face in FACES}
    in_sans_and_serif = [covered[face] for face in (*SANS, *SERIF)]
    common = sorted(set.intersection(*in_sans_and_serif))

    training: list[str] = []
    candidates: list[str] = []
    for letter in common:
        if not _is_held_out(letter):
            if _has_ink(letter):
                training.append(letter)
        elif all(letter in covered[face] for face in MONO):
            candidates.append(letter)
    held_out, removed = without_homoglyphs(candidates, training)

    classes = (*held_out, *training)
    rows: list[tuple[int, int, int]] = []  # label, face, drawing
    for label, letter in enumerate(classes):
        for face, name in enumerate(FACES):
            if letter not in covered[name]:
                continue
            is_query = label < len(held_out) and name in QUERIES
            drawings = QUERY_DRAWINGS if is_query else 1
            rows += [(label, face, drawing) for drawing in range(drawings)]

    return GlyphPlan(
        classes=classes,
        held_out=len(held_out),
        letter=tuple(label for label, _, _ in rows),
        face=tuple(face for _, face, _ in rows),
        drawing=tuple(drawing for _, _, drawing in rows),
        test_letters=_test_letters(held_out, seed),
        homoglyphs="".join(removed),
    )


def without_homoglyphs(
    letters: Sequence[str],
    known: Sequence[str],
) -> tuple[list[str], list[str]]:  # (kept, removed)
    """Remove letters that look like one of `known` or like an earlier kept letter (see
    `HOMOGLYPH`)."""
    pool = [*known, *letters]
    similar = np.zeros((len(letters), len(pool)))  # largest cosine over the faces
    for face in COMPARED:
        shapes = np.stack([_shape(letter, face) for letter in pool])  # (L, 1024), unit length
        cosines = shapes[len(known) :] @ shapes.T
        similar = np.maximum(similar, cosines)

    rivals = list(range(len(known)))  # positions in the pool
    kept: list[str] = []
    removed: list[str] = []
    for number, letter in enumerate(letters):
        closest = similar[number, rivals].max(initial=0.0)
        if closest >= HOMOGLYPH:
            removed.append(letter)
        else:
            kept.append(letter)
            rivals.append(len(known) + number)
    return kept, removed


def base_letter(letter: str) -> str:
    """Name shared by upper and lower case and accented forms of a letter: "CYRILLIC LETTER I" for
    'Й' and 'и'."""
    base = unicodedata.normalize("NFD", letter)[0].lower()
    name = unicodedata.name(base, base)
    return name.split(" WITH ")[0].replace(" CAPITAL", "").replace(" SMALL", "")


def _test_letters(held_out: Sequence[str], seed: int) -> tuple[int, ...]:
    """Labels of about half of the held-out letters; forms of one base letter stay together."""
    bases = [base_letter(letter) for letter in held_out]
    rng = np.random.default_rng([seed, 1])
    shuffled = rng.permutation(sorted(set(bases))).tolist()
    chosen: list[int] = []
    for base in shuffled:
        if len(chosen) < len(held_out) // 2:
            chosen += [label for label, other in enumerate(bases) if other == base]
    return tuple(sorted(chosen))


def _is_held_out(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(HELD_OUT)


def _letters(face: str) -> set[str]:
    """Letters in the face's character map; others would be drawn as a box."""
    with TTFont(_path(face), lazy=True) as font:
        characters = [chr(code) for code in font.getBestCmap()]
    return {letter for letter in characters if unicodedata.category(letter) in _LETTERS}


def _has_ink(letter: str) -> bool:
    return all(_ink(letter, face, _SHAPE_EM).getbbox() is not None for face in COMPARED)


def _shape(letter: str, face: str) -> np.ndarray:  # (1024,) float32, unit length
    """Clean drawing with its ink fitted into 32 x 32 pixels, at its aspect ratio."""
    ink = _ink(letter, face, _SHAPE_EM)
    scale = _SHAPE / max(ink.size)
    width = max(1, round(ink.width * scale))
    height = max(1, round(ink.height * scale))
    fitted = ink.resize((width, height), Image.Resampling.BICUBIC)

    left = (_SHAPE - width) // 2
    top = (_SHAPE - height) // 2
    canvas = Image.new("L", (_SHAPE, _SHAPE))
    canvas.paste(fitted, (left, top))
    flat = np.asarray(canvas, np.float32).ravel()
    length = max(float(np.linalg.norm(flat)), 1e-6)
    return flat / length
