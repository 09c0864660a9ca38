"""An object of a store that one writer at a time extends: each content follows the one that its
writer has seen, or is not written."""

import uuid
from collections.abc import Mapping
from pathlib import Path

from tune.object_store import s3

_WRITER = "writer"  # metadata


class CompareAndSwap:
    """Of one object, for one writer, by conditional writes (If-Match, If-None-Match).

    A machine that was taken for dead cannot overwrite what its successor has written, however late
    its upload arrives. Contents must differ: the store tells them apart by their etags.

    Args:
        seen: etag of the content that the next one follows; None: there is no object.
    """

    def __init__(self, path: Path, seen: str | None):
        self.path, self.etag = path, seen
        self._id = uuid.uuid4().hex

    def put(self, body: bytes, meta: Mapping[str, str] | None = None) -> str:
        """The next content; its etag.

        Raises:
            Taken: another writer has written since.
            Unreachable, Refused: it may or may not have arrived; to be tried again.
        """
        meta = {**(meta or {}), _WRITER: self._id}
        try:
            return self._put(body, meta)
        except s3.Taken:
            there = s3.get(self.path, 1)
            if there is not None and there.etag == self.etag:
                raise s3.Unreachable(f"{s3.address(self.path)} is being written") from None
            if there is None or there.meta.get(_WRITER) != self._id:
                raise
            self.etag = there.etag  # our own write, whose answer was lost
            return self._put(body, meta)

    def _put(self, body: bytes, meta: Mapping[str, str]) -> str:
        self.etag = s3.put(self.path, body, meta, replaces=self.etag, new=self.etag is None)
        return self.etag
