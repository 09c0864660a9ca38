"""A command as a trial: its words, its metrics, resume, and what remains when it ends."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import is_alive, wait_for
from trainables.base import Metrics
from trainables.errors import TrialFailed
from tune.execution import supervisor
from tune.execution.function_run import FunctionRun
from tune.execution.function_trial import run_function
from tune.execution.runtimes import LocalRuntime
from tune.execution.script import Script
from tune.execution.script_output import Tail
from tune.execution.script_process import Process
from tune.execution.script_reader import ScriptFailed
from tune.function import Function
from tune.study.kept_files import remove_checkpoint
from tune.study.work import Outcome, Work, WorkId

CONFIG = {"lr": 0.5, "opt": "sgd", "flag": True, "seed": 3, "train.threads": 1}
PROGRAM = """
import json, os, sys
out, resume = sys.argv[1], sys.argv[2:]
first = 0
if resume:
    first = int(open(resume[0]).read()) + 1
for epoch in range(first, 4):
    with open(f"{out}/metrics.jsonl", "a") as file:
        file.write(json.dumps({"epoch": epoch, "loss": 1.0}) + "\\n")
        file.write(json.dumps({"epoch": epoch, "accuracy": 0.1 * (epoch + 1)}) + "\\n")
    with open(f"{out}/last.pt", "w") as file:
        file.write(str(epoch))
    if not resume and epoch == 1 and os.path.exists(f"{out}/die"):
        os._exit(9)
"""


def script(*words: str, **changes: Any) -> Script:
    given: dict[str, Any] = {"folder": "/", "objective": "accuracy"}
    return Script(tuple(words), **given | changes)


def run_of(folder: Path, made: Script) -> FunctionRun:
    work = Work(WorkId(0), 3, CONFIG, str(folder))
    runtime = LocalRuntime(folder, lambda epoch, metrics: True)
    return FunctionRun(Function(made, "val/accuracy"), work, runtime)


class Reported:
    """A study's record, and the epoch at which it stops the trial."""

    def __init__(self, last: int = 100):
        self.epochs: dict[int, Metrics] = {}
        self.last = last

    def __call__(self, epoch: int, metrics: Metrics) -> bool:
        self.epochs.setdefault(epoch, metrics)
        return epoch < self.last


def outcome_of(made: Script, folder: Path, reported: Callable[[int, Metrics], bool]) -> Outcome:
    work = Work(WorkId(0, 7), 3, CONFIG, str(folder))
    function = Function(made, "val/accuracy")
    return run_function(function, work, LocalRuntime(folder, reported))


def python(code: str, *words: str, **changes: Any) -> Script:
    return script(sys.executable, "-S", "-c", code, *words, **changes)


def test_words_are_filled_with_values(tmp_path: Path) -> None:
    words = ("--lr={lr}", "{opt}", "{flag}", '{"a": 1}', "{directory}/x", "{seed}", "{own} {lr}")
    made = script(*words)

    filled = made.filled(CONFIG, run_of(tmp_path, made), None)

    assert filled == ["--lr=0.5", "sgd", "true", '{"a": 1}', f"{tmp_path}/x", "3", "{own} 0.5"]


@pytest.mark.parametrize(
    ("words", "first", "resumed"),
    [
        (("a", "--resume", "{resume_from}", "b"), ["a", "b"], ["a", "--resume", "/c", "b"]),
        (("a", "--resume={resume_from}", "b"), ["a", "b"], ["a", "--resume=/c", "b"]),
        (("a", "b", "{resume_from}"), ["a", "b"], ["a", "b", "/c"]),
    ],
)
def test_the_first_start_has_no_checkpoint(
    tmp_path: Path, words: tuple[str, ...], first: list[str], resumed: list[str]
) -> None:
    made = script(*words)
    run = run_of(tmp_path, made)

    assert made.filled(CONFIG, run, None) == first
    assert made.filled(CONFIG, run, Path("/c")) == resumed


