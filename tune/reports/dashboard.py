"""`python tune/report.py dashboard STUDY`: optuna-dashboard on a study's journal, read-only.

The study may be running in another process. It belongs to that process, so requests that would
change it (rename, delete, annotate, tell) are answered with 403.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import JournalStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

from trainables.errors import UserError
from tune.command_line import install_command
from tune.reports.selection import Selection, selection
from tune.study.journal import JournalReader
from tune.study.record import read_record

HOST = "127.0.0.1"
_HOST_NAMES = (HOST, "localhost")  # another name: a web page asks through DNS rebinding
_READING = ("GET", "HEAD")
_REFUSAL = b'{"reason": "this dashboard only reads: the study belongs to the process that runs it"}'

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _WithChoice(JournalStorage):
    """A study's journal for the dashboard: its best trial is the chosen one, and a note says what
    that trial's value is worth."""

    def __init__(self, study: Path):
        super().__init__(JournalReader(study / "study.journal"))
        self._study = study
        self._log_bytes = -1
        self._chosen: Selection | None = None

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = super().get_all_studies()
        chosen = self._selection()
        if chosen is not None:
            # Keys of `optuna_dashboard.save_note`.
            note = {"dashboard:note_ver": 1, "dashboard:note_str:0": chosen.sentence}
            for study in studies:
                study.system_attrs.update(note)
        return studies

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        chosen = self._selection()
        if chosen is None:
            return super().get_best_trial(study_id)
        return self.get_all_trials(study_id, deepcopy=False)[chosen.number]

    def _selection(self) -> Selection | None:
        log = self._study / "events.jsonl"
        size = log.stat().st_size if log.exists() else 0
        if size != self._log_bytes:
            self._log_bytes = size
            record = read_record(self._study)
            self._chosen = selection(record, len(record.trials))
        return self._chosen


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Do not print a line per request."""


def server(study: Path, port: int) -> WSGIServer:
    """Bind a server of the dashboard; `serve_forever` starts it.

    Args:
        study: its folder.
        port: on 127.0.0.1; 0 picks a free one.
    Raises:
        UserError: optuna-dashboard is not installed, the study has not begun, or the port is taken.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise UserError(
            f"the dashboard needs optuna-dashboard: {install_command('dashboard')}"
        ) from None

    journal = study / "study.journal"
    if not journal.exists():
        raise UserError(f"study {study.name!r} has no {journal.name} yet; start it first")

    app = _read_only(wsgi(_WithChoice(study)))
    try:
        return make_server(HOST, port, app, server_class=_Server, handler_class=_QuietHandler)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} cannot be used ({error}): choose another one with --port {port + 1}"
        ) from None


def serve(study: Path, port: int) -> None:
    """Serve the dashboard until Ctrl-C; raises as `server` does."""
    with server(study, port) as running:
        address = f"http://{HOST}:{running.server_port}/dashboard"
        print(f"study {study.name} is on {address}; Ctrl-C ends it", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)


def _read_only(app: WsgiApp) -> WsgiApp:
    """Answer only requests that read, and only those addressed to this machine by name."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").rpartition(":")[0]
        if host in _HOST_NAMES and environ["REQUEST_METHOD"] in _READING:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [_REFUSAL]

    return guarded
