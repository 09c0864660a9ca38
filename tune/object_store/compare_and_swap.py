"""Compare-and-swap on one object: a write succeeds only if the object is still as its writer last
saw it."""

import uuid
from collections.abc import Mapping
from pathlib import Path

from tune.object_store import s3

_WRITER = "writer"  # metadata


class CompareAndSwap:
    """One writer's view of an object, written with If-Match and If-None-Match.

    A machine that was taken for dead cannot overwrite what its successor has written, however late
    its upload arrives. Contents must differ from one write to the next, because the store
    distinguishes them by their etags.

    Args:
        path: the object's path on this machine.
        seen: etag of the content to replace; None: there is no object.

    Attributes:
        etag: etag of the content that the next write replaces.
    """

    def __init__(self, path: Path, seen: str | None):
        self.path = path
        self.etag = seen
        self._id = uuid.uuid4().hex

    def put(self, body: bytes, meta: Mapping[str, str] | None = None) -> str:
        """Write the next content and return its etag.

        Raises:
            Taken: another writer has written since.
            Unreachable, Refused: it may or may not have arrived; try again.
        """
        meta = {**(meta or {}), _WRITER: self._id}

        try:
            return self._put(body, meta)
        except s3.Taken:
            current = s3.get(self.path, 1)

            if current is not None and current.etag == self.etag:
                raise s3.Unreachable(f"{s3.address(self.path)} is being written") from None

            if current is None or current.meta.get(_WRITER) != self._id:
                raise

            # An earlier write of ours arrived, but the answer to it was lost.
            self.etag = current.etag
            return self._put(body, meta)

    def _put(self, body: bytes, meta: Mapping[str, str]) -> str:
        self.etag = s3.put(self.path, body, meta, replaces=self.etag, new=self.etag is None)
        return self.etag
