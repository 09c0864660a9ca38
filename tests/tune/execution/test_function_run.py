"""`run` for a function: exact resume after a kill anywhere, its refusals, its test scores."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainables.base import Metrics
from trainables.errors import TrialFailed
from trainables.files import HISTORY
from trainables.outcomes import ImageOutcomes
from tune.execution.function_run import FunctionRun, TrialStopped
from tune.execution.function_trial import run_function
from tune.execution.runtimes import LocalRuntime
from tune.execution.trial import run as run_trial
from tune.function import Function
from tune.function_experiment import function_experiment
from tune.study.work import Outcome, Work, WorkId

EPOCHS = 3
CONFIG = {"lr": 0.1, "order": "save first", "seed": 5, "train.threads": 1}


class Killed(BaseException):
    """Stand in for SIGKILL: nothing of the function runs afterwards."""


class Place:
    """Count the points at which a process may die, and die at one of them."""

    def __init__(self, fatal: int | None = None):
        self.passed = 0
        self.fatal = fatal

    def __call__(self) -> None:
        self.passed += 1
        if self.passed == self.fatal:
            raise Killed


def training(place: Place) -> Callable[[dict[str, Any], FunctionRun], None]:
    """A training with momentum and noise from three generators."""

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=0.9)
        saved = run.load()
        if saved is not None:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])

        for epoch in run.epochs(EPOCHS):
            place()
            points = torch.randn(8, 3) + float(np.random.normal())  # noqa: NPY002
            loss = (model(points) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            place()
            if config["order"] == "save first":
                run.save(model=model.state_dict(), optimizer=optimizer.state_dict())
                place()
            run.report(accuracy=-loss, epoch_seen=epoch)
            place()
            if config["order"] == "report first":
                run.save(model=model.state_dict(), optimizer=optimizer.state_dict())
                place()

    return train


def outcome_of(
    train: Callable[..., Any],
    folder: Path,
    on_report: Callable[[int, Metrics], bool] = lambda epoch, metrics: True,
    objective: str = "val/accuracy",
    repeat: int | None = None,
    **config: Any,
) -> Outcome:
    folder.mkdir(exist_ok=True)
    values = CONFIG | config
    work = Work(WorkId(1, repeat), int(values["seed"]), values, str(folder))
    return run_function(Function(train, objective), work, LocalRuntime(folder, on_report))


def timeless(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


class Recorded:
    """A study's record, which keeps the first report of each epoch. It may die before or after."""

    def __init__(self, place: Place):
        self.place = place
        self.epochs: dict[int, Metrics] = {}

    def __call__(self, epoch: int, metrics: Metrics) -> bool:
        self.place()
        known = self.epochs.setdefault(epoch, timeless(metrics))
        assert known == timeless(metrics)  # a second report must equal the first
        self.place()
        return True


@pytest.mark.parametrize("order", ["save first", "report first"])
def test_a_run_killed_anywhere_equals_an_uninterrupted_one(tmp_path: Path, order: str) -> None:
    whole = Place()
    record = Recorded(whole)
    expected = outcome_of(training(whole), tmp_path / "whole", record, order=order)
    best = torch.load(tmp_path / "whole/best.pt", weights_only=True)

    for fatal in range(1, whole.passed + 1):
        folder = tmp_path / f"killed-{fatal}"
        place = Place(fatal)
        resumed = Recorded(place)
        with pytest.raises(Killed):
            outcome_of(training(place), folder, resumed, order=order)

        found = outcome_of(training(place), folder, resumed, order=order)

        assert resumed.epochs == record.epochs, fatal
        assert (found.value, found.metrics) == (expected.value, expected.metrics), fatal
        weights = torch.load(folder / "best.pt", weights_only=True)
        assert weights["vistune"] == best["vistune"], fatal
        assert torch.equal(weights["model"]["weight"], best["model"]["weight"]), fatal


def test_a_resumed_run_trains_no_epoch_twice_that_was_saved_and_reported(tmp_path: Path) -> None:
    trained: list[int] = []

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        run.load()
        for epoch in run.epochs(4):
            trained.append(epoch)
            run.save(number=epoch)
            run.report(accuracy=epoch)
            if len(trained) == 2:
                raise Killed

    with pytest.raises(Killed):
        outcome_of(train, tmp_path)
    outcome_of(train, tmp_path)

    assert trained == [0, 1, 2, 3]


