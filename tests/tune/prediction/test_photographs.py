"""Four sets of real photographs (`tests/photographs.py`) are used as a user would, in every
experiment that fits them: plan, search, report, predict, on the command line."""

import csv
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from tests.commands import Call, leave_pictures, use_mlflow
from tests.mlflow_store import rows
from tests.photographs import SIDE, land, places, regions, scenes
from tests.tune.prediction.course import course_miou, read_csv
from tune import report
from tune.study.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SMALL = (
    "--preset tiny --local --trials 2 --repeats 1 --set data.image_size=32 --set backbone.width=8 "
    "--set train.epochs=2 --set train.epoch_images=128 --set train.batch_size=16"
)
BYOL = "--set val.probe_steps=0 --set head.hidden_size=32 --set head.projection_size=16"
EPISODES = "--set episode.way=4 --set episode.query=2 --set val.way=3 --set val.query=3"
Report = Callable[..., str]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Report:
    """Run `report.py` and return its output."""

    def typed(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            report.main()
        said = capsys.readouterr()
        assert left.value.code in (0, None), said.err
        return said.out

    return typed


@pytest.fixture
def search(
    call: Call, look: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, Path, str], str]:
    """Plan and run a study as a user would, check its page, and return its name."""
    use_mlflow(monkeypatch)
    leave_pictures(monkeypatch)
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))

    def run(experiment: str, data: Path, more: str = "") -> str:
        words = shlex.split(f"{experiment} --data {data} {SMALL} {more}")
        planned = call(*words, "--plan")
        assert planned.code == 0, planned.err

        said = call(*words)
        assert said.code == 0, said.out[-2000:] + said.err
        (name,) = {path.parent.name for path in Path("runs").glob(f"{experiment}*/study.json")}
        page = Path(look("html", name).strip()).read_text()
        shown = look("show", name)
        assert "has not ended" not in shown
        look("sync", name)
        check_summary(name, planned.out, said.out, shown, page)
        return name

    return run


def check_summary(name: str, planned: str, said: str, shown: str, page: str) -> None:
    """Everything that was understood of the data is on every page of its study."""
    summary = read_manifest(Path("runs", name, "study.json")).data_summary
    assert summary is not None
    lines = summary.lines()
    assert {line.split()[0] for line in lines} > {"layout", "folders", "splits", "images"}
    assert "\n".join(lines) in planned
    assert "\n".join(summary.short_lines()) in said
    assert "\n".join(lines) in shown
    for label, text in summary.rows():
        if label != "folders":  # as columns of a table
            assert escape(text) in page
    assert "Images of each split." in page

    database = Path("runs/mlflow.db")
    tagged = (
        "SELECT run_uuid, one.value FROM tags AS one JOIN tags AS other USING (run_uuid) WHERE "
        f"one.key = 'data.summary' AND other.key = 'study' AND other.value = '{name}'"
    )
    ((run, text),) = rows(database, tagged)
    assert text == "\n".join(lines)
    picture = Path("runs/mlartifacts", run, "artifacts/plots/data.png")
    assert picture.read_bytes() == Path("runs", name, "plots/data.png").read_bytes()


def share_right(answers: list[dict[str, str]], truth: dict[str, str]) -> float:
    right = [row["label"] == truth[row["filename"]] for row in answers]
    return sum(right) / len(right)


def test_a_folder_per_photograph(search: Callable[..., str], look: Report, tmp_path: Path) -> None:
    data = scenes(tmp_path / "scenes")
    pretrained = search("pretrain", data)
    said = look("predict", pretrained, data / "test", "--out", "pred.csv", "--probabilities")
    answers = read_csv(Path("pred.csv"))
    truth = {row["filename"]: row["filename"].split("/")[0] for row in answers}
    assert len(answers) == 36
    assert share_right(answers, truth) > 0.5
    assert f"36 have labels: top-1 {share_right(answers, truth):.4f}" in said

    backbone = search("ssl", data, BYOL)
    look("predict", backbone, data / "test", "--out", "features.npz")
    with np.load("features.npz") as arrays:
        assert arrays["features"].shape[0] == 36
        assert arrays["filenames"].tolist() == sorted(truth)

    tuned = search("classify", data, "--setting C --backbone ssl")
    look("predict", tuned, data / "test", "--out", "tuned.csv")
    assert share_right(read_csv(Path("tuned.csv")), truth) > 0.4


