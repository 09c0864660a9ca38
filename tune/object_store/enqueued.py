"""The user's own configurations (`tune.study.enqueued`), which machines that share a study in an
object store exchange.

The file has an object, to which lines are only added, by compare-and-swap. The machine that runs
the study looks at it every few seconds. Any other machine on which the user names a configuration
adds to it.
"""

from pathlib import Path

from tune.object_store import s3
from tune.study.enqueued import ENQUEUED, as_lines, enqueue, from_lines, read_enqueued

_TRIES = 10


class EnqueuedCopy:
    """The configurations of one study, as this machine last saw them in the store."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._path = folder / ENQUEUED
        self._seen: tuple[str | None, int] | None = None
        """Etag of the object and bytes of the file when the two were equal."""

    def exchange(self) -> None:
        """Give both sides what either has; nothing is removed, and nothing is duplicated.

        Raises:
            Unreachable: the store does not answer, or others keep writing to it.
            Refused, OSError
        """
        for _ in range(_TRIES):
            etag = s3.etag(self._path)
            if self._seen == (etag, self._bytes()):
                return
            try:
                self._exchange(etag)
                return
            except s3.Taken:
                continue  # another machine has added something meanwhile
        raise s3.Unreachable(f"{s3.address(self._path)} is being written by others")

    def _exchange(self, etag: str | None) -> None:
        content = None if etag is None else s3.get(self._path)
        theirs = [] if content is None else from_lines(content.body)
        if theirs:
            enqueue(self.folder, theirs)

        bytes_here = self._bytes()
        missing = [one for one in read_enqueued(self.folder) if one not in theirs]
        if missing:
            before = b"" if content is None else content.body
            body = before + as_lines(missing)
            seen = None if content is None else content.etag
            etag = s3.put(self._path, body, replaces=seen, new=content is None)
        self._seen = (etag, bytes_here)

    def _bytes(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0


def share_enqueued(folder: Path) -> None:
    """Upload what this machine has enqueued, so that the machine that runs the study finds it; do
    nothing for an ordinary folder.

    Raises:
        UserError: the store does not answer, or cannot be written.
    """
    if s3.address(folder) is None:
        return
    with s3.needed(folder):
        EnqueuedCopy(folder).exchange()
