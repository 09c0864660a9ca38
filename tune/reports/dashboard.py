"""`python tune/report.py dashboard STUDY`: optuna-dashboard on a study's journal, read-only.

The study may be running in another process, which owns it. Requests that would change the study
(rename, delete, annotate, tell) are therefore answered with 403.
"""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import JournalStorage
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

from trainables.errors import UserError
from tune.command_line import install_command
from tune.reports.importances import Importances, importances
from tune.reports.selection import Selection, selection
from tune.reports.trial_points import first_rung
from tune.study.journal import JournalReader
from tune.study.record import read_record

HOST = "127.0.0.1"
_HOST_NAMES = (HOST, "localhost")  # any other name may be DNS rebinding by a web page
_READING = ("GET", "HEAD")
_IMPORTANCES = re.compile(r"/api/studies/\d+/param_importances")
_REFUSAL = b'{"reason": "this dashboard only reads: the study belongs to the process that runs it"}'

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class _Facts:
    """A snapshot of the facts that vistune's own pages state about a study."""

    chosen: Selection | None
    importances: list[Importances]

    @property
    def note(self) -> str:
        """Text of the dashboard's note; "" if there is nothing to say."""
        sentences = [result.sentence for result in self.importances]
        if self.chosen is not None:
            sentences.insert(0, self.chosen.sentence)
        return "\n\n".join(sentences)

    @property
    def importance_rows(self) -> list[dict[str, Any]]:
        """Bars for the dashboard's importance figure."""
        if not self.importances:
            return []
        shares = self.importances[0].shares
        return [
            {"name": name, "importance": share.value, "distribution": "FloatDistribution"}
            for name, share in shares.items()
        ]


class _Judge:
    """Computes the facts of a study, and recomputes them when its event log has grown."""

    def __init__(self, study: Path):
        self._study = study
        self._log_bytes = -1
        self._facts = _Facts(None, [])
        self._lock = threading.Lock()

    def facts(self) -> _Facts:
        """Return the current facts."""
        log = self._study / "events.jsonl"
        with self._lock:
            size = log.stat().st_size if log.exists() else 0
            if size != self._log_bytes:
                self._log_bytes = size
                self._facts = self._compute()
            return self._facts

    def _compute(self) -> _Facts:
        record = read_record(self._study)
        chosen = selection(record, len(record.trials))
        found = importances(record.frozen_trials(), first_rung(record))
        return _Facts(chosen, found)


class _WithFacts(JournalStorage):
    """A study's journal as the dashboard sees it: the best trial is the chosen one, and a note says
    what its value is worth."""

    def __init__(self, study: Path, judge: _Judge):
        super().__init__(JournalReader(study / "study.journal"))
        self._judge = judge

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = super().get_all_studies()
        note = self._judge.facts().note
        if note:
            for study in studies:
                # Keys of `optuna_dashboard.save_note`.
                study.system_attrs.update({"dashboard:note_ver": 1, "dashboard:note_str:0": note})
        return studies

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        chosen = self._judge.facts().chosen
        if chosen is None:
            return super().get_best_trial(study_id)
        return self.get_all_trials(study_id, deepcopy=False)[chosen.number]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Suppress the line that is printed per request."""


def server(study: Path, port: int) -> WSGIServer:
    """Bind a server of the dashboard; `serve_forever` starts it.

    Args:
        study: the study's folder.
        port: port on 127.0.0.1; 0 picks a free one.
    Raises:
        UserError: optuna-dashboard is not installed, the study has not started, or the port is
            taken.
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

    judge = _Judge(study)
    app = _read_only(_with_importances(wsgi(_WithFacts(study, judge)), judge))
    try:
        return make_server(HOST, port, app, server_class=_Server, handler_class=_QuietHandler)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} cannot be used ({error}): choose another one with --port {port + 1}"
        ) from None


def serve(study: Path, port: int) -> None:
    """Serve the dashboard until Ctrl-C. Raises the same errors as `server`."""
    with server(study, port) as running:
        address = f"http://{HOST}:{running.server_port}/dashboard"
        print(f"study {study.name} is on {address}; Ctrl-C ends it", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)


def _with_importances(app: WsgiApp, judge: _Judge) -> WsgiApp:
    """Replace the dashboard's importances by those of vistune's own page. The dashboard credits a
    parameter with the effect of another one that sets its range."""

    def answered(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not _IMPORTANCES.fullmatch(environ["PATH_INFO"]):
            return app(environ, start_response)
        rows = judge.facts().importance_rows
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"param_importances": [rows]}).encode()]

    return answered


def _read_only(app: WsgiApp) -> WsgiApp:
    """Answer only read requests that are addressed to this machine by name."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").rpartition(":")[0]
        if host in _HOST_NAMES and environ["REQUEST_METHOD"] in _READING:
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [_REFUSAL]

    return guarded
