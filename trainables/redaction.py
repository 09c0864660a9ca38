"""Passwords and keys, kept out of everything that is shown or stored.

An address may carry them (`https://user:password@host/`), and other programs print addresses in
their errors. Every message of ours passes through `redacted` where it is made.
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
"""Variables of the environment whose values are secrets as they stand."""
_SHORTEST = 6
"""Shorter words are hidden in addresses alone: elsewhere they may be anything."""
_LONG = 10
"""A password of so many characters, or with a digit, is no everyday word."""

# scheme, slashes (a path has lost one of the two), user and password up to the last @
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_ADDRESS_AS_PATH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/)[^/\s@]*:[^/\s]*@")
# in a word that is an address as a whole: blanks and slashes too; a port is none
_CREDENTIALS = re.compile(r"://(?:[^/]*@|[^/:]*:(?!\d+(?:/|$)).*@)", re.DOTALL)
# behind a question mark: postgresql://host/db?password=word, a signed link
_QUERY = re.compile(
    r"([?&][\w.-]*(?:password|passwd|pwd|token|secret|signature|credential|api_?key|sslkey|sig)=)"
    r"([^&#\s'\"]+)",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """The text without user and password in addresses, and without the secrets that this process
    was given in its environment and its command line."""
    if "@" in text:
        text = _ADDRESS.sub(rf"\1{HIDDEN}@", text)
        text = _ADDRESS_AS_PATH.sub(rf"\1{HIDDEN}@", text)
    text = without_query_secrets(text)
    for secret, pattern in _known():
        if secret in text:
            text = re.sub(pattern, HIDDEN, text)
    return text


def has_credentials(address: str) -> bool:
    """True for an address with a user, a password or a token in it, however it is spelled."""
    return bool(_CREDENTIALS.search(address) or ("://" in address and _QUERY.search(address)))


def without_query_secrets(text: str) -> str:
    """The text without the passwords, tokens and signatures in the queries of addresses."""
    return _QUERY.sub(rf"\1{HIDDEN}", text) if "?" in text else text


def _known() -> list[tuple[str, str]]:
    """Secrets of this process, in all spellings that an error may have, the longest first; each
    with a pattern of where it is hidden."""
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
    """Pattern of an address's password where it is no part of a path or of a word.

    It may be an everyday word (`postgresql://mlflow:vistune@db/`), which names folders and studies
    too: such a one is hidden in quotes, and where a colon or an @ shows what it is.
    """
    word = re.escape(password)
    places = [rf"(?<=:){word}", rf"{word}(?=@)", rf"(?<=['\"]){word}(?=['\"])"]
    if len(password) >= _LONG or any(map(str.isdigit, password)):
        places.append(rf"(?<![\w/.-]){word}(?![\w/-])")
    return "|".join(places)


def _password(address: str) -> str:
    """The password of an address; "" where it has none."""
    user = address.partition("://")[2].rpartition("@")[0]
    return user.partition(":")[2]


def _spellings(secret: str) -> Iterator[str]:
    plain = unquote(secret)
    for spelling in (secret, plain, quote(plain), quote(plain, safe="")):
        if len(spelling) >= _SHORTEST:
            yield spelling
