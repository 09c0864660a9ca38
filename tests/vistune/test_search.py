"""`vistune.search` makes the same study as the command, and can be interrupted from outside."""

import inspect
import signal
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vistune
from tests.commands import LOCAL_TOY, Call
from tests.studies import Event
from tests.toy import TOY, Toy, ToyConfig
from trainables.base import Metrics
from tune.cli.notebook import NotebookConsole
from tune.cli.options import Options
from tune.cli.searching import _wait_for
from tune.cli.stop import ON_REQUEST
from tune.function_experiment import function_experiment
from tune.study.events import EventLog
from tune.study.lock import is_in_use

BY_COMMAND_ALONE = {
    "searches",
    "search",
    "control",
    "trial",
    "plan",
    "compare",
}
"""Options of whole comparisons, and of output that is not kept."""


def record(folder: Path) -> list[Event]:
    """The event log without times, processes and starts, which differ between attempts."""
    events = []
    for event in EventLog.read(folder / "events.jsonl")[0]:
        if event["event"] in ("report", "end"):
            metrics = {k: v for k, v in event["metrics"].items() if not k.startswith("time/")}
            events.append({**event, "t": 0, "metrics": metrics})
    return events


def test_python_and_command_make_the_same_study(call: Call, tmp_path: Path) -> None:
    assert call(*LOCAL_TOY, "4", "--set", "schedule.name=constant").code == 0

    pins = {"schedule.name": "constant"}
    study = vistune.search(
        "toy", trials=4, repeats=0, set=pins, local=True, storage="other", progress="none"
    )

    assert study.folder == tmp_path / "other" / "toy"
    assert record(study.folder) == record(tmp_path / "runs" / "toy")
    assert study.pins == pins
    assert study.finished


def test_ranges_are_given_as_python_values() -> None:
    study = vistune.search(
        TOY,
        trials=3,
        repeats=0,
        local=True,
        space={"optim.lr": (0.01, 0.02, "log"), "schedule.name": ["cosine", "constant"]},
        progress="none",
    )
    assert study.space == {
        "optim.lr": ["0.01 to 0.02 (log)"],
        "schedule.name": ["one of cosine, constant"],
    }
    assert study.trials["optim.lr"].between(0.01, 0.02).all()
    fixed = vistune.search(
        TOY,
        trials=1,
        repeats=0,
        local=True,
        study="fixed",
        no_search=["schedule.name"],
        progress="none",
    )
    assert list(fixed.space) == ["optim.lr"]


@pytest.mark.parametrize("form", ["literals", "asked"])
def test_spaces_and_defaults_may_be_numpys(form: str, recwarn: pytest.WarningsRecorder) -> None:
    rates = np.logspace(-3, -1, 3)
    counts = [np.int64(1), np.int64(2)]

    def asked(trial: Any) -> None:
        trial.suggest_categorical("lr", list(rates))
        trial.suggest_categorical("count", counts)

    given: list[dict[str, Any]] = []

    def train(config: dict[str, Any], run: Any) -> None:
        given.append(config)
        run.report(accuracy=config["lr"])

    experiment = function_experiment(
        train,
        objective="accuracy",
        space=asked if form == "asked" else {"lr": rates, "count": counts},
        default={"lr": rates[1], "momentum": np.float64(0.9), "depth": np.int64(3)},
        name="numpy",
    )
    own = {"count": np.int64(2)}
    space = {"lr": list(rates), "count": (np.int64(1), np.int64(4))}
    study = vistune.search(
        experiment, trials=4, repeats=0, local=True, progress="none", enqueue=[own], space=space
    )

    assert study.space == {"lr": ["one of 0.001, 0.01, 0.1"], "count": ["1 to 4"]}
    assert given[0] == {"lr": 0.01, "count": 1, "momentum": 0.9, "depth": 3}
    assert given[1]["count"] == 2
    types = {name: {type(config[name]) for config in given} for name in given[0]}
    assert types == {"lr": {float}, "count": {int}, "momentum": {float}, "depth": {int}}
    assert not [warning for warning in recwarn if "categorical" in str(warning.message)]
    study.enqueue({"lr": rates[2], "count": np.int64(3)})


class Searching:
    """A search whose waiting thread is interrupted outside its wait. After that, the search has
    ended."""

    def __init__(self, interrupts: int):
        self.left = interrupts

    def done(self) -> bool:
        self.left -= 1
        if self.left >= 0:
            raise KeyboardInterrupt
        return True


