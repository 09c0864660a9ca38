"""The first event of a study, and what may have changed since."""

from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tune.study.group import Group
from tune.study.manifest import Manifest

COMMITS = "commits"
"""Tag of a study that several states of the code have run: their commits, the first first."""
NO_COMMIT = "no commit"
"""Code of an installed package, in that tag."""


def first_event(manifest: Manifest, experiment: str, group: Group | None) -> dict[str, Any]:
    """The fields of a study's first event.

    Args:
        experiment: name of the study's experiment; of a comparison's member that of the comparison
            counts, so that MLflow has them in one place.
    """
    tags = {"preset": manifest.preset}
    if manifest.search is not None:
        tags["search"] = str(manifest.search)
    return {
        "name": manifest.identity,
        "experiment": experiment if group is None else group.experiment,
        "objective": manifest.objective,
        "direction": "maximize",
        "config": manifest.base,
        "searched": sorted(manifest.space),
        "data": manifest.data,
        "tags": tags,
        "group": None if group is None else group.event,
    }


def check_objective(directory: Path, begun_with: str, manifest: Manifest) -> None:
    """Refuse a study.json that somebody has given another objective: trials would wait for a metric
    that those on record do not have.

    Args:
        begun_with: the objective of the log; empty where it has none yet.
    """
    if begun_with and begun_with != manifest.objective:
        raise UserError(
            f"{directory / 'study.json'} has the objective {manifest.objective!r}, but the study "
            f"began with {begun_with!r}: write that into it, or restore it from a copy"
        )


def continued_by(known: str | None, commit: str | None) -> tuple[str, str] | None:
    """A sentence on code that continues a study, and the commits that have run it; None where it is
    that of the last start.

    Args:
        known: commits so far, as the tag has them; None: begun by code without one.
        commit: of the code that continues; None: it has none.
    """
    commits = (known or NO_COMMIT).split(", ")
    if commit is None or commits[-1] == commit:
        return None
    began = "code without a commit" if commits[0] == NO_COMMIT else f"commit {commits[0]}"
    return f"begun by {began}, continued by commit {commit}", ", ".join([*commits, commit])
