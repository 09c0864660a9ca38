"""Pictures of studies that were killed, or ended, while they were drawn: the next start draws and
records what is missing, and no more."""

import time
from pathlib import Path

import psutil
import pytest

from tests.processes import wait_for
from tests.shapes import shapes
from tests.studies import events, finished, open_study
from trainables.plots.data_sample import write_data_sample
from tune.reports.drawing_process import DrawingProcess
from tune.reports.plot_worker import Pictures
from tune.reports.undrawn import DATA
from tune.study.study import Study

NAMES = [
    f"{kind}_embeddings-{part}-0001.png" for kind in ("pca", "tsne") for part in ("train", "val")
]


@pytest.fixture(autouse=True)
def _beside_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the normal priority: at the lowest, the process would get no time while other tests
    run."""
    monkeypatch.setattr("tune.reports.low_priority.NICENESS", 0)


def opened(root: Path, trials: int = 1) -> Study:
    return open_study(root, trials, base={"train.epochs": 1})


def on_record(root: Path) -> list[str]:
    return [event["path"] for event in events(root) if event["event"] == "artifact"]


def draw_all(*roots: Path) -> None:
    pictures = Pictures()
    studies = [opened(root) for root in roots]
    for study in studies:
        pictures.watch(study)
    assert pictures.close(280) == 0  # a busy machine has little idle time, hence the long limit
    for study in studies:
        study.close()


@pytest.mark.slow
def test_what_a_kill_left_undrawn_is_drawn_at_the_next_start_of_any_of_the_studies(
    tmp_path: Path,
) -> None:
    for root in (tmp_path / "one", tmp_path / "two"):
        finished(root, 1, base={"train.epochs": 1})
        plots = root / "toy/trials/0000/plots"
        plots.mkdir()
        (plots / NAMES[0]).write_bytes(b"torn")  # as after a kill: some files, none on record
    draw_all(tmp_path / "one", tmp_path / "two")
    for root in (tmp_path / "one", tmp_path / "two"):
        assert on_record(root) == [f"trials/0000/plots/{name}" for name in NAMES]
        assert all(
            (root / "toy/trials/0000/plots" / name).read_bytes().startswith(b"\x89PNG")
            for name in NAMES
        )
    draw_all(tmp_path / "one")
    assert len(on_record(tmp_path / "one")) == len(NAMES)


def has_been_halted() -> bool:
    """Halt the process that draws; False if it has not been started yet."""
    drawing = [
        process
        for process in psutil.Process().children()
        if process.status() != psutil.STATUS_ZOMBIE and "trainables.plots.draw" in process.cmdline()
    ]
    for process in drawing:
        process.suspend()
    return bool(drawing)


@pytest.mark.heavy
def test_a_study_that_does_not_wait_leaves_its_pictures_to_the_next_start(tmp_path: Path) -> None:
    finished(tmp_path, 1, base={"train.epochs": 1})
    study, pictures = opened(tmp_path), Pictures()
    pictures.watch(study)
    began = time.monotonic()
    assert pictures.close(60, enough=has_been_halted) == 1
    assert time.monotonic() - began < 10
    assert on_record(tmp_path) == []
    study.close()
    draw_all(tmp_path)
    assert on_record(tmp_path) == [f"trials/0000/plots/{name}" for name in NAMES]


@pytest.mark.heavy
def test_the_data_the_default_and_the_best_three_are_drawn_once(tmp_path: Path) -> None:
    finished(tmp_path, 6, base={"train.epochs": 1})
    study, pictures = opened(tmp_path, 6), Pictures()
    ranked = sorted(study.completed, key=study.completed.__getitem__, reverse=True)
    assert len(ranked) == 6
    write_data_sample(shapes(), study.directory / DATA)
    pictures.watch(study)
    assert pictures.close(280) == 0
    recorded = on_record(tmp_path)
    assert recorded.count("plots/data.png") == 1
    assert (study.directory / "plots/data.png").read_bytes().startswith(b"\x89PNG")
    drawn = {path.split("/")[1] for path in recorded if path.startswith("trials/")}
    assert drawn == {f"{number:04d}" for number in {0, *ranked[:3]}}

    again = Pictures()
    again.watch(study)
    assert again.close(280) == 0
    study.close()
    assert on_record(tmp_path) == recorded


def test_none_are_drawn_where_none_are_wanted(tmp_path: Path) -> None:
    finished(tmp_path, 1, base={"train.epochs": 1})
    study, pictures = opened(tmp_path), Pictures("none")
    pictures.watch(study)
    assert pictures.close(280) == 0
    study.close()
    assert on_record(tmp_path) == []


@pytest.mark.heavy
def test_a_process_that_died_is_started_again(tmp_path: Path) -> None:
    """Its death may have been the machine's fault, such as a lack of memory."""
    arrays = tmp_path / "data-x.npz"
    arrays.write_bytes(b"")  # refused: a line on stderr, and the exit code 2
    process = DrawingProcess()
    process.start()
    process.kill()
    assert not process.draw("title", [arrays], tmp_path / "plots", timeout_s=60)
    process.start()
    assert process.draw("title", [arrays], tmp_path / "plots", timeout_s=60)
    assert not process.draw("title", [arrays], tmp_path / "plots", timeout_s=0)
    process.close()


class Recorder:
    """Takes the place of the drawing process."""

    drawn: list[str]

    def start(self) -> None:
        """Start nothing."""

    def draw(self, title: str, snapshots: list[Path], folder: Path) -> bool:
        folder.mkdir()
        self.drawn.append(title)
        return True

    def kill(self) -> None:
        """End nothing."""

    close = kill


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the titles of the trials drawn so far. Nothing is drawn."""
    Recorder.drawn = []
    monkeypatch.setattr("tune.reports.plot_worker.DrawingProcess", Recorder)
    return Recorder.drawn


def run_trial(study: Study, number: int, value: float) -> None:
    """Tell the observers of a study that a trial reported and completed."""
    folder = study.directory / f"trials/{number:04d}"
    folder.mkdir(parents=True)
    (folder / "embeddings-val-0001.npz").touch()
    end = {"event": "end", "state": "COMPLETE", "trial": number, "value": value}
    for observe in study.observers:
        observe({"event": "report", "trial": number})
        observe(end)


def test_a_trial_that_will_be_overtaken_is_not_drawn(tmp_path: Path, drawn: list[str]) -> None:
    study, pictures = opened(tmp_path, trials=12), Pictures()
    pictures.watch(study)
    for number in range(8):
        run_trial(study, number, value=number)
        time.sleep(0.01)
    for number in range(8, 12):
        run_trial(study, number, value=0)
    wait_for(lambda: len(drawn) == 4)
    assert pictures.close(60) == 0
    study.close()
    assert sorted(drawn) == [f"toy trial {number}" for number in (0, 5, 6, 7)]


def test_a_trial_of_a_long_search_is_drawn_after_minutes(
    tmp_path: Path, drawn: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.reports.plot_worker._LONGEST_WAIT_S", 0)
    study, pictures = opened(tmp_path, trials=100), Pictures()
    pictures.watch(study)
    run_trial(study, 0, value=0)
    run_trial(study, 1, value=1)
    wait_for(lambda: len(drawn) == 2)
    pictures.close()
    study.close()