def test_code_that_loads_its_checkpoint_itself_resumes(tmp_path: Path) -> None:
    trained: list[int] = []

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        path = run.resume_from
        number = None if path is None else torch.load(path, weights_only=True)["number"]
        assert number == (trained[-1] if trained else None)
        for epoch in run.epochs(3):
            trained.append(epoch)
            run.save(number=epoch)
            run.report(accuracy=epoch)
            if len(trained) == 2:
                raise Killed

    with pytest.raises(Killed):
        outcome_of(train, tmp_path)
    outcome_of(train, tmp_path)

    assert trained == [0, 1, 2]


def test_a_function_that_does_not_load_begins_anew(tmp_path: Path) -> None:
    trained: list[int] = []

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        for epoch in run.epochs(3):
            trained.append(epoch)
            run.save(number=epoch)
            run.report(accuracy=-epoch)
            if len(trained) == 2:
                raise Killed

    with pytest.raises(Killed):
        outcome_of(train, tmp_path)
    outcome = outcome_of(train, tmp_path)

    assert trained == [0, 1, 0, 1, 2]
    assert (outcome.value, outcome.metrics["best/epoch"]) == (0.0, 1.0)


def test_the_best_save_is_kept_and_the_last_one_is_resumed_from(tmp_path: Path) -> None:
    values = [0.1, 0.7, 0.5]

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        for epoch in run.epochs(3):
            run.save(number=epoch)
            run.report(accuracy=values[epoch])
        assert run.load_best() == {"number": 1}
        assert run.load() is None  # the first start has nothing to load

    outcome = outcome_of(train, tmp_path)

    assert outcome.value == 0.7
    assert outcome.metrics == {"best/val/accuracy": 0.7, "best/epoch": 2.0}
    assert torch.load(tmp_path / "last.pt", weights_only=True)["number"] == 2
    assert not (tmp_path / ".next.pt").exists()


def test_a_disk_without_hard_links_has_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    scores = iter((0.5, 1.0, 0.25))

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        for epoch in run.epochs(3):
            run.save(epoch=epoch)
            run.report(accuracy=next(scores))
        assert run.load_best() == {"epoch": 1}

    assert outcome_of(train, tmp_path).value == 1.0


@pytest.mark.parametrize("content", [b'{"loss": [1, 2]}', pickle.dumps({"own": 1})])
def test_files_of_a_function_are_not_taken_for_vistunes_own(tmp_path: Path, content: bytes) -> None:
    """Keras writes `history.json`, and many functions save a `last.pt` themselves."""
    for name in ("history.json", "last.pt"):
        (tmp_path / name).write_bytes(content)

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        assert run.load() is None
        for _ in run.epochs(2):
            run.report(accuracy=0.5)

    reported: list[int] = []

    def report(epoch: int, metrics: Metrics) -> bool:
        reported.append(epoch)
        return True

    outcome_of(train, tmp_path, report)

    assert reported == [1, 2]
    assert (tmp_path / "history.json").read_bytes() == content


def test_partial_files_of_a_function_are_there_when_it_resumes(tmp_path: Path) -> None:
    """They may be its own downloads. Only files that have our partial names are removed."""
    (tmp_path / "data.tmp").write_text("half")
    (tmp_path / "shards.partial").mkdir()
    (tmp_path / "last.pt.0a1b2c3d.partial").write_text("half")
    found: list[str] = []

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        found.extend(path.name for path in run.directory.iterdir())
        run.report(accuracy=0.5)

    space = {"lr": (0.1, 1.0)}
    experiment = function_experiment(train, objective="accuracy", space=space, name="own")
    work = Work(WorkId(1), 5, CONFIG, str(tmp_path))
    assert run_trial(experiment, work, LocalRuntime(tmp_path, lambda *_: True)).state == "COMPLETE"

    assert {"data.tmp", "shards.partial"} <= set(found)
    assert "last.pt.0a1b2c3d.partial" not in found


