"""Pictures that are missing when a command ends are drawn after it, once, and never in the way of a
new start. The drawing process is fake here, except in the last test."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import REPO
from tests.commands import LOCAL_TOY, Call
from tests.studies import events, finished, open_study
from tests.toy import TOY
from tune.cli.stop import Stop
from tune.experiments import EXPERIMENTS
from tune.reports import draw_behind
from tune.reports.draw_behind import draw_now, main
from tune.reports.drawing_claim import DrawingClaim
from tune.reports.drawing_process import DrawingProcess
from tune.reports.plot_worker import Pictures
from tune.reports.undrawn import read_wanted, write_wanted
from tune.study.lock import StudyInUse, addition
from tune.study.study import Study
from tune.tracking.tracker import Tracker
from tune.upkeep.kept import held

WATCH = Pictures.watch
TRIALS = 6


class Paper:
    """A fake `DrawingProcess` that calls `before`, then writes one picture per trial."""

    before: Callable[[], Any]

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn: list[str] = []
        self.before = lambda: None
        monkeypatch.setattr(DrawingProcess, "start", lambda _: None)
        monkeypatch.setattr(DrawingProcess, "draw", self._draw)

    def _draw(
        self,
        title: str,
        snapshots: Any,
        folder: Path,
        timeout_s: float = 0,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> bool:
        self.before()
        if not is_wanted():
            return False
        folder.mkdir(exist_ok=True)
        (folder / "pca.png").write_bytes(b"\x89PNG")
        self.drawn.append(title)
        return True


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Paper:
    return Paper(monkeypatch)


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Collect the studies that are sent to MLflow. This process keeps its priority."""
    sent: list[Path] = []
    monkeypatch.setattr(draw_behind, "sync_study", lambda folder, **_: sent.append(folder))
    monkeypatch.setattr(draw_behind, "yield_to_all", lambda pid: None)
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    return sent


def ended(root: Path, trials: int = TRIALS) -> Path:
    """A study that has ended without pictures."""
    finished(root, trials, base={"train.epochs": 1})
    write_wanted(root / "toy", "best")
    return root / "toy"


def task(*folders: Path) -> str:
    claims = {str(folder): DrawingClaim(folder).token for folder in folders}
    return json.dumps({"pictures": "best", "claims": claims})


def on_record(root: Path) -> list[str]:
    return [event["path"] for event in events(root) if event["event"] == "artifact"]


def shown(root: Path) -> set[str]:
    """The pictures of the default and the best three, from the event log alone."""
    ends = [event for event in events(root) if event["event"] == "end"]
    values = {e["trial"]: e["value"] for e in ends if e["state"] == "COMPLETE"}
    best = sorted(values, key=lambda number: (-values[number], number))[:3]
    return {f"trials/{number:04d}/plots/pca.png" for number in {0, *best}}


def test_what_is_missing_is_drawn_recorded_and_sent_once(
    tmp_path: Path, paper: Paper, sent: list[Path]
) -> None:
    folder = ended(tmp_path)
    main([task(folder)])
    assert sorted(on_record(tmp_path)) == sorted(shown(tmp_path))
    assert sent == [folder]

    main([task(folder)])
    assert len(paper.drawn) == len(on_record(tmp_path)) == len(shown(tmp_path))


def test_a_new_start_takes_over_and_nothing_is_drawn_or_recorded_twice(
    tmp_path: Path, paper: Paper, sent: list[Path]
) -> None:
    folder = ended(tmp_path)
    given = task(folder)
    pictures = Pictures()
    study = open_study(tmp_path, TRIALS, base={"train.epochs": 1})

    def start_after_the_first() -> None:
        if len(paper.drawn) == 1:
            pictures.watch(study)

    paper.before = start_after_the_first
    main([given])
    assert len(paper.drawn) == 1
    assert sent == []

    paper.before = lambda: None
    assert pictures.close(60) == 0
    study.close()
    assert sorted(on_record(tmp_path)) == sorted(shown(tmp_path))


def test_whoever_was_claimed_before_it_began_draws_nothing(tmp_path: Path, paper: Paper) -> None:
    folder = ended(tmp_path)
    given = task(folder)
    DrawingClaim(folder)
    main([given])
    assert paper.drawn == []


