"""A function in an empty folder, and vistune from its wheel: a study that is killed, resumed,
pruned, reported and compared, without the repository on its path."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.kills import MARK, Command, wait_until
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


class Installed(Command):
    """`vistune mine.py` of an environment that holds the wheel."""

    experiment = "mine"

    def __init__(self, folder: Path, programs: Path):
        super().__init__(folder / "runs")
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        kept |= {"PATH": "/usr/bin:/bin", "HOME": str(folder), MARK: self.mark}
        self.environment = kept
        counts = ["--trials", str(TRIALS), "--repeats", "2", "--concurrent", "2"]
        places = [
            str(programs / "vistune"),
            str(folder / "mine.py"),
            "--storage",
            str(self.storage),
        ]
        self.argv = [*places, *counts]


@pytest.mark.slow
def test_ten_lines_are_killed_resumed_pruned_reported_and_compared(
    installed: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    command = Installed(tmp_path, installed)

    process = command.start()
    wait_until(lambda: len(command.events("report")) >= 5, command, process)
    command.kill_all()
    process.wait()
    wait_until(lambda: not command.alive(), command)
    before = command.events()

    assert command.finish() == 0, command.output

    events = command.events()
    assert events[: len(before)] == before
    resumed = [event for event in events if event["event"] == "start" and event["resumed_epoch"]]
    assert resumed
    reports = Counter(
        (event["trial"], event.get("repeat"), event["epoch"])
        for event in events
        if event["event"] == "report"
    )
    assert set(reports.values()) == {1}
    ends = [event for event in events if event["event"] == "end"]
    trials = {event["trial"]: event["state"] for event in ends if "repeat" not in event}
    assert sorted(trials) == list(range(TRIALS))
    assert set(trials.values()) == {"COMPLETE", "PRUNED"}
    assert not command.alive()

    show = finished([str(installed / "vistune-report"), "show", "mine"], tmp_path)
    assert re.search(r"Trial \d+ beats the default: test/accuracy of trial \d+ is", show.stdout)
    assert "2 fresh seeds of each and the draw of test images" in show.stdout
    page = finished([str(installed / "vistune-report"), "html", "mine"], tmp_path)
    assert page.returncode == 0, page.stderr
    assert (tmp_path / "runs/mine/report.html").exists()

    again = ["--study", "mine-2", "--seed", "1", "--local", "--trials", "3", "--repeats", "2"]
    second = finished([str(installed / "vistune"), "mine.py", *again], tmp_path)
    assert second.returncode == 0, second.stderr
    ask = "import vistune; print(vistune.compare(['mine', 'mine-2']))"
    said = finished([str(installed / "python"), "-c", ask], tmp_path)
    assert re.search(r"test/accuracy -?[\d.]+ \[.*\], p = ", said.stdout), said.stderr
