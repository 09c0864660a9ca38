"""Groups of studies that belong together, such as settings A to E. A group is a folder with its own
event log, and MLflow shows it as the parent of its studies."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from search_spaces.settings import QUESTIONS, Comparison, Fixed, Method
from trainables.errors import UserError
from tune.command_line import command
from tune.experiments import EXPERIMENTS
from tune.study.events import EventLog
from tune.study.identity import GROUP, STUDY, study_id
from tune.study.manifest import read_manifest
from tune.study.rules import ENOUGH_SEARCHES

LOG = "events.jsonl"


_SEARCHES = "searches"  # metric of a group's log


def member_name(group: str, setting: str, search: int | None = None) -> str:
    """Name of a setting's study, with the number of the search if each setting has several."""
    name = f"{group}-{setting}"
    return name if search is None else f"{name}-r{search}"


@dataclass(frozen=True)
class OwnComparison:
    """A comparison of the user's own experiment."""

    name: str
    """Name in `--compare`."""
    comparison: Comparison
    """Its settings only fix values."""

    def as_json(self) -> dict[str, Any]:
        """The entry in the group's log."""
        settings = {
            name: {"about": one.about, "values": one.values}
            for name, one in self.comparison.settings.items()
        }
        return {
            "name": self.name,
            "title": self.comparison.title,
            "settings": settings,
            "questions": dict(self.comparison.questions),
        }

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "OwnComparison":
        """The comparison of an entry in a group's log."""
        settings = {name: Fixed(**one) for name, one in entry["settings"].items()}
        comparison = Comparison(
            title=entry["title"], settings=settings, questions=entry["questions"]
        )
        return cls(entry["name"], comparison)


