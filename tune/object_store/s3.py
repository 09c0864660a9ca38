"""Files of an object store: read, written and listed by the path of their copy on this machine
(`paths.py`).

For a path in an ordinary folder `copy`, `present` and `present_in` do nothing.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO

from trainables.files import LAST, atomic_file, is_partial
from tune.object_store import client
from tune.object_store.client import MISSING, Refused, Taken, Unreachable, error_code, translated
from tune.object_store.paths import address, bucket_and_key, local_folder

__all__ = [
    "Content",
    "ObjectInfo",
    "Refused",
    "Taken",
    "Unreachable",
    "address",
    "below",
    "copy",
    "copy_object",
    "delete",
    "download",
    "etag",
    "get",
    "local_folder",
    "needed",
    "present",
    "present_in",
    "put",
    "put_file",
    "within",
]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing."""

    etag: str
    """Changes with the content."""
    bytes: int


@dataclass(frozen=True)
class Content:
    """An object that was read."""

    body: bytes
    etag: str
    meta: Mapping[str, str]
    age_s: float
    """Seconds since it was written, by the store's own clock."""


# -- one object


def put(
    path: Path,
    body: bytes | BinaryIO,
    meta: Mapping[str, str] | None = None,
    *,
    replaces: str | None = None,
    new: bool = False,
) -> str:
    """Write the object of `path`, whole or not at all, and return its etag.

    Args:
        replaces: write only if the object has this etag.
        new: write only if there is no object.
    Raises:
        Taken: `replaces` or `new` does not hold.
        Unreachable, Refused
    """
    bucket, key = bucket_and_key(path)
    condition = {}
    if replaces is not None:
        condition = {"IfMatch": replaces}
    elif new:
        condition = {"IfNoneMatch": "*"}

    with translated(path):
        try:
            answer = client.connect_to(path).put_object(
                Bucket=bucket, Key=key, Body=body, Metadata=dict(meta or {}), **condition
            )
        except Exception as error:
            if replaces is not None and error_code(error) in MISSING:
                raise Taken(f"{address(path)} is gone") from None
            raise

    return str(answer["ETag"])


def put_file(path: Path, meta: Mapping[str, str] | None = None) -> str:
    """Write the file `path` to its object, and return the etag.

    Raises:
        Unreachable, Refused, OSError
    """
    with path.open("rb") as file:
        return put(path, file, meta)


def get(path: Path, first: int | None = None) -> Content | None:
    """Read the object of `path`, or its first bytes; None if there is no object.

    Raises:
        Unreachable, Refused
    """
    if first == 0:  # HTTP has no range for that
        return Content(b"", "", {}, 0.0)

    part = {} if first is None else {"Range": f"bytes=0-{first - 1}"}

    with translated(path):
        answer = _get_object(path, **part)
        if answer is None:
            return None
        body = answer["Body"].read()

    return Content(body, answer["ETag"], answer["Metadata"], _age(answer))


def download(
    path: Path, accept: Callable[[Mapping[str, str]], bool] = lambda meta: True
) -> str | None:
    """Fetch the object of `path` to `path`, whole or not at all, and return its etag.

    Returns None if there is no object, or `accept` refuses its metadata.

    Raises:
        Unreachable, Refused, OSError
    """
    with translated(path):
        answer = _get_object(path)
        if answer is None:
            return None

        if not accept(answer["Metadata"]):
            answer["Body"].close()
            return None

        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                file.write(chunk)

    return str(answer["ETag"])


def copy_object(source: Path, target: Path) -> None:
    """Copy the object of one path to that of another within the store, including metadata; do
    nothing if there is none.

    Raises:
        Unreachable, Refused
    """
    bucket, key = bucket_and_key(target)
    from_bucket, from_key = bucket_and_key(source)

    with translated(target):
        try:
            client.connect_to(target).copy_object(
                Bucket=bucket, Key=key, CopySource={"Bucket": from_bucket, "Key": from_key}
            )
        except Exception as error:
            if error_code(error) not in MISSING:
                raise


