"""Find the image that a line of a label file names."""

import unicodedata
from collections.abc import Iterable, Sequence

from trainables.data.formats import EXTENSIONS
from trainables.data.split_names import part_of
from trainables.errors import UserError


class FileFinder:
    """Finds images by the names in label files: relative to a folder of images, absolute paths of
    another machine, or names without extension.

    Args:
        files: all images, relative to the root.
    """

    def __init__(self, files: Iterable[str]):
        self.known = set(files)
        self._composed: dict[str, str] | None = None
        self._without_ending: dict[str, list[str]] | None = None

    def find(
        self, filename: str, folders: Sequence[str], leading: Sequence[str] = ()
    ) -> str | None:
        """Find the path of an image relative to the root, or None.

        Args:
            folders: folders in which to search, in this order; "" is the root.
            leading: folders with which all names of the label file begin (`leading_folders`); as
                many of them as needed are removed.

        Raises:
            UserError: a name without extension matches two images.
        """
        for folder in folders:
            path = f"{folder}/{filename}" if folder else filename
            if path in self.known:
                return path

        name = plain_path(filename)
        for candidate in _shortened(name, leading):
            for folder in folders:
                path = f"{folder}/{candidate}" if folder else candidate
                found = self._look_up(path)
                if found is not None:
                    return found
        return None

    def _look_up(self, path: str) -> str | None:
        if path in self.known:
            return path
        composed = unicodedata.normalize("NFC", path)
        if path.lower().endswith(EXTENSIONS):
            return None if path.isascii() else self._by_composed().get(composed)
        return self._by_stem(composed)

    def _by_composed(self) -> dict[str, str]:
        """NFC form -> path. macOS stores a letter and its accent as two characters."""
        if self._composed is None:
            pairs = ((unicodedata.normalize("NFC", path), path) for path in self.known)
            self._composed = dict(pairs)
        return self._composed

    def _by_stem(self, path: str) -> str | None:
        if self._without_ending is None:
            self._without_ending = {}
            for file in sorted(self.known):
                stem = unicodedata.normalize("NFC", file.rpartition(".")[0])
                self._without_ending.setdefault(stem, []).append(file)
        found = self._without_ending.get(path, [])
        if len(found) > 1:
            raise UserError(
                f"{path!r} of a label file means {' and '.join(found)}; write the names with their "
                "endings"
            )
        return found[0] if found else None


def plain_path(filename: str) -> str:
    """A name with forward slashes, without `./` and without a leading slash or drive."""
    name = filename.replace("\\", "/")
    if name[1:2] == ":":
        name = name[2:]
    pieces = [piece for piece in name.split("/") if piece not in ("", ".")]
    return "/".join(pieces)


def leading_folders(filenames: Iterable[str], part: str) -> list[str]:
    """Folders with which all names of a label file begin, up to one that names another part."""
    common: list[str] | None = None
    for filename in filenames:
        folders = plain_path(filename).split("/")[:-1]
        if common is None:
            common = folders
            continue
        length = 0
        for name, other in zip(common, folders, strict=False):
            if name != other:
                break
            length += 1
        common = common[:length]

    allowed: list[str] = []
    for name in common or []:
        if part_of(name) not in (None, part):
            break
        allowed.append(name)
    return allowed


def _shortened(name: str, leading: Sequence[str]) -> list[str]:
    """The name, the name without one leading folder, without two, ..."""
    pieces = name.split("/")
    return ["/".join(pieces[start:]) for start in range(len(leading) + 1)]
