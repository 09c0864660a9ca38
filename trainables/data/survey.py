"""Sizes, colour modes and ranges of the images of a folder, collected while they are decoded."""

from collections import Counter
from dataclasses import asdict

from trainables.data.images import Picture
from trainables.data_summary import FoundImages


class Survey:
    """Collects what pictures say about their files. Threads may share it."""

    def __init__(self) -> None:
        self._seen: list[tuple[tuple[int, int], str]] = []  # appending is atomic, counting is not
        self._levels: list[tuple[float, float]] = []

    def take(self, picture: Picture) -> None:
        """Record one picture; nothing of one without a file."""
        if not picture.mode:
            return
        size = (picture.width, picture.height)
        self._seen.append((size, picture.mode))
        if picture.levels is not None:
            self._levels.append(picture.levels)

    def found(self) -> FoundImages | None:
        """Everything that was recorded; None where there was no file."""
        if not self._seen:
            return None

        sizes = Counter(size for size, _ in self._seen)
        modes = Counter(mode for _, mode in self._seen)
        by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
        most = max(sizes.values())
        usual = [size for size in by_area if sizes[size] == most]
        return FoundImages(
            smallest=by_area[0],
            largest=by_area[-1],
            usual=usual[-1],
            sizes=len(sizes),
            modes=dict(sorted(modes.items(), key=lambda item: (-item[1], item[0]))),
            levels=self._range(),
        )

    def as_json(self) -> dict[str, object] | None:
        """`found` as JSON can hold it."""
        found = self.found()
        return None if found is None else asdict(found)

    def _range(self) -> tuple[float, float] | None:
        if not self._levels:
            return None
        lowest = min(low for low, _ in self._levels)
        highest = max(high for _, high in self._levels)
        return lowest, highest


def read_found(value: dict[str, object] | None) -> FoundImages | None:
    """Read what `Survey.as_json` returned; None where a store has nothing on record."""
    return None if value is None else FoundImages.from_json(value)