def etag(path: Path) -> str | None:
    """Return the etag of the object of `path`; None if there is no object.

    Raises:
        Unreachable, Refused
    """
    bucket, key = bucket_and_key(path)

    with translated(path):
        try:
            return str(client.connect_to(path).head_object(Bucket=bucket, Key=key)["ETag"])
        except Exception as error:
            if error_code(error) in MISSING:
                return None
            raise


def delete(path: Path) -> None:
    """Remove the object of `path`, if there is one.

    Raises:
        Unreachable, Refused
    """
    bucket, key = bucket_and_key(path)

    with translated(path):
        client.connect_to(path).delete_object(Bucket=bucket, Key=key)


def _get_object(path: Path, **part: str) -> Any:
    """Return boto3's answer, whose body is still to be read; None if there is no object."""
    bucket, key = bucket_and_key(path)
    try:
        return client.connect_to(path).get_object(Bucket=bucket, Key=key, **part)
    except Exception as error:
        if error_code(error) in MISSING:
            return None
        raise


def _age(answer: Mapping[str, Any]) -> float:
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    written: datetime = answer["LastModified"]
    return (now - written).total_seconds()


# -- listings


def below(folder: Path) -> dict[Path, ObjectInfo]:
    """List every object whose path is below `folder`, at any depth.

    Raises:
        Unreachable, Refused
    """
    return {path: entry for path, entry in _listed(folder, "") if entry is not None}


def within(folder: Path) -> tuple[list[Path], dict[Path, ObjectInfo]]:
    """List the folders and the files that the store has directly in `folder`.

    Raises:
        Unreachable, Refused
    """
    folders: list[Path] = []
    files: dict[Path, ObjectInfo] = {}

    for path, entry in _listed(folder, "/"):
        if entry is None:
            folders.append(path)
        else:
            files[path] = entry

    return folders, files


def _listed(folder: Path, delimiter: str) -> Iterator[tuple[Path, ObjectInfo | None]]:
    bucket, key = bucket_and_key(folder)
    prefix = f"{key}/" if key else ""

    with translated(folder):
        paginator = client.connect_to(folder).get_paginator("list_objects_v2")

        for page in paginator.paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter):
            for found in page.get("CommonPrefixes", []):
                name = found["Prefix"].removeprefix(prefix).removesuffix("/")
                yield folder / name, None

            for found in page.get("Contents", []):
                name = found["Key"].removeprefix(prefix)
                yield folder / name, ObjectInfo(found["ETag"], found["Size"])


# -- for code that does not care where a folder is stored


def copy(path: Path) -> Path:
    """Upload a file, or all files of a folder, if the path belongs to an object store; return the
    path.

    Raises:
        UserError: the store refuses it, or cannot be reached.
    """
    if address(path) is None:
        return path

    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    with needed(path):
        for file in files:
            if not is_partial(file.name):
                put_file(file)

    return path


def present(path: Path) -> Path:
    """Download a file that this machine lacks, if the path belongs to an object store; return the
    path. The file may still be missing.

    Raises:
        UserError: the store refuses it, or cannot be reached.
    """
    if address(path) is not None and not path.exists():
        with needed(path):
            download(path)

    return path


def present_in(folder: Path) -> Path:
    """Download the files of a folder that this machine lacks, except checkpoints and sub-folders,
    if the folder belongs to an object store; return the folder.

    Raises:
        UserError: the store refuses them, or cannot be reached.
    """
    if address(folder) is None:
        return folder

    with needed(folder):
        _, files = within(folder)
        for path in files:
            if path.name != LAST and not path.exists():
                download(path)

    return folder


@contextlib.contextmanager
def needed(path: Path) -> Iterator[None]:
    """Turn Unreachable into Refused, for a block that cannot continue without the store."""
    try:
        yield
    except Unreachable as error:
        raise Refused(
            f"{address(path)} cannot be reached ({error}); fix that and run the same command again"
        ) from None