def test_a_checkpoint_without_its_reports_is_not_resumed_from(tmp_path: Path) -> None:
    """It may be from a version that kept the reports under another name."""
    trained: list[int] = []

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        run.load()
        for epoch in run.epochs(2):
            trained.append(epoch)
            run.save(epoch=epoch)
            run.report(accuracy=0.5)

    outcome_of(train, tmp_path)
    (tmp_path / HISTORY).rename(tmp_path / "history.json")
    assert outcome_of(train, tmp_path).state == "COMPLETE"
    assert trained == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), MemoryError()]
)
def test_a_function_without_memory_failed_by_its_configuration(
    tmp_path: Path, error: Exception
) -> None:
    def train(config: dict[str, Any], run: FunctionRun) -> None:
        raise error

    experiment = function_experiment(
        train, objective="accuracy", space={"lr": (0.1, 1.0)}, name="own"
    )
    work = Work(WorkId(1), 5, CONFIG, str(tmp_path))
    outcome = run_trial(experiment, work, LocalRuntime(tmp_path, lambda epoch, metrics: True))

    assert (outcome.state, outcome.reason) == ("FAIL", "oom")
    assert type(error).__name__ in (outcome.error or "")


def test_reports_without_a_loop_are_counted(tmp_path: Path) -> None:
    reports: dict[int, Metrics] = {}

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        run.report(accuracy=0.2)
        run.report(accuracy=0.4)

    def on_report(epoch: int, metrics: Metrics) -> bool:
        reports[epoch] = metrics
        return True

    outcome_of(train, tmp_path, on_report)

    assert list(reports) == [1, 2]
    assert "train/epochs" not in reports[1]


def test_a_loss_is_recorded_with_its_sign_changed(tmp_path: Path) -> None:
    reports: list[Metrics] = []

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        run.report(loss=0.25, **{"train/loss": 0.5})
        run.test(loss=0.75)

    def on_report(epoch: int, metrics: Metrics) -> bool:
        reports.append(timeless(metrics))
        return True

    outcome = outcome_of(train, tmp_path, on_report, objective="val/-loss", repeat=7)

    assert reports == [{"val/loss": 0.25, "train/loss": 0.5, "val/-loss": -0.25}]
    assert outcome.value == -0.25
    assert outcome.metrics["test/-loss"] == -0.75


def test_a_stopped_function_is_left_at_its_report(tmp_path: Path) -> None:
    after: list[int] = []

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        for epoch in run.epochs(5):
            try:
                run.report(accuracy=epoch)
            except Exception:
                after.append(-1)
            after.append(epoch)

    outcome = outcome_of(train, tmp_path, lambda epoch, metrics: epoch < 2)

    assert (outcome.state, outcome.value) == ("PRUNED", 1.0)
    assert after == [0]


def test_a_function_is_given_plain_values_and_its_seed(tmp_path: Path) -> None:
    seen: list[Any] = []

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        seen.append((config, run.seed, run.directory, str(run.device), float(torch.rand(()))))
        run.report(accuracy=1)

    outcome_of(train, tmp_path, repeat=3)

    torch.manual_seed(5)
    config = {"lr": 0.1, "order": "save first"}
    assert seen[0][:3] == (config, 5, tmp_path)
    assert seen[0][4] == float(torch.rand(()))


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"loss": 1.0}, "the objective accuracy is missing among: loss"),
        ({"accuracy": [1, 2]}, "metric accuracy must be a number, got list"),
    ],
)
def test_a_report_that_says_too_little_is_refused(
    tmp_path: Path, report: dict[str, Any], message: str
) -> None:
    def train(config: dict[str, Any], run: FunctionRun) -> None:
        run.report(**report)

    with pytest.raises((ValueError, TypeError), match=message):
        outcome_of(train, tmp_path)


def twice(config: dict[str, Any], run: FunctionRun) -> None:
    for _ in run.epochs(2):
        run.report(accuracy=1)
        run.report(accuracy=1)


def two_loops(config: dict[str, Any], run: FunctionRun) -> None:
    for _ in run.epochs(1):
        run.report(accuracy=1)
    list(run.epochs(1))


def no_epochs(config: dict[str, Any], run: FunctionRun) -> None:
    list(run.epochs(0))


def whole_model(config: dict[str, Any], run: FunctionRun) -> None:
    run.save(model=nn.Linear(1, 1))


