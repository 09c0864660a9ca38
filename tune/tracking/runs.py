"""The runs of one study in an MLflow store: found or created, and written in batches. Every step is
safe to repeat."""

import importlib
import json
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tune.object_store import s3
from tune.study.identity import GROUP
from tune.tracking.address import probe, quieten
from tune.tracking.database import DatabaseFiles, ensure_database, move_artifacts, sqlite_path
from tune.tracking.destination import Opening
from tune.tracking.mlflow_names import for_mlflow, mlflow_tags
from tune.tracking.projection import Changes, ProjectedRun
from tune.tracking.rejected import Rejected
from tune.tracking.saved_state import save_state
from tune.tracking.view import shared_view

__all__ = ["RUN_TAG", "MlflowRuns"]

RUN_TAG = "run.key"
OFFSET_TAG = "tracking.offset"
NOTE_TAG = "tracking.rejected"

# MLflow accepts 1000 metrics, 100 params and 100 tags per call, 1000 records in total.
METRICS_PER_CALL = 800
OTHERS_PER_CALL = 100

SETUP_S = 30.0
"""Maximum time to import MLflow and create its tables; after that it counts as hung."""
GROUP_S = 10.0
"""Maximum time that a study waits for its group's tracker, which starts at the same moment and
creates the group's run."""
_LOOK_S = 0.25
_ARTIFACTS = "mlartifacts"
_UPLOADING = ".artifact.uploading.*"
_files = DatabaseFiles()


