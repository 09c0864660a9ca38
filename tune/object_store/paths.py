"""The object that belongs to a path.

`--storage s3://bucket/prefix` is a folder of this machine whose files have copies in a bucket,
under the same names.

    ~/.cache/vistune/object-storage/s3/bucket/prefix/ssl/events.jsonl      is copied to
                                    s3://bucket/prefix/ssl/events.jsonl

A path alone says which object it is, in every process and on every machine.
"""

import re
from pathlib import Path

from trainables.errors import UserError
from trainables.files import default_cache_dir
from tune.command_line import install_command

_SCHEME = "s3://"
_MIRRORS = ("object-storage", "s3")


def local_folder(storage: str) -> Path:
    """Return the folder of this machine for a `--storage` value; for an object store, the folder
    whose files are copied there.

    Raises:
        UserError: the value is empty or a URL that is not s3://bucket[/prefix], a folder that
            MLflow's database cannot be in, or boto3 is not installed.
    """
    if not storage:
        raise UserError("--storage is empty: give a folder or s3://bucket/prefix, or leave it out")

    if "://" not in storage:
        return _folder(storage)

    if storage.startswith("gs://"):
        raise UserError(
            f"--storage {storage}: Google's store has no writes that depend on an etag, which "
            "keep a study to one driver; use a folder, or s3://bucket/prefix"
        )

    bucket, _, prefix = storage.removeprefix(_SCHEME).partition("/")
    parts = [part for part in prefix.split("/") if part]
    relative = {".", ".."} & {bucket, *parts}

    if not storage.startswith(_SCHEME) or not bucket or relative:
        raise UserError(f"--storage {storage}: use a folder, or s3://bucket/prefix")

    try:
        import boto3  # noqa: F401
    except ImportError:
        raise UserError(
            f"--storage {storage} needs boto3: {install_command('aws')}, or use a folder"
        ) from None

    return default_cache_dir().resolve().joinpath(*_MIRRORS, bucket, *parts)


def _folder(storage: str) -> Path:
    folder = Path(storage).expanduser().resolve()
    misread = re.search(r"\?|%[0-9A-Fa-f]{2}", str(folder))
    if misread is not None:
        raise UserError(
            f"--storage {folder}: MLflow's database cannot be in a path with {misread[0]}; "
            "use another folder"
        )
    return folder


def address(path: Path) -> str | None:
    """Return s3://bucket/key of a path; None for a path in an ordinary folder."""
    found = _located(path)
    if found is None:
        return None

    bucket, key = found
    return f"{_SCHEME}{bucket}/{key}"


def bucket_and_key(path: Path) -> tuple[str, str]:
    """Return bucket and key of a path that belongs to an object store."""
    found = _located(path)
    assert found is not None, path
    return found


def _located(path: Path) -> tuple[str, str] | None:
    parts = path.parts

    for at in range(1, len(parts) - 2):
        if parts[at : at + 2] == _MIRRORS:
            return parts[at + 2], "/".join(parts[at + 3 :])

    return None
