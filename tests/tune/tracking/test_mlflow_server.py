"""`cluster/mlflow-server.sh` on a real PostgreSQL, with MLflow's password. A study is recorded, and
nobody gets in without the password."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import REPO
from tests.studies import events, finish
from trainables.errors import UserError
from tune.tracking.tracker import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SECRET, PASSWORD = "not-for-anyone", "correct horse battery"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """Start a PostgreSQL on 127.0.0.1 with a password, and yield its URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("no PostgreSQL: apt-get install -y postgresql")
    if os.getuid():
        pytest.skip("PostgreSQL is started as user postgres, which takes root")
    folder, port = Path(tempfile.mkdtemp(prefix="vistune-postgres-")), free_port()
    (folder / "password").write_text(SECRET)
    for path in (folder, folder / "password"):
        shutil.chown(path, "postgres")

    def run(program: str, *arguments: str) -> None:
        environment = {"PGPASSWORD": SECRET, "PATH": os.environ["PATH"]}
        command = [str(found[-1].parent / program), *arguments]
        log = (folder / "commands.log").open("a")  # the server would keep a pipe open
        subprocess.run(
            command,
            user="postgres",
            cwd=folder,
            env=environment,
            check=True,
            timeout=300,
            stdout=log,
            stderr=log,
        )

    data = str(folder / "data")
    run(
        "initdb",
        "-D",
        data,
        "-U",
        "vistune",
        "-A",
        "scram-sha-256",
        f"--pwfile={folder / 'password'}",
    )
    where = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories= -c fsync=off"
    run("pg_ctl", "-D", data, "-o", where, "-l", str(folder / "log"), "-w", "-t", "240", "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "vistune", "vistune")
        yield f"postgresql://vistune:{SECRET}@127.0.0.1:{port}/vistune"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@dataclass
class Server:
    """The script, and the server that it starts."""

    folder: Path
    environment: dict[str, str]

    def start(self, wait_s: int) -> str:
        """Run the script, and return what it prints to stderr."""
        script = ["bash", str(REPO / "cluster/mlflow-server.sh")]
        environment = self.environment | {"VISTUNE_MLFLOW_WAIT": str(wait_s)}
        return subprocess.run(
            script,
            env=environment,
            capture_output=True,
            text=True,
            timeout=wait_s + 120,
            check=True,
        ).stderr

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['VISTUNE_MLFLOW_PORT']}"

    def command_lines(self) -> str:
        """Command lines of all its processes, which anyone on the machine can read."""
        group, found = int((self.folder / "pid").read_text()), []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(process.name)) == group:
                    found.append((process / "cmdline").read_text())
            except OSError:  # it ended meanwhile
                continue
        assert found
        return "\n".join(found)

    def end(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.killpg(int((self.folder / "pid").read_text()), signal.SIGKILL)


@pytest.fixture
def server(database: str, tmp_path: Path) -> Iterator[Server]:
    environment = os.environ | {
        "VISTUNE_MLFLOW_DIR": str(tmp_path / "mlflow"),
        "VISTUNE_MLFLOW_PORT": str(free_port()),
        "VISTUNE_MLFLOW_DB": database,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    server = Server(tmp_path / "mlflow", environment)
    yield server
    server.end()


def status(url: str, password: str | None) -> int:
    """HTTP status for user admin with a password, or without a login."""
    login = (
        {}
        if password is None
        else {"Authorization": "Basic " + b64encode(f"admin:{password}".encode()).decode()}
    )
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=login), timeout=60
        ) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_study_is_recorded_in_postgres_and_a_wrong_password_is_refused(
    server: Server, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    psycopg2 = pytest.importorskip(
        "psycopg2", reason="no driver for PostgreSQL: pip install -e '.[cluster]'"
    )
    assert server.start(600) == "", (server.folder / "mlflow.log").read_text()[-2000:]
    assert SECRET not in server.command_lines()
    asked = f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert [status(asked, password) for password in (None, "wrong", PASSWORD)] == [401, 401, 200]

    finish(tmp_path / "runs", trials=3, repeats=1)
    tracker = Tracker(tmp_path / "runs" / "toy", server.url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(UserError, match="cannot take study 'toy'") as refusal:
        tracker.sync()
    assert "wrong" not in str(refusal.value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    assert tracker.sync() == f"toy: {len(events(tmp_path / 'runs'))} events sent to {server.url}"

    with psycopg2.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("select value, count(*) from tags where key = 'kind' group by value")
        started = {
            (e["trial"], e.get("repeat"))
            for e in events(tmp_path / "runs")
            if e["event"] == "start"
        }
        repeats = sum(repeat is not None for _, repeat in started)
        assert dict(cursor.fetchall()) == {"study": 1, "trial": 3, "repeat": repeats}
        reports = [e for e in events(tmp_path / "runs") if e["event"] == "report"]
        tagged = (
            "metrics join tags using (run_uuid) where tags.key = 'kind' and tags.value != 'study'"
        )
        cursor.execute(f"select count(*) from {tagged} and metrics.key = 'val/top1'")
        assert cursor.fetchone() == (len(reports),)
    connection.close()


def test_a_wrong_password_of_the_database_is_told(server: Server, database: str) -> None:
    server.environment["VISTUNE_MLFLOW_DB"] = database.replace(SECRET, "wrong-one")
    said = server.start(40)
    assert (
        f"MLflow does not answer on port {server.environment['VISTUNE_MLFLOW_PORT']}: see "
        f"{server.folder}/mlflow.log" in said
    )
    assert "wrong-one" not in said
