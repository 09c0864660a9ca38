"""MLflow's SQLite database is complete or absent, whatever is killed, and is made anew if it is
damaged."""

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.crash.operations import compiler, from_start, read_changes
from tests.mlflow_store import rows, store
from tests.tune.tracking.test_tracker import assert_equals_log, study_of
from trainables.files import is_partial
from tune.tracking.database import check_answers, ensure_database, mend, sqlite_path
from tune.tracking.tracker import Tracker

MAKE = """
import sys
from pathlib import Path
from tune.tracking.address import quieten
from trainables.files import is_partial
from tune.tracking.database import ensure_database
quieten()
ensure_database(Path(sys.argv[1]))
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "mlflow.db"
    assert ensure_database(path) is None
    return path


@pytest.fixture(autouse=True)
def _no_foreign_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def works(path: Path) -> bool:
    """True if MLflow itself can write a run to it."""
    client = MlflowClient(f"sqlite:///{path}")
    experiment = client.create_experiment(f"check {random.random()}")
    run = client.create_run(experiment)
    client.log_metric(run.info.run_id, "loss", 0.5)
    return client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}


def tables(path: Path) -> set[str]:
    """Statements that make the tables. MLflow lists constraints and the values of an enumeration in
    any order."""
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        statements = [re.sub(r"IN \(.*?\)", "IN (...)", sql) for (sql,) in found]
    return {"\n".join(sorted(line.strip(" ,\t") for line in sql.split("\n"))) for sql in statements}


def test_a_new_database_is_the_one_that_mlflow_makes(database: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.db"
    MlflowClient(f"sqlite:///{own}").search_experiments()

    assert tables(database) == tables(own)
    assert works(database)


def test_its_default_experiment_keeps_artifacts_in_the_storage(database: Path) -> None:
    default = MlflowClient(f"sqlite:///{database}").get_experiment("0")

    assert default.artifact_location == f"{(database.parent / 'mlartifacts').as_uri()}/0"
    assert abs(default.creation_time / 1000 - time.time()) < 60


def test_a_complete_database_is_left_alone(database: Path) -> None:
    works(database)
    before = database.read_bytes()

    assert ensure_database(database) is None
    assert database.read_bytes() == before


def test_an_empty_file_is_filled(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.touch()

    assert ensure_database(path) is None
    assert works(path)
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.mark.parametrize("statement", ["DROP TABLE alembic_version", "DELETE FROM alembic_version"])
def test_a_database_whose_making_was_killed_is_made_anew(database: Path, statement: str) -> None:
    """Earlier versions let MLflow make the tables in place, and left this."""
    with sqlite3.connect(database) as connection:
        connection.execute(statement)
        connection.execute("DROP TABLE logged_models")

    said = ensure_database(database)

    assert said is not None
    assert "kept as mlflow.db.damaged-1" in said
    assert (database.parent / "mlflow.db.damaged-1").exists()
    assert works(database)


def test_runs_of_another_version_of_mlflow_are_left_alone(database: Path) -> None:
    works(database)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'older'")

    assert ensure_database(database) is None
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)


def test_a_file_that_is_no_database_is_kept_aside(database: Path) -> None:
    for number in (1, 2):
        database.write_bytes(b"this is not SQLite " * 100)
        said = ensure_database(database)

        assert said is not None
        assert f"mlflow.db.damaged-{number}" in said
        assert (database.parent / f"mlflow.db.damaged-{number}").read_bytes().startswith(b"this")
    assert works(database)


def test_a_locked_database_is_not_taken_for_a_damaged_one(database: Path) -> None:
    with sqlite3.connect(database) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            ensure_database(database)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            check_answers(database)
        other.rollback()

    assert not list(database.parent.glob("*.damaged-*"))
    check_answers(database)


def test_an_error_of_another_kind_mends_nothing(database: Path) -> None:
    before = database.read_bytes()

    assert mend(database, ConnectionError("the server is gone")) is None
    assert mend(database, RuntimeError("database disk image is malformed")) is None  # it is intact
    assert database.read_bytes() == before


@pytest.mark.parametrize("through", ["sync", "thread"])
def test_damage_in_the_middle_is_mended_from_the_logs(
    tmp_path: Path, through: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pages of the runs are overwritten. The next command makes the database anew and fills it."""
    log = study_of(tmp_path, trials=3)
    Tracker(log.path.parent).sync()
    path = tmp_path / "mlflow.db"
    overwrite_pages_of(path, "runs", "metrics", "tags")

    tracker = Tracker(log.path.parent)
    if through == "sync":
        tracker.sync()
    else:
        tracker.start()
        assert tracker.close(60)

    assert_equals_log(tmp_path, log)
    said = capsys.readouterr().err
    assert "kept as mlflow.db.damaged-1" in said
    assert "report.py sync" in said
    assert len(store(tmp_path)) == 4