class MlflowRuns:
    """One study in the store at `uri`, as a `Connection`. The constructor imports MLflow.

    Raises:
        Exception: any error of MLflow, SQLite or the network; create a new object to retry.
    """

    def __init__(self, uri: str, opening: Opening, rejected: Rejected):
        beat = opening.beat
        first = opening.first
        self._uri = uri
        self._study_dir = opening.study_dir
        self.study_id = opening.study_id
        self._rejected = rejected
        self._beat = beat

        probe(uri)
        beat(SETUP_S)
        quieten()
        self._mlflow = importlib.import_module("mlflow")
        database = sqlite_path(uri)
        if database is not None:
            beat(SETUP_S)
            damage = ensure_database(database)
            if damage:
                opening.tell(damage)
        self._client = self._mlflow.MlflowClient(_files.uri(uri))
        self.experiment_id = self._find_experiment(first["experiment"])
        _files.remember(uri)
        beat(0)

        view = f"mlflow.sharedViewState.{self.study_id}"
        charts = shared_view(first, self.study_id)
        self._client.set_experiment_tag(self.experiment_id, view, charts)
        self.ids: dict[str, str] = {}
        self._deleted: set[str] = set()
        self._location_refuses = False
        remembered = self._find_runs()
        self.offset = remembered if opening.fits(remembered) else 0
        group = first.get("group")
        if group:
            self.ids[GROUP] = self._find_group(group)
        self._save(self.offset)

    def lacks(self, runs: Collection[str]) -> bool:
        """True if runs were permanently deleted."""
        lacks = not set(runs) <= self.ids.keys()
        if lacks:
            self._save(0)
        return lacks

    def check(self) -> None:
        """Check that the SQLite file was not deleted or replaced. MLflow would continue to write to
        the unlinked file.

        Raises:
            ConnectionError: the file was deleted or replaced.
        """
        if _files.is_replaced(self._uri):
            raise ConnectionError("the database file was deleted or replaced")

    def recall(self, run: ProjectedRun, changes: Changes) -> None:
        """Do nothing: MLflow's content is not needed."""

    def apply(self, run: ProjectedRun, changes: Changes) -> None:
        """Update one run. May be repeated with the same or overlapping changes."""
        run_id = self._run_id(run)
        changes = for_mlflow(changes)
        if changes.name is not None:
            changes.tags["mlflow.runName"] = changes.name
        self._send_all(run, changes)
        if changes.data:
            self._client.log_inputs(run_id, datasets=[self._dataset(changes.data)])
        for path, folder in changes.files:
            self._upload_file(run, run_id, path, folder or None)
        for name, text in changes.texts.items():
            self._upload(run, name, partial(self._client.log_text, run_id, text, name))
        if changes.status:
            self._set_status(run_id, *changes.status)
        self._beat(0)

    def remember(self, study: ProjectedRun, offset: int) -> None:
        """Record in the store that it has all events before byte `offset`."""
        tags = {OFFSET_TAG: str(offset)}
        count = self._rejected.count
        if count:
            tags[NOTE_TAG] = f"{count} records refused by MLflow: see {self._rejected.path}"
        RunTag = self._mlflow.entities.RunTag
        self._send(study, [RunTag(key, value) for key, value in tags.items()])
        self._save(offset)

    def _save(self, offset: int) -> None:
        state = {
            "offset": offset,
            "experiment_id": self.experiment_id,
            "run_id": self.ids.get("study"),
            "study_id": self.study_id,
        }
        save_state(self._study_dir, self._uri, state)

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def _find_experiment(self, name: str) -> str:
        """Return the id of the experiment, which is created or restored if necessary."""
        database = sqlite_path(self._uri)
        # Beside a local database; a server decides itself where artifacts go.
        location = None if database is None else (database.parent / _ARTIFACTS).as_uri()

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name, artifact_location=location))

        experiment_id = str(experiment.experiment_id)
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment_id)

        before = experiment.artifact_location
        if database is not None and location is not None and _has_moved(before, location):
            move_artifacts(database, experiment_id, before, location)
        return experiment_id

    def _find_runs(self) -> int:
        """Fill `ids` with the study's runs, and return the offset up to which the store has the
        log. Runs whose create call succeeded but whose reply was lost are found here."""
        offset = 0
        for run in sorted(self._search_runs(), key=_oldest_first):
            key = run.data.tags[RUN_TAG]
            run_id = run.info.run_id
            deleted = run.info.lifecycle_stage == "deleted"
            if key not in self.ids:
                self.ids[key] = run_id
                remembered = run.data.tags.get(OFFSET_TAG)
                if remembered is not None:
                    offset = int(remembered) if remembered.isdecimal() else 0
                if deleted:
                    self._deleted.add(run_id)
            elif not deleted:
                self._client.delete_run(run_id)
        return offset

    def _search_runs(self) -> list[Any]:
        """Return all runs of the study, including deleted ones."""
        found = []
        token = None
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
                return found

    def _find_group(self, group: dict[str, str]) -> str:
        """Return the id of the group's run, which the group's own tracker creates."""
        wanted = f"tags.`study.id` = '{group['id']}' and tags.`{RUN_TAG}` = 'study'"
        self._beat(SETUP_S)
        patient_until = time.monotonic() + GROUP_S
        while True:
            found = self._client.search_runs(
                [self.experiment_id], filter_string=wanted, max_results=1
            )
            if found:
                self._beat(0)
                return str(found[0].info.run_id)
            if time.monotonic() > patient_until:
                raise ConnectionError(f"the run of the group {group['name']} is not there yet")
            time.sleep(_LOOK_S)

    def _run_id(self, run: ProjectedRun) -> str:
        """Return the id of a run, which is created or restored if necessary."""
        if run.key not in self.ids:
            tags = mlflow_tags(run.tags) | {RUN_TAG: run.key}
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

    def _send_all(self, run: ProjectedRun, changes: Changes) -> None:
        """Log params, metrics and tags in as few calls as MLflow's limits allow."""
        entities = self._mlflow.entities
        params = [entities.Param(key, value) for key, value in changes.params.items()]
        metrics = [entities.Metric(*metric) for metric in changes.metrics]
        tags = [entities.RunTag(key, value) for key, value in changes.tags.items()]

        while params or metrics or tags:
            batch = [
                *params[:OTHERS_PER_CALL],
                *metrics[:METRICS_PER_CALL],
                *tags[:OTHERS_PER_CALL],
            ]
            self._send(run, batch)
            params = params[OTHERS_PER_CALL:]
            metrics = metrics[METRICS_PER_CALL:]
            tags = tags[OTHERS_PER_CALL:]

    def _send(self, run: ProjectedRun, batch: Sequence[Any]) -> None:
        """Log params, metrics and tags. Records that MLflow calls invalid are isolated by bisection
        and rejected; other errors are raised."""
        self._beat(0)
        try:
            self._log_batch(self.ids[run.key], batch)
        except self._mlflow.MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if self._client.get_run(self.ids[run.key]).info.lifecycle_stage == "deleted":
                raise ConnectionError(f"run {run.name} was deleted") from error

            if len(batch) > 1:
                middle = len(batch) // 2
                self._send(run, batch[:middle])
                self._send(run, batch[middle:])
                return

            refused = batch[0]
            kind = type(refused).__name__.lower()
            self._rejected.add(run.name, kind, refused.key, str(refused.value), error.message)

    def _log_batch(self, run_id: str, batch: Sequence[Any]) -> None:
        entities = self._mlflow.entities
        self._client.log_batch(
            run_id,
            params=[entity for entity in batch if isinstance(entity, entities.Param)],
            metrics=[entity for entity in batch if isinstance(entity, entities.Metric)],
            tags=[entity for entity in batch if isinstance(entity, entities.RunTag)],
        )

    def _set_status(self, run_id: str, status: str, since: int) -> None:
        """Set MLflow's status of a run.

        Args:
            since: ms since the epoch.
        """
        if status == "RUNNING":
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status=status, end_time=since)

    def _upload_file(self, run: ProjectedRun, run_id: str, path: str, folder: str | None) -> None:
        file = self._study_dir / path
        # The file may come from a lost head node, or this machine may only read the study.
        s3.present(file)
        self._upload(run, path, partial(self._log_file, run_id, file, folder))

    def _upload(self, run: ProjectedRun, name: str, upload: Callable[[], None]) -> None:
        """Upload a file. A file that cannot be stored is rejected, so that it does not block the
        metrics, unless the whole store is gone."""
        self._beat(SETUP_S)
        self._remove_leftovers(self.ids[run.key])
        try:
            self._try_twice(upload)
        except Exception as error:
            # This raises if the problem is the store, not the artifact.
            self._client.get_experiment(self.experiment_id)
            self._location_refuses = not isinstance(error, FileNotFoundError)
            self._rejected.add(run.name, "artifact", name, "", f"{type(error).__name__}: {error}")
        else:
            self._location_refuses = False

    def _remove_leftovers(self, run_id: str) -> None:
        """Remove the temporary file of an upload to this run that was killed. MLflow leaves it
        behind, and the file itself is sent again. Only one process at a time sends a study."""
        database = sqlite_path(self._uri)
        if database is None:
            return  # the server has the files
        for left in (database.parent / _ARTIFACTS / run_id).rglob(_UPLOADING):
            left.unlink(missing_ok=True)

    def _try_twice(self, upload: Callable[[], None]) -> None:
        try:
            upload()
        except FileNotFoundError:
            raise
        except Exception:
            if self._location_refuses:
                raise
            time.sleep(0.5)
            upload()

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
        context = entities.InputTag("mlflow.data.context", "training")
        return entities.DatasetInput(dataset, tags=[context])


def _has_moved(before: str, location: str) -> bool:
    """True if the database has our artifacts at another location."""
    ours = before.startswith("file:") and before.endswith(f"/{_ARTIFACTS}")
    return ours and before != location


def _oldest_first(run: Any) -> tuple[bool, int, str]:
    """Return the sort key of runs with the same key, of which the first is kept. Deleted runs come
    last."""
    deleted = run.info.lifecycle_stage == "deleted"
    return deleted, run.info.start_time, run.info.run_id