def number_of_numpy(config: dict[str, Any], run: FunctionRun) -> None:
    run.save(optimizer={"param_groups": [{"lr": np.float64(0.1)}]})


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (number_of_numpy, r"got optimizer\['param_groups'\]\[0\]\['lr'\] of type float64"),
        (twice, "called twice in epoch 0"),
        (two_loops, "is for one loop"),
        (no_epochs, "must be given a number of epochs"),
        (whole_model, r"such as model=model.state_dict\(\); got model of type Linear"),
    ],
)
def test_wrong_use_is_an_error_that_names_the_remedy(
    tmp_path: Path, train: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        outcome_of(train, tmp_path)


def test_a_function_is_given_no_number_of_numpy(tmp_path: Path) -> None:
    """An optimizer would keep it in its state, which could then not be read again."""

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        assert type(config["lr"]) is float
        run.report(accuracy=1)

    outcome_of(train, tmp_path, lr=np.float64(0.1))


def test_a_function_without_a_report_fails(tmp_path: Path) -> None:
    with pytest.raises(TrialFailed, match=r"ended without run.report\(accuracy=...\)") as failed:
        outcome_of(lambda config, run: None, tmp_path)
    assert failed.value.reason == "no report"


def test_a_function_that_exits_fails(tmp_path: Path) -> None:
    def train(config: dict[str, Any], run: FunctionRun) -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match=r"called sys.exit\(3\)"):
        outcome_of(train, tmp_path)


def test_nothing_leaves_a_stopped_run(tmp_path: Path) -> None:
    """It neither saves nor reports, whatever the function does with the exception."""

    def train(config: dict[str, Any], run: FunctionRun) -> None:
        try:
            run.report(accuracy=1)
        except BaseException:
            run.save(number=1)

    assert outcome_of(train, tmp_path, lambda *_: False).state == "PRUNED"
    assert not (tmp_path / "last.pt").exists()
    assert issubclass(TrialStopped, BaseException)
    assert not issubclass(TrialStopped, Exception)


# -- test scores


def judged(folder: Path, **given: Any) -> Outcome:
    def train(config: dict[str, Any], run: FunctionRun) -> None:
        run.report(accuracy=1)
        run.test(**given)

    return outcome_of(train, folder, repeat=7)


def test_scores_of_images_are_kept_as_they_were_given(tmp_path: Path) -> None:
    right = [1, 0, 1, 1]
    outcome = judged(tmp_path, accuracy=0.75, per_image=right, groups=["a", "a", "b", "c"])

    outcomes = ImageOutcomes.from_record(outcome.tested)
    assert outcome.metrics["test/accuracy"] == 0.75
    assert outcomes.answers == 1
    assert outcomes.right["test/accuracy"].tolist() == right
    assert outcomes.clusters is not None
    assert outcomes.clusters.tolist() == [0, 0, 1, 2]


def test_scores_between_0_and_1_keep_six_digits(tmp_path: Path) -> None:
    dice = np.array([0.123456, 0.5, 1.0])
    outcome = judged(tmp_path, accuracy=dice.mean(), per_image={"accuracy": dice})

    outcomes = ImageOutcomes.from_record(outcome.tested)
    kept = outcomes.right["test/accuracy"] / outcomes.answers
    np.testing.assert_allclose(kept, dice, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": 0.5}, "the objective accuracy is missing"),
        ({"accuracy": 0.5, "per_image": [1, 1]}, "accuracy=0.5 is not the mean of its per_image"),
        ({"accuracy": 1.5, "per_image": [1, 2]}, r"must be in \[0, 1\]"),
        ({"accuracy": 1.0, "per_image": {"f1": [1, 1]}}, "scores of f1, which run.test is not"),
        ({"accuracy": 1.0, "per_image": [1, 1], "groups": [1]}, "a label for each of 2 images"),
        ({"accuracy": 1.0, "per_image": []}, "one score for each test image"),
    ],
)
def test_test_scores_that_cannot_be_are_refused(
    tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        judged(tmp_path, **given)


def test_a_search_keeps_no_test_metric(tmp_path: Path) -> None:
    def train(config: dict[str, Any], run: FunctionRun) -> None:
        run.report(accuracy=1)
        assert not run.wants_test
        run.test(accuracy=0.5, per_image=[0, 1])

    outcome = outcome_of(train, tmp_path)

    assert not any(name.startswith("test/") for name in outcome.metrics)
    assert not outcome.tested