def overwrite_pages_of(path: Path, *names: str) -> None:
    """Overwrite the root pages of tables, as a bad disk would."""
    with sqlite3.connect(path) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        marks = ", ".join("?" * len(names))
        query = f"SELECT rootpage FROM sqlite_master WHERE tbl_name IN ({marks})"
        pages = [page for (page,) in connection.execute(query, names)]

    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)


def test_another_study_notices_that_the_database_is_a_new_one(tmp_path: Path) -> None:
    """Two studies write at the same time, and one of them repairs."""
    first = study_of(tmp_path, trials=2, name="ssl-1")
    second = study_of(tmp_path, trials=2, name="ssl-2")
    running = Tracker(second.path.parent)
    Tracker(first.path.parent).sync()
    running.start()
    while running._offset < second.path.stat().st_size:
        time.sleep(0.05)

    (tmp_path / "mlflow.db").write_bytes(b"this is not SQLite " * 100)
    Tracker(first.path.parent).sync()
    second.append("summary", metrics={})

    assert running.close(60)
    query = "SELECT name FROM runs WHERE lifecycle_stage = 'active' ORDER BY name"
    assert [name for (name,) in rows(tmp_path / "mlflow.db", query)] == [
        "ssl-1",
        "ssl-2",
        *sorted(2 * ["trial-000", "trial-001"]),
    ]


def test_sqlite_path() -> None:
    assert sqlite_path("sqlite:////data/runs/mlflow.db") == Path("/data/runs/mlflow.db")
    assert sqlite_path("sqlite:///mlflow.db?timeout=5") == Path("mlflow.db").absolute()
    assert sqlite_path("http://127.0.0.1:5000") is None


KILLS = 40


@pytest.mark.slow  # each kill imports MLflow twice
@pytest.mark.timeout(1800)
@pytest.mark.skipif(compiler() is None, reason="no C compiler")
def test_killed_at_any_change_of_the_making_the_next_start_has_a_database(tmp_path: Path) -> None:
    """SIGKILL comes before forty changes of files, evenly spaced from the first to the last."""
    record = tmp_path / "record"

    def make(home: Path, surroundings: dict[str, str]) -> int:
        home.mkdir(exist_ok=True)
        words = [sys.executable, "-c", MAKE, str(home / "runs/mlflow.db")]
        environment = surroundings | {"VISTUNE_CACHE": str(home / "cache")}
        return subprocess.run(words, env=environment).returncode

    assert make(tmp_path / "whole", from_start(tmp_path / "whole", record=record)) == 0
    changes = len(read_changes(record))
    assert changes > 10 * KILLS
    for number in range(KILLS):
        # a folder for each, because MLflow caches connections by address
        home = tmp_path / f"killed-{number}"
        path = home / "runs/mlflow.db"
        kill_at = 1 + number * (changes - 1) // (KILLS - 1)
        assert make(home, from_start(home, kill_at)) == -signal.SIGKILL
        assert not path.exists() or path.stat().st_size > 100_000  # complete or absent
        assert make(home, dict(os.environ)) == 0
        assert works(path)
        left = [found.name for found in home.rglob("*") if is_partial(found.name)]
        assert left + list(home.rglob("*.damaged-*")) == []
