"""Redaction of passwords and keys in everything that is shown or stored.

An address may contain them (`https://user:password@host/`), and other programs print addresses in
their errors. All our messages pass through `redacted` where they are created.
"""

import os
import re
import sys
from collections.abc import Iterator
from urllib.parse import quote, unquote

__all__ = ["has_credentials", "redacted", "without_query_secrets"]

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
"""Environment variables whose whole values are secrets."""
_SHORTEST = 6
"""Secrets shorter than this are hidden only in addresses; elsewhere they may be ordinary words."""
_LONG = 10
"""A password of at least this length, or with a digit, is not an ordinary word."""

# scheme, slashes (a path has lost one of the two), user and password up to the last @
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_ADDRESS_AS_PATH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/)[^/\s@]*:[^/\s]*@")
# for a string that is one whole address: may contain blanks and slashes; a port does not match
_CREDENTIALS = re.compile(r"://(?:[^/]*@|[^/:]*:(?!\d+(?:/|$)).*@)", re.DOTALL)
# in the query: postgresql://host/db?password=word, a signed link
_QUERY = re.compile(
    r"([?&][\w.-]*(?:password|passwd|pwd|token|secret|signature|credential|api_?key|sslkey|sig)=)"
    r"([^&#\s'\"]+)",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """The text without users and passwords in addresses, and without secrets from this process's
    environment and command line."""
    if "@" in text:
        text = _ADDRESS.sub(rf"\1{HIDDEN}@", text)
        text = _ADDRESS_AS_PATH.sub(rf"\1{HIDDEN}@", text)
    text = without_query_secrets(text)
    for secret, pattern in _known():
        if secret in text:
            text = re.sub(pattern, HIDDEN, text)
    return text


def has_credentials(address: str) -> bool:
    """True if an address contains a user, a password or a token, in any spelling."""
    return bool(_CREDENTIALS.search(address) or ("://" in address and _QUERY.search(address)))


def without_query_secrets(text: str) -> str:
    """The text without passwords, tokens and signatures in the queries of addresses."""
    return _QUERY.sub(rf"\1{HIDDEN}", text) if "?" in text else text


def _known() -> list[tuple[str, str]]:
    """Secrets of this process in every spelling that an error may contain, longest first, each with
    the pattern that hides it."""
    patterns = {}
    for value in (*os.environ.values(), *sys.argv[1:]):
        if "://" not in value:
            continue
        for secret in (_password(value), *(found[2] for found in _QUERY.finditer(value))):
            for spelling in _spellings(secret):
                patterns[spelling] = _apart(spelling)

    for name in _SECRETS:
        for spelling in _spellings(os.environ.get(name, "")):
            patterns[spelling] = re.escape(spelling)
    return sorted(patterns.items(), key=lambda item: len(item[0]), reverse=True)


def _apart(password: str) -> str:
    """Pattern that matches a password except inside a path or a word.

    A password may be an ordinary word (`postgresql://mlflow:vistune@db/`) that also names folders
    and studies. Such a word is hidden only in quotes, after a colon or before an @.
    """
    word = re.escape(password)
    places = [rf"(?<=:){word}", rf"{word}(?=@)", rf"(?<=['\"]){word}(?=['\"])"]
    if len(password) >= _LONG or any(map(str.isdigit, password)):
        places.append(rf"(?<![\w/.-]){word}(?![\w/-])")
    return "|".join(places)


def _password(address: str) -> str:
    """The password in an address; "" if it has none."""
    user = address.partition("://")[2].rpartition("@")[0]
    return user.partition(":")[2]


def _spellings(secret: str) -> Iterator[str]:
    plain = unquote(secret)
    for spelling in (secret, plain, quote(plain), quote(plain, safe="")):
        if len(spelling) >= _SHORTEST:
            yield spelling
