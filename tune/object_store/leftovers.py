"""The copy of a study compared with its log: remove what is left over there, and upload what is
missing.

A process that is killed between a line of the log and the uploads that follow it never returns to
them; so every start compares the two. The process of a trial that ends does not wait long for an
upload that it has begun, so a checkpoint may arrive later than the end; so the end of a study
compares them too.
"""

from pathlib import Path

from trainables.files import is_partial
from tune.object_store import s3
from tune.object_store.restore import LOG
from tune.object_store.trial_folder import files_to_upload, spent_files, upload_ended
from tune.study.log_state import read_state
from tune.study.work import WorkId


def settle_copy(folder: Path) -> None:
    """Bring the copy of every run that has ended to its final state, and remove partial files.

    Raises:
        Unreachable, Refused, OSError
    """
    there = s3.below(folder)
    for path in there:
        if is_partial(path.name):
            s3.delete(path)

    names: dict[Path, set[str]] = {}
    for path in there:
        names.setdefault(path.parent, set()).add(path.name)

    for run, state in _ended(folder):
        if _is_unfinished(run, state, names.get(run, set())):
            upload_ended(run, state)


def _ended(folder: Path) -> list[tuple[Path, str]]:
    """Folder and state of each trial and repeat that has ended, from the log on this machine."""
    state = read_state(folder / LOG)
    runs = {WorkId(number): run for number, run in state.trials.items()}
    runs |= {WorkId(*key): run for key, run in state.repeats.items()}
    return [
        (work_id.folder(folder), run.outcome.state)
        for work_id, run in runs.items()
        if run.outcome is not None
    ]


def _is_unfinished(run: Path, state: str, there: set[str]) -> bool:
    """True if the store has files that are no longer needed, or lacks some that this machine
    has."""
    spent = set(spent_files(state))
    wanted = {path.name for path in files_to_upload(run)} - spent
    return bool(spent & there or wanted - there)
