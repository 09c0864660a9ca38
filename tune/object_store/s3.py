"""Object storage: `--storage s3://bucket/prefix` is a folder of this machine whose files have
copies in a bucket, under the same names.

    ~/.cache/vistune/object-storage/s3/bucket/prefix/ssl/events.jsonl      is copied to
                                    s3://bucket/prefix/ssl/events.jsonl

So a path says which object it is, in every process and on every machine, and nobody has to be told
more than a path. For a path in an ordinary folder `copy`, `present` and `present_in` have nothing
to do. Credentials, region and endpoint are boto3's own (`AWS_...`, profiles, roles).
"""

import contextlib
import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO

from trainables.errors import UserError
from trainables.files import LAST, default_cache_dir
from tune.study.manifest import PATH_KEYS

CONFIG = "config"  # metadata of a trial's objects
_SCHEME = "s3://"
_MIRRORS = ("object-storage", "s3")
_DENIED = (
    "AccessDenied",
    "403",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidBucketName",
)
_MISSING = ("NoSuchKey", "404", "NotFound")
_TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
# Nobody waits for a copy but at the start: there a server that hangs is told of after a minute.
_PATIENCE = {
    "connect_timeout": 5,
    "read_timeout": 20,
    "retries": {"max_attempts": 2, "mode": "standard"},
}


class Unreachable(Exception):
    """The store does not answer, or not now. To be tried again."""


class Refused(UserError):
    """The store answers, and does not let us: to be mended by the user."""


class Taken(Exception):
    """A conditional write came second."""


@dataclass(frozen=True)
class Entry:
    """One object. `etag` changes with its content."""

    etag: str
    bytes: int


@dataclass(frozen=True)
class Content:
    """An object that was read."""

    body: bytes
    etag: str
    meta: Mapping[str, str]
    age_s: float
    """Seconds since it was written, by the store's own clock."""


def meta_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Metadata of the objects of a trial with this flat config; where it finds its data and
    backbone is no part of it."""
    text = json.dumps(
        {key: value for key, value in config.items() if key not in PATH_KEYS}, sort_keys=True
    )
    return {CONFIG: hashlib.sha256(text.encode()).hexdigest()[:32]}


def local_folder(storage: str) -> Path:
    """The folder of this machine for a --storage; of an object store the one whose files are copied
    there.

    Raises:
        UserError: nothing, a URL that is not s3://bucket[/prefix], or boto3 is missing.
    """
    if not storage:
        raise UserError("--storage is empty: give a folder or s3://bucket/prefix, or leave it out")
    if "://" not in storage:
        return Path(storage).expanduser().resolve()
    bucket, _, prefix = storage.removeprefix(_SCHEME).partition("/")
    parts = [part for part in prefix.split("/") if part]
    if not storage.startswith(_SCHEME) or not bucket or {".", ".."} & {bucket, *parts}:
        raise UserError(f"--storage {storage}: use a folder, or s3://bucket/prefix")
    try:
        import boto3  # noqa: F401
    except ImportError:
        raise UserError(
            f"--storage {storage} needs boto3: pip install -e '.[aws]', or use a folder"
        ) from None
    return default_cache_dir().resolve().joinpath(*_MIRRORS, bucket, *parts)


def address(path: Path) -> str | None:
    """s3://bucket/key of a path; None in an ordinary folder."""
    found = _located(path)
    return None if found is None else f"{_SCHEME}{found[0]}/{found[1]}"


def put(
    path: Path,
    body: bytes | BinaryIO,
    meta: Mapping[str, str] | None = None,
    *,
    replaces: str | None = None,
    new: bool = False,
) -> str:
    """Write the object of `path`, whole or not at all; its etag.

    Args:
        replaces: only where the object has this etag.
        new: only where there is none.
    Raises:
        Taken: `replaces` or `new` does not hold.
        Unreachable, Refused
    """
    bucket, key = _required(path)
    condition = (
        {"IfMatch": replaces} if replaces is not None else {"IfNoneMatch": "*"} if new else {}
    )
    with _translated(path):
        try:
            return str(
                _client().put_object(
                    Bucket=bucket, Key=key, Body=body, Metadata=dict(meta or {}), **condition
                )["ETag"]
            )
        except Exception as error:
            if replaces is not None and _code(error) in _MISSING:
                raise Taken(f"{address(path)} is gone") from None
            raise


def get(path: Path, first: int | None = None) -> Content | None:
    """The object of `path`, or its first bytes; None where there is none.

    Raises:
        Unreachable, Refused
    """
    if first == 0:  # no range says that
        return Content(b"", "", {}, 0.0)
    bucket, key = _required(path)
    part = {} if first is None else {"Range": f"bytes=0-{first - 1}"}
    with _translated(path):
        try:
            answer = _client().get_object(Bucket=bucket, Key=key, **part)
        except Exception as error:
            if _code(error) in _MISSING:
                return None
            raise
        body = answer["Body"].read()
    return Content(body, answer["ETag"], answer["Metadata"], _age(answer))


