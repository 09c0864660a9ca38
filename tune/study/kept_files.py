"""The files that a study keeps of runs that have ended.

A run that has ended needs no checkpoint, and an incomplete one needs no weights. `--keep best`
keeps the weights and the arrays for pictures of these completed trials: the best few by validation,
the default, trials that are repeated, and those that somebody has asked for. A removed trial can be
trained again from its record.

Values of completed trials do not change, so a trial that has fallen behind the best few never
returns to them. So nothing needs the removed files, no matter when a kill comes. The next start
removes what a kill left behind.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from trainables.files import BEST, FIRST_EPOCH, HISTORY, LAST, write_atomically
from tune.study.log_state import LogState
from tune.study.rules import RepeatRule
from tune.study.work import WorkId

KEPT_TRIALS = 5
"""Trials whose weights are kept, besides the default."""
PIN = ".pinned"
"""Marker in a trial's folder: somebody has asked for its weights, so they stay."""
RETRAINED = ".retrained.json"
"""File in a trial's folder: its weights come from a later training that differs from the record. It
holds `value`, the best objective, and `differences`."""
SNAPSHOTS = ("embeddings-*.npz", "masks-*.npz", "predictions-*.npz")
"""Arrays that pictures are drawn from (`trainables/plots/draw.py`); all others are the trainable's
own."""
_CHECKPOINTS = (LAST, HISTORY, FIRST_EPOCH)


class KeptFiles:
    """Removes the files of ended runs as soon as nothing needs them.

    Args:
        directory: folder of the study.
        state: state of the study, which the study updates; it is only read here.
        rule: rule of the repeats.
        keep: `all` keeps everything but the checkpoints of completed runs.
        arrays: the arrays in a run's folder are ours; those of a function are its own.
        points: selects completed trials that are kept besides the best by value, such as their
            front.
    """

    def __init__(
        self,
        directory: Path,
        state: LogState,
        rule: RepeatRule,
        keep: str,
        *,
        arrays: bool = True,
        points: Callable[[Collection[int]], Iterable[int]] = lambda numbers: (),
    ):
        self._directory = directory
        self._state = state
        self._rule = rule
        self._keep = keep
        self._arrays = arrays
        self._points = points
        self._whole: set[int] = set()
        """Completed trials that still have all their files."""
        self._repeated: set[int] = set()
        self._draws_all = False

    def begin(self) -> None:
        """Remove what a kill left behind of the last runs that ended. A batch of trials ends in one
        write; otherwise there is one such run."""
        for work_id in self._state.just_ended:
            self._remove_of_ended(work_id)
        self._repeated = {number for number, _ in self._state.repeats}
        self._whole = {
            number for number, run in self._state.trials.items() if run.state == "COMPLETE"
        }

    def tidy(self, *, draws_all: bool = False) -> None:
        """Remove files of all ended runs, except those that are kept.

        Args:
            draws_all: keep the arrays of every completed trial, because all of them will be drawn.
        """
        self._draws_all = draws_all
        if self._keep != "best":
            return
        for work_id in list(self._state.runs):
            if work_id.kind == "repeat":
                self._remove_of_ended(work_id)
        self._remove_overtaken()

    def ended(self, work_id: WorkId) -> None:
        """Remove the files of a run whose end is on record."""
        self._remove_of_ended(work_id)
        if work_id.kind == "repeat" and work_id.trial is not None:
            self._repeated.add(work_id.trial)
        is_whole = self._state.run(work_id).state == "COMPLETE" and work_id.kind == "trial"
        if self._keep == "best" and is_whole and work_id.trial is not None:
            self._whole.add(work_id.trial)
            self._remove_overtaken()

    def _remove_of_ended(self, work_id: WorkId) -> None:
        """Remove the files of an ended run that nothing needs any more."""
        outcome = self._state.outcome(work_id)
        if outcome is None:
            return
        folder = work_id.folder(self._directory)
        remove_checkpoint(folder)
        is_complete = outcome.state == "COMPLETE"
        if not is_complete or (work_id.kind == "repeat" and self._keep == "best"):
            _remove(folder, BEST)
            self._remove_arrays(folder)

    def _remove_overtaken(self) -> None:
        """Remove the weights and arrays of completed trials that others have overtaken."""
        if len(self._whole) <= KEPT_TRIALS:
            return
        for number in self._whole - self._needed():
            folder = WorkId(number).folder(self._directory)
            self._whole.discard(number)
            if (folder / PIN).exists():
                continue
            _remove(folder, BEST)
            if not self._draws_all:
                self._remove_arrays(folder)

    def _remove_arrays(self, folder: Path) -> None:
        patterns = SNAPSHOTS if self._arrays else ()
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _needed(self) -> set[int]:
        """Trials that are kept. The best of those that still have all their files are the best of
        all, because removed ones ranked behind them."""
        values = {number: self._state.run(WorkId(number)).value for number in self._whole}
        completed = {number: value for number, value in values.items() if value is not None}
        most = max(KEPT_TRIALS, self._rule.top + 1)
        ranked = sorted(completed, key=lambda number: (-completed[number], number))
        needed = {0, *ranked[:most], *self._repeated, *self._points(self._whole)}
        chosen = self._state.summary.get("chosen/trial")
        return needed if chosen is None else needed | {int(chosen)}


def pin(weights: Path) -> None:
    """Keep a file of weights that somebody has asked for, if it belongs to a trial."""
    if weights.name == BEST and weights.parent.parent.name == "trials":
        with contextlib.suppress(OSError):  # nothing can be removed from read-only storage either
            (weights.parent / PIN).touch()


def note_retrained(weights: Path, value: float | None, differences: Sequence[str]) -> None:
    """Record beside a trial's weights that another training is about to replace them."""
    about = {"value": value, "differences": list(differences)}
    write_atomically(weights.parent / RETRAINED, json.dumps(about, indent=1) + "\n")


def retrained_value(weights: Path) -> float | None:
    """Best objective of the training that made these weights; None: the record's."""
    path = weights.parent / RETRAINED
    try:
        value = json.loads(path.read_text())["value"]
        return None if value is None else float(value)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # damaged; `export` compares with the record
        return None


def remove_checkpoint(folder: Path) -> None:
    """Remove everything that a run resumes from."""
    _remove(folder, *_CHECKPOINTS)


def _remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
