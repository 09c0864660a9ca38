"""The runs of one study in an MLflow store: found or created, written in batches, all of it safe to
repeat."""

import contextlib
import importlib
import json
import os
import sqlite3
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tune.object_store import s3
from tune.study.identity import GROUP
from tune.tracking.projection import Changes, Event, MlflowRun
from tune.tracking.view import shared_view

__all__ = ["QUIET", "MlflowRuns", "Rejected", "probe", "quieten", "sqlite_path"]

RUN_TAG, OFFSET_TAG, NOTE_TAG = "run.key", "tracking.offset", "tracking.rejected"
# MLflow takes 1000 metrics, 100 params and 100 tags, 1000 records in all
METRICS_PER_CALL, OTHERS_PER_CALL = 800, 100
PROBE_S = 2.0
SETUP_S = 30.0  # importing MLflow and creating its tables may take this long without being hung
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # the default blocks a call for four minutes when the server is down
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
# Columns of MLflow's database that hold the place of a file.
_LOCATIONS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# SQLite URI -> inode when MLflow opened it, how often it was replaced since
_opened: dict[str, tuple[int, int]] = {}


class Rejected:
    """Records that MLflow refuses for good, kept in a file with the reason so that the rest can go
    on."""

    def __init__(self, path: Path):
        self.path = path
        self._known = set(path.read_text().splitlines()) if path.exists() else set()

    @property
    def count(self) -> int:
        return len(self._known)

    def add(self, run: str, kind: str, name: str, value: str, reason: str) -> None:
        """Put a record on file, once: a replay meets the same refusals again."""
        line = json.dumps(
            {"run": run, "kind": kind, "name": name, "value": value, "reason": reason.strip()[:500]}
        )
        if line not in self._known:
            self._known.add(line)
            with self.path.open("a") as file:
                file.write(line + "\n")


