"""Register an exported model in MLflow: log it with its trial's run, and register it under its
study's name. If the trial is the study's answer, the version gets the alias `champion`."""

import importlib
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import UserError, first_line
from tune.command_line import command
from tune.export import Exported
from tune.startup import shorter
from tune.study.events import EventLog
from tune.study.identity import study_id
from tune.study.record import read_record
from tune.tracking.address import default_uri, quieten, without_password
from tune.tracking.runs import RUN_TAG
from tune.tracking.tracker import Tracker

ALIAS = "champion"


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    uri: str
    """URI of the MLflow store."""
    answer: int | None = None
    """The study's answer if this is another trial; None if this trial is the answer and
    champion."""

    @property
    def model(self) -> str:
        if self.answer is None:
            return f"models:/{self.name}@{ALIAS}"
        return f"models:/{self.name}/{self.version}"

    @property
    def note(self) -> str:
        """Reason why it is not the champion; "" if it is."""
        if self.answer is None:
            return ""
        return f"`{ALIAS}` stays with trial {self.answer}, which is the study's answer"

    def serve_command(self, port: int = 5001) -> str:
        """Return the shell command that serves it over HTTP from the current environment.

        MLflow looks for uvicorn in PATH, which contains it only if the environment is active.
        """
        python = Path(sys.executable)
        where = f"MLFLOW_TRACKING_URI={shlex.quote(without_password(self.uri))}"
        path = f"PATH={shlex.quote(str(python.parent))}:$PATH"
        serve = f"models serve -m {self.model} --env-manager local --host 127.0.0.1 --port {port}"
        return f"{where} {path} {shlex.quote(shorter(python))} -m mlflow {serve}"


def register(exported: Exported) -> Registered:
    """Log and register the model. An earlier champion of the study stays as an earlier version.

    Raises:
        UserError: MLflow does not accept the model.
    """
    uri = default_uri(exported.study.parent)
    quieten()
    try:
        mlflow = importlib.import_module("mlflow")
        client = mlflow.MlflowClient(uri, registry_uri=uri)
        run = _run_of(client, exported, uri)
        model = _log(mlflow, client, exported, run)
        chosen = read_record(exported.study).best_number()
        answer = None if chosen == exported.trial else chosen
        version = _version(mlflow, client, exported, model)
        if answer is None:
            client.set_registered_model_alias(exported.study.name, ALIAS, version)
        return Registered(exported.study.name, version, uri, answer)
    except UserError:
        raise
    except Exception as error:  # from MLflow, its database or the network
        why = first_line(error)
        raise UserError(
            f"{exported.folder} is written, but MLflow at {without_password(uri)} does not accept "
            f"it ({why}); fix that and export again"
        ) from None


def _run_of(client: Any, exported: Exported, uri: str) -> Any:
    """Return the run of the trial, after sending it if MLflow lacks it."""
    (first,), _ = EventLog.read(exported.study / "events.jsonl", 0, limit=1)
    wanted = (
        f"tags.`study.id` = '{study_id(first)}' and tags.`{RUN_TAG}` = 'trial/{exported.trial}'"
    )
    for sent in (False, True):
        experiment = client.get_experiment_by_name(first["experiment"])
        found = (
            client.search_runs([experiment.experiment_id], filter_string=wanted, max_results=1)
            if experiment
            else []
        )
        if found:
            return found[0]
        if not sent:
            Tracker(exported.study, uri).sync()
    raise UserError(
        f"MLflow at {without_password(uri)} has no run of {exported}: "
        f"`{command('report', 'sync', storage=exported.study.parent)}` sends it"
    )


def _log(mlflow: Any, client: Any, exported: Exported, run: Any) -> Any:
    """Log the model with its metric, and return it. This uses the client, because the fluent API
    would reopen the trial's run."""
    run_id = run.info.run_id
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run_id, model_type=exported.study.name
    )
    described = mlflow.models.Model.load(str(exported.folder))
    described.run_id, described.model_id, described.model_uuid = (
        run_id,
        model.model_id,
        model.model_id,
    )
    described.save(str(exported.folder / "MLmodel"))
    client.log_model_artifacts(model.model_id, str(exported.folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model.model_id, step=0)])
    client.log_metric(
        run_id, f"export/{exported.objective}", exported.measured, model_id=model.model_id
    )
    return model


def _version(mlflow: Any, client: Any, exported: Exported, model: Any) -> str:
    """Create a new version of the registered model."""
    name = exported.study.name
    try:
        client.create_registered_model(name, tags={"study": name})
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    (first,), _ = EventLog.read(exported.study / "events.jsonl", 0, limit=1)
    tags = {
        "study": name,
        "study.id": study_id(first),
        "trial": str(exported.trial),
        exported.objective: f"{exported.measured:.6g}",
    }
    source, run_id = model.artifact_location, model.source_run_id
    created = client.create_model_version(
        name, source, run_id, tags=tags, description=str(exported), model_id=model.model_id
    )
    return str(created.version)