def test_an_interrupt_stops_the_search_wherever_it_hits() -> None:
    stops: list[str] = []
    stop: Any = SimpleNamespace(now=stops.append)
    searching: Any = Searching(1)

    _wait_for(searching, stop)
    assert stops == [ON_REQUEST]

    def interrupted_too(reason: str) -> None:
        stops.append(reason)
        if len(stops) == 2:
            raise KeyboardInterrupt

    stop.now = interrupted_too
    searching = Searching(1)
    with pytest.raises(KeyboardInterrupt):
        _wait_for(searching, stop)
    assert len(stops) == 3  # the interrupted one was repeated


def test_every_option_of_the_command_is_an_argument() -> None:
    arguments = set(inspect.signature(vistune.search).parameters) - {"progress"}
    options = {field.name for field in fields(Options)} - BY_COMMAND_ALONE
    assert arguments == options, "an option of tune/run.py belongs into vistune/searching.py too"


class Interrupted(Toy):
    """A toy that is interrupted once, in the second epoch of trial 1."""

    calls = 0

    def validate(self) -> Metrics:
        Interrupted.calls += 1
        # the baseline makes six calls, the default four
        if Interrupted.calls == 12:
            raise KeyboardInterrupt
        return super().validate()


def test_an_interrupted_search_is_resumed_by_the_same_call(tmp_path: Path) -> None:
    experiment = replace(TOY, model=lambda: (Interrupted, ToyConfig))
    Interrupted.calls = 0

    def searched(storage: str) -> vistune.Study:
        return vistune.search(
            experiment, trials=4, repeats=1, local=True, storage=storage, progress="none"
        )

    with pytest.raises(KeyboardInterrupt):
        searched("runs")
    assert not is_in_use(tmp_path / "runs" / "toy")
    interrupted = vistune.load_study("toy")
    assert list(interrupted.trials["state"]) == ["complete", "open"]
    assert not interrupted.finished

    resumed = searched("runs")
    assert resumed.finished
    assert record(resumed.folder) == record(searched("undisturbed").folder)


def test_any_thread_may_search_and_no_signal_handler_is_set() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found: list[vistune.Study] = []

    def work() -> None:
        found.append(vistune.search(TOY, trials=1, repeats=0, local=True, progress="none"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert len(found[0].trials) == 1
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"trials": 0}, "--trials 0 must be at least 1"),
        ({"trials": "3"}, "--trials '3' must be int"),
        ({"seed": -1}, "--seed -1 must be at least 0"),
        ({"local": "yes"}, "--local 'yes' must be bool"),
        ({"gpus_per_worker": -1}, "--gpus-per-worker -1 must be at least 0"),
        ({"experiment": max}, "max is a function: make it an experiment by vistune.function_exp"),
        ({"set": "optim.lr=1"}, "values must be a dictionary, as in "),
        ({"set": {"optim.lrr": 1}}, "unknown config key 'optim.lrr'; did you mean 'optim.lr'?"),
        ({"set": {"optim.lr": None}}, "optim.lr='none' is not valid"),
        ({"space": {"optim.lr": (1, 2, "lin")}}, "space optim.lr=(1, 2, 'lin'): it must be (low"),
        ({"space": {"optim.lr": (2.0, 1.0)}}, "space optim.lr=(2.0, 1.0): it must begin below"),
        ({"study": "a/b"}, "--study 'a/b' must be letters"),
        ({"time_budget": "soon"}, "--time-budget 'soon' must be a number"),
        (
            {"experiment": "sll"},
            "unknown experiment 'sll' (a file of your own ends in .py); did you mean 'ssl'?",
        ),
        ({"experiment": "classify"}, "classify compares settings"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(
    arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    given = {"experiment": TOY, "local": True, **arguments}
    with pytest.raises(vistune.UserError) as refused:
        vistune.search(**given)
    assert str(refused.value).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_text_or_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def searched(progress: Any) -> str:
        vistune.search(TOY, trials=1, repeats=0, local=True, study=progress, progress=progress)
        return capsys.readouterr().out

    assert "trial 0 complete best" in searched("text")
    assert searched("none") == ""


class Handle:
    """A fake display handle of IPython."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(content)


def test_a_notebook_shows_one_table_that_is_replaced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = Handle()

    def display(content: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert display_id
        handle.update(content, raw=raw)
        return handle

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))  # type: ignore[arg-type]
    with NotebookConsole("val/top1", 4, 2) as console:
        console.line("study toy: 90 points")
        for _ in range(20):
            console.on_event({"event": "start", "trial": 0, "resumed_epoch": None})
        console.on_event(
            {"event": "report", "trial": 0, "epoch": 3, "metrics": {"val/top1": 0.75, "a<b": 1.0}}
        )

    assert capsys.readouterr().out == "study toy: 90 points\n"
    assert len(handle.shown) <= 3
    last = handle.shown[-1]
    assert "0  running    3/4    0.7500" in last["text/plain"]
    assert last["text/html"].startswith("<pre")
