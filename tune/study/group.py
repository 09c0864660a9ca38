"""Studies that belong together, such as the settings A to E: a folder with an event log of its own,
which MLflow shows as their parent."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from search_spaces.settings import Comparison
from trainables.errors import UserError
from tune.experiments import EXPERIMENTS
from tune.study.events import EventLog
from tune.study.identity import GROUP, STUDY, study_id
from tune.study.manifest import read_manifest

LOG = "events.jsonl"


@dataclass(frozen=True)
class Group:
    """`<storage>/<name>/`; its members are `<storage>/<name>-<setting>/`."""

    folder: Path
    id: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def event(self) -> dict[str, str]:
        """What the first event of a member says of it."""
        return {"name": self.name, "id": self.id}

    @classmethod
    def open(cls, folder: Path, experiment: str, objective: str, searched: list[str]) -> "Group":
        """The group in `folder`, which is created where there is none.

        Raises:
            UserError: the folder holds a study, or is not writable.
        """
        if (folder / "study.json").exists() or _kind(folder) == STUDY:
            raise UserError(
                f"{folder.name!r} is a study of its own in {folder.parent}; give the settings another name with --study"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if not is_group(folder):
                    fields: dict[str, Any] = {
                        "name": folder.name,
                        "kind": GROUP,
                        "experiment": experiment,
                        "objective": objective,
                    }
                    with closing(EventLog(folder / LOG)) as log:
                        log.append(
                            "study",
                            direction="maximize",
                            config={},
                            searched=searched,
                            data=None,
                            tags={},
                            **fields,
                        )
        except OSError as error:
            raise UserError(
                f"cannot write to {error.filename or folder}: {error.strerror}; choose another place with --storage"
            ) from None
        return cls.at(folder)

    @classmethod
    def at(cls, folder: Path) -> "Group":
        """The group that is there (`is_group`)."""
        return cls(folder, study_id(EventLog.read(folder / LOG, 0, limit=1)[0][0]))

    def say(self, event: str, **fields: Any) -> None:
        """Append to the group's log."""
        with FileLock(self.folder / ".lock"), closing(EventLog(self.folder / LOG)) as log:
            log.append(event, **fields)


def is_group(folder: Path) -> bool:
    """Whether the event log in `folder` is that of a group, and not of a study."""
    return _kind(folder) == GROUP


def _kind(folder: Path) -> str | None:
    """GROUP or STUDY; None where nothing has been begun."""
    first, _ = EventLog.read(folder / LOG, 0, limit=1)
    return str(first[0].get("kind", STUDY)) if first else None


@dataclass(frozen=True)
class Members:
    """The studies of a comparison that have been begun."""

    comparison: Comparison
    command: str
    """What goes on with them."""
    folders: dict[str, Path]
    """Setting -> folder, in the comparison's order."""


def members(folder: Path) -> Members | None:
    """The studies beside `folder` that bear its name and that of a setting; None where there are
    none."""
    for experiment in EXPERIMENTS.values():
        for key, comparison in experiment.comparisons.items():
            folders = {
                setting: folder.parent / f"{folder.name}-{setting}"
                for setting in comparison.settings
            }
            begun = {
                setting: path for setting, path in folders.items() if (path / "study.json").exists()
            }
            if any(
                read_manifest(path / "study.json").experiment == experiment.name
                for path in begun.values()
            ):
                return Members(
                    comparison,
                    f"python tune/run.py {experiment.name}{f' --compare {key}' if key else ''}",
                    begun,
                )
    return None
