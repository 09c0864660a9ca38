"""A study for reading: its trials as tables, its verdict, its figures, its models."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.study.enqueued import enqueue
from tune.study.objectives import front_of
from tune.study.record import Record, read_record
from vistune.figures import Figures
from vistune.trial import Trial, trial_of
from vistune.verdict import Verdict, verdict_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from vistune.model import Images, Model


class Study(Figures):
    """A study in its folder; it may be running, interrupted or finished.

    Everything is read from the record, and nothing is locked. When the record has grown, the next
    access reads it again, so the object follows a running study.

        study = vistune.load_study("runs/ssl")
        study.trials                # a table, one row per trial
        study.best.params
        study.plot_curves()

    Args:
        folder: `<storage>/<study>`.
    Raises:
        UserError: the folder contains no study, or its record is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._models: dict[tuple[int | None, int | None], Model] = {}
        self._read = (_size(folder), read_record(folder))

    def __repr__(self) -> str:
        return f"<Study {self.name}: {self._in_short()}>"

    # -- what it is

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        return self.folder.name

    @property
    def experiment(self) -> str:
        """Name of the experiment."""
        return self.record.manifest.experiment

    @property
    def objective(self) -> str:
        """Name of the metric that the search maximizes, such as `val/knn_top1`."""
        return self.record.objective

    @property
    def config(self) -> dict[str, Any]:
        """The default configuration, that of trial 0: config path -> value."""
        return dict(self.record.manifest.base)

    @property
    def space(self) -> dict[str, list[str]]:
        """Searched parameter -> its ranges, with the conditions under which they apply."""
        return {name: list(ranges) for name, ranges in self.record.manifest.space.items()}

    @property
    def pins(self) -> dict[str, Any]:
        """Config values that were fixed when the study started."""
        return dict(self.record.manifest.pins)

    @property
    def finished(self) -> bool:
        """True if the study has ended and has not been extended since."""
        return self.record.finished

    # -- tables

    @property
    def trials(self) -> "pd.DataFrame":
        """One row per trial, indexed by its number.

        Columns: `state` (complete, pruned, fail or open), `value` (objective of the best epoch; NaN
        if there is none yet), `epochs`, `seconds` (of training), `reason` (of the end), `enqueued`,
        and each searched parameter (NaN if it did not apply).
        """
        from vistune.tables import trials_table

        return trials_table(self.record)

    @property
    def curves(self) -> "pd.DataFrame":
        """All metrics of every epoch of the trials, indexed by (trial, epoch).

        `study.curves["val/top1"].unstack("trial").plot()` plots one metric.
        """
        from vistune.tables import curves_table

        return curves_table(self.record)

    @property
    def repeats(self) -> "pd.DataFrame":
        """Final metrics of the repeats under fresh seeds, indexed by (trial, seed); test metrics
        begin with `test/`."""
        from vistune.tables import repeats_table

        return repeats_table(self.record)

    # -- results

    @property
    def best(self) -> Trial | None:
        """The study's answer: the best trial on the validation split, by the first objective if
        there are several; None before any trial has completed."""
        number = self.record.best_number()
        return None if number is None else self.trial(number)

    @property
    def front(self) -> list[Trial]:
        """The trials that no other trial dominates, ordered by the first objective, best first.
        With a single objective, only the best trial."""
        record = self.record
        if len(record.objectives) > 1:
            numbers = list(front_of(record.points, record.objectives))
        else:
            number = record.best_number()
            numbers = [] if number is None else [number]
        return [self.trial(number) for number in numbers]

    @property
    def default(self) -> Trial:
        """Trial 0, the default configuration.

        Raises:
            UserError: it has not started.
        """
        return self.trial(0)

    def trial(self, number: int) -> Trial:
        """Return one trial by its number.

        Raises:
            UserError: there is no such trial.
        """
        return trial_of(self.record, number)

    @property
    def verdict(self) -> Verdict:
        """The claim that the study supports on the test split, and the doubts about it."""
        return verdict_of(self.record)

    def report(self) -> Path:
        """Draw missing pictures, write `report.html` into the study's folder, and return its
        path."""
        from tune.object_store.s3 import copy
        from tune.reports.draw_behind import draw_now
        from tune.reports.html_report import write_report

        draw_now(self.folder)
        page = write_report(self.folder)
        copy(page)
        return page

    # -- what comes next

    def enqueue(self, configuration: Mapping[str, Any]) -> bool:
        """Enqueue a configuration, to be tried once before any drawn by the search.

        It waits in the study's folder. A running search, in any process, takes it for its next
        trial; otherwise the next search takes it. In an object store, a search on another machine
        can take it too, because it checks every few seconds. It counts towards `trials`, and
        reports mark it.

            study.enqueue({"optim.name": "sgd", "optim.lr": 0.03})

        Args:
            configuration: searched parameter -> value. Other parameters get the default's values,
                or the nearest valid ones.
        Returns:
            False if it had already been enqueued.
        Raises:
            UserError: a parameter is not searched or does not apply, or a value is outside its
                range.
        """
        from tune.object_store.enqueued import share_enqueued
        from vistune.enqueueing import checked

        values = checked(self.record, configuration)
        is_new = bool(enqueue(self.folder, [values]))
        share_enqueued(self.folder)
        return is_new

    # -- models

    def load_model(self, trial: int | None = None, *, repeat: int | None = None) -> "Model":
        """Load the weights of a trial, onto the GPU if there is one.

        Args:
            trial: number of a completed trial; None: the study's answer.
            repeat: seed of a repeat of that trial, whose weights are loaded instead of the trial's.
        Raises:
            UserError: there is no such trial or repeat, its weights have been removed, or its
                classes are unknown.
        """
        from vistune.model import load_model

        key = (trial, repeat)
        best = self.record.best_number()
        if trial is None and best is not None:
            key = (best, repeat)
        if key not in self._models:
            self._models[key] = load_model(self.folder, key[0], repeat)
        return self._models[key]

    def predict(self, images: "Images", trial: int | None = None) -> "np.ndarray":
        """Predict with `load_model(trial)`; see `Model.predict`."""
        return self.load_model(trial).predict(images)

    # -- the record

    @property
    def record(self) -> Record:
        """The underlying record, read again when its log has grown. Its format may change."""
        size = _size(self.folder)
        if self._read[0] != size:
            self._read = (size, read_record(self.folder))
        return self._read[1]

    def _in_short(self) -> str:
        record = self.record
        counted = f"{len(record.trials)} trials"
        number = record.best_number()
        if number is None:
            return f"{counted}, none has run to its end"
        value = record.completed[number]
        return f"{counted}, best {number} with {record.objective} {value:.4f}"


def _size(folder: Path) -> int:
    """Return the size of a study's event log in bytes; the log only grows."""
    log = folder / "events.jsonl"
    return log.stat().st_size if log.exists() else 0


def load_study(study: str | Path, storage: str | Path = "runs") -> Study:
    """Return an existing study.

    Args:
        study: its folder, such as `runs/ssl`, or its name in `storage`.
        storage: the folder of the studies, or `s3://bucket/prefix`; not used if `study` is a
            folder.
    Raises:
        UserError: there is no such study, or its record is damaged.
    """
    from tune.reports.storage import find_study, synced_folder

    folder = Path(study).expanduser()
    if (folder / "study.json").exists():
        return Study(folder.resolve())
    if len(folder.parts) == 1:
        return Study(find_study(synced_folder(str(storage)), str(study)))
    return Study(find_study(folder.parent.resolve(), folder.name))
