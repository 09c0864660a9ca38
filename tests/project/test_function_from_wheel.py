"""A function, a script and an installed package in an empty folder, with vistune from its wheel:
studies are killed, resumed, pruned, reported and compared, without the repository on the path."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.kills import MARK, Command, check_mlflow, wait_until
from tests.project.test_packaging import checkout, finished, installed, wheel  # noqa: F401

MINE = """
import time, torch
from vistune import function_experiment

def train(config, run):
    model = torch.nn.Linear(4, 1)
    saved = run.load()
    model.load_state_dict(saved["model"] if saved else model.state_dict())
    for epoch in run.epochs(8):
        time.sleep(0.15)
        x = torch.randn(64, 4)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= config["lr"] * parameter.grad
                parameter.grad = None
        run.save(model=model.state_dict())
        run.report(accuracy=1 / (1 + loss), loss=loss)
    right = (torch.rand(200) < 1 / (1 + loss.detach())).float()
    run.test(accuracy=right.mean(), per_image=right)

EXPERIMENT = function_experiment(
    train, objective="accuracy", space={"lr": (1e-4, 0.5, "log")}, default={"lr": 1e-3}
)
"""
TRIALS = 8


SCRIPT = """
import argparse, json, os, random, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float)
parser.add_argument("--seed", type=int)
parser.add_argument("--out", type=Path)
parser.add_argument("--resume", type=Path)
args = parser.parse_args()
first, worth = json.loads(args.resume.read_text()) if args.resume else (0, 0.0)
metrics = (args.out / "metrics.jsonl").open("a", buffering=1)
for epoch in range(first, 8):
    time.sleep(0.15)
    worth += args.lr * (1 - worth)
    metrics.write(json.dumps({"epoch": epoch, "accuracy": worth}) + "\\n")
    (args.out / "next").write_text(json.dumps([epoch + 1, worth]))
    os.replace(args.out / "next", args.out / "last.pt")

random.seed(args.seed)
right = [float(random.random() < worth) for _ in range(200)]
test = {"test/accuracy": sum(right) / len(right), "per_image": right}
metrics.write(json.dumps(test) + "\\n")
"""
PROJECT = """
[project]
name = "other"
version = "1.0"
[project.entry-points."vistune.experiments"]
mine = "other_package:EXPERIMENT"
[tool.setuptools]
py-modules = ["other_package"]
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
"""


class Installed(Command):
    """`vistune ...` from an environment that has the wheel, in a folder.

    Args:
        experiment: name of the study.
        words: the words after `vistune`, and the words after the options.
    """

    def __init__(self, folder: Path, programs: Path, experiment: str, words: list[str], *last: str):
        self.experiment = experiment
        super().__init__(folder / "runs")
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        kept |= {"PATH": "/usr/bin:/bin", "HOME": str(folder), MARK: self.mark}
        self.environment = kept
        counts = ["--trials", str(TRIALS), "--repeats", "2", "--concurrent", "2"]
        place = ["--storage", str(self.storage)]
        self.argv = [str(programs / "vistune"), *words, *place, *counts, *last]


def check_kill_and_resume(command: Installed) -> None:
    """Kill the command and all that it started, run it again, and check its record."""
    process = command.start()
    wait_until(lambda: len(command.events("report")) >= 5, command, process)
    command.kill_all()
    process.wait()
    wait_until(lambda: not command.alive(), command)
    before = command.events()

    assert command.finish() == 0, command.output

    events = command.events()
    assert events[: len(before)] == before
    begun = {event["trial"] for event in before if event["event"] == "start"}
    reports = Counter(
        (event["trial"], event.get("repeat"), event["epoch"])
        for event in events
        if event["event"] == "report"
    )
    assert set(reports.values()) == {1}
    for trial in begun:
        epochs = sorted(
            epoch for number, repeat, epoch in reports if (number, repeat) == (trial, None)
        )
        assert epochs == list(range(1, len(epochs) + 1))
    ends = [event for event in events if event["event"] == "end"]
    trials = {event["trial"]: event["state"] for event in ends if "repeat" not in event}
    assert sorted(trials) == list(range(TRIALS))
    assert set(trials.values()) == {"COMPLETE", "PRUNED"}
    wait_until(lambda: not command.alive(), command)
    check_mlflow(command, TRIALS)


def check_reports(installed: Path, folder: Path, study: str) -> None:  # noqa: F811
    """Check that the pages of the study have a verdict."""
    show = finished([str(installed / "vistune-report"), "show", study], folder)
    assert re.search(r"Trial \d+ beats the default: test/accuracy of trial \d+ is", show.stdout)
    assert "2 fresh seeds of each and the draw of test images" in show.stdout
    page = finished([str(installed / "vistune-report"), "html", study], folder)
    assert page.returncode == 0, page.stderr
    assert (folder / "runs" / study / "report.html").exists()


@pytest.mark.slow
def test_ten_lines_are_killed_resumed_pruned_reported_and_compared(
    installed: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    command = Installed(tmp_path, installed, "mine", [str(tmp_path / "mine.py")])

    check_kill_and_resume(command)

    starts = command.events("start")
    assert [event for event in starts if event["resumed_epoch"]]
    check_reports(installed, tmp_path, "mine")

    again = ["--study", "mine-2", "--seed", "1", "--local", "--trials", "3", "--repeats", "2"]
    second = finished([str(installed / "vistune"), "mine.py", *again], tmp_path)
    assert second.returncode == 0, second.stderr
    ask = "import vistune; print(vistune.compare(['mine', 'mine-2']))"
    said = finished([str(installed / "python"), "-c", ask], tmp_path)
    assert re.search(r"test/accuracy -?[\d.]+ \[.*\], p = ", said.stdout), said.stderr


@pytest.mark.slow
def test_a_script_is_killed_resumed_pruned_and_reported(
    installed: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    options = ["--space", "lr=0.01..0.5:log", "--default", "lr=0.02", "--objective", "accuracy"]
    words = [str(installed / "python"), "-S", str(script), "--lr", "{lr}", "--seed", "{seed}"]
    words += ["--out", "{directory}", "--resume", "{resume_from}"]
    command = Installed(
        tmp_path, installed, "train", ["script", *options, "--epochs", "8"], "--", *words
    )

    check_kill_and_resume(command)

    check_reports(installed, tmp_path, "train")
    for event in command.events("start"):
        folder = command.folder / f"trials/{event['trial']:04d}"
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        epochs = [json.loads(line).get("epoch") for line in lines]
        assert epochs.count(0) == 1  # it resumed where it was killed


@pytest.mark.slow
def test_an_installed_package_is_searched_on_ray(
    installed: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    named = MINE.replace("default={", 'name="mine", default={')
    (package / "other_package.py").write_text(named)
    (package / "pyproject.toml").write_text(PROJECT)
    pip = [sys.executable, "-m", "pip", "--python", str(installed / "python"), "install"]
    offline = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, *offline, str(package)], check=True)
    folder = tmp_path / "empty"
    folder.mkdir()

    done = finished(
        [str(installed / "vistune"), "mine", "--trials", "3", "--repeats", "0"],
        folder,
        HOME=str(tmp_path),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "INFO" not in done.stdout + done.stderr  # MLflow would print these when it makes tables
    manifest = json.loads((folder / "runs/mine/study.json").read_text())
    assert manifest["source"]["module"] == "other_package"
    assert manifest["source"]["text"] == named