def test_the_log_of_a_study_that_runs_is_left_to_its_run(tmp_path: Path, paper: Paper) -> None:
    folder = ended(tmp_path, 1)
    study = open_study(tmp_path, 1, base={"train.epochs": 1})
    before = (folder / "events.jsonl").read_bytes()
    main([task(folder)])
    assert (folder / "events.jsonl").read_bytes() == before
    study.close()
    main([task(folder)])
    assert on_record(tmp_path) == ["trials/0000/plots/pca.png"]


def test_a_start_waits_while_pictures_are_recorded_but_not_for_a_run(tmp_path: Path) -> None:
    folder = ended(tmp_path, 1)
    recording, may_end = threading.Event(), threading.Event()

    def record() -> None:
        with addition(folder) as is_free:
            assert is_free
            recording.set()
            may_end.wait(60)

    thread = threading.Thread(target=record)
    thread.start()
    recording.wait(60)
    threading.Timer(0.2, may_end.set).start()
    study = open_study(tmp_path, 1, base={"train.epochs": 1})
    thread.join()

    with addition(folder) as is_free:
        assert not is_free
    with pytest.raises(StudyInUse):
        open_study(tmp_path, 1, base={"train.epochs": 1})
    study.close()


def test_a_study_that_was_removed_does_not_come_back(tmp_path: Path, paper: Paper) -> None:
    folder = ended(tmp_path, 1)
    paper.before = lambda: shutil.rmtree(folder)
    main([task(folder)])
    assert not folder.exists()


def test_upkeep_ends_the_drawing(tmp_path: Path, paper: Paper) -> None:
    folder = ended(tmp_path)
    reached, removed = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        removed.wait(0.3)

    paper.before = wait
    drawing = threading.Thread(target=main, args=([task(folder)],))
    drawing.start()
    reached.wait(60)
    with held([folder]):
        drawing.join(60)
        assert not drawing.is_alive()
    assert paper.drawn == []


