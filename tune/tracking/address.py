"""The MLflow store of a storage folder: its address, and whether it answers."""

import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

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


def default_uri(storage: Path) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file in the storage folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.absolute()}/mlflow.db"


def without_password(uri: str) -> str:
    """`uri` fit to be shown and stored."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri

    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host))


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
    try:
        urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=_PROBE_S).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise
    except urllib.error.URLError as error:
        # MLflow has settings of its own for certificates.
        if not isinstance(error.reason, ssl.SSLError):
            raise ConnectionError(str(error.reason)) from None
