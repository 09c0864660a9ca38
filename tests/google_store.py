"""A server that answers as Google's object store does (XML interface), as far as `google_store.py`
needs it: https://cloud.google.com/storage/docs/xml-api/reference-headers."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PAGE = 3  # keys on one page of a listing
_XML = "http://doc.s3.amazonaws.com/2006-03-01"


@dataclass
class Object:
    body: bytes
    generation: int
    meta: dict[str, str]
    written: float


class Buckets:
    """The server's content: bucket -> key -> object."""

    def __init__(self, *names: str):
        self.objects: dict[str, dict[str, Object]] = {name: {} for name in names}
        self.lock = threading.Lock()
        self.generations = 1_700_000_000_000_000
        self.refuses = ""
        """Code of an error that answers every request, or ""."""


class _Answers(BaseHTTPRequestHandler):
    buckets: Buckets
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.buckets.lock:
            bucket, key = self._place()
            if bucket is None or not self._fits(bucket.get(key)):
                return
            copied = self.headers.get("x-goog-copy-source")
            if copied:
                _, name, source = unquote(copied).split("/", 2)
                there = self.buckets.objects[name].get(source)
                if there is None:
                    self._refuse(404, "NoSuchKey")
                    return
                body = there.body
            self.buckets.generations += 1
            meta = {
                name.lower(): value
                for name, value in self.headers.items()
                if name.lower().startswith("x-goog-meta-")
            }
            bucket[key] = Object(body, self.buckets.generations, meta, time.time())
            self._answer(200, b"", {"x-goog-generation": str(self.buckets.generations)})

    def do_GET(self) -> None:
        with self.buckets.lock:
            bucket, key = self._place()
            if bucket is None:
                return
            if not key:
                self._list(bucket)
                return
            self._give(bucket.get(key), whole=True)

    def do_HEAD(self) -> None:
        with self.buckets.lock:
            bucket, key = self._place()
            if bucket is not None:
                self._give(bucket.get(key), whole=False)

    def do_DELETE(self) -> None:
        with self.buckets.lock:
            bucket, key = self._place()
            if bucket is None:
                return
            if bucket.pop(key, None) is None:
                self._refuse(404, "NoSuchKey")
            else:
                self._answer(204)

    def _place(self) -> tuple[dict[str, Object] | None, str]:
        name, _, key = unquote(urlsplit(self.path).path)[1:].partition("/")
        bucket = self.buckets.objects.get(name)
        if self.buckets.refuses:
            bucket = None
            self._refuse(403, self.buckets.refuses)
        elif bucket is None:
            self._refuse(404, "NoSuchBucket")
        return bucket, key

    def _fits(self, there: Object | None) -> bool:
        """Check the condition of a write; 0 means that there is no object."""
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is None or int(wanted) == (0 if there is None else there.generation):
            return True
        self._refuse(412, "PreconditionFailed")
        return False

    def _give(self, found: Object | None, whole: bool) -> None:
        if found is None:
            self._refuse(404, "NoSuchKey")
            return
        body, status = found.body, 200
        span = re.fullmatch(r"bytes=0-(\d+)", self.headers.get("Range", ""))
        if span:
            body, status = body[: int(span[1]) + 1], 206
        headers = {
            "x-goog-generation": str(found.generation),
            "Last-Modified": formatdate(found.written, usegmt=True),
            **found.meta,
        }
        self._answer(status, body, headers, sends=whole)

    def _list(self, bucket: dict[str, Object]) -> None:
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        assert asked["list-type"] == "2"
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        after = asked.get("continuation-token", "")
        entries: dict[str, Object | None] = {}
        for key in sorted(key for key in bucket if key.startswith(prefix)):
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                entries[prefix + head + delimiter] = None
            else:
                entries[key] = bucket[key]

        rest = [name for name in entries if name > after]
        shown = rest[:_PAGE]
        lines = [f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{_XML}">']
        for name in shown:
            one = entries[name]
            if one is None:
                lines.append(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>")
            else:
                lines.append(
                    f"<Contents><Key>{escape(name)}</Key><Generation>{one.generation}</Generation>"
                    f"<Size>{len(one.body)}</Size></Contents>"
                )
        if len(shown) < len(rest):
            lines.append(f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>")
        lines.append("</ListBucketResult>")
        self._answer(200, "".join(lines).encode())

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
        self._answer(status, body.encode(), sends=self.command != "HEAD")

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        sends: bool = True,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if sends:
            self.wfile.write(body)


@contextmanager
def serving(buckets: Buckets) -> Iterator[str]:
    """Serve these buckets, and yield the address."""
    handler = type("Answers", (_Answers,), {"buckets": buckets})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
