"""Address of the MLflow store of a storage folder, and a check that the store responds."""

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
    # By default a call blocks for four minutes if the server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


_URI = "MLFLOW_TRACKING_URI"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def default_uri(storage: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or else the URI of an SQLite file in the storage folder.

    User and password in a server's address are moved to the two environment variables from which
    MLflow reads them. Then neither MLflow nor its error messages contain them in the address.
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
    """Return `uri` without user and password, safe to show and store."""
    scheme, slashes, rest = without_query_secrets(uri).partition("://")
    host, slash, path = rest.partition("/")
    if not slashes or "@" not in host:
        return f"{scheme}{slashes}{rest}"
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _credentials(uri: str) -> tuple[str, str]:
    """Return the decoded user and password of an address; empty strings if it has none."""
    host = uri.partition("://")[2].partition("/")[0]
    if "@" not in host:
        return "", ""
    user, _, password = host.rpartition("@")[0].partition(":")
    return unquote(user), unquote(password)


def quieten() -> None:
    """Turn off MLflow's telemetry, log messages and minutes of retries. Call it before MLflow is
    imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def probe(uri: str) -> None:
    """Raise within two seconds if the store is down, hung or locked. MLflow's own calls can take
    minutes to notice."""
    path = sqlite_path(uri)
    if path is not None and path.exists():
        check_answers(path)
    elif uri.startswith("http"):
        _ask_server(uri)


def _ask_server(uri: str) -> None:
    # urllib would treat a user in the address as part of the host name.
    address = without_password(uri).rstrip("/")
    try:
        urllib.request.urlopen(f"{address}/health", timeout=_PROBE_S).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise
    except urllib.error.URLError as error:
        # MLflow has its own settings for certificates.
        if not isinstance(error.reason, ssl.SSLError):
            raise ConnectionError(str(error.reason)) from None
