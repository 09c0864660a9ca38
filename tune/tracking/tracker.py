"""Send the event log of every study to MLflow.

Runs are identified by our own tag, and MLflow stores a metric sent twice with the same time, step
and value as one row. So everything may be sent again. The store records how much of the log it has
as a tag of the study's run.
"""

from collections.abc import Callable
from pathlib import Path

from tune.command_line import command
from tune.study.events import EventLog
from tune.tracking.address import default_uri, without_password
from tune.tracking.database import mend, sqlite_path
from tune.tracking.destination import Opening
from tune.tracking.rejected import Rejected
from tune.tracking.replay import MLFLOW, Replay
from tune.tracking.runs import MlflowRuns
from tune.tracking.saved_state import saved_state

__all__ = ["MlflowStore", "Tracker", "saved_state"]


class MlflowStore:
    """MLflow at a tracking URI, as a `Destination`."""

    name = MLFLOW
    title = "MLflow"
    logarithms = True

    def __init__(self, uri: str, rejected: Rejected):
        self.uri = uri
        self.rejected = rejected

    def where(self, study_dir: Path) -> str:
        """Return the address, without a password."""
        return without_password(self.uri)

    def remedy(self, study_dir: Path) -> str:
        """Return what the user can do if MLflow rejects everything."""
        again = command("report", "sync", storage=study_dir.parent)
        return f"fix that, or set MLFLOW_TRACKING_URI, and run `{again}`"

    def connect(self, opening: Opening) -> MlflowRuns:
        """Find the study's runs."""
        return MlflowRuns(self.uri, opening, self.rejected)

    def mend(self, error: Exception) -> str | None:
        """Recreate a damaged database."""
        database = sqlite_path(self.uri)
        return None if database is None else mend(database, error)


class Tracker(Replay):
    """Replays the event log of one study folder into MLflow.

    Args:
        study_dir: `<storage>/<study>`, the folder of the event log.
        uri: MLflow tracking URI; default: `default_uri` of the storage.
    """

    def __init__(self, study_dir: Path, uri: str | None = None):
        folder = Path(study_dir).absolute()
        self.uri = uri or default_uri(folder.parent)
        self._rejected = Rejected(folder / "tracking-rejected.jsonl")
        super().__init__(folder, MlflowStore(self.uri, self._rejected))

    def sync(self, is_wanted: Callable[[], bool] = lambda: True) -> str:
        """Send everything that MLflow lacks now, and return one line that says what was done. The
        group of a study is sent first, because its run is the parent.

        Args:
            is_wanted: as in `Replay.sync`.
        Raises:
            UserError: as in `Replay.sync`.
        """
        self._sync_group(is_wanted)
        said = super().sync(is_wanted)
        if self._rejected.count:
            said += f"; {self._rejected.count} records refused, see {self._rejected.path}"
        return said

    def _sync_group(self, is_wanted: Callable[[], bool]) -> None:
        first, _ = EventLog.read(self.study_dir / "events.jsonl", 0, limit=1)
        group = first[0].get("group") if first else None
        if group is None:
            return

        folder = self.study_dir.parent / group["name"]
        if (folder / "events.jsonl").exists():
            Tracker(folder, self.uri).sync(is_wanted)