def download(
    path: Path, accept: Callable[[Mapping[str, str]], bool] = lambda meta: True
) -> str | None:
    """Bring the object of `path` to `path`, whole or not at all; its etag. None: there is none, or
    `accept` refuses its metadata.

    Raises:
        Unreachable, Refused, OSError
    """
    bucket, key = _required(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.arriving")
    with _translated(path):
        try:
            answer = _client().get_object(Bucket=bucket, Key=key)
        except Exception as error:
            if _code(error) in _MISSING:
                return None
            raise
        if not accept(answer["Metadata"]):
            answer["Body"].close()
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                for chunk in answer["Body"].iter_chunks(1 << 20):
                    file.write(chunk)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return str(answer["ETag"])


def etag(path: Path) -> str | None:
    """Of the object of `path`; None where there is none.

    Raises:
        Unreachable, Refused
    """
    bucket, key = _required(path)
    with _translated(path):
        try:
            return str(_client().head_object(Bucket=bucket, Key=key)["ETag"])
        except Exception as error:
            if _code(error) in _MISSING:
                return None
            raise


def delete(path: Path) -> None:
    """Remove the object of `path`, if there is one.

    Raises:
        Unreachable, Refused
    """
    bucket, key = _required(path)
    with _translated(path):
        _client().delete_object(Bucket=bucket, Key=key)


def below(folder: Path) -> dict[Path, Entry]:
    """Everything in the store whose path is below `folder`.

    Raises:
        Unreachable, Refused
    """
    return {path: entry for path, entry in _listed(folder, "") if entry is not None}


def within(folder: Path) -> tuple[list[Path], dict[Path, Entry]]:
    """What the store has directly in `folder`: its folders, and its files.

    Raises:
        Unreachable, Refused
    """
    found = list(_listed(folder, "/"))
    return [path for path, entry in found if entry is None], {
        path: entry for path, entry in found if entry is not None
    }


def copy(path: Path) -> Path:
    """Copy a file, or all of a folder, to the object store that it belongs to, if it belongs to
    one; `path`.

    Raises:
        UserError: the store does not take it.
    """
    if address(path) is not None:
        with needed(path):
            for file in (
                [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
            ):
                with file.open("rb") as content:
                    put(file, content)
    return path


def present(path: Path) -> Path:
    """`path`, brought from the object store where it belongs to one and this machine lacks it. It
    may still be missing.

    Raises:
        UserError: the store does not give it.
    """
    if address(path) is not None and not path.exists():
        with needed(path):
            download(path)
    return path


def present_in(folder: Path) -> Path:
    """`folder` with the files that the object store has directly in it, where it belongs to one;
    but no checkpoint.

    Raises:
        UserError: the store does not give them.
    """
    if address(folder) is not None:
        with needed(folder):
            for path in within(folder)[1]:
                if path.name != LAST and not path.exists():
                    download(path)
    return folder


@contextlib.contextmanager
def needed(path: Path) -> Iterator[None]:
    """Around what cannot go on without the store: that it does not answer is then for the user to
    mend."""
    try:
        yield
    except Unreachable as error:
        raise Refused(
            f"{address(path)} cannot be reached ({error}); mend that and run the same command again"
        ) from None


# -- paths and keys


def _located(path: Path) -> tuple[str, str] | None:
    parts = path.parts
    for at in range(1, len(parts) - 2):
        if parts[at : at + 2] == _MIRRORS:
            return parts[at + 2], "/".join(parts[at + 3 :])
    return None


def _required(path: Path) -> tuple[str, str]:
    found = _located(path)
    assert found is not None, path
    return found


def _listed(folder: Path, delimiter: str) -> Iterator[tuple[Path, Entry | None]]:
    bucket, key = _required(folder)
    prefix = f"{key}/" if key else ""
    with _translated(folder):
        for page in (
            _client()
            .get_paginator("list_objects_v2")
            .paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter)
        ):
            for found in page.get("CommonPrefixes", []):
                yield folder / found["Prefix"][len(prefix) : -1], None
            for found in page.get("Contents", []):
                yield folder / found["Key"][len(prefix) :], Entry(found["ETag"], found["Size"])


# -- boto3


@functools.cache
def _client() -> Any:
    """One of this process; its threads may share it. What it finds in the environment at first is
    what it keeps."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client("s3", config=Config(**_PATIENCE, max_pool_connections=10))


def _age(answer: Mapping[str, Any]) -> float:
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    written: datetime = answer["LastModified"]
    return (now - written).total_seconds()


def _code(error: BaseException) -> str:
    """What the store says; "" where it says nothing."""
    return str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """boto3's many errors into ours."""
    from botocore import exceptions

    url, bucket = address(path), _required(path)[0]
    try:
        yield
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
    ) as error:
        raise Refused(
            f"{url}: {_line(error)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role"
        ) from None
    except (
        exceptions.ParamValidationError,
        exceptions.NoRegionError,
        exceptions.ProfileNotFound,
        ValueError,
    ) as error:
        raise Refused(f"{url}: {_line(error)}; check --storage and the AWS_... settings") from None
    except exceptions.ClientError as error:
        code = _code(error)
        if code in _TAKEN:
            raise Taken(f"{url}: {code}") from None
        if code == "NoSuchBucket":
            raise Refused(
                f"there is no bucket {bucket!r}: create it (aws s3 mb s3://{bucket}), or correct --storage"
            ) from None
        if code in _DENIED:
            raise Refused(
                f"{url} is refused ({code}): the credentials must allow reading, writing and listing there"
            ) from None
        raise Unreachable(_line(error)) from None
    except (exceptions.BotoCoreError, exceptions.HTTPClientError) as error:
        raise Unreachable(_line(error)) from None


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
