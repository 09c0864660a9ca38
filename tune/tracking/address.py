"""The MLflow store of a storage folder: its address, and whether it answers."""

import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote

from trainables.redaction import without_query_secrets
from tune.tracking.database import check_answers, sqlite_path

_PROBE_S = 2.0
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The default blocks a call for four minutes when the server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


_URI = "MLFLOW_TRACKING_URI"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def default_uri(storage: Path) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file in the storage folder.

    User and password in the address of a server move to the two variables that MLflow reads them
    from: neither MLflow nor its errors see them in the address.
    """
    uri = os.environ.get(_URI)
    if not uri:
        return f"sqlite:///{storage.absolute()}/mlflow.db"
    if not uri.startswith(("http://", "https://")):
        return uri

    user, password = _credentials(uri)
    if user or password:
        os.environ[_USER] = user
        os.environ[_PASSWORD] = password
        os.environ[_URI] = without_password(uri)
    return os.environ[_URI]


def without_password(uri: str) -> str:
    """`uri` fit to be shown and stored: without user and password."""
    scheme, slashes, rest = without_query_secrets(uri).partition("://")
    host, slash, path = rest.partition("/")
    if not slashes or "@" not in host:
        return f"{scheme}{slashes}{rest}"
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _credentials(uri: str) -> tuple[str, str]:
    """User and password in an address, decoded; empty where it has none."""
    host = uri.partition("://")[2].partition("/")[0]
    if "@" not in host:
        return "", ""
    user, _, password = host.rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def quieten() -> None:
    """Call it before MLflow is imported: neither telemetry nor chatter, and no retries for
    minutes."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def probe(uri: str) -> None:
    """Raise within two seconds where the store is down, hung or locked; MLflow's own calls take up
    to minutes to notice."""
    path = sqlite_path(uri)
    if path is not None and path.exists():
        check_answers(path)
    elif uri.startswith("http"):
        _ask_server(uri)


def _ask_server(uri: str) -> None:
    # urllib takes a user in an address for a part of the host's name.
    address = without_password(uri).rstrip("/")
    try:
        urllib.request.urlopen(f"{address}/health", timeout=_PROBE_S).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise
    except urllib.error.URLError as error:
        # MLflow has settings of its own for certificates.
        if not isinstance(error.reason, ssl.SSLError):
            raise ConnectionError(str(error.reason)) from None
