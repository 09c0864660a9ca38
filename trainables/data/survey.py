"""Sizes, colour modes and value ranges of a folder's images, collected while they are decoded."""

from collections import Counter
from dataclasses import asdict

from trainables.data.images import Picture
from trainables.data_summary import FoundImages


class Survey:
    """Collects facts about the files of pictures. Thread-safe."""

    def __init__(self) -> None:
        self._seen: list[tuple[tuple[int, int], str]] = []  # appending is atomic, counting is not
        self._levels: list[tuple[float, float]] = []

    def take(self, picture: Picture) -> None:
        """Record one picture; pictures without a file are ignored."""
        if not picture.mode:
            return
        size = (picture.width, picture.height)
        self._seen.append((size, picture.mode))
        if picture.levels is not None:
            self._levels.append(picture.levels)

    def found(self) -> FoundImages | None:
        """Everything that was recorded; None if there were no files."""
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
        """`found` in a form that JSON can hold."""
        found = self.found()
        return None if found is None else asdict(found)

    def _range(self) -> tuple[float, float] | None:
        if not self._levels:
            return None
        lowest = min(low for low, _ in self._levels)
        highest = max(high for _, high in self._levels)
        return lowest, highest


def read_found(value: dict[str, object] | None) -> FoundImages | None:
    """Read what `Survey.as_json` returned; None if a store recorded nothing."""
    return None if value is None else FoundImages.from_json(value)