class MlflowRuns:
    """One study in the store at `uri`. Imports MLflow when it is made.

    Args:
        first: the log's first event, a `study`.
        beat: called with the seconds that the next call may take, before it; a sign of life for
            whoever waits.

    Raises:
        Exception: whatever MLflow, SQLite or the network raise; make a new one to try again.
    """

    def __init__(
        self,
        uri: str,
        study_dir: Path,
        first: Event,
        study_id: str,
        rejected: Rejected,
        beat: Callable[[float], None],
    ):
        self._uri, self._study_dir, self.study_id = uri, study_dir, study_id
        self._rejected, self._beat = rejected, beat
        probe(uri)
        beat(SETUP_S)
        quieten()
        self._mlflow = importlib.import_module("mlflow")
        beat(SETUP_S if sqlite_path(uri) else 0)
        self._client = self._mlflow.MlflowClient(_pool_uri(uri))
        self.experiment_id = self._experiment(first["experiment"])
        _remember_inode(uri)
        beat(0)
        self._client.set_experiment_tag(
            self.experiment_id, f"mlflow.sharedViewState.{study_id}", shared_view(first, study_id)
        )
        self.ids: dict[str, str] = {}
        self._deleted: set[str] = set()
        self._location_refuses = False
        self.offset = self._find_runs()
        if group := first.get("group"):
            self.ids[GROUP] = self._find_group(group)

    def apply(self, run: MlflowRun, changes: Changes) -> None:
        """Bring one run up to date. May be repeated with the same or overlapping changes."""
        run_id, status = self._run_id(run), changes.status
        entities = self._mlflow.entities
        params = [entities.Param(key, value) for key, value in changes.params.items()]
        metrics = [entities.Metric(*metric) for metric in changes.metrics]
        tags = [entities.RunTag(key, value) for key, value in changes.tags.items()]
        while params or metrics or tags:
            self._send(
                run,
                [*params[:OTHERS_PER_CALL], *metrics[:METRICS_PER_CALL], *tags[:OTHERS_PER_CALL]],
            )
            params, metrics, tags = (
                params[OTHERS_PER_CALL:],
                metrics[METRICS_PER_CALL:],
                tags[OTHERS_PER_CALL:],
            )
        if changes.data:
            self._client.log_inputs(run_id, datasets=[self._dataset(changes.data)])
        for path, folder in changes.files:
            # of a head that was lost, or on a machine that only reads
            s3.present(self._study_dir / path)
            self._upload(
                run, path, partial(self._log_file, run_id, self._study_dir / path, folder or None)
            )
        for name, text in changes.texts.items():
            self._upload(run, name, partial(self._client.log_text, run_id, text, name))
        if status and status[0] == "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        elif status:
            self._client.set_terminated(run_id, status=status[0], end_time=status[1])
        self._beat(0)

    def remember(self, study: MlflowRun, offset: int) -> None:
        """Note in the store that it has all events before byte `offset`."""
        tags = {OFFSET_TAG: str(offset)}
        if count := self._rejected.count:
            tags[NOTE_TAG] = f"{count} records refused by MLflow: see {self._rejected.path}"
        self._send(study, [self._mlflow.entities.RunTag(key, value) for key, value in tags.items()])

    def check_same_file(self) -> None:
        """Check that the SQLite file was not deleted or replaced: MLflow would continue to write to
        the unlinked one.

        Raises:
            ConnectionError: it was.
        """
        if self._uri in _opened and _inode(self._uri) != _opened[self._uri][0]:
            raise ConnectionError("the database file was deleted or replaced")

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        # A location of our own keeps artifacts beside the database; a server knows better where its
        # own go.
        folder = sqlite_path(self._uri)
        location = (folder.parent / "mlartifacts").as_uri() if folder else None
        if experiment is None:
            return str(self._client.create_experiment(name, artifact_location=location))
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        before = experiment.artifact_location
        if (
            folder
            and location
            and before != location
            and before.startswith("file:")
            and before.endswith("/mlartifacts")
        ):
            _follow(folder, str(experiment.experiment_id), before, location)
        return str(experiment.experiment_id)

    def _find_runs(self) -> int:
        """Fill `ids` with the study's runs; the offset up to which the store has the log. A create
        whose reply was lost shows up here."""
        found, token = [], None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                filter_string=f"tags.`study.id` = '{self.study_id}'",
                run_view_type=self._mlflow.entities.ViewType.ALL,
                max_results=1000,
                page_token=token,
            )
            self._beat(0)
            found += [run for run in page if RUN_TAG in run.data.tags]
            token = page.token
            if not token:
                break
        offset = 0
        for run in sorted(
            found,
            key=lambda run: (
                run.info.lifecycle_stage == "deleted",
                run.info.start_time,
                run.info.run_id,
            ),
        ):
            key, run_id, deleted = (
                run.data.tags[RUN_TAG],
                run.info.run_id,
                run.info.lifecycle_stage == "deleted",
            )
            if key not in self.ids:
                self.ids[key] = run_id
                self._deleted |= {run_id} if deleted else set()
                offset = int(run.data.tags.get(OFFSET_TAG, offset))
            elif not deleted:
                self._client.delete_run(run_id)
        return offset

    def _find_group(self, group: dict[str, str]) -> str:
        """The run of the group, which a tracker of its own creates."""
        wanted = f"tags.`study.id` = '{group['id']}' and tags.`{RUN_TAG}` = 'study'"
        found = self._client.search_runs([self.experiment_id], filter_string=wanted, max_results=1)
        if not found:
            raise ConnectionError(f"the run of the group {group['name']} is not there yet")
        return str(found[0].info.run_id)

    def _run_id(self, run: MlflowRun) -> str:
        if run.key not in self.ids:
            tags = run.tags | {RUN_TAG: run.key}
            if run.parent:
                tags["mlflow.parentRunId"] = self.ids[run.parent]
            created = self._client.create_run(
                self.experiment_id, start_time=run.started, tags=tags, run_name=run.name
            )
            self.ids[run.key] = created.info.run_id
        run_id = self.ids[run.key]
        if run_id in self._deleted:
            self._client.restore_run(run_id)
            self._deleted.discard(run_id)
        return run_id

    def _send(self, run: MlflowRun, batch: Sequence[Any]) -> None:
        """Log params, metrics and tags. What MLflow calls invalid is narrowed down by halves and
        rejected; other failures are raised."""
        kinds: dict[str, list[Any]] = {"Param": [], "Metric": [], "RunTag": []}
        for entity in batch:
            kinds[type(entity).__name__].append(entity)
        self._beat(0)
        try:
            self._client.log_batch(
                self.ids[run.key],
                params=kinds["Param"],
                metrics=kinds["Metric"],
                tags=kinds["RunTag"],
            )
        except self._mlflow.MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if self._client.get_run(self.ids[run.key]).info.lifecycle_stage == "deleted":
                raise ConnectionError(f"run {run.name} was deleted") from error
            if len(batch) == 1:
                self._rejected.add(
                    run.name,
                    type(batch[0]).__name__.lower(),
                    batch[0].key,
                    str(batch[0].value),
                    error.message,
                )
            else:
                middle = len(batch) // 2
                self._send(run, batch[:middle])
                self._send(run, batch[middle:])

    def _upload(self, run: MlflowRun, name: str, upload: Callable[[], None]) -> None:
        """A file that cannot be stored must not hold up the numbers: it is rejected, unless the
        whole store is gone."""
        self._beat(SETUP_S)
        try:
            try:
                upload()
            except FileNotFoundError:
                raise
            except Exception:
                if self._location_refuses:
                    raise
                time.sleep(0.5)
                upload()
            self._location_refuses = False
        except Exception as error:
            # raises where it is not the artifact but the store
            self._client.get_experiment(self.experiment_id)
            self._location_refuses = not isinstance(error, FileNotFoundError)
            self._rejected.add(run.name, "artifact", name, "", f"{type(error).__name__}: {error}")

    def _log_file(self, run_id: str, path: Path, folder: str | None) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        self._client.log_artifact(run_id, str(path), folder)

    def _dataset(self, data: dict[str, Any]) -> Any:
        entities = self._mlflow.entities
        dataset = entities.Dataset(
            name=str(data["name"])[:500],
            digest=str(data["fingerprint"])[:36],
            source_type="local",
            source=json.dumps({"uri": str(data.get("path"))}),
            profile=json.dumps({"images": data.get("images")}),
        )
        return entities.DatasetInput(
            dataset, tags=[entities.InputTag("mlflow.data.context", "training")]
        )


