"""MLflow's SQLite database: created atomically, and recreated if it is damaged.

MLflow creates its tables in dozens of steps that take seconds. A process killed in between would
leave an unusable database. So the tables are created once per version of MLflow, in the cache, and
copied from there. MLflow's content is a projection of the studies' logs: a damaged database is
moved aside, and a new one is filled from the logs.
"""

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from trainables.files import (
    atomic_file,
    default_cache_dir,
    remove_partials_of,
    scratch_folder,
    write_atomically,
)

ANSWER_S = 2.0
"""A database that stays locked for longer counts as unresponsive."""

_LOCK = ".mlflow.lock"
_DAMAGED = ("malformed", "not a database")

# Columns that contain the location of a file.
_LOCATIONS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def sqlite_path(uri: str) -> Path | None:
    """Return the path of a tracking URI's database; None if the URI is not an SQLite one."""
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        return None

    path = uri.removeprefix(prefix).split("?")[0]
    return Path(path).absolute()


def ensure_database(path: Path) -> str | None:
    """Create MLflow's tables if there are none. On a machine's first use this takes seconds and
    imports MLflow.

    Returns:
        A sentence if a damaged or unfinished database was moved aside; otherwise None.
    Raises:
        sqlite3.OperationalError: the database is locked, or the disk fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(_LOCK)):
        remove_partials_of(path)
        if not path.exists() or path.stat().st_size == 0:
            _copy_template(path)
            return None
        if _is_usable(path):
            return None
        return _replace(path)


def mend(path: Path, error: BaseException) -> str | None:
    """Recreate the database if damage is why MLflow failed with `error`. Return a sentence if so,
    None if the database is intact."""
    if not any(word in str(error) for word in _DAMAGED):
        return None

    with FileLock(path.with_name(_LOCK)):
        if not path.exists() or _is_sound(path):
            return None
        return _replace(path)


def check_answers(path: Path) -> None:
    """Raise sqlite3.OperationalError within ANSWER_S seconds if the database is not writable."""
    with _connected(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def move_artifacts(path: Path, experiment_id: str, before: str, now: str) -> None:
    """Update the paths in a database after its storage was moved or copied with its artifacts.
    MLflow has no call for this; it would write to the old location and look for registered models
    there.

    Args:
        before: URI of the experiment's artifacts in the database.
        now: URI of the folder where they are now.
    """
    with _connected(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
            (now, experiment_id),
        )
        for table, column in _LOCATIONS:
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            if column not in [name for _, name, *_ in columns]:
                continue  # another version of MLflow
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column}, 1, ?) = ?",
                (now, len(before) + 1, len(before) + 1, f"{before}/"),
            )
        connection.execute("COMMIT")


class DatabaseFiles:
    """Keeps track of the database files that MLflow opened in this process.

    MLflow keeps one connection pool per URI for the life of the process. It would continue to write
    to a file that was deleted or replaced.
    """

    def __init__(self) -> None:
        self._opened: dict[str, tuple[int, int]] = {}  # URI -> (inode, number of replacements)

    def uri(self, uri: str) -> str:
        """Return the URI to give to MLflow. A replaced file gets a different spelling, so that
        MLflow creates a new pool."""
        path = sqlite_path(uri)
        if path is None or uri not in self._opened:
            return uri

        inode, replaced = self._opened[uri]
        now = _inode(path)
        if now != inode:
            replaced += 1
            self._opened[uri] = (now, replaced)
        if not replaced:
            return uri
        return f"sqlite:///{path.parent}{'/.' * replaced}/{path.name}"

    def remember(self, uri: str) -> None:
        """Record the file that MLflow has just opened."""
        path = sqlite_path(uri)
        if path is not None:
            _, replaced = self._opened.get(uri, (0, 0))
            self._opened[uri] = (_inode(path), replaced)

    def is_replaced(self, uri: str) -> bool:
        """True if the file that MLflow has open is no longer the one at that path."""
        path = sqlite_path(uri)
        return path is not None and uri in self._opened and _inode(path) != self._opened[uri][0]


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=ANSWER_S, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def _template() -> Path:
    """Return the path of an empty database of the installed MLflow, created on first use."""
    from importlib.metadata import version

    cache = default_cache_dir()
    path = cache / f"mlflow-{version('mlflow')}.db"
    remove_partials_of(path)
    if path.exists() and _is_sound(path):
        return path

    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / _LOCK):
        if not path.exists() or not _is_sound(path):
            _make_template(path)
    return path


def _make_template(path: Path) -> None:
    """Let MLflow create its tables in a scratch file, and move it into place when they are
    complete."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with scratch_folder(path) as scratch:
        aside = scratch / path.name
        address = f"sqlite:///{aside}"
        store = SqlAlchemyStore(address, str(path.parent))  # type: ignore[no-untyped-call]
        store.engine.dispose()
        write_atomically(path, aside.read_bytes())


def _copy_template(path: Path) -> None:
    """Copy the template into place, with the artifact folder set to the one beside it."""
    with atomic_file(path) as file:
        file.write(_template().read_bytes())
        file.flush()
        with _connected(Path(file.name)) as connection:
            # An on-disk journal of a partial file would outlive a kill, and nobody needs it.
            connection.execute("PRAGMA journal_mode = MEMORY")
            place = f"{(path.parent / 'mlartifacts').as_uri()}/0"
            now = round(1000 * time.time())
            connection.execute(
                "UPDATE experiments SET artifact_location = ?, creation_time = ?, "
                "last_update_time = ?",
                (place, now, now),
            )


def _is_usable(path: Path) -> bool:
    """True for a complete database, and for one with runs of another MLflow version; MLflow itself
    says what to do about that."""
    try:
        return _holds_runs(path) or _revision(path) == _revision(_template())
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return False


def _revision(path: Path) -> str:
    """Return MLflow's schema version; "" while the tables are being created."""
    with _connected(path) as connection:
        if not _has_table(connection, "alembic_version"):
            return ""
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return "" if found is None else str(found[0])


def _holds_runs(path: Path) -> bool:
    with _connected(path) as connection:
        if not _has_table(connection, "runs"):
            return False
        return connection.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is not None


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None


def _is_sound(path: Path) -> bool:
    """True if SQLite's quick check of every page succeeds."""
    try:
        with _connected(path) as connection:
            said = connection.execute("PRAGMA quick_check(1)").fetchone()
            return bool(said == ("ok",))
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return False


def _replace(path: Path) -> str:
    """Move a damaged database aside and create a new one."""
    kept = _free_name(path)
    path.replace(kept)
    _copy_template(path)
    return f"MLflow's database {path} was damaged; it is kept as {kept.name}, and a new one is made"


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