def test_lines_of_a_file_become_reports(tmp_path: Path) -> None:
    reported = Reported()
    outcome = outcome_of(python(PROGRAM, "{directory}", epochs=4), tmp_path, reported)

    assert outcome.state == "COMPLETE"
    assert {epoch: m["val/accuracy"] for epoch, m in reported.epochs.items()} == pytest.approx(
        {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}
    )
    assert {m["val/loss"] for m in reported.epochs.values()} == {1.0}
    assert {m["train/epochs"] for m in reported.epochs.values()} == {4.0}


def test_a_killed_command_resumes_by_its_own_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "die").touch()
    made = python(PROGRAM, "{directory}", "{resume_from}")
    reported = Reported()
    with pytest.raises(ScriptFailed, match="exit code 9, without a word"):
        outcome_of(made, tmp_path, reported)
    assert list(reported.epochs) == [1, 2]

    outcome = outcome_of(made, tmp_path, reported)

    assert list(reported.epochs) == [1, 2, 3, 4]
    assert outcome.metrics["best/epoch"] == 4.0
    text = (tmp_path / "metrics.jsonl").read_text()
    assert [json.loads(line)["epoch"] for line in text.splitlines()] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_command_that_cannot_resume_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "die").touch()
    made = python(PROGRAM, "{directory}")
    with pytest.raises(ScriptFailed):
        outcome_of(made, tmp_path, Reported())
    (tmp_path / "die").unlink()

    reported = Reported()
    outcome_of(made, tmp_path, reported)

    assert list(reported.epochs) == [1, 2, 3, 4]


@pytest.mark.parametrize("mode", ["a", "w"])
def test_no_epoch_of_a_second_start_is_lost(tmp_path: Path, mode: str) -> None:
    """The lines of the earlier start are as long as the new ones, which all come at once."""
    code = f"""
import json, sys
with open(sys.argv[1], "{mode}") as file:
    for epoch in range(3):
        file.write(json.dumps({{"epoch": epoch, "accuracy": 0.5}}) + "\\n")
"""
    earlier = '{"epoch": 0, "accuracy": 0.25}\n{"epoch": 1, "accuracy": 0.25}\n'
    (tmp_path / "metrics.jsonl").write_text(earlier)

    reported = Reported()
    outcome_of(python(code, "{metrics}"), tmp_path, reported)

    assert {epoch: m["val/accuracy"] for epoch, m in reported.epochs.items()} == dict.fromkeys(
        (1, 2, 3), 0.5
    )


def test_a_file_that_is_written_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("one\ntwo\n")
    tail = Tail(path)
    assert list(tail.lines()) == ["one\n", "two\n"]
    assert not tail.begins_anew()

    path.write_text("three\nfour\nfive\n")  # longer than what was read
    assert tail.begins_anew()
    assert list(tail.lines()) == ["three\n", "four\n", "five\n"]

    path.write_text("three\nfour\nfive\nsix\n")
    assert not tail.begins_anew()
    assert list(tail.lines()) == ["six\n"]


@pytest.mark.parametrize("metrics", ["-", "metrics.jsonl"])
def test_the_last_line_needs_no_end(tmp_path: Path, metrics: str) -> None:
    code = """
import sys
out = sys.stdout if sys.argv[1] == "-" else open(sys.argv[2], "w")
out.write('{"accuracy": 0.25}\\n{"accuracy": 0.5, "test/accuracy": 0.75}')
"""
    reported = Reported()
    outcome = outcome_of(python(code, metrics, "{metrics}", metrics=metrics), tmp_path, reported)

    assert [m["val/accuracy"] for m in reported.epochs.values()] == [0.25, 0.5]
    assert outcome.metrics["test/accuracy"] == 0.75


