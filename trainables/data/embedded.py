"""Data sets that ship with installed packages, so nothing is downloaded: `glyphs` (matplotlib's
fonts) and `digits` (scikit-learn). `earth` has its own module."""

import functools
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data import earth, glyphs
from trainables.data.carving import SplitRules, carver_of
from trainables.data.glyph_splits import Letters
from trainables.data.glyph_splits_v1 import LettersV1
from trainables.data.glyphs import GlyphPlan
from trainables.data.images import Picture, sha256, square
from trainables.data.source import Source
from trainables.data.splits import CARVED_CLASSES, DataSet, Split
from trainables.data.store import digest, existing_extra, open_store
from trainables.data_summary import DataSummary

EMBEDDED = {
    "glyphs": (
        "letters of matplotlib's fonts: pre-training on Latin and Greek, "
        "judged on Cyrillic, Armenian and Georgian"
    ),
    "earth": (
        "NASA Blue Marble, 64 x 64 tiles with Köppen's climates as masks, split by geographic block"
    ),
    "digits": "scikit-learn's 1,797 handwritten digits, 8x8 pixels, enlarged",
}
"""Name of an embedded set -> description."""

DIGITS_CARVED = 0.2
"""Fraction of each class for val, and again for test."""


def fingerprint(name: str, rules: SplitRules) -> str:
    """Hash of everything that determines the images of an embedded set; for letters, also of the
    split rules' version."""
    if name == "earth":
        return earth.fingerprint()
    if name == "glyphs":
        key = glyphs.fingerprint(rules.seed)
        return key if rules.version == 1 else digest(key, "pairs of letter and face")
    return digest("digits", _digits().data.tobytes())


def counts(name: str, size: int, seed: int, cache_dir: Path | None) -> tuple[int, dict[str, int]]:
    """Number of classes (for `glyphs`: held-out letters) and of images of each kind, without
    drawing any."""
    if name == "digits":
        return 10, {"images": len(_digits().target)}
    if name == "earth":
        kept = existing_extra("earth", earth.fingerprint(), size, cache_dir)
        return len(earth.CLASSES), {"tiles": earth.tile_count(kept)}

    kept = existing_extra("glyphs", glyphs.fingerprint(seed), size, cache_dir)
    plan = GlyphPlan.from_json(kept["plan"]) if kept else glyphs.make_plan(seed)
    held_out = sum(label < plan.held_out for label in plan.letter)
    training = len(plan.letter) - held_out
    return plan.held_out, {"train": training, "gallery and queries": held_out}


# ---------------------------------------------------------------- glyphs


def load_glyphs(
    size: int,  # S, pixels
    rules: SplitRules,
    task: str,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> DataSet:
    """Load drawings of letters, split as `task` needs. `glyphs.py` describes letters and faces,
    `glyph_splits.py` the splits."""
    seed = rules.seed
    key = glyphs.fingerprint(seed)
    store = open_store("glyphs", key, size, lambda: glyphs.source(seed), cache_dir, progress)
    kind = LettersV1 if rules.version == 1 else Letters
    letters = kind(store, fingerprint("glyphs", rules), rules)
    return letters.split_for(task)


# ---------------------------------------------------------------- digits


def load_scikit_digits(
    size: int,  # S, pixels
    rules: SplitRules,
    task: str,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> DataSet:
    """Load handwritten digits. Train, val and test are carved by seed, stratified, 60/20/20; the
    gallery is train. For "fewshot" the classes are carved instead: 6, 2 and 2."""
    key = fingerprint("digits", rules)
    store = open_store("digits", key, size, _digits_source, cache_dir, progress)
    labels = store.labels
    classes = tuple(str(digit) for digit in range(10))
    carver = carver_of(rules, labels, classes, store.contents)
    rows = np.arange(len(labels))
    if task == "fewshot":
        of_rest = CARVED_CLASSES / (1 - CARVED_CLASSES)
        rest, test_rows = carver.carve_classes(rows, CARVED_CLASSES)
        train_rows, val_rows = carver.carve_classes(rest, of_rest)
        val_rows = carver.without_copies(val_rows, test_rows)
        train_rows = carver.without_copies(train_rows, np.concatenate([val_rows, test_rows]))
        note = "2 digits each are chosen by seed for val and test"
    else:
        of_rest = DIGITS_CARVED / (1 - DIGITS_CARVED)
        rest, test_rows = carver.carve(rows, DIGITS_CARVED)
        train_rows, val_rows = carver.carve(rest, of_rest)
        note = "val and test are carved by seed, 20 % each"

    train = Split(store.images, labels, train_rows)
    return DataSet(
        name="digits",
        fingerprint=key,
        classes=classes,
        train=train,
        gallery=None if task == "fewshot" else train,
        val=Split(store.images, labels, val_rows),
        test=Split(store.images, labels, test_rows),
        skipped=(),
        summary=DataSummary(notes=(note,)),
        contents=store.contents,
    )


@dataclass(frozen=True)
class Digits:
    """Digits as returned by scikit-learn's `load_digits`."""

    data: np.ndarray
    """Gray levels 0 to 16, (1797, 64) float64."""
    target: np.ndarray
    """Labels 0 to 9, (1797,) int64."""

    @property
    def images(self) -> np.ndarray:
        """Gray levels 0 to 16, (1797, 8, 8) float64."""
        return self.data.reshape(-1, 8, 8)


@functools.cache
def _digits() -> Digits:
    """Read the file that scikit-learn ships. Importing the package, with pandas, would take more
    than a second of CPU time, and no trial needs it."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",")
    return Digits(np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(np.int64))


def _digits_source() -> Source:
    digits = _digits()
    levels = digits.images * (255 / 16)  # (1797, 8, 8); 0..16 in the package
    pixels = np.round(levels).astype(np.uint8)

    def open_digit(row: int) -> Picture:
        image = Image.fromarray(pixels[row])
        return Picture(sha256(pixels[row].tobytes()), partial(square, image))

    return Source(
        count=len(pixels),
        open=open_digit,
        describe=lambda row: f"digit {row}",
        labels=digits.target.astype(np.int64),
    )
