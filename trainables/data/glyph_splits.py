"""Splits of the set `glyphs`, whose images are distinct pairs of letter and face.

Pre-training letters (Latin, Greek and others) train `ssl` and `pretrain`; held-out letters
(Cyrillic, Armenian, Georgian) evaluate them. `ssl` and `classify` split the held-out letters in the
same way, so no search sees a test image before its end.
"""

import numpy as np

from trainables.data.carving import SplitRules, carver_of
from trainables.data.glyphs import GlyphPlan
from trainables.data.splits import DataSet, Split
from trainables.data.store import Store, digest
from trainables.data_summary import DataSummary

HELD_OUT_TEST = 0.55
"""Fraction of each held-out letter's faces for test: over 1,500 pairs."""
HELD_OUT_VAL = 0.15
"""Fraction of each held-out letter's faces for val."""
PRETRAIN_CARVED = 0.125
"""Fraction of each pre-training letter's faces for val, and again for test, if these letters are
the classes."""

_NEW_ALPHABETS = "letters of Cyrillic, Armenian and Georgian, which no pre-training trains on"


class Letters:
    """The set `glyphs` with its splits for each task. All masks here are (N,) bool over rows."""

    def __init__(self, store: Store, key: str, rules: SplitRules):
        self.store = store
        self.key = key
        self.plan = GlyphPlan.from_json(store.extra["plan"])
        self.letter = store.labels
        self.is_first = np.array(self.plan.drawing) == 0

        self.held_out = self.letter < self.plan.held_out
        self.in_test = np.isin(self.letter, self.plan.test_letters)
        self.carver = carver_of(rules, self.letter, self.plan.classes, store.contents)

    def split_for(self, task: str) -> DataSet:
        """The data set of a task.

        "ssl": train has the pre-training letters; gallery, val and test have the held-out letters.

        "classify": the classes are the held-out letters, split as for "ssl"; train is its gallery.

        "pretrain": the classes are the pre-training letters. Val and test each get
        `PRETRAIN_CARVED` of every letter, in faces drawn for that letter by seed, so train still
        has every face, as in self-supervised training.

        "fewshot": train has the pre-training letters; val and test each have half of the held-out
        letters, in all faces.
        """
        if task == "classify":
            return self.classify()
        if task == "pretrain":
            return self.pretrain()
        if task == "fewshot":
            return self.fewshot()
        return self.ssl()

    def ssl(self) -> DataSet:
        """Train on pre-training letters, evaluate on held-out letters."""
        gallery, val, test = self._held_out_rows()
        return self._data_set(
            self.plan.classes,
            train=self._split(~self.held_out),
            gallery=Split(self.store.images, self.letter, gallery),
            val=Split(self.store.images, self.letter, val),
            test=Split(self.store.images, self.letter, test),
            note=f"judged on {self.plan.held_out} {_NEW_ALPHABETS}; a query's letter is in the "
            "gallery in other faces",
        )

    def classify(self) -> DataSet:
        """Held-out letters, each with different faces in train, val and test."""
        train_rows, val, test = self._held_out_rows()
        train = Split(self.store.images, self.letter, train_rows)
        return self._data_set(
            self.plan.classes[: self.plan.held_out],
            train=train,
            gallery=train,
            val=Split(self.store.images, self.letter, val),
            test=Split(self.store.images, self.letter, test),
            note=f"{_NEW_ALPHABETS}; each face of a letter is in one of train, val and test",
        )

    def pretrain(self) -> DataSet:
        """Pre-training letters, each with different faces in train, val and test."""
        labels = self.letter - self.plan.held_out
        rows = np.flatnonzero(~self.held_out)
        rest, test = self.carver.carve(rows, PRETRAIN_CARVED)
        train_rows, val = self.carver.carve(rest, PRETRAIN_CARVED / (1 - PRETRAIN_CARVED))

        images = self.store.images
        train = Split(images, labels, train_rows)
        return self._data_set(
            self.plan.classes[self.plan.held_out :],
            train=train,
            gallery=train,
            val=Split(images, labels, val),
            test=Split(images, labels, test),
            note="val and test are drawn in faces that train lacks of that letter; "
            "letters of different alphabets can look the same",
        )

    def fewshot(self) -> DataSet:
        """Pre-training letters in train, half of the held-out letters each in val and test."""
        note = (
            "every letter is drawn in 8 to 16 faces, of which support and query are any; "
            "letters of train, val and test are others"
        )
        return self._data_set(
            self.plan.classes,
            train=self._split(~self.held_out),
            gallery=None,
            val=self._split(self.held_out & ~self.in_test),
            test=self._split(self.in_test),
            note=note,
        )

    def _held_out_rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of train (all drawings of its pairs), val and test (one drawing per pair)."""
        pairs = np.flatnonzero(self.held_out & self.is_first)
        rest, test = self.carver.carve(pairs, HELD_OUT_TEST)
        _, val = self.carver.carve(rest, HELD_OUT_VAL / (1 - HELD_OUT_TEST))

        all_drawings = np.flatnonzero(self.held_out)
        train = self.carver.without_copies(all_drawings, np.concatenate([val, test]))
        return train, val, test

    def _split(self, chosen: np.ndarray, labels: np.ndarray | None = None) -> Split:
        labels = self.letter if labels is None else labels
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
            summary=DataSummary(notes=(note,)),
            contents=self.store.contents,
            clusters=self.letter,
            carved_from=self._pairs_of_letter_and_face(),
        )

    def _pairs_of_letter_and_face(self) -> str:
        """Hash of the pictures that the rows show, whatever the seed of their jitter."""
        faces = np.array(self.plan.face, np.int64)
        return digest("letters", "".join(self.plan.classes), faces.tobytes())