def test_regions_of_the_earth_with_a_hidden_test_csv(
    search: Callable[..., str], look: Report, tmp_path: Path
) -> None:
    data = regions(tmp_path / "regions")
    study = search("pretrain", data)
    said = look("predict", study, data / "test.csv", "--out", "pred.csv")
    assert "have labels" not in said
    answers = read_csv(Path("pred.csv"))
    solution = read_csv(tmp_path / "test_solution.csv")
    assert [row["id"] for row in answers] == [row["id"] for row in solution]
    truth = {row["filename"]: row["label"] for row in solution}
    assert share_right(answers, truth) > 0.5

    tuned = search("classify", data, "--setting B --backbone pretrain")
    look("predict", tuned, data / "test.csv", "--out", "tuned.csv")
    assert share_right(read_csv(Path("tuned.csv")), truth) > 0.4

    backbone = search("ssl", data, BYOL)
    look("predict", backbone, data / "test.csv", "--out", "features.npz")
    with np.load("features.npz") as arrays:
        assert arrays["filenames"].tolist() == [row["filename"] for row in solution]


def test_places_of_photographs_in_episodes(
    search: Callable[..., str], look: Report, tmp_path: Path
) -> None:
    data = places(tmp_path / "places")
    study = search("fewshot", data, EPISODES)
    said = look("predict", study, data / "val_testcase.csv", "--out", "pred.csv")
    assert "20 episodes have labels: accuracy" in said
    label = {row["id"]: row["label"] for row in read_csv(data / "val.csv")}
    right = []
    for answer, episode in zip(
        read_csv(Path("pred.csv")), read_csv(data / "val_testcase.csv"), strict=True
    ):
        classes = [label[episode[f"class{n}_support0"]] for n in range(3)]
        for query in (f"query{n}" for n in range(6)):
            right.append(classes[int(answer[query])] == label[episode[query]])
    assert np.mean(right) > 0.5  # chance is one third
    with Path("pred.csv").open() as file:
        assert next(csv.reader(file)) == ["episode_id", *(f"query{n}" for n in range(6))]

    # val has classes that train lacks: `pretrain` leaves them out, `classify` refuses them
    pretrained = search("pretrain", data)
    look("predict", pretrained, data / "train", "--out", "labels.csv")
    truth = {row["filename"]: row["label"] for row in read_csv(data / "train.csv")}
    assert share_right(read_csv(Path("labels.csv")), truth) > 3 / len(set(truth.values()))

    backbone = search("ssl", data, BYOL)
    look("predict", backbone, data / "val", "--out", "features.npz")
    with np.load("features.npz") as arrays:
        assert len(arrays["features"]) == len(label)


def test_land_and_water(search: Callable[..., str], look: Report, tmp_path: Path) -> None:
    data = land(tmp_path / "land")
    study = search("segment", data)
    said = look("predict", study, data / "validation", "--out", "masks")
    masks = sorted(Path("masks").iterdir())
    assert [path.name for path in masks] == [f"{n:04d}_mask.png" for n in range(12)]
    assert all(Image.open(path).size == (SIDE, SIDE) for path in masks)
    score = course_miou(Path("masks"), data / "validation")
    assert score > 0.2
    assert f"12 have masks: mIoU {score:.4f}" in said

    backbone = search("ssl", data, BYOL)  # from the images, without labels
    said = look("predict", backbone, data / "validation", "--out", "features.npz")
    assert "12 masks (names such as 0000_mask.png) are left out: only images are taken" in said
    with np.load("features.npz") as arrays:
        assert arrays["filenames"].tolist() == [f"{n:04d}_sat.jpg" for n in range(12)]