def test_a_cut_line_of_metrics_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_text("0")
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0, "accuracy": 0.1}\n{"epoch": 1, "acc')

    reported = Reported()
    outcome_of(python(PROGRAM, "{directory}", "{resume_from}"), tmp_path, reported)

    assert list(reported.epochs) == [1, 2, 3, 4]


def test_files_of_a_script_may_have_any_name_but_two(tmp_path: Path) -> None:
    """For example, Keras writes `history.json`."""
    code = """
import json, sys
for name in ("history.json", "script.json"):
    with open(f"{sys.argv[1]}/{name}", "w") as file:
        file.write(json.dumps({"own": [1, 2]}))
print('{"epoch": 0, "accuracy": 0.5}')
"""
    made = python(code, "{directory}", metrics="-")
    for _ in range(2):  # the second start finds the files of the first
        assert outcome_of(made, tmp_path, Reported()).state == "COMPLETE"
    remove_checkpoint(tmp_path)

    for name in ("history.json", "script.json"):
        assert json.loads((tmp_path / name).read_text()) == {"own": [1, 2]}
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"history.json", "script.json", "output.txt", ".script.lock"}


def test_output_is_read_by_a_pattern_or_as_json(tmp_path: Path) -> None:
    code = "for k in (1, 2): print(f'Epoch {k}: acc={k / 4}')\nprint('test acc 0.75')"
    pattern = r"Epoch (?P<epoch>\d+): acc=(?P<accuracy>[\d.]+)"
    final = r"test acc (?P<test_accuracy>[\d.]+)"
    reported = Reported()
    outcome = outcome_of(python(code, patterns=(pattern, final)), tmp_path, reported)

    assert [m["val/accuracy"] for m in reported.epochs.values()] == [0.25, 0.5]
    assert outcome.metrics["test/accuracy"] == 0.75

    folder = tmp_path / "json"
    folder.mkdir()
    reported = Reported()
    code = "print('hello'); print('{\"accuracy\": 0.5}'); print('{\"accuracy\": 1}')"
    outcome_of(python(code, metrics="-"), folder, reported)
    assert [m["val/accuracy"] for m in reported.epochs.values()] == [0.5, 1.0]


def test_a_pattern_that_finds_no_number_says_so(tmp_path: Path) -> None:
    made = python("print('acc 93%')", patterns=(r"acc (?P<accuracy>\S+)",))
    with pytest.raises(
        ScriptFailed, match=r"group accuracy has found '93%', which is not a number"
    ):
        outcome_of(made, tmp_path, Reported())


def test_test_lines_give_the_scores_of_images(tmp_path: Path) -> None:
    code = """
import json
print(json.dumps({"accuracy": 0.5}))
print(json.dumps({"test/accuracy": 0.75, "per_image": [1, 1, 0, 1]}))
"""
    outcome = outcome_of(python(code, metrics="-"), tmp_path, Reported())

    assert outcome.metrics["test/accuracy"] == 0.75
    assert list(outcome.tested["right"]) == ["test/accuracy"]


def test_a_failure_shows_what_was_printed_last(tmp_path: Path) -> None:
    code = "import sys; print('one'); sys.exit('no such optimizer: lion')"
    made = python(code)
    with pytest.raises(ScriptFailed) as failed:
        outcome_of(made, tmp_path, Reported())

    reason = Function(made, "val/accuracy").reason(failed.value)
    assert reason == "ScriptFailed: exit code 1: no such optimizer: lion"
    assert "\none\n" in str(failed.value)


