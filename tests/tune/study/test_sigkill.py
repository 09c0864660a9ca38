"""Every sampler with every pruner, in processes that SIGKILL really ends. The study equals one that
is never killed. Its trials come from a function and take milliseconds."""

import math
import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

import tune.search.methods  # noqa: F401 - imported once, not in each process
from tests.made_up import seen
from trainables.config import flatten
from tune.execution.local import search_locally
from tune.function_experiment import function_experiment
from tune.search.method_names import JOINT_TPE, PRUNERS, RUNGS, SAMPLERS
from tune.search.space import as_json, describe
from tune.study.manifest import Manifest
from tune.study.record import read_record
from tune.study.rules import CURRENT
from tune.study.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EPOCHS = 9
TRIALS = 12
KILLS = 6
SLOW = {"gp": 11}
"""Sampler -> trials, if a draw takes most of a second (it models from the eleventh trial on)."""


def train(config: dict[str, Any], run: Any) -> None:
    """A curve that rises later with a larger batch, and is best at a learning rate of .05 without
    dropout."""
    saved = run.load() or {"sum": 0.0}
    end = 1 - abs(math.log10(config["lr"]) + 1.3) / 4 - config["dropout"]
    for epoch in run.epochs(EPOCHS):
        saved["sum"] += random.random()  # a function of the epoch, whatever was killed
        run.save(**saved)
        value = end * (epoch + 1) / (epoch + 1 + config["batch"] / 10)
        run.report(accuracy=value, noise=saved["sum"])


def space(trial: Any) -> None:
    name = trial.suggest_categorical("opt", ["sgd", "adam"])
    low, high = {"sgd": (1e-3, 1.0), "adam": (1e-4, 1e-1)}[name]
    trial.suggest_float("lr", low, high, log=True)
    trial.suggest_float("dropout", 0.0, 0.5)
    trial.suggest_int("batch", 10, 40)


EXPERIMENT = function_experiment(
    train,
    objective="accuracy",
    space=space,
    default={"opt": "sgd", "lr": 0.01, "dropout": 0.2, "batch": 20},
    name="killed",
)


def open_study(root: Path, sampler: str, pruner: str) -> Study:
    rules = dict(CURRENT)
    if sampler != JOINT_TPE:
        rules["sampler"] = sampler
    if pruner != RUNGS:
        rules["rungs"] = pruner
    manifest = Manifest(
        name="killed",
        experiment="killed",
        preset="default",
        objective="val/accuracy",
        seed=0,
        base=flatten(EXPERIMENT.config()),
        pins={},
        space=as_json(describe(EXPERIMENT.space, "default", {})),
        data={"name": "own", "fingerprint": "", "path": "", "images": 0},
        rules=rules,
        function=True,
    )
    trials = SLOW.get(sampler, TRIALS)
    return Study.open(root / "killed", EXPERIMENT, manifest, trials=trials, repeats=1)


def start(root: Path, sampler: str, pruner: str) -> int:
    """Begin or resume the study in a subprocess, and return its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        study = open_study(root, sampler, pruner)
        search_locally(study, EXPERIMENT)
        study.close()
        code = 0
    finally:
        os._exit(code)


def finish(root: Path, sampler: str, pruner: str) -> float:
    """Run the study to its end, and return the seconds that it took."""
    began = time.monotonic()
    _, status = os.waitpid(start(root, sampler, pruner), 0)
    assert status == 0
    return time.monotonic() - began


def kill_and_finish(root: Path, sampler: str, pruner: str, seconds: float) -> int:
    """Kill the study again and again at random moments, then let it reach its end. Return the
    number of killed processes."""
    moments = random.Random(f"{sampler} {pruner}")
    killed = 0
    for _ in range(KILLS):
        pid = start(root, sampler, pruner)
        time.sleep(moments.uniform(0.02, 1.2 * seconds / KILLS + 0.1))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
    finish(root, sampler, pruner)
    return killed


def trials_of(root: Path) -> list[FrozenTrial]:
    """All trials, read by Optuna's own backend."""
    storage = JournalStorage(JournalFileBackend(str(root / "killed" / "study.journal")))
    (study,) = storage.get_all_studies()
    return storage.get_all_trials(study._study_id)


def told(root: Path) -> Iterator[tuple[Any, ...]]:
    """Everything that the log has of each run, except times."""
    record = read_record(root / "killed")
    runs: dict[Any, Any] = {**record.trials, **record.repeats}
    for key, run in sorted(runs.items(), key=lambda item: str(item[0])):
        history = [
            {name: value for name, value in metrics.items() if not name.startswith("time/")}
            for metrics in run.history
        ]
        yield key, run.state, run.value, run.reason, run.epochs, history


@pytest.mark.parametrize(("sampler", "pruner"), list(product(SAMPLERS, PRUNERS)))
def test_the_study_after_sigkill_equals_the_one_that_is_never_killed(
    tmp_path: Path, sampler: str, pruner: str
) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    seconds = finish(whole, sampler, pruner)
    killed = kill_and_finish(broken, sampler, pruner, seconds)

    assert killed >= 1
    assert [seen(trial) for trial in trials_of(broken)] == [seen(one) for one in trials_of(whole)]
    assert list(told(broken)) == list(told(whole))
