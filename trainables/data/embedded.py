"""Sets that ship inside installed packages, so that nothing is downloaded: `glyphs` (matplotlib's
fonts), `digits` (scikit-learn)."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data import earth, glyphs
from trainables.data.glyphs import GlyphPlan
from trainables.data.images import square
from trainables.data.splits import CARVED_CLASSES, DataSet, Split, carve, carve_classes
from trainables.data.store import Source, digest, existing_extra, open_store

EMBEDDED = {
    "glyphs": "letters of matplotlib's fonts: pre-training on Latin and Greek, judged on Cyrillic, Armenian and Georgian",
    "earth": "NASA Blue Marble, 64 x 64 tiles with Köppen's climates as masks, split by geographic block",
    "digits": "scikit-learn's 1,797 handwritten digits, 8x8 pixels, enlarged",
}

GLYPHS_CARVED = 0.125
"""Fraction of each pre-training letter's drawings for val, and again for test, where letters are
classes."""
DIGITS_CARVED = 0.2
"""Fraction of each class for val, and again for test."""


def fingerprint(name: str, seed: int) -> str:
    """Of everything that decides the images of an embedded set."""
    if name == "earth":
        return earth.fingerprint()
    return (
        glyphs.fingerprint(seed) if name == "glyphs" else digest("digits", _digits().data.tobytes())
    )


def load_glyphs(
    size: int,  # S, pixels
    seed: int,
    task: str,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> DataSet:
    """See `glyphs` for letters, faces and splits.

    For "classify" the classes are the test letters alone: train on their gallery faces, select on
    two of the query faces, judge on the other two; no self-supervised search has seen any query of
    them.

    For "pretrain" they are the pre-training letters; of each, val and test get `GLYPHS_CARVED` in
    faces drawn for that letter by seed, so that train still knows every face, as self-supervised
    training does.

    For "fewshot" train has the pre-training letters, val the held-out letters of `ssl`'s val and
    test those of its test, in all faces.
    """
    key = glyphs.fingerprint(seed)
    store = open_store("glyphs", key, size, lambda: glyphs.source(seed), cache_dir, progress)
    plan = GlyphPlan.from_json(store.extra["plan"])
    letter, face = store.labels, np.array(plan.face)
    held_out, in_test = letter < plan.held_out, np.isin(letter, plan.test_letters)
    gallery, selecting, judging = (
        _faces(face, glyphs.GALLERY),
        _faces(face, glyphs.QUERIES[:2]),
        _faces(face, glyphs.QUERIES[2:]),
    )

    def split(rows: np.ndarray, labels: np.ndarray) -> Split:
        return Split(store.images, labels, np.flatnonzero(rows))

    if task == "classify":
        classes = tuple(plan.classes[label] for label in plan.test_letters)
        labels = np.where(in_test, np.searchsorted(plan.test_letters, letter), -1)
        train, val, test = (
            split(in_test & family, labels) for family in (gallery, selecting, judging)
        )
        notes = ("train, val and test are drawn in different faces of the test letters",)
        return DataSet("glyphs", key, classes, train, train, val, test, (), notes)
    if task == "pretrain":
        labels, rows = letter - plan.held_out, np.flatnonzero(~held_out)
        rest, test_rows = carve(rows, labels, np.arange(len(letter)), GLYPHS_CARVED, seed)
        train_rows, val_rows = carve(
            rest, labels, np.arange(len(letter)), GLYPHS_CARVED / (1 - GLYPHS_CARVED), seed
        )
        train, val, test = (
            Split(store.images, labels, chosen) for chosen in (train_rows, val_rows, test_rows)
        )
        note = "val and test are drawn in faces that train lacks of that letter; letters of different alphabets can look the same"
        return DataSet(
            "glyphs", key, plan.classes[plan.held_out :], train, train, val, test, (), (note,)
        )
    if task == "fewshot":
        train, val, test = (
            split(rows, letter) for rows in (~held_out, held_out & ~in_test, in_test)
        )
        note = "every letter is drawn in 8 to 16 faces, of which support and query are any; letters of train, val and test are others"
        return DataSet("glyphs", key, plan.classes, train, None, val, test, (), (note,))
    return DataSet(
        name="glyphs",
        fingerprint=key,
        classes=plan.classes,
        train=split(~held_out, letter),
        gallery=split(held_out & gallery, letter),
        val=split(held_out & ~in_test & (selecting | judging), letter),
        test=split(held_out & in_test & (selecting | judging), letter),
        skipped=(),
        notes=(
            f"queries are classified among all {plan.held_out} held-out letters, whose gallery is drawn in other faces",
        ),
    )


def load_scikit_digits(
    size: int, seed: int, task: str, cache_dir: Path | None = None, progress: bool = False
) -> DataSet:
    """Train, val and test are carved by seed, stratified, 60/20/20; the gallery is train. For
    "fewshot" classes are: 6, 2 and 2."""
    key = fingerprint("digits", seed)
    store = open_store("digits", key, size, _digits_source, cache_dir, progress)
    classes = tuple(str(digit) for digit in range(10))
    if task == "fewshot":
        rest, test = carve_classes(np.arange(len(store.labels)), store.labels, CARVED_CLASSES, seed)
        train, val = carve_classes(rest, store.labels, CARVED_CLASSES / (1 - CARVED_CLASSES), seed)
        train_, val_, test_ = (
            Split(store.images, store.labels, rows) for rows in (train, val, test)
        )
        return DataSet(
            "digits",
            key,
            classes,
            train_,
            None,
            val_,
            test_,
            (),
            ("2 digits each are chosen by seed for val and test",),
        )
    rest, test = carve(
        np.arange(len(store.labels)), store.labels, store.groups, DIGITS_CARVED, seed
    )
    train, val = carve(rest, store.labels, store.groups, DIGITS_CARVED / (1 - DIGITS_CARVED), seed)
    train_, val_, test_ = (Split(store.images, store.labels, rows) for rows in (train, val, test))
    return DataSet(
        "digits",
        key,
        classes,
        train_,
        train_,
        val_,
        test_,
        (),
        ("val and test are carved by seed, 20 % each",),
    )


def counts(name: str, size: int, seed: int, cache_dir: Path | None) -> tuple[int, dict[str, int]]:
    """Number of classes (of `glyphs`: held-out letters) and images of each kind, without drawing
    any."""
    if name == "digits":
        return 10, {"images": len(_digits().target)}
    if name == "earth":
        return len(earth.CLASSES), {
            "tiles": earth.tile_count(existing_extra("earth", earth.fingerprint(), size, cache_dir))
        }
    kept = existing_extra("glyphs", glyphs.fingerprint(seed), size, cache_dir)
    plan = GlyphPlan.from_json(kept["plan"]) if kept else glyphs.make_plan(seed)
    held_out = sum(label < plan.held_out for label in plan.letter)
    return plan.held_out, {"train": len(plan.letter) - held_out, "gallery and queries": held_out}


def _faces(face: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.isin(face, [glyphs.FACES.index(name) for name in names])


def _digits() -> Any:
    # scikit-learn brings pandas and a second of CPU time, which no other data set needs.
    from sklearn.datasets import load_digits

    return load_digits()


def _digits_source() -> Source:
    digits = _digits()
    # (1797, 8, 8); 0..16 in the package
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)

    def read(row: int, size: int) -> np.ndarray:
        return square(Image.fromarray(pixels[row]), size)

    return Source(len(pixels), read, lambda row: f"digit {row}", digits.target.astype(np.int64))
