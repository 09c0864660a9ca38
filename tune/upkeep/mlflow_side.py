"""A study in MLflow: its runs and its registered model, which are changed together with its
folder."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.errors import UserError, first_line
from tune.study.events import EventLog
from tune.study.identity import study_id
from tune.tracking.address import default_uri, probe, quieten, without_password
from tune.tracking.database import sqlite_path

STUDY_ID = "study.id"
"""Tag of runs and model versions: the study to which they belong."""
_PAGE = 1000  # runs per request


class MlflowSide:
    """The studies of one storage in MLflow.

    Raises:
        UserError: MLflow does not respond.
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
        """Return the ids of a study's runs: its own, and those of trials and repeats.

        Args:
            deleted: return only deleted runs instead of active ones.
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

    def versions(self, folder: Path) -> list[str]:
        """Return a study's versions of the model registered under its name."""
        own, _ = self._versions(folder)
        return own

    def _versions(self, folder: Path) -> tuple[list[str], list[str]]:
        """Return the versions of the model with a study's name: the study's own, and those of
        others.

        Studies of two storages may share a name and a server, and so may an archived study and a
        newer one.
        """
        if self._client is None:
            return [], []
        with self._reported():
            found = self._client.search_model_versions(f"name = '{folder.name}'")
        if not found:
            return [], []

        first, _ = EventLog.read(folder / "events.jsonl", 0, limit=1)
        identity = study_id(first[0]) if first else None
        runs = {*self.runs(folder), *self.runs(folder, deleted=True)}
        own: list[int] = []
        others: list[int] = []
        for version in found:
            tagged = version.tags.get(STUDY_ID)
            is_own = tagged == identity if tagged else version.run_id in runs
            (own if is_own else others).append(int(version.version))
        return [str(number) for number in sorted(own)], [str(number) for number in sorted(others)]

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

    def delete_model(self, folder: Path) -> None:
        """Delete a study's versions of a registered model, and the model itself if no other
        versions are left."""
        own, others = self._versions(folder)
        if not own:
            return
        with self._reported():
            if not others:
                self._client.delete_registered_model(folder.name)
                return
            for version in own:
                self._client.delete_model_version(folder.name, version)

    def check_rename(self, folder: Path, new: str) -> None:
        """Refuse a new name that a study's registered model cannot have.

        Raises:
            UserError: a model of that name exists, or the model also has versions of other studies.
        """
        own, others = self._versions(folder)
        if not own:
            return
        if others:
            raise UserError(
                f"the registered model {folder.name!r} has versions of other studies too "
                f"({', '.join(others)}), which would be renamed with it; the study keeps its name"
            )
        with self._reported():
            is_taken = bool(self._client.search_registered_models(f"name = '{new}'"))
        if is_taken:
            raise UserError(
                f"MLflow has a registered model {new!r} already, perhaps of an archived study or "
                "of another storage; choose another name"
            )

    def rename_model(self, folder: Path, new: str) -> None:
        """Rename a study's registered model; it keeps its versions and aliases."""
        if self.versions(folder):
            with self._reported():
                self._client.rename_registered_model(folder.name, new)
                self._client.set_registered_model_tag(new, "study", new)

    def _reported(self) -> "_Reported":
        return _Reported(self.uri)


class _Reported:
    """Turns errors of MLflow, its database or the network into a one-line UserError."""

    def __init__(self, uri: str):
        self._uri = uri

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(
                f"MLflow at {without_password(self._uri)} cannot be changed "
                f"({first_line(error)}); fix that and repeat the command"
            ) from None
