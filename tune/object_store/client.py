"""The connection to an object store. Its many errors become the three that callers can act on.

Credentials, region and endpoint come from boto3 (`AWS_...`, profiles, roles) and, for `gs://`, from
Google's own tools (`google_store.py`).
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.errors import UserError, first_line
from tune.object_store import google_store
from tune.object_store.paths import address, bucket_and_key, scheme_of

MISSING = ("NoSuchKey", "404", "NotFound")
_CONFLICT = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_DENIED = (
    "AccessDenied",
    "403",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "InvalidBucketName",
)

_CREATE = {"s3": "aws s3 mb s3://{}", "gs": "gcloud storage buckets create gs://{}"}

# A server that hangs is reported after a minute. Only the start of a command waits for uploads.
_PATIENCE = {
    "connect_timeout": 5,
    "read_timeout": 20,
    "retries": {"max_attempts": 2, "mode": "standard"},
}


class Unreachable(Exception):
    """The store does not answer at the moment. Try again."""


class Refused(UserError):
    """The store answers and refuses. Only the user can fix that."""


class Taken(Exception):
    """Another writer was first, so that the condition of a write does not hold."""


def connect_to(path: Path) -> Any:
    """Return this process's client for the store that a path belongs to."""
    return google_store.connect() if scheme_of(path) == "gs" else connect()


@functools.cache
def connect() -> Any:
    """Return this process's boto3 client, which its threads share.

    It keeps the settings of the environment at the first call.
    """
    import boto3
    from botocore.config import Config

    config = Config(**_PATIENCE, max_pool_connections=10)
    return boto3.session.Session().client("s3", config=config)


def error_code(error: BaseException) -> str:
    """Return the store's own code for an error; "" if the store has not answered."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate a store's errors about the object of `path`.

    Raises:
        Unreachable, Refused, Taken
    """
    translate = _translated_google if scheme_of(path) == "gs" else _translated_boto
    with translate(path):
        yield


@contextlib.contextmanager
def _translated_google(path: Path) -> Iterator[None]:
    try:
        yield
    except google_store.NoCredentials as error:
        raise Refused(
            f"{address(path)}: {first_line(error)}; run `gcloud auth application-default login`, "
            "or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from None
    except google_store.GoogleError as error:
        raise _answered(error, path) from None
    except google_store.Unanswered as error:
        raise Unreachable(first_line(error)) from None


@contextlib.contextmanager
def _translated_boto(path: Path) -> Iterator[None]:
    from botocore import exceptions

    credentials_errors = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
    )
    settings_errors = (
        exceptions.ParamValidationError,
        exceptions.NoRegionError,
        exceptions.ProfileNotFound,
        ValueError,
    )
    url = address(path)

    try:
        yield
    except credentials_errors as error:
        raise Refused(
            f"{url}: {first_line(error)}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE or a role"
        ) from None
    except settings_errors as error:
        raise Refused(
            f"{url}: {first_line(error)}; check --storage and the AWS_... settings"
        ) from None
    except exceptions.ClientError as error:
        raise _answered(error, path) from None
    except (exceptions.BotoCoreError, exceptions.HTTPClientError) as error:
        raise Unreachable(first_line(error)) from None


def _answered(error: Exception, path: Path) -> Exception:
    """Return our error for one with which the store has answered."""
    code, url = error_code(error), address(path)
    bucket, _ = bucket_and_key(path)

    if code in _CONFLICT:
        return Taken(f"{url}: {code}")

    if code == "NoSuchBucket":
        create = _CREATE[scheme_of(path)].format(bucket)
        return Refused(f"there is no bucket {bucket!r}: create it ({create}), or correct --storage")

    if code in _DENIED:
        return Refused(
            f"{url} is refused ({code}): the credentials must allow reading, writing and listing "
            "there"
        )

    return Unreachable(first_line(error))
