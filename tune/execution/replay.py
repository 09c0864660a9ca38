"""`--trial STUDY/NUMBER`: run a recorded trial again, and compare it with its record. Imports no
Ray."""

import contextlib
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.base import BATCHED, Metrics
from trainables.errors import UserError
from trainables.files import BEST, write_atomically
from tune.backbones.resolve import where_backbone_is
from tune.command_line import command, replay_command
from tune.execution.runtimes import LocalRuntime
from tune.execution.trial import run
from tune.experiments import Experiment
from tune.object_store import s3
from tune.study.kept_files import RETRAINED, note_retrained, pin
from tune.study.log_state import Run, read_state
from tune.study.manifest import read_manifest
from tune.study.work import Outcome, Work, WorkId

_ROUNDING = 1e-4  # relative, of a metric: as in tests/tune/execution/test_batched.py


def replay(
    study_dir: Path, experiment: Experiment, number: int, tell: Callable[[str], None]
) -> bool:
    """Run a recorded trial again, with its config and seed, in a temporary folder, and compare it
    with the record epoch by epoch.

    A trial that failed before its first epoch must fail again, for the same reason.

    Args:
        tell: called with each line of the comparison.
    Returns:
        True if everything is equal.
    Raises:
        UserError: the trial is not on record or has no epoch yet, or the study belongs to another
            experiment.
    """
    recorded = _recorded(study_dir, experiment, number)
    comparison = _Comparison(recorded, tell)
    config = where_backbone_is(recorded.config, study_dir.parent)
    with tempfile.TemporaryDirectory(prefix="vistune-replay-") as scratch:
        work = Work(WorkId(number), config["seed"], config, scratch)
        runtime = LocalRuntime(Path(scratch), comparison.on_epoch)
        outcome = run(experiment, work, runtime)
        comparison.on_end(outcome)
        if outcome.state == recorded.state == "COMPLETE":
            place = WorkId(number).folder(study_dir) / BEST
            _restore_weights(Path(scratch) / BEST, place, outcome.value, comparison)
    return comparison.equal


def _restore_weights(
    trained: Path, place: Path, value: float | None, comparison: "_Comparison"
) -> None:
    """Give a trial its weights back, if they have been removed (`--keep best`); they then stay.

    Another machine may round differently. Weights of a training that differs from the record are
    better than none; a file beside them says what differs.
    """
    if not trained.exists() or not place.parent.is_dir() or place.exists():
        return
    pin(place)
    if comparison.equal:
        (place.parent / RETRAINED).unlink(missing_ok=True)  # it was about weights that are gone
    else:
        note_retrained(place, value, comparison.said)
    write_atomically(place, trained.read_bytes())
    if comparison.equal:
        comparison.tell(f"the weights had been removed, and are back in {place}")
    else:
        comparison.tell(
            f"the weights had been removed; those of this training are in {place}, and {RETRAINED} "
            "beside them says what differs"
        )
    with contextlib.suppress(UserError):  # if the store does not answer, they are safe here
        s3.copy(place)


def _recorded(study_dir: Path, experiment: Experiment, number: int) -> Run:
    """Return the recorded run of the trial."""
    recorded = read_state(study_dir / "events.jsonl").trials.get(number)
    if recorded is None or not recorded.attempts:
        show = command("report", "show", study_dir.name, storage=study_dir.parent)
        raise UserError(f"no trial {number} on record in {study_dir}; `{show}` lists its trials")
    manifest = read_manifest(study_dir / "study.json")
    if manifest.experiment != experiment.name:
        again = replay_command(manifest.typed_experiment, study_dir, number)
        raise UserError(
            f"study {study_dir.name!r} belongs to experiment {manifest.experiment}: {again}"
        )
    if not recorded.epochs and recorded.outcome is None:
        raise UserError(
            f"trial {number} of study {study_dir.name!r} has no epoch on record yet, "
            "so there is nothing to compare with"
        )
    return recorded


class _Comparison:
    """Compares a running trial with its record."""

    def __init__(self, recorded: Run, tell: Callable[[str], None]):
        self.equal = True
        self.said: list[str] = []
        self._print = tell
        self._end = recorded.outcome
        self._epochs = dict(zip(recorded.epochs, recorded.history, strict=True))
        self._missing = set(self._epochs)

    def tell(self, line: str) -> None:
        """Print a line of the comparison, and remember it."""
        self.said.append(line)
        self._print(line)

    def on_epoch(self, epoch: int, metrics: Metrics) -> bool:
        """Compare an epoch; False after the last one on record."""
        if epoch not in self._epochs:
            self.tell(f"epoch {epoch}: not on record")
            return False
        self._missing.discard(epoch)
        recorded = self._epochs[epoch]
        differences = _differences(recorded, metrics)
        if differences:
            self.equal = False
        equal = "equal to the record"
        if BATCHED in recorded:
            equal += f" but for rounding ({recorded[BATCHED]:g} trials were trained as one)"
        self.tell(f"epoch {epoch}: {'; '.join(differences) or equal}")
        return epoch < max(self._epochs)

    def on_end(self, outcome: Outcome) -> None:
        """Compare the ends."""
        if outcome.state == "FAIL" or (outcome.reason and not self._epochs):
            self.tell(outcome.error or outcome.reason or "failed")
        if not self._epochs and self._end is not None:
            self._compare_early_ends(outcome, self._end)
        if self._missing:
            self.equal = False
            epochs = ", ".join(map(str, sorted(self._missing)))
            self.tell(f"on record but not reached again: epoch {epochs}")

    def _compare_early_ends(self, outcome: Outcome, recorded: Outcome) -> None:
        if (outcome.state, outcome.reason) == (recorded.state, recorded.reason):
            return
        self.equal = False
        self.tell(
            f"on record it ended as {recorded.state} before its first epoch ({recorded.reason})"
        )


def _differences(recorded: dict[str, Any], metrics: Metrics) -> list[str]:
    """List the metrics that differ, as in `val/top1 was 0.5, is 0.6`; times are not compared.

    A trial that was batched with others adds numbers in another order than a trial alone.
    """
    tolerance = _ROUNDING if BATCHED in recorded else 0.0
    differences = []

    for name, value in metrics.items():
        if name.startswith("time/") or name not in recorded:
            continue
        before = recorded[name]
        if not _same(before, value, tolerance):
            differences.append(f"{name} was {before!r}, is {value!r}")

    return differences


def _same(recorded: Any, value: Any, tolerance: float) -> bool:
    if recorded == value:
        return True
    if not tolerance or not isinstance(recorded, (int, float)):
        return False
    return math.isclose(recorded, value, rel_tol=tolerance)
