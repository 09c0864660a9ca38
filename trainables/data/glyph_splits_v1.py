"""Version 1 of the splits of `glyphs`, for studies that began with it: whole faces are gallery or
queries, and half of the held-out letters are the classes of `classify`."""

import numpy as np

from trainables.data import glyphs
from trainables.data.glyph_splits import Letters
from trainables.data.splits import DataSet


class LettersV1(Letters):
    """`Letters` with the earlier splits of the held-out letters."""

    def ssl(self) -> DataSet:
        in_gallery = self._drawn_in(glyphs.GALLERY)
        queries = self.held_out & self._drawn_in(glyphs.QUERIES)
        note = (
            f"queries are classified among all {self.plan.held_out} held-out letters, "
            "whose gallery is drawn in other faces"
        )
        return self._data_set(
            self.plan.classes,
            train=self._split(~self.held_out),
            gallery=self._split(self.held_out & in_gallery),
            val=self._split(queries & ~self.in_test),
            test=self._split(queries & self.in_test),
            note=note,
        )

    def classify(self) -> DataSet:
        test_letters = self.plan.test_letters
        labels = np.where(self.in_test, np.searchsorted(test_letters, self.letter), -1)
        for_val = self._drawn_in(glyphs.QUERIES[:2])
        for_test = self._drawn_in(glyphs.QUERIES[2:])
        train = self._split(self.in_test & self._drawn_in(glyphs.GALLERY), labels)
        return self._data_set(
            tuple(self.plan.classes[label] for label in test_letters),
            train=train,
            gallery=train,
            val=self._split(self.in_test & for_val, labels),
            test=self._split(self.in_test & for_test, labels),
            note="train, val and test are drawn in different faces of the test letters",
        )

    def _drawn_in(self, faces: tuple[str, ...]) -> np.ndarray:
        numbers = [glyphs.FACES.index(name) for name in faces]
        found: np.ndarray = np.isin(self.plan.face, numbers)
        return found