@pytest.mark.parametrize(
    ("printed", "changes", "said"),
    [
        ("", {}, r'without a line like {"epoch": 1, "accuracy": 0.5} in metrics.jsonl in {direct'),
        ("acc 3", {"metrics": "-"}, 'without a line like {"epoch": 1, "accuracy": 0.5} in its out'),
        ("acc 3", {"patterns": (r"a=(?P<accuracy>\d)",)}, "no line of its output matches a --patt"),
        ('{"acc": 1, "loss": 2}', {"metrics": "-"}, "wrote acc, loss, but not the objective acc"),
        ('{"accuracy": "93%"}', {"metrics": "-"}, "wrote accuracy '93%', which is not a number"),
    ],
)
def test_a_command_without_the_objective_says_what_it_wrote(
    tmp_path: Path, printed: str, changes: dict[str, Any], said: str
) -> None:
    made = python(f"print({printed!r})", **changes)
    with pytest.raises(TrialFailed, match=re.escape(said)) as failed:
        outcome_of(made, tmp_path, Reported())
    assert failed.value.reason == "no report"


def test_a_command_that_is_not_there_fails(tmp_path: Path) -> None:
    with pytest.raises(ScriptFailed, match="exit code 127: nowhere: No such file"):
        outcome_of(script("nowhere"), tmp_path, Reported())


FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
open("pids", "w").write(f"{os.getpid()} {child.pid}")
os.rename("pids", "family")
print('{"accuracy": 0.5}', flush=True)
time.sleep(600)
"""


def test_a_stopped_trial_leaves_no_process(tmp_path: Path) -> None:
    made = python(FAMILY, metrics="-", folder=str(tmp_path))

    outcome = outcome_of(made, tmp_path, Reported(last=1))

    assert outcome.state == "PRUNED"
    pids = [int(word) for word in (tmp_path / "family").read_text().split()]
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_a_killed_starter_leaves_no_process(tmp_path: Path) -> None:
    """The supervisor's pipe closes when its starter dies from any signal."""
    starter = (
        "import os, signal, subprocess, sys\n"
        "subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)\n"
        "input()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-I", "-S", supervisor.__file__, sys.executable, "-S", "-c", FAMILY]
    started = subprocess.Popen(
        [sys.executable, "-S", "-c", starter, *words],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=os.environ,
    )
    wait_for((tmp_path / "family").exists)
    pids = [int(word) for word in (tmp_path / "family").read_text().split()]
    assert all(is_alive(pid) for pid in pids)

    started.communicate(b"\n")

    assert started.returncode == -9
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_a_command_ends_though_a_fork_of_its_starter_lives(tmp_path: Path) -> None:
    """A forked process holds the supervisor's pipe too, which then does not close."""
    words = [sys.executable, "-S", "-c", FAMILY]
    with (tmp_path / "lock").open("w") as file:
        process = Process(
            words, str(tmp_path), dict(os.environ), tmp_path / "output.txt", file.fileno()
        )
        process.__enter__()
    wait_for((tmp_path / "family").exists)
    fork = os.fork()
    if not fork:
        time.sleep(60)
        os._exit(0)

    try:
        process.__exit__()
        pids = [int(word) for word in (tmp_path / "family").read_text().split()]
        wait_for(lambda: not any(is_alive(pid) for pid in pids))
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)


def is_free(lock: Path) -> bool:
    with lock.open("w") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def test_a_folder_is_held_as_long_as_its_command_lives(tmp_path: Path) -> None:
    lock = tmp_path / ".script.lock"
    words = [sys.executable, "-S", "-c", FAMILY]
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = Process(
            words, str(tmp_path), dict(os.environ), tmp_path / "output.txt", file.fileno()
        )
        process.__enter__()

    # The starter has let go of its lock, as a killed one does.
    wait_for((tmp_path / "family").exists)
    assert not is_free(lock)

    process.__exit__()
    assert is_free(lock)


def test_a_command_waits_for_the_one_before_it(tmp_path: Path) -> None:
    made = python("print('{\"accuracy\": 0.5}')", metrics="-")
    with (tmp_path / ".script.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = threading.Thread(target=outcome_of, args=(made, tmp_path, Reported()))
        waiting.start()
        waiting.join(0.3)
        assert not (tmp_path / "output.txt").exists()

    waiting.join(60)
    assert "accuracy" in (tmp_path / "output.txt").read_text()
