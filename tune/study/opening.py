"""The first event of a study, and checks of what may have changed since then."""

from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tune.study.group import Group
from tune.study.manifest import Manifest

COMMITS = "commits"
"""Tag of a study that several commits have run: these commits, the oldest first."""
NO_COMMIT = "no commit"
"""Entry in that tag for code without a commit, such as an installed package."""


def first_event(manifest: Manifest, experiment: str, group: Group | None) -> dict[str, Any]:
    """The fields of a study's first event.

    Args:
        experiment: name of the study's experiment. For a member of a comparison, the comparison's
            experiment counts, so that MLflow has all members in one place.
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
    """Check that study.json still has the objective that the study began with. Otherwise trials
    would wait for a metric that those on record do not have.

    Args:
        begun_with: objective of the log; empty if it has none yet.
    """
    if begun_with and begun_with != manifest.objective:
        raise UserError(
            f"{directory / 'study.json'} has the objective {manifest.objective!r}, but the study "
            f"began with {begun_with!r}: write that into it, or restore it from a copy"
        )


def continued_by(known: str | None, commit: str | None) -> tuple[str, str] | None:
    """Return a note that another commit continues a study, and the commits that have run it; None
    if the commit is the last one.

    Args:
        known: commits so far, as in the tag; None: the study was begun by code without a commit.
        commit: commit of the code that continues; None: it has none.
    """
    commits = (known or NO_COMMIT).split(", ")
    if commit is None or commits[-1] == commit:
        return None
    began = "code without a commit" if commits[0] == NO_COMMIT else f"commit {commits[0]}"
    return f"begun by {began}, continued by commit {commit}", ", ".join([*commits, commit])
