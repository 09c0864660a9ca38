"""`make ui`: MLflow in the browser, opened on the trials of a study.

    python -m tune.ui [--storage runs] [--port 5000]

MLflow's own start page shows one collapsed row per study. The links printed here open a view
prepared for the study (`tune.tracking.view.shared_view`): its trials, best first, with charts.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn
from urllib.parse import quote

from tune.startup import check_python, end_on_interrupt

if __name__ == "__main__":
    end_on_interrupt()
check_python()

from trainables.errors import UserError
from trainables.redaction import redacted
from tune.command_line import command
from tune.object_store.restore import pull
from tune.object_store.s3 import local_folder
from tune.study.events import EventLog
from tune.surroundings import prepare_process
from tune.tracking.address import default_uri, quieten, without_password
from tune.tracking.database import ensure_database, sqlite_path
from tune.tracking.tracker import Tracker, saved_state

__all__ = ["deep_link", "main", "serve", "study_links"]

START_S = 120.0  # on a busy machine, the server takes a while to import MLflow
LIGHT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def deep_link(base_url: str, experiment_id: str, study_id: str, charts: bool = True) -> str:
    """Return the address of a study's prepared view: charts next to the list of trials, or only the
    table."""
    view = f"viewStateShareKey={quote(study_id)}&workflowType=machine_learning" + (
        "&compareRunsMode=CHART" if charts else ""
    )
    return f"{base_url.rstrip('/')}/#/experiments/{quote(experiment_id)}/runs?{view}"


def study_links(storage: Path, uri: str, base_url: str) -> list[tuple[str, str]]:
    """Return (study, deep link) of every study in `storage` that MLflow knows, newest first.
    Whatever MLflow lacks is sent first."""
    links = []
    is_new = _is_new(uri)
    for log in sorted(
        storage.glob("*/events.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True
    ):
        sent = saved_state(log.parent, uri).get("offset", 0)
        try:
            if is_new or not EventLog.begins_at(log, sent) or EventLog.read(log, sent, limit=1)[0]:
                Tracker(log.parent, uri).sync()
        except UserError as error:
            # a running study sends its own events; a damaged one must not hide the others
            print(f"{log.parent.name}: {error}", file=sys.stderr)
        state = saved_state(log.parent, uri)
        if {"experiment_id", "study_id"} <= state.keys():
            links.append(
                (log.parent.name, deep_link(base_url, state["experiment_id"], state["study_id"]))
            )
    return links


def _is_new(uri: str) -> bool:
    """True if MLflow's database was lost or damaged, so that it lacks every study."""
    database = sqlite_path(uri)
    if database is None:
        return False

    quieten()
    is_lost = not database.exists()
    damage = ensure_database(database)
    if damage:
        print(f"vistune: {damage}", file=sys.stderr)
    return is_lost or damage is not None


@contextmanager
def serve(uri: str, storage: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a lightweight MLflow server on 127.0.0.1 (one worker, no job runner, no telemetry) for
    the duration of the block, which starts once the server answers.

    Raises:
        UserError: the port is taken, the server did not start, or it ended on its own.
    """
    _check_port(port)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-w",
        "1",
    ]
    command += ["--artifacts-destination", (storage / "mlartifacts").as_uri()]
    # Not as an argument: everyone on the machine can read those, and the URI may contain a
    # password.
    environment = LIGHT | os.environ | {"MLFLOW_BACKEND_STORE_URI": uri}
    with tempfile.TemporaryFile("w+") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait(server, f"http://127.0.0.1:{port}")
            yield server
        except _Ended as error:
            output.seek(0)
            lines = output.read().strip().splitlines() or ["no output"]
            raise UserError(f"the MLflow server {error}: {lines[-1]}") from None
        finally:
            _end(server)


class _Ended(Exception):
    """The server has ended or never started."""


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"port {port} cannot be used ({error}): choose another one with "
                f"`{command('ui', '--port', str(port + 1))}`"
            ) from None


def _wait(server: "subprocess.Popen[bytes]", address: str) -> None:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit:
        if server.poll() is not None:
            raise _Ended(f"did not start (exit code {server.returncode})")
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise _Ended(f"did not start (no answer in {START_S:.0f} s)")


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server and its worker, which have their own process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
        except ProcessLookupError:
            break
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            continue
    server.wait()


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports wrong use in one line, without passwords."""

    def error(self, message: str) -> NoReturn:
        print(
            f"vistune: {redacted(message)}; `{self.prog} --help` lists the options", file=sys.stderr
        )
        sys.exit(2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. The exit code is 0 after Ctrl-C and 2 for wrong use."""
    parser = _Parser(
        prog=command("ui"),
        description="MLflow in the browser, opened on the trials of each study.",
    )
    parser.add_argument(
        "--storage",
        default="runs",
        help="folder of the studies, s3://bucket/prefix or gs://... (default: runs)",
    )
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: 5000)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        storage = local_folder(options.storage)
        pull(storage)
        return _show(storage, options.port)
    except UserError as error:
        print(f"vistune: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _show(storage: Path, port: int) -> int:
    if not any(storage.glob("*/events.jsonl")):
        raise UserError(
            f"no study in {storage}: run `{command('run', 'ssl', storage=storage)}`, "
            "or name the folder with --storage"
        )
    uri = default_uri(storage)
    if uri.startswith("http"):
        _print(study_links(storage, uri, without_password(uri)))
        return 0
    _check_port(port)
    address = f"http://127.0.0.1:{port}"
    links = study_links(storage, uri, address)
    with serve(uri, storage, port) as server:
        with _signals_wait():
            _print(links)
            print(f"MLflow is on {address}; Ctrl-C ends it", flush=True)
        raise _Ended(f"has ended (exit code {server.wait()})")


def _print(links: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in links), default=0)
    for name, link in links:
        print(f"{name:<{width}}  {link}", flush=True)


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM to the end of the block: an interrupted print would be flushed a
    second time at exit."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda one, _: received.append(one))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