@dataclass(frozen=True)
class Group:
    """A group in `<storage>/<name>/`; its members lie beside it (`member_name`)."""

    folder: Path
    id: str

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def experiment(self) -> str:
        """Experiment that the group was created for. MLflow shows all members in it, because a run
        and its parent must be in the same experiment."""
        return str(_beginning(self.folder)["experiment"])

    @property
    def questions(self) -> int:
        """Version of the questions that the group began with."""
        return _questions(self.folder)

    @property
    def event(self) -> dict[str, str]:
        """The group as the first event of a member records it."""
        return {"name": self.name, "id": self.id}

    @classmethod
    def open(
        cls,
        folder: Path,
        experiment: str,
        objective: str,
        searched: list[str],
        own: OwnComparison | None = None,
    ) -> "Group":
        """Open the group in `folder`; create it if there is none.

        Args:
            own: comparison that is in no registry. The group's log keeps it, so that its table can
                be drawn without the user's code.
        Raises:
            UserError: the folder holds a study, or is not writable.
        """
        if (folder / "study.json").exists() or _kind(folder) == STUDY:
            raise UserError(
                f"{folder.name!r} is a study of its own in {folder.parent}; "
                "give the settings another name with --study"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                if not is_group(folder):
                    _begin(folder, experiment, objective, searched, own)
        except OSError as error:
            raise UserError(
                f"cannot write to {error.filename or folder}: {error.strerror}; "
                "choose another place with --storage"
            ) from None
        return cls.at(folder)

    @classmethod
    def at(cls, folder: Path) -> "Group":
        """The group in `folder`, for which `is_group` is true."""
        return cls(folder, study_id(_beginning(folder)))

    @property
    def searches(self) -> int | None:
        """Number of searches of each setting that was requested last; None: one, without a
        number."""
        wanted, _ = self._history()
        return wanted

    @property
    def look(self) -> int:
        """Number of the verdict that the group allows now, from 1. Another number of searches is
        another look."""
        wanted, judged = self._history()
        return 1 + (judged.index(wanted) if wanted in judged else len(judged))

    def _history(self) -> tuple[int | None, list[int]]:
        """Number of searches that was requested last, and the numbers that had a verdict."""
        wanted: int | None = None
        judged: list[int] = []
        events, _ = EventLog.read(self.folder / LOG)
        for event in events:
            if event["event"] == "summary" and _SEARCHES in event["metrics"]:
                wanted = int(event["metrics"][_SEARCHES])
            if event["event"] != "finish" or wanted is None:
                continue
            if wanted >= ENOUGH_SEARCHES and wanted not in judged:
                judged.append(wanted)
        return wanted, judged

    def ask_for(self, searches: int) -> None:
        """Record the number of searches of each setting, before they run."""
        if searches != self.searches:
            self.emit("summary", metrics={_SEARCHES: searches}, tags={})

    def emit(self, event: str, **fields: Any) -> None:
        """Append an event to the group's log."""
        with FileLock(self.folder / ".lock"), closing(EventLog(self.folder / LOG)) as log:
            log.append(event, **fields)


def is_group(folder: Path) -> bool:
    """True if the event log in `folder` belongs to a group, not to a study."""
    return _kind(folder) == GROUP


def _kind(folder: Path) -> str | None:
    """GROUP or STUDY; None if nothing has begun."""
    first = _beginning(folder)
    return str(first.get("kind", STUDY)) if first else None


def _questions(folder: Path) -> int:
    """Version of the questions that a group began with. Logs of version 1 do not name it."""
    return int(_beginning(folder).get("questions", 1))


def _beginning(folder: Path) -> dict[str, Any]:
    """First event of the log in `folder`; empty if nothing has begun."""
    events, _ = EventLog.read(folder / LOG, 0, limit=1)
    return events[0] if events else {}


def _begin(
    folder: Path,
    experiment: str,
    objective: str,
    searched: list[str],
    own: OwnComparison | None,
) -> None:
    """Write the first event of a group's log."""
    more = {} if own is None else {"comparison": own.as_json()}
    with closing(EventLog(folder / LOG)) as log:
        log.append(
            "study",
            direction="maximize",
            config={},
            searched=searched,
            data=None,
            tags={},
            name=folder.name,
            kind=GROUP,
            questions=QUESTIONS,
            experiment=experiment,
            objective=objective,
            **more,
        )


@dataclass(frozen=True)
class Members:
    """The studies of a comparison that have begun."""

    comparison: Comparison
    command: str
    """Command that resumes them."""
    folders: dict[str, Path]
    """Setting -> folder, in the comparison's order."""


def members(folder: Path, search: int | None = None) -> Members | None:
    """Return the studies beside `folder` that are named after it and a setting; None if there are
    none.

    Args:
        search: number of the search, if each setting has several.
    """
    for experiment in EXPERIMENTS.values():
        for key, comparison in experiment.comparisons.items():
            begun = _begun(folder, comparison, search)
            names = {read_manifest(path / "study.json").experiment for path in begun.values()}
            if names & _experiments(experiment.name, comparison):
                words = [experiment.name, *(["--compare", key] if key else [])]
                if comparison.controls & begun.keys():
                    words.append("--control")
                resume = command("run", *words, storage=folder.parent, anywhere=True)
                asked = comparison.without(comparison.controls - begun.keys())
                return Members(asked.as_of(_questions(folder)), resume, begun)
    return _own_members(folder, search)


def _own_members(folder: Path, search: int | None) -> Members | None:
    """Return the members of a user's own comparison, which the group's log describes."""
    beginning = _beginning(folder)
    recorded = beginning.get("comparison")
    if recorded is None:
        return None

    own = OwnComparison.from_json(recorded)
    begun = _begun(folder, own.comparison, search)
    manifests = [read_manifest(path / "study.json") for path in begun.values()]
    if not manifests or {one.experiment for one in manifests} != {beginning["experiment"]}:
        return None
    words = [manifests[0].typed_experiment, "--compare", own.name]
    resume = command("run", *words, storage=folder.parent, anywhere=True)
    return Members(own.comparison, resume, begun)


def manifest_in(folder: Path, search: int | None = None) -> Path | None:
    """Path of the manifest of one study of the group; None if none has begun."""
    found = members(folder, search)
    if found is None:
        return None
    return next(iter(found.folders.values())) / "study.json"


def _experiments(name: str, comparison: Comparison) -> set[str]:
    """Names of the experiments whose studies may be settings of a comparison."""
    others = [one for one in comparison.settings.values() if isinstance(one, Method)]
    return {name, *(one.experiment for one in others)}


def search_numbers(folder: Path) -> list[int]:
    """Numbers of the searches beside `folder` that are named after it; [] if each setting has one
    search, without a number."""
    numbers = set()
    for path in folder.parent.glob(f"{folder.name}-*-r*/study.json"):
        number = path.parent.name.rpartition("-r")[2]
        if number.isdecimal():
            numbers.add(int(number))
    return sorted(number for number in numbers if members(folder, number) is not None)


def source_studies(folder: Path, comparison: Comparison, search: int) -> dict[str, Path]:
    """Name -> folder of the studies that the backbones of a search come from."""
    found = {}
    suffix = f"-r{search}"
    for path in sorted(folder.parent.glob(f"{folder.name}-*{suffix}/study.json")):
        name = path.parent.name.removeprefix(f"{folder.name}-").removesuffix(suffix)
        if name not in comparison.settings:
            found[name] = path.parent
    return found


def _begun(folder: Path, comparison: Comparison, search: int | None) -> dict[str, Path]:
    """Setting -> folder of the studies of a comparison that have begun."""
    folders = {
        setting: folder.parent / member_name(folder.name, setting, search)
        for setting in comparison.settings
    }
    return {setting: path for setting, path in folders.items() if (path / "study.json").exists()}
