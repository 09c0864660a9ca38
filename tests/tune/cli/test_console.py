"""The live table on a terminal, and the lines in a pipe."""

from typing import Any

import pytest

from tune.cli.console import Console

EPOCHS = 4


def start(trial: int, **more: Any) -> dict[str, Any]:
    return {"event": "start", "trial": trial, "resumed_epoch": None, **more}


def report(trial: int, epoch: int, value: float, **more: Any) -> dict[str, Any]:
    metrics = {"val/top1": value, "time/images_per_s": 1234.4}
    return {"event": "report", "trial": trial, "epoch": epoch, "metrics": metrics, **more}


def end(trial: int, state: str, value: float | None = None, reason: str = "") -> dict[str, Any]:
    return {"event": "end", "trial": trial, "state": state, "value": value, "reason": reason}


def cells(out: str) -> list[list[str]]:
    """The words of each line of the table."""
    return [line.split() for line in out.splitlines()]


def test_live_table_shows_running_trials_then_the_best_of_the_ended_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Console("val/top1", EPOCHS, 6, interactive=True) as console:
        console.know(0, "complete", EPOCHS, 0.5, "")
        for event in (
            start(1),
            report(1, EPOCHS, 0.75),
            end(1, "COMPLETE", 0.75),
            start(2),
            end(2, "FAIL", reason="memory"),
            start(3),
            report(3, 1, 0.7),
            report(3, 2, 0.625),
            start(0, repeat=11),
            report(0, 3, 0.4, repeat=11),
        ):
            console.on_event(event)

    lines = cells(capsys.readouterr().out)
    header = lines.index(["trial", "state", "epoch", "val/top1", "best", "images/s"])
    assert lines[header + 1 : header + 5] == [
        ["3", "running", "2/4", "0.6250", "0.7000", "1234"],
        ["1", "complete", "4/4", "0.7500", "0.7500"],
        ["0", "complete", "4/4", "0.5000"],
        ["2", "fail:", "memory", "0/4"],
    ]
    assert " ".join(lines[header + 5]) == "repeat 1: trial 0, epoch 3/4"
    assert " ".join(lines[header + 6]) == "3/6 trials, best trial 1 0.7500 (of 3 single runs)"


def test_the_best_so_far_says_how_far_its_repeats_fell(capsys: pytest.CaptureFixture[str]) -> None:
    with Console("val/top1", EPOCHS, 2, interactive=False) as console:
        for event in (
            end(0, "COMPLETE", 0.75),
            end(0, "COMPLETE", 0.5) | {"repeat": 7, "metrics": {"best/val/top1": 0.5}},
            end(0, "COMPLETE", 0.6) | {"repeat": 8, "metrics": {"best/val/top1": 0.6}},
            end(1, "PRUNED", 0.4),
        ):
            console.on_event(event)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(
        "best trial 0 0.7500 (of 2 single runs; its 2 repeats average 0.5500, 0.2000 lower)"
    )


@pytest.mark.parametrize(
    ("reason", "error", "shown"),
    [
        ("KeyError: 'lr' (a.py line 3)", "KeyError: 'lr'", "KeyError: 'lr' (a.py line 3)"),
        ("ValueError: lo (a.py line 3)", "ValueError: long", "ValueError: long (a.py line 3)"),
        ("ValueError: a (a.py line 3)", "ValueError: a\nb", "ValueError: a (a.py line 3): b"),
        ("ScriptFailed: exit code 1: no", "x\nno", "ScriptFailed: exit code 1: no"),
    ],
)
def test_the_error_of_a_function_is_told_once(
    reason: str, error: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason of such a failure is the error itself, cut, and a line of the user's file."""
    with Console("val/top1", EPOCHS, 1, interactive=False) as console:
        console.on_event(start(0))
        console.on_event(end(0, "FAIL", None, reason) | {"error": error})
    assert f"trial 0 fail ({shown}) |" in capsys.readouterr().out


def test_live_table_keeps_the_twelve_best_ended_trials(capsys: pytest.CaptureFixture[str]) -> None:
    with Console("val/top1", EPOCHS, 20, interactive=True) as console:
        for number in range(15):
            console.on_event(start(number))
            console.on_event(end(number, "COMPLETE", number / 100))

    lines = cells(capsys.readouterr().out)
    header = lines.index(["trial", "state", "epoch", "val/top1", "best"])
    shown = [line[0] for line in lines[header + 1 : header + 13]]
    assert shown == [str(number) for number in range(14, 2, -1)]
    assert lines[header + 13] == ["...", "and", "3", "more"]


def test_a_pipe_gets_one_line_per_event(capsys: pytest.CaptureFixture[str]) -> None:
    with Console("val/top1", EPOCHS, 1, interactive=False) as console:
        for event in (
            {"event": "summary", "metrics": {"baseline/val/top1": 0.1}, "tags": {}},
            start(0),
            start(0) | {"resumed_epoch": 2},
            report(0, 3, 0.25),
            end(0, "PRUNED", 0.25, "rung"),
        ):
            console.on_event(event)

    assert capsys.readouterr().out.splitlines() == [
        "untrained baseline, BatchNorm calibrated: val/top1 0.1000 +- 0.0000 over seeds",
        "trial 0 starts",
        "trial 0 resumes after epoch 2",
        "trial 0 epoch 3/4 val/top1 0.2500",
        "trial 0 pruned best 0.2500 (rung) | 1/1 trial",
    ]


TRACEBACK = """Traceback (most recent call last):
  File "trial.py", line 1, in run
trainables.errors.UserError: weights.pt is no file of weights; name another with --backbone
"""


@pytest.mark.parametrize(
    ("reason", "error", "line"),
    [
        ("UserError", TRACEBACK, "UserError: weights.pt is no file of weights; name another"),
        ("nan", "the loss is nan at step 3 of 9", "nan: the loss is nan at step 3 of 9"),
        ("KeyError", "KeyError: 'lr'", "KeyError: 'lr'"),
        ("process lost", None, "process lost"),
    ],
)
@pytest.mark.parametrize("interactive", [False, True])
def test_a_failure_is_told_with_its_sentence(
    reason: str,
    error: str | None,
    line: str,
    interactive: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Console("val/top1", EPOCHS, 1, interactive=interactive) as console:
        console.on_event(start(0))
        console.on_event(end(0, "FAIL", None, reason) | {"error": error})
    assert line in " ".join(capsys.readouterr().out.split())
