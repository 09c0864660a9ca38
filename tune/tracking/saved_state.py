"""A study's state in MLflow, as its folder remembers it: `tracking.json`, by address of the
store."""

import json
from pathlib import Path
from typing import Any

from trainables.files import write_atomically
from tune.tracking.address import without_password

__all__ = ["read_state", "save_state", "saved_state"]

_STATES = "tracking.json"


def saved_state(study_dir: Path, uri: str) -> dict[str, Any]:
    """Return what this folder remembers of the study in the store at `uri`: {"offset",
    "experiment_id", "run_id", "study_id"}; {} before the first event was sent."""
    found = _saved_states(study_dir).get(without_password(uri))
    return dict(found) if isinstance(found, dict) else {}


def save_state(study_dir: Path, uri: str, state: dict[str, Any]) -> None:
    """Store the state that `saved_state` returns."""
    states = _saved_states(study_dir)
    states[without_password(uri)] = state
    write_atomically(study_dir / _STATES, json.dumps(states, indent=1))


def read_state(path: Path) -> dict[str, Any]:
    """Read a state file of a destination. Return {} if it is missing or invalid, such as an empty
    file after a power cut; then everything is sent again."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _saved_states(study_dir: Path) -> dict[str, Any]:
    return read_state(study_dir / _STATES)