def quieten() -> None:
    """Call it before MLflow is imported: neither telemetry nor chatter, and no retries for
    minutes."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def _follow(database: Path, experiment_id: str, before: str, now: str) -> None:
    """The storage was moved or copied, and its artifacts with it; MLflow, which has no call for
    that, would write to the old place, and look for registered models there."""
    with contextlib.closing(sqlite3.connect(database, timeout=PROBE_S)) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
            (now, experiment_id),
        )
        for table, column in _LOCATIONS:
            columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
            if column not in [name for _, name, *_ in columns]:
                continue  # of another version of MLflow
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column}, 1, ?) = ?",
                (now, len(before) + 1, len(before) + 1, f"{before}/"),
            )


def probe(uri: str) -> None:
    """Raise within PROBE_S seconds where the store is down, hung or locked; MLflow's own calls take
    up to minutes to notice."""
    path = sqlite_path(uri)
    if path and path.exists():
        connection = sqlite3.connect(path, timeout=PROBE_S, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    elif uri.startswith("http"):
        try:
            urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=PROBE_S).close()
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                raise
        except urllib.error.URLError as error:
            # MLflow has settings of its own for certificates
            if not isinstance(error.reason, ssl.SSLError):
                raise ConnectionError(str(error.reason)) from None


def sqlite_path(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return (
        Path(uri.removeprefix(prefix).split("?")[0]).absolute() if uri.startswith(prefix) else None
    )


def _inode(uri: str) -> int:
    path = sqlite_path(uri)
    return path.stat().st_ino if path and path.exists() else 0


def _remember_inode(uri: str) -> None:
    if sqlite_path(uri):
        _opened[uri] = (_inode(uri), _opened.get(uri, (0, 0))[1])


def _pool_uri(uri: str) -> str:
    """MLflow keeps one connection pool per URI while the process lives: a replaced file gets a new
    one by another spelling of its path."""
    path = sqlite_path(uri)
    if not path or uri not in _opened:
        return uri
    inode, replaced = _opened[uri]
    if _inode(uri) != inode:
        replaced += 1
        _opened[uri] = (_inode(uri), replaced)
    return f"sqlite:///{path.parent}{'/.' * replaced}/{path.name}" if replaced else uri