def test_a_page_first_draws_what_the_run_left_undrawn(
    tmp_path: Path, paper: Paper, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ended(tmp_path, 2)
    draw_now(folder)
    assert sorted(paper.drawn) == ["toy trial 0", "toy trial 1"]
    assert capsys.readouterr().err == "drawing missing pictures of toy: trials 0, 1\n"
    draw_now(folder)
    assert len(paper.drawn) == 2
    assert capsys.readouterr().err == ""


def test_trials_without_arrays_lack_no_pictures(
    tmp_path: Path, paper: Paper, capsys: pytest.CaptureFixture[str]
) -> None:
    """Functions and scripts write no arrays, and those of overtaken trials are removed."""
    folder = ended(tmp_path, 2)
    for path in folder.glob("trials/*/*.npz"):
        path.unlink()
    draw_now(folder)
    assert capsys.readouterr().err == ""

    study, pictures = open_study(tmp_path, 2, base={"train.epochs": 1}), Pictures()
    pictures.watch(study)
    study.emit("end", trial=0, state="COMPLETE", value=0.5)
    assert pictures.close(0) == 0
    study.close()
    assert paper.drawn == []


def test_a_start_at_once_behind_a_command_draws_for_itself(
    tmp_path: Path, paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim is the later one, although the process that draws after the command starts
    later."""
    folder = ended(tmp_path)
    claims = draw_behind.claimed([folder])
    study, pictures = open_study(tmp_path, TRIALS, base={"train.epochs": 1}), Pictures()
    pictures.watch(study)
    started: list[list[str]] = []
    popen = SimpleNamespace(
        Popen=lambda command, **_: started.append(command) or SimpleNamespace(pid=1),
        DEVNULL=subprocess.DEVNULL,
    )
    monkeypatch.setattr(draw_behind, "subprocess", popen)
    assert draw_behind.draw_behind(claims, "best") == 1
    assert pictures.close(60) == 0
    study.close()
    assert len(paper.drawn) == len(shown(tmp_path))


def test_what_was_promised_of_all_trials_is_drawn_by_a_start_without_the_option(
    tmp_path: Path, paper: Paper
) -> None:
    folder = ended(tmp_path)
    write_wanted(folder, "all")
    for expected in (TRIALS, TRIALS):
        study, pictures = open_study(tmp_path, TRIALS, base={"train.epochs": 1}), Pictures()
        pictures.watch(study)
        assert pictures.close(60) == 0
        study.close()
        assert len(paper.drawn) == expected
    assert read_wanted(folder) == "best"


def test_a_claim_ends_the_sending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ended(tmp_path, 1)
    replay = Tracker(folder)
    steps: list[int] = []

    def step() -> bool:
        steps.append(1)
        return True  # there is always more to send

    monkeypatch.setattr(replay, "_step", step)
    claim = DrawingClaim(folder)

    def stands() -> bool:
        if len(steps) == 3:
            DrawingClaim(folder)  # as another process would
        return claim.stands

    replay.sync(stands)
    assert len(steps) == 3


@pytest.mark.parametrize("wanted", ["none", None])
def test_a_page_draws_nothing_that_the_run_did_not_want(
    tmp_path: Path, paper: Paper, wanted: Any
) -> None:
    folder = ended(tmp_path, 1)
    (folder / ".pictures.json").unlink()
    if wanted is not None:
        write_wanted(folder, wanted)
    draw_now(folder)
    assert paper.drawn == []


def test_a_page_of_a_running_study_leaves_its_pictures_to_the_run(
    tmp_path: Path, paper: Paper
) -> None:
    folder = ended(tmp_path, 1)
    study = open_study(tmp_path, 1, base={"train.epochs": 1})
    draw_now(folder)
    study.close()
    assert paper.drawn == []


def test_a_command_does_not_wait_for_pictures(
    call: Call, paper: Paper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Pictures, "watch", WATCH)
    monkeypatch.setattr(DrawingProcess, "draw", lambda *_, **__: False)  # it dies each time
    begun: list[Any] = []

    def begin(command: list[str], **options: Any) -> Any:
        begun.append((command, options))
        return SimpleNamespace(pid=4321)

    pretended = SimpleNamespace(Popen=begin, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(draw_behind, "subprocess", pretended)
    said = call(*LOCAL_TOY, "2")
    assert said.code == 0
    assert "pictures are drawn in the background (2 to go, process 4321)" in said.out

    ((command, options),) = begun
    assert command[1:3] == ["-m", "tune.reports.draw_behind"]
    assert options["start_new_session"]
    Paper(monkeypatch)
    main(command[3:])
    recorded = on_record(tmp_path / "runs")
    assert {path.split("/")[1] for path in recorded if "pca" in path} == {"0000", "0001"}


def test_a_run_that_its_time_budget_ends_has_its_pictures_drawn_behind_it(
    call: Call, paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pictures, "watch", WATCH)
    monkeypatch.setattr(DrawingProcess, "draw", lambda *_, **__: False)
    popen = SimpleNamespace(
        Popen=lambda *_, **__: SimpleNamespace(pid=4321), DEVNULL=subprocess.DEVNULL
    )
    monkeypatch.setattr(draw_behind, "subprocess", popen)
    done = Study.finished

    def spent_after_one(self: Study) -> int:
        ended = done(self)
        if ended and stops:
            stops[0].now("time budget spent")
        return ended

    stops: list[Stop] = []
    begin = Stop.__init__

    def remember(self: Stop, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        stops.append(self)

    monkeypatch.setattr(Stop, "__init__", remember)
    monkeypatch.setattr(Study, "finished", spent_after_one)
    said = call(*LOCAL_TOY, "3")
    assert said.code == 0
    assert "time budget spent" in said.out
    assert "pictures are drawn in the background" in said.out


@pytest.mark.slow
def test_killed_behind_the_command_the_page_draws_the_rest(tmp_path: Path) -> None:
    """Run the real process, kill it while it draws, and write the real page."""
    command = [
        sys.executable,
        str(REPO / "tune/run.py"),
        *("pretrain", "--local", "--data", "digits", "--trials", "12", "--repeats", "0"),
        *("--set", "train.epochs=2", "--set", "train.epoch_images=128"),
        # more than can be drawn in the seconds that a command waits
        *("--pictures", "all", "--pruner", "none"),
    ]
    began = time.monotonic()
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pictures are drawn in the background" in ended.stdout, ended.stdout + ended.stderr
    pid = int(ended.stdout.partition("process ")[2].partition(")")[0])
    assert time.monotonic() - began < 300
    os.kill(pid, signal.SIGKILL)

    page = [sys.executable, str(REPO / "tune/report.py"), "html", "pretrain"]
    drawn = subprocess.run(page, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "drawing missing pictures of pretrain" in drawn.stderr
    plots = tmp_path / "runs/pretrain/trials/0000/plots"
    assert (plots / ".recorded").exists()
    assert list(plots.glob("*.png"))
    again = subprocess.run(page, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert again.stderr == ""
