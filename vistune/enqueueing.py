"""Check a configuration against a study's record, without its search space."""

from collections.abc import Mapping
from typing import Any

from trainables.errors import UserError
from tune.cli.tries import in_types
from tune.experiment_file import experiment_of
from tune.experiments import Experiment
from tune.search.native import native
from tune.search.own_configuration import check_described
from tune.study.record import Record


def checked(record: Record, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration with values converted to the types of the study's config.

    Raises:
        UserError: see `Study.enqueue`.
    """
    manifest = record.manifest
    values = {key: native(value) for key, value in configuration.items()}
    experiment = _experiment(record)
    if experiment is not None:
        values = in_types(values, experiment, manifest.base)

    check_described(manifest.space, manifest.base, manifest.pins, values)
    return values


def _experiment(record: Record) -> Experiment | None:
    """Return the study's experiment; None if it existed only in another process."""
    try:
        return experiment_of(record.manifest.experiment, record.manifest.code)
    except UserError:
        return None
