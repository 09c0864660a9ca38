"""The object that belongs to a path.

`--storage s3://bucket/prefix`, or `gs://bucket/prefix` for Google's store, means a folder on this
machine whose files have copies in a bucket, under the same names.

    ~/.cache/vistune/object-storage/s3/bucket/prefix/ssl/events.jsonl      is copied to
                                    s3://bucket/prefix/ssl/events.jsonl

A path alone says which object it is, in every process and on every machine.
"""

import importlib.util
import re
from pathlib import Path

from trainables.errors import UserError, first_line
from trainables.files import default_cache_dir
from tune.command_line import install_command

_PACKAGES = {"s3": ("boto3", "aws"), "gs": ("google.auth", "gcp")}
"""Scheme of an address -> the package that talks to the store, and the extra that installs it."""
_MIRRORS = "object-storage"


def local_folder(storage: str) -> Path:
    """Return the folder on this machine for a `--storage` value. For an object store, this is the
    folder whose files are copied there.

    Raises:
        UserError: the value is empty or a URL other than s3://bucket[/prefix] and
            gs://bucket[/prefix], MLflow's database cannot be in the folder, or the store's package
            is not installed.
    """
    if not storage:
        raise UserError("--storage is empty: give a folder or s3://bucket/prefix, or leave it out")

    if "://" not in storage:
        return _folder(storage)

    scheme, _, place = storage.partition("://")
    bucket, _, prefix = place.partition("/")
    parts = [part for part in prefix.split("/") if part]
    relative = {".", ".."} & {bucket, *parts}

    if scheme not in _PACKAGES or not bucket or relative:
        raise UserError(
            f"--storage {storage}: use a folder, or s3://bucket/prefix, or gs://bucket/prefix"
        )

    package, extra = _PACKAGES[scheme]
    if not _is_installed(package):
        raise UserError(
            f"--storage {storage} needs {package}: {install_command(extra)}, or use a folder"
        )

    return default_cache_dir().resolve().joinpath(_MIRRORS, scheme, bucket, *parts)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # the package that it belongs to is missing
        return False


def _folder(storage: str) -> Path:
    try:
        folder = Path(storage).expanduser().resolve()
    except (RuntimeError, OSError) as error:  # a link to itself, or an unknown ~user
        why = first_line(error).rstrip(".")
        raise UserError(f"--storage {storage}: {why}; use another folder") from None
    misread = re.search(r"\?|%[0-9A-Fa-f]{2}", str(folder))
    if misread is not None:
        raise UserError(
            f"--storage {folder}: MLflow's database cannot be in a path with {misread[0]}; "
            "use another folder"
        )
    return folder


def address(path: Path) -> str | None:
    """Return the address of a path's object, such as s3://bucket/key; None for a path in an
    ordinary folder."""
    found = _located(path)
    if found is None:
        return None

    scheme, bucket, key = found
    return f"{scheme}://{bucket}/{key}"


def scheme_of(path: Path) -> str:
    """Return `s3` or `gs` for a path that belongs to an object store."""
    return _found(path)[0]


def bucket_and_key(path: Path) -> tuple[str, str]:
    """Return bucket and key of a path that belongs to an object store."""
    return _found(path)[1:]


def _found(path: Path) -> tuple[str, str, str]:
    found = _located(path)
    assert found is not None, path
    return found


def _located(path: Path) -> tuple[str, str, str] | None:
    """Return scheme, bucket and key of a path; None for a path in an ordinary folder."""
    parts = path.parts

    for at in range(1, len(parts) - 2):
        if parts[at] == _MIRRORS and parts[at + 1] in _PACKAGES:
            return parts[at + 1], parts[at + 2], "/".join(parts[at + 3 :])

    return None
