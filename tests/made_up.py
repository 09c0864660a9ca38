"""Studies with made-up curves that are killed at any write and resumed, against undisturbed
ones."""

from collections.abc import Callable
from math import log10
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial

from tests.studies import manifest
from tune.experiments import Experiment
from tune.search.space import as_json, describe
from tune.study.events import AppendOnlyFile
from tune.study.rules import CURRENT
from tune.study.study import Study
from tune.study.work import Outcome, Work

EPOCHS = 9


def open_made_up(
    root: Path, experiment: Experiment, trials: int, repeats: int = 0, **changes: Any
) -> Study:
    """Open a study whose default is in the middle of the spaces of these tests.

    Args:
        changes: fields of the manifest; `rules` adds to those of a new study.
    """
    about = manifest(
        space=as_json(describe(experiment.space, "tiny", {})),
        base={
            "train.epochs": EPOCHS,
            "train.batch_size": 20,
            "optim.name": "sgd",
            "dropout": 0.2,
        },
        **{**changes, "rules": CURRENT | changes.get("rules", {})},
    )
    return Study.open(root / "toy", experiment, about, trials=trials, repeats=repeats)


def quality(config: dict[str, Any], epoch: int) -> float:
    """A made-up curve, best at a learning rate of .05 without dropout. Some curves rise later than
    others."""
    end = 1 - abs(log10(config["optim.lr"]) + 1.3) / 4 - config["dropout"]
    return end * epoch / (epoch + config["train.batch_size"] / 10)


def play(study: Study) -> None:
    """Do the study's work with made-up curves. An interrupted run continues after its last report.
    A large batch is quick."""
    while isinstance(work := study.next_work(), Work):
        if work.kind == "baseline":
            study.ended(work, Outcome("COMPLETE", metrics={"baseline/val/top1": 0.0}))
            continue
        study.started(work)
        _play_run(study, work)


def _play_run(study: Study, work: Work) -> None:
    done = study._state.last_epoch(work.id) or 1
    for epoch in range(done, EPOCHS + 1):
        value = quality(work.config, epoch)
        cost = 1 / work.config["train.batch_size"]
        if not study.reported(work, epoch, {"val/top1": value, "time/epoch_s": cost}):
            study.ended(work, study.pruned(work))
            return
    best = quality(work.config, EPOCHS)
    metrics = {"best/val/top1": best, "best/epoch": float(EPOCHS)}
    if work.kind == "repeat":
        noise = (work.seed >> (work.id.trial or 0)) % 7
        metrics["test/top1"] = best - 0.01 * noise
    study.ended(work, Outcome("COMPLETE", best, metrics=metrics))


class Killed(BaseException):
    """End the process."""


def kill_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """End the process at its n-th write: before it if n is even, otherwise after it. Nothing is
    written after that."""
    append = AppendOnlyFile.append_lines
    count = 0

    def dying(self: AppendOnlyFile, lines: bytes) -> None:
        nonlocal count
        count += 1
        if count > number or (count == number and number % 2 == 0):
            raise Killed
        append(self, lines)
        if count == number:
            raise Killed

    patch.setattr(AppendOnlyFile, "append_lines", dying)


def seen(trial: FrozenTrial) -> tuple[Any, ...]:
    attributes = {key: value for key, value in trial.system_attrs.items() if "rung" in key}
    stopped = trial.system_attrs.get("stopped_at_epoch")
    return (
        trial.state,
        trial.params,
        trial.value,
        trial.intermediate_values,
        trial.user_attrs.get("reason"),
        attributes,
        stopped,
    )


def check_kills(
    root: Path,
    experiment: Experiment,
    trials: int,
    run: Callable[[Study], None],
    at: range,
    **changes: Any,
) -> list[FrozenTrial]:
    """Check that a study that is killed at each of these writes, one after the other, equals an
    undisturbed one."""
    whole = open_made_up(root / "whole", experiment, trials, **changes)
    run(whole)
    whole.close()
    for number in at:
        study = None
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, number)
            try:
                study = open_made_up(root / "killed", experiment, trials, **changes)
                run(study)
            except Killed:
                pass
        if study is not None:
            study.close()
    killed = open_made_up(root / "killed", experiment, trials, **changes)
    run(killed)
    killed.close()
    expected = [seen(trial) for trial in whole.frozen_trials()]
    assert [seen(trial) for trial in killed.frozen_trials()] == expected
    return whole.frozen_trials()
