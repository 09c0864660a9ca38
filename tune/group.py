"""Studies that belong together, such as the settings A to E: a folder with an event log of its own, which MLflow shows as their parent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainables.errors import UserError
from tune.events import EventLog
from tune.projection import study_id


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
        if (folder / "study.json").exists():
            raise UserError(f"{folder.name!r} is a study of its own in {folder.parent}; give the settings another name with --study")
        log = folder / "events.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if not (log.exists() and EventLog.read(log, 0, limit=1)[0]):
                    fields: dict[str, Any] = {"name": folder.name, "kind": "group", "experiment": experiment, "objective": objective}
                    EventLog(log).append("study", direction="maximize", config={}, searched=searched, data=None, tags={}, **fields)
        except OSError as error:
            raise UserError(f"cannot write to {error.filename or folder}: {error.strerror}; choose another place with --storage") from None
        return cls.at(folder)

    @classmethod
    def at(cls, folder: Path) -> "Group":
        """The group that is there."""
        return cls(folder, study_id(EventLog.read(folder / "events.jsonl", 0, limit=1)[0][0]))

    def say(self, event: str, **fields: Any) -> None:
        """Append to the group's log."""
        with FileLock(self.folder / ".lock"):
            EventLog(self.folder / "events.jsonl").append(event, **fields)
