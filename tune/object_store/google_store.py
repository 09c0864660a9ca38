"""Google's object store (`gs://`), with the methods of boto3's S3 client that `s3.py` calls.

Its XML interface is S3's with three differences: a condition of a write names an object's
generation instead of its etag, metadata have prefixes of their own, and requests carry a token of
Google's. ETag here means the generation, which changes with every write.

https://cloud.google.com/storage/docs/xml-api/reference-headers
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO
from urllib.parse import quote
from xml.etree import ElementTree

_HOST = "https://storage.googleapis.com"
_EMULATOR = "STORAGE_EMULATOR_HOST"
"""Google's own variable: address of a server that stands in for the store, without credentials."""
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_TIMEOUT_S = (5, 20)
"""Timeouts for connecting, and between two parts of an answer."""
_META = "x-goog-meta-"
_GENERATION = "x-goog-generation"
_IF_GENERATION = "x-goog-if-generation-match"
_CODES = {403: "403", 404: "NoSuchKey", 409: "409", 412: "412"}
"""Status of an answer without a body, such as one to HEAD -> its error code."""


class GoogleError(Exception):
    """An answer other than success, in the form of boto3's errors."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.response = {"Error": {"Code": code, "Message": message}}


class Unanswered(Exception):
    """The store gave no answer."""


class NoCredentials(Exception):
    """There are no credentials, or they cannot be refreshed."""


class GoogleStore:
    """A client that the threads of a process share.

    Args:
        host: address of the store.
        session: `requests.Session` that sends what credentials need.
    """

    def __init__(self, host: str, session: Any):
        self._host = host.rstrip("/")
        self._session = session

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes | BinaryIO,
        Metadata: Mapping[str, str],
        IfMatch: str | None = None,
        IfNoneMatch: str | None = None,
    ) -> dict[str, Any]:
        """Write an object, whole or not at all."""
        headers = {f"{_META}{name}": value for name, value in Metadata.items()}
        if IfMatch is not None:
            headers[_IF_GENERATION] = IfMatch
        elif IfNoneMatch is not None:
            headers[_IF_GENERATION] = "0"
        answer = self._ask("PUT", Bucket, Key, data=Body, headers=headers)
        return {"ETag": answer.headers[_GENERATION]}

    def get_object(self, *, Bucket: str, Key: str, Range: str | None = None) -> dict[str, Any]:
        """Begin to read an object."""
        # The content is wanted as it is stored: the store would decompress some objects.
        headers = {"Accept-Encoding": "gzip"}
        if Range is not None:
            headers["Range"] = Range
        answer = self._ask("GET", Bucket, Key, headers=headers, stream=True)
        return {**_described(answer.headers), "Body": _Body(answer)}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        """Look at an object."""
        return _described(self._ask("HEAD", Bucket, Key).headers)

    def delete_object(self, *, Bucket: str, Key: str) -> None:
        """Remove an object, if it is there."""
        try:
            self._ask("DELETE", Bucket, Key)
        except GoogleError as error:
            if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
                raise

    def copy_object(self, *, Bucket: str, Key: str, CopySource: Mapping[str, str]) -> None:
        """Copy an object within the store."""
        source = f"/{CopySource['Bucket']}/{quote(CopySource['Key'])}"
        self._ask("PUT", Bucket, Key, headers={"x-goog-copy-source": source})

    def get_paginator(self, operation: str) -> "GoogleStore":
        """Return the listing of objects, which is the only operation in pages."""
        assert operation == "list_objects_v2", operation
        return self

    def paginate(
        self,
        *,
        Bucket: str,
        Prefix: str,
        Delimiter: str = "",
    ) -> Iterator[dict[str, Any]]:
        """List objects, page by page."""
        token = ""
        while True:
            asked = {"list-type": "2", "prefix": Prefix, "delimiter": Delimiter}
            asked["continuation-token"] = token
            given = {name: value for name, value in asked.items() if value}
            page = _page(self._ask("GET", Bucket, "", params=given).content)
            token = page.pop("NextContinuationToken")
            yield page
            if not token:
                return

    def _ask(self, method: str, bucket: str, key: str, **more: Any) -> Any:
        """Send a request, and return the answer.

        Raises:
            GoogleError, Unanswered, NoCredentials
        """
        from google.auth.exceptions import GoogleAuthError
        from requests import RequestException

        url = f"{self._host}/{bucket}/{quote(key)}" if key else f"{self._host}/{bucket}"
        try:
            answer = self._session.request(method, url, timeout=_TIMEOUT_S, **more)
        except GoogleAuthError as error:
            raise NoCredentials(str(error)) from None
        except RequestException as error:
            raise Unanswered(str(error)) from None
        if answer.ok:
            return answer

        with contextlib.closing(answer):
            raise _error_of(answer.status_code, answer.content)


class _Body:
    """The content of an object that is still to be read."""

    def __init__(self, answer: Any):
        self._answer = answer

    def read(self) -> bytes:
        with _broken_off():
            return bytes(self._answer.content)

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        with _broken_off():
            yield from self._answer.iter_content(size)

    def close(self) -> None:
        self._answer.close()


@contextlib.contextmanager
def _broken_off() -> Iterator[None]:
    from requests import RequestException

    try:
        yield
    except RequestException as error:
        raise Unanswered(str(error)) from None


@functools.cache
def connect() -> GoogleStore:
    """Return this process's client, with the credentials that Google's tools use too.

    Raises:
        NoCredentials
    """
    import requests
    from google import auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession

    emulator = os.environ.get(_EMULATOR)
    if emulator:
        address = emulator if "://" in emulator else f"http://{emulator}"
        return GoogleStore(address, requests.Session())
    try:
        credentials, _ = auth.default(scopes=[_SCOPE])
    except GoogleAuthError as error:
        raise NoCredentials(str(error)) from None
    return GoogleStore(_HOST, AuthorizedSession(credentials))  # type: ignore[no-untyped-call]


def _described(headers: Mapping[str, str]) -> dict[str, Any]:
    """Read the headers of an answer about an object."""
    written: datetime = parsedate_to_datetime(headers["Last-Modified"])
    meta = {
        name.lower().removeprefix(_META): value
        for name, value in headers.items()
        if name.lower().startswith(_META)
    }
    return {
        "ETag": headers[_GENERATION],
        "Metadata": meta,
        "LastModified": written,
        "ResponseMetadata": {"HTTPHeaders": {"date": headers["Date"]}},
    }


def _page(content: bytes) -> dict[str, Any]:
    """Parse a page of a listing."""
    found = ElementTree.fromstring(content)
    for element in found.iter():
        element.tag = element.tag.rpartition("}")[2]  # without its namespace

    prefixes = [{"Prefix": one.findtext("Prefix", "")} for one in found.findall("CommonPrefixes")]
    objects = [
        {
            "Key": one.findtext("Key", ""),
            "ETag": one.findtext("Generation", ""),
            "Size": int(one.findtext("Size", "0")),
        }
        for one in found.findall("Contents")
    ]
    token = found.findtext("NextContinuationToken", "")
    return {"CommonPrefixes": prefixes, "Contents": objects, "NextContinuationToken": token}


def _error_of(status: int, content: bytes) -> GoogleError:
    code = _CODES.get(status, str(status))
    message = f"status {status}"
    with contextlib.suppress(ElementTree.ParseError):
        said = ElementTree.fromstring(content)
        code = said.findtext("Code", code)
        message = said.findtext("Message", message)
    return GoogleError(code, message)
