"""`python tune/report.py dashboard STUDY`: optuna-dashboard on a study's journal, beside whoever
runs it. It only reads.

Its buttons that rename, delete, annotate and tell are answered with 403, as a study belongs to the
process that runs it.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import JournalStorage

from trainables.errors import UserError
from tune.study.journal import JournalReader

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")  # under any other name a page of the web would be asking


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads a line per request."""


def server(study: Path, port: int) -> WSGIServer:
    """A server of the dashboard that is bound and not yet serving (`serve_forever`).

    Args:
        port: on 127.0.0.1; 0: a free one.
    Raises:
        UserError: optuna-dashboard is not installed, the study has not begun, or the port is taken.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise UserError(
            "the dashboard needs optuna-dashboard: pip install -e '.[dashboard]'"
        ) from None
    journal = study / "study.journal"
    if not journal.exists():
        raise UserError(f"study {study.name!r} has no {journal.name} yet; start it first")
    app = _read_only(wsgi(JournalStorage(JournalReader(journal))))
    try:
        return make_server(HOST, port, app, server_class=_Server, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} cannot be used ({error}): choose another one with --port {port + 1}"
        ) from None


def serve(study: Path, port: int) -> None:
    """Until Ctrl-C. Raises as `server` does."""
    with server(study, port) as running:
        print(
            f"study {study.name} is on http://{HOST}:{running.server_port}/dashboard; Ctrl-C ends it",
            flush=True,
        )
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)


def _read_only(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        local = environ.get("HTTP_HOST", "").rpartition(":")[0] in _NAMES
        if local and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [
            b'{"reason": "this dashboard only reads: the study belongs to the process that runs it"}'
        ]

    return guarded
