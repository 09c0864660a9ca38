"""What a study is: written once, compared at every later start."""

import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from trainables.files import write_atomically

PATH_KEYS = {"data.name": "data", "init.file": "init.sha256"}
"""Config values that say where something is -> what says which it is. A study may be gone on with
where both have other places."""
_PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "optuna",
    "mlflow",
    "byol-pytorch",
    "numpy",
    "scikit-learn",
)


def versions() -> dict[str, str]:
    """Python and the packages that results depend on."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def git_commit() -> str | None:
    """Commit of this checkout, `+` at the end where files differ from it; None outside one."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "-uno"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """study.json. `experiment`, `preset`, `base`, `pins`, `space`, warm start and the data's
    fingerprint make the study what it is."""

    name: str
    experiment: str
    preset: str
    objective: str
    seed: int
    base: dict[str, Any]
    """Flat config of trial 0."""
    pins: dict[str, Any]
    """Config values set on the command line; never searched."""
    space: dict[str, list[str]]
    """Searched parameter -> its ranges, with conditions."""
    data: dict[str, Any]
    """name, fingerprint, path, images."""
    warm_start: dict[str, Any] | None = None
    """Study and configurations that come after the default (`tune/study/warm_start.py`)."""
    versions: dict[str, str] = field(default_factory=versions)
    commit: str | None = field(default_factory=git_commit)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def reconcile_with(self, path: Path) -> "Manifest":
        """Write this manifest, or return the one on disk where it describes the same study.

        Raises:
            UserError: the study on disk is another one; the message shows what differs.
        """
        if not path.exists():
            write_atomically(path, json.dumps(asdict(self), indent=1) + "\n")
            return self
        there = read_manifest(path)
        if differences := self._differences(there):
            shown = "; ".join(differences[:6]) + (
                f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
            )
            raise UserError(
                f"study {self.name!r} exists with another configuration: {shown}. "
                f"Repeat the options it was begun with, or give this one a name of its own: --study {self.name}-2"
            )
        return replace(there, base=self.base)

    def _differences(self, there: "Manifest") -> list[str]:
        mine: dict[str, Any] = _identity(self)
        theirs: dict[str, Any] = _identity(there)
        for place, content in PATH_KEYS.items():
            if mine.get(content) == theirs.get(content):
                mine.pop(place, None)
                theirs.pop(place, None)
        keys = [*mine, *(k for k in theirs if k not in mine)]
        return [
            f"{k} was {_shown(theirs, k)}, is {_shown(mine, k)}"
            for k in keys
            if mine.get(k) != theirs.get(k)
        ]


def read_manifest(path: Path) -> Manifest:
    """The manifest in `path`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        return Manifest(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(
            f"no study in {path.parent}; `python tune/report.py show` lists the studies there are"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a study manifest of this version: {error}") from None


def resume_command() -> str:
    """The command line that was typed, to be shown where it is to be typed again."""
    return shlex.join(["python", *sys.argv])


def replay_command(experiment: str, study: Path, number: int) -> str:
    """What runs a trial again and compares it with the record, epoch by epoch.

    Args:
        study: its folder.
    """
    where = [] if study.parent == Path("runs").resolve() else ["--storage", str(study.parent)]
    return shlex.join(
        [
            "python",
            "tune/run.py",
            experiment,
            "--local",
            "--trial",
            f"{study.name}/{number}",
            *where,
        ]
    )


def _identity(manifest: Manifest) -> dict[str, Any]:
    # Through JSON, so that tuples and lists, 1e-3 and 0.001 compare as they were written.
    plain = json.loads(json.dumps(asdict(manifest)))
    return {
        **{k: plain[k] for k in ("experiment", "preset")},
        **plain["base"],
        **{f"space of {k}": v for k, v in plain["space"].items()},
        "data": plain["data"]["fingerprint"],
        "warm start": (plain["warm_start"] or {}).get("study", "absent"),
    }


def _shown(values: Mapping[str, Any], key: str) -> str:
    """In full, as `--set` takes it: two rates may differ in their fourth digit."""
    value = values.get(key, "absent")
    return json.dumps(value) if isinstance(value, list) else "none" if value is None else str(value)
