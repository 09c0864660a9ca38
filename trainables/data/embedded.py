"""Sets that ship inside installed packages, so that nothing is downloaded: `glyphs` (matplotlib's
fonts) and `digits` (scikit-learn); `earth` has a module of its own."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data import earth, glyphs
from trainables.data.carving import SplitRules, carver_of
from trainables.data.glyphs import GlyphPlan
from trainables.data.images import Picture, sha256, square
from trainables.data.source import Source
from trainables.data.splits import CARVED_CLASSES, DataSet, Split
from trainables.data.store import Store, digest, existing_extra, open_store

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
"""Name of an embedded set -> what it holds."""

GLYPHS_CARVED = 0.125
"""Fraction of each pre-training letter's drawings for val, and again for test, where letters are
classes."""
DIGITS_CARVED = 0.2
"""Fraction of each class for val, and again for test."""


def fingerprint(name: str, seed: int) -> str:
    """Hash of everything that decides the images of an embedded set."""
    if name == "earth":
        return earth.fingerprint()
    if name == "glyphs":
        return glyphs.fingerprint(seed)
    return digest("digits", _digits().data.tobytes())


def counts(name: str, size: int, seed: int, cache_dir: Path | None) -> tuple[int, dict[str, int]]:
    """Number of classes (of `glyphs`: held-out letters) and of images of each kind. Nothing is
    drawn."""
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
    """Loads drawings of letters, split as `task` needs; `glyphs.py` describes letters and faces.

    "ssl": train has the pre-training letters; gallery, val and test have the held-out letters.

    "classify": the classes are the test letters. Train has their gallery faces, val two of the
    query faces and test the other two; no self-supervised search has seen a query of them.

    "pretrain": the classes are the pre-training letters; of each, val and test get `GLYPHS_CARVED`
    in faces drawn for that letter by seed, so that train still has every face, as self-supervised
    training does.

    "fewshot": train has the pre-training letters, val the held-out letters of `ssl`'s val and test
    those of its test, in all faces.
    """
    seed = rules.seed
    key = glyphs.fingerprint(seed)
    store = open_store("glyphs", key, size, lambda: glyphs.source(seed), cache_dir, progress)
    letters = _Letters(store, key, rules)
    if task == "classify":
        return letters.classify()
    if task == "pretrain":
        return letters.pretrain()
    if task == "fewshot":
        return letters.fewshot()
    return letters.ssl()


class _Letters:
    """The set `glyphs` with its splits for each task. All masks below are (N,) bool over rows."""

    def __init__(self, store: Store, key: str, rules: SplitRules):
        self.store = store
        self.key = key
        self.rules = rules
        self.plan = GlyphPlan.from_json(store.extra["plan"])
        self.letter = store.labels
        self.face = np.array(self.plan.face)

        self.held_out = self.letter < self.plan.held_out
        self.in_test = np.isin(self.letter, self.plan.test_letters)
        self.in_gallery = self._drawn_in(glyphs.GALLERY)

    def ssl(self) -> DataSet:
        queries = self.held_out & self._drawn_in(glyphs.QUERIES)
        note = (
            f"queries are classified among all {self.plan.held_out} held-out letters, "
            "whose gallery is drawn in other faces"
        )
        return self._data_set(
            self.plan.classes,
            train=self._split(~self.held_out, self.letter),
            gallery=self._split(self.held_out & self.in_gallery, self.letter),
            val=self._split(queries & ~self.in_test, self.letter),
            test=self._split(queries & self.in_test, self.letter),
            note=note,
        )

    def classify(self) -> DataSet:
        test_letters = self.plan.test_letters
        labels = np.where(self.in_test, np.searchsorted(test_letters, self.letter), -1)
        for_val = self._drawn_in(glyphs.QUERIES[:2])
        for_test = self._drawn_in(glyphs.QUERIES[2:])
        train = self._split(self.in_test & self.in_gallery, labels)
        return self._data_set(
            tuple(self.plan.classes[label] for label in test_letters),
            train=train,
            gallery=train,
            val=self._split(self.in_test & for_val, labels),
            test=self._split(self.in_test & for_test, labels),
            note="train, val and test are drawn in different faces of the test letters",
        )

    def pretrain(self) -> DataSet:
        labels = self.letter - self.plan.held_out
        rows = np.flatnonzero(~self.held_out)
        carver = carver_of(self.rules, labels, self.plan.classes, self.store.contents)
        rest, test = carver.carve(rows, GLYPHS_CARVED)
        of_rest = GLYPHS_CARVED / (1 - GLYPHS_CARVED)
        train_rows, val = carver.carve(rest, of_rest)

        images = self.store.images
        train = Split(images, labels, train_rows)
        note = (
            "val and test are drawn in faces that train lacks of that letter; "
            "letters of different alphabets can look the same"
        )
        return self._data_set(
            self.plan.classes[self.plan.held_out :],
            train=train,
            gallery=train,
            val=Split(images, labels, val),
            test=Split(images, labels, test),
            note=note,
        )

    def fewshot(self) -> DataSet:
        note = (
            "every letter is drawn in 8 to 16 faces, of which support and query are any; "
            "letters of train, val and test are others"
        )
        return self._data_set(
            self.plan.classes,
            train=self._split(~self.held_out, self.letter),
            gallery=None,
            val=self._split(self.held_out & ~self.in_test, self.letter),
            test=self._split(self.in_test, self.letter),
            note=note,
        )

    def _drawn_in(self, faces: tuple[str, ...]) -> np.ndarray:
        numbers = [glyphs.FACES.index(name) for name in faces]
        return np.isin(self.face, numbers)

    def _split(self, chosen: np.ndarray, labels: np.ndarray) -> Split:
        return Split(self.store.images, labels, np.flatnonzero(chosen))

    def _data_set(
        self,
        classes: tuple[str, ...],
        *,
        train: Split,
        gallery: Split | None,
        val: Split,
        test: Split,
        note: str,
    ) -> DataSet:
        return DataSet(
            name="glyphs",
            fingerprint=self.key,
            classes=classes,
            train=train,
            gallery=gallery,
            val=val,
            test=test,
            skipped=(),
            notes=(note,),
            contents=self.store.contents,
            clusters=self.letter,
        )


# ---------------------------------------------------------------- digits


def load_scikit_digits(
    size: int,  # S, pixels
    rules: SplitRules,
    task: str,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> DataSet:
    """Loads handwritten digits; train, val and test are carved by seed, stratified, 60/20/20, and
    the gallery is train. For "fewshot" the classes are carved instead: 6, 2 and 2."""
    key = fingerprint("digits", rules.seed)
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
        notes=(note,),
        contents=store.contents,
    )


def _digits() -> Any:
    # scikit-learn brings pandas and a second of CPU time, which no other data set needs.
    from sklearn.datasets import load_digits

    return load_digits()


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
