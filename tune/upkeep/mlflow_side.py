"""A study in MLflow: its runs and its registered model, which follow its folder."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.errors import UserError, first_line
from tune.study.events import EventLog
from tune.study.identity import study_id
from tune.tracking.address import default_uri, probe, quieten, without_password
from tune.tracking.database import sqlite_path

_PAGE = 1000  # runs that MLflow gives at a time


class MlflowSide:
    """The studies of one storage in MLflow.

    Raises:
        UserError: MLflow does not answer.
    """

    def __init__(self, root: Path):
        self.uri = default_uri(root)
        self._client: Any = None
        database = sqlite_path(self.uri)
        if database is not None and not database.exists():
            return  # nothing was ever sent

        quieten()
        with self._reported():
            probe(self.uri)
            self._mlflow = importlib.import_module("mlflow")
            self._client = self._mlflow.MlflowClient(self.uri, registry_uri=self.uri)

    def runs(self, folder: Path, *, deleted: bool = False) -> list[str]:
        """Ids of the runs of a study: its own, those of trials and repeats.

        Args:
            deleted: those that were deleted, instead of the others.
        """
        first, _ = EventLog.read(folder / "events.jsonl", 0, limit=1)
        if self._client is None or not first:
            return []
        with self._reported():
            experiment = self._client.get_experiment_by_name(first[0]["experiment"])
            if experiment is None:
                return []
            wanted = f"tags.`study.id` = '{study_id(first[0])}'"
            return list(self._found(experiment.experiment_id, wanted, deleted))

    def _found(self, experiment: str, wanted: str, deleted: bool) -> Iterator[str]:
        kinds = self._mlflow.entities.ViewType
        kind = kinds.DELETED_ONLY if deleted else kinds.ACTIVE_ONLY
        token = None
        while True:
            page = self._client.search_runs(
                [experiment], wanted, run_view_type=kind, max_results=_PAGE, page_token=token
            )
            for run in page:
                yield run.info.run_id
            token = page.token
            if not token:
                return

    def versions(self, name: str) -> list[str]:
        """Versions of the model that is registered under a study's name; [] where there is none."""
        if self._client is None:
            return []
        with self._reported():
            found = self._client.search_model_versions(f"name = '{name}'")
            return sorted(str(version.version) for version in found)

    def delete_runs(self, ids: list[str]) -> None:
        """Delete runs, which MLflow can restore until `mlflow gc`."""
        with self._reported():
            for run in ids:
                self._client.delete_run(run)

    def restore_runs(self, ids: list[str]) -> None:
        """Restore deleted runs."""
        with self._reported():
            for run in ids:
                self._client.restore_run(run)

    def delete_model(self, name: str) -> None:
        """Delete a registered model with all of its versions."""
        if self.versions(name):
            with self._reported():
                self._client.delete_registered_model(name)

    def rename_model(self, name: str, new: str) -> None:
        """Rename a registered model; its versions and aliases stay with it."""
        if self.versions(name):
            with self._reported():
                self._client.rename_registered_model(name, new)
                self._client.set_registered_model_tag(new, "study", new)

    def _reported(self) -> "_Reported":
        return _Reported(self.uri)


class _Reported:
    """Turns what MLflow, its database or the network raise into one line."""

    def __init__(self, uri: str):
        self._uri = uri

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(
                f"MLflow at {without_password(self._uri)} does not take part "
                f"({first_line(error)}); mend that and repeat the command"
            ) from None
