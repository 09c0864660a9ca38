"""Passwords and keys, kept out of everything that is shown or stored.

An address may carry them (`https://user:password@host/`), and other programs print addresses in
their errors. Every message of ours passes through `redacted` where it is made.
"""

import os
import re
import sys
from collections.abc import Iterator
from urllib.parse import quote, unquote

__all__ = ["redacted"]

HIDDEN = "***"
_SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "WANDB_API_KEY",
)
"""Variables of the environment whose values are secrets as they stand."""
_SHORTEST = 6
"""Shorter words are hidden in addresses alone: elsewhere they may be anything."""

# scheme, slashes (a path has lost one of the two), user and password up to the last @
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_ADDRESS_AS_PATH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/)[^/\s@]*:[^/\s]*@")


def redacted(text: str) -> str:
    """The text without user and password in addresses, and without the secrets that this process
    was given in its environment and its command line."""
    if "@" in text:
        text = _ADDRESS.sub(rf"\1{HIDDEN}@", text)
        text = _ADDRESS_AS_PATH.sub(rf"\1{HIDDEN}@", text)
    for secret in sorted(set(_known()), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _known() -> Iterator[str]:
    """Secrets of this process, in all spellings that an error may have."""
    for name in _SECRETS:
        yield from _spellings(os.environ.get(name, ""))
    for value in (*os.environ.values(), *sys.argv[1:]):
        if "://" in value and "@" in value:
            yield from _spellings(_password(value))


def _password(address: str) -> str:
    """The password of an address; "" where it has none."""
    user = address.partition("://")[2].rpartition("@")[0]
    return user.partition(":")[2]


def _spellings(secret: str) -> Iterator[str]:
    plain = unquote(secret)
    for spelling in (secret, plain, quote(plain), quote(plain, safe="")):
        if len(spelling) >= _SHORTEST:
            yield spelling
