"""No study is judged on images that its backbone was trained on. A backbone records what it has
seen, and a study that would be judged on some of it is refused before any trial."""

import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import BYOL, SMALL, Call
from trainables.backbone.export import load_seen, save_backbone
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.data import DataConfig, DataSet, Task, load_dataset
from trainables.data.contents import digest_of_keys
from trainables.data.seen import SeenRecord, Training, met
from trainables.errors import UserError
from tune.reports.comparison_table import compare_settings
from tune.reports.html_report import write_report
from tune.reports.leaderboard import show_study
from tune.reports.table_text import markdown, wide_console
from tune.study.log_state import read_state
from tune.study.manifest import read_manifest

DIGITS = ("--data", "digits", *SMALL, "--set", "train.epoch_images=64", "--repeats", "0")
ONE = (*DIGITS, "--trials", "1")
EPISODES = (
    "--set",
    "train.epoch_images=60",
    "--set",
    "train.batch_size=30",
    "--set",
    "episode.way=5",
    "--set",
    "episode.query=2",
    "--set",
    "val.way=2",
    "--set",
    "val.query=2",
)
FEWSHOT = ("--data", "digits", *SMALL, *EPISODES, "--repeats", "0", "--trials", "1")


@functools.cache
def digits(task: Task = "classify", seed: int = 0) -> DataSet:
    return load_dataset(DataConfig(name="digits", image_size=8, seed=seed), task)


def pixels_of(rows: np.ndarray) -> set[bytes]:
    data = digits()
    return {image.tobytes() for image in data.train.images[rows]}


def shown(study: Path, capsys: pytest.CaptureFixture[str]) -> str:
    show_study(study, wide_console())
    return " ".join(capsys.readouterr().out.split())


# -- leaks


def test_another_split_of_a_backbones_images_is_refused(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("pretrain", *ONE).code == 0
    leaky = ("classify", "--setting", "B", *ONE, "--set", "data.seed=1")
    said = call(*leaky)
    assert said.code == 2

    trained, judged = digits(), digits(seed=1)
    known = pixels_of(trained.train.indices)
    counts = {}
    for name in ("test", "val"):
        rows = getattr(judged, name).indices
        same = [row for row in rows if pixels_of(np.array([row])) <= known]
        counts[name] = len(same), len(rows)
    seen, images = counts["test"]
    assert seen > images / 2
    assert f"{seen} of {images} test images were trained on with labels" in said.line
    seen, images = counts["val"]
    assert f"{seen} of {images} val images were trained on with labels" in said.line
    assert "--set data.seed=0" in said.line
    assert "--allow-seen" in said.line
    assert not (tmp_path / "runs/classify-B").exists()

    # --allow-seen lets it run, and every page says so
    mark = f"{counts['test'][0]} of {images} test images were trained on with labels"
    said = call(*leaky, "--allow-seen")
    assert said.code == 0
    folder = tmp_path / "runs/classify-B"
    assert mark in " ".join(said.out.split())
    assert mark in shown(folder, capsys)
    page = write_report(folder).read_text()
    assert mark in page
    assert f"{len(pixels_of(trained.train.indices))} with labels, 0 without" in page
    assert f"- B: backbone pretrain/0: {mark}" in markdown(
        compare_settings(folder.parent / "classify")
    )
    assert mark in read_state(folder / "events.jsonl").tags["lineage.allow_seen"]
    seen_there = read_manifest(folder / "study.json").seen
    assert seen_there is not None
    assert seen_there["with_labels"] == len(pixels_of(trained.train.indices))

    said = call(*leaky)  # resume the same study without the option
    assert said.code == 2


@pytest.mark.heavy
def test_the_same_split_is_clean(call: Call, tmp_path: Path) -> None:
    assert call("pretrain", *ONE).code == 0
    assert call("ssl", *ONE, *BYOL).code == 0
    for setting in "BC":
        said = call("classify", "--setting", setting, *ONE)
        assert said.code == 0, said.err
        assert "seen" not in said.out
        manifest = read_manifest(tmp_path / f"runs/classify-{setting}/study.json")
        assert manifest.seen is not None
        assert manifest.seen["complete"]
        source = read_manifest(tmp_path / f"runs/{('pretrain', 'ssl')[setting == 'C']}/study.json")
        assert manifest.seen["digest"] == source.data["contents"]


def test_new_classes_that_the_backbone_learned_are_refused(call: Call, tmp_path: Path) -> None:
    assert call("pretrain", *ONE).code == 0
    said = call("fewshot", *FEWSHOT, "--backbone", "pretrain")
    assert said.code == 2
    data = digits("fewshot")
    new = {int(label) for split in (data.val, data.test) for label in split.targets()}  # type: ignore[union-attr]
    assert len(new) == 4
    found = re.search(r"4 classes of val and test, .* learned with labels \((.*?)\)", said.line)
    assert found is not None
    assert {int(name) for name in found[1].split(", ")} == new
    assert not (tmp_path / "runs/fewshot").exists()
    assert call("fewshot", *FEWSHOT, "--backbone", "pretrain", "--allow-seen").code == 0


def test_the_same_classes_everywhere_are_not_few_shot(call: Call, tmp_path: Path) -> None:
    said = call("fewshot", "--data", "earth", "--set", "data.image_size=16")
    assert said.code == 2
    assert "the same in train, val and test" in said.line
    assert not (tmp_path / "runs").exists()


@pytest.mark.heavy
def test_byol_sees_val_and_test_only_by_name(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = call("ssl", *ONE, *BYOL, "--transductive")
    assert said.code == 0
    folder = tmp_path / "runs/ssl"
    manifest = read_manifest(folder / "study.json")
    assert manifest.base["data.transductive"] is True
    assert manifest.data["images"] == 1797
    for page in (said.out, shown(folder, capsys), write_report(folder).read_text()):
        assert "val and test too, without their labels (--transductive)" in " ".join(page.split())
    assert "data.transductive" in read_state(folder / "events.jsonl").tags

    said = call("classify", "--setting", "C", *ONE)
    assert said.code == 2
    test = len(digits().test)
    assert f"{test} of {test} test images were trained on without labels" in said.line

    said = call("ssl", *ONE, *BYOL)
    assert said.code == 2
    assert "data.transductive was True, is False" in said.line
    assert "--transductive is for ssl" in call("pretrain", *ONE, "--transductive").line


# -- the record


def trained_on(images: list[int], labels: bool = True, classes: tuple[str, ...] = ()) -> Training:
    return Training("set", 3, labels, classes, np.array(images, np.int64))


def exported(path: Path, seen: SeenRecord | None) -> Path:
    backbone = build_backbone(BackboneConfig(width=8, pool=1))
    save_backbone(path, backbone, {"backbone": {"name": "tiny"}}, seen=seen)
    return path


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    first = trained_on([-5, 2**62, 7], labels=False)
    second = trained_on([7, 8], classes=("a", "b"))
    path = exported(tmp_path / "b.pt", SeenRecord().then(first).then(second))
    assert torch.load(path, weights_only=True)["seen"]["version"] == 1
    found = load_seen(path)
    assert found.complete
    assert found.keys(labels=True).tolist() == [7, 8]
    assert found.keys(labels=False).tolist() == [-5, 7, 2**62]
    assert found.classes == {"a", "b"}
    assert found.digest == digest_of_keys(np.array([8, 7, -5, 2**62]))
    assert [training.seed for training in found.trainings] == [3, 3]


@pytest.mark.parametrize("change", [{"version": 9}, {"trainings": [{}]}, {"complete": None}])
def test_a_record_of_a_later_version_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = exported(tmp_path / "b.pt", SeenRecord().then(trained_on([1])))
    payload = torch.load(path, weights_only=True)
    if change == {"complete": None}:
        del payload["seen"]["complete"]
    payload["seen"] |= change if change != {"complete": None} else {}
    torch.save(payload, path)
    with pytest.raises(UserError, match="record of what it has seen"):
        load_seen(path)


def test_weights_from_elsewhere_are_unknown(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = exported(tmp_path / "theirs.pt", None)
    said = call("classify", "--setting", "C", *ONE, "--backbone", str(path))
    assert said.code == 0
    for page in (said.out, shown(tmp_path / "runs/classify-C", capsys)):
        assert "what backbone theirs.pt has seen is unknown" in " ".join(page.split())

    # the weights of such a study are recorded as incomplete
    best = tmp_path / "runs/classify-C/trials/0000/best.pt"
    record = load_seen(best)
    assert not record.complete
    assert record.keys(labels=True).tolist() == np.unique(keys(digits(), "train")).tolist()


def keys(data: DataSet, split: str) -> np.ndarray:
    assert data.contents is not None
    found: np.ndarray = data.contents.keys[getattr(data, split).indices]
    return found


@pytest.mark.heavy
def test_a_chain_has_seen_what_its_links_have(call: Call, tmp_path: Path) -> None:
    """The chain: ssl on digits, then classify with labels: all weights (C) or the head alone
    (E)."""
    assert call("ssl", *ONE, *BYOL).code == 0
    for setting, trains in (("C", True), ("E", False)):
        assert call("classify", "--setting", setting, *ONE).code == 0
        record = load_seen(tmp_path / f"runs/classify-{setting}/trials/0000/best.pt")
        train = np.unique(keys(digits(), "train")).tolist()
        assert record.complete
        assert record.keys(labels=False).tolist() == train
        assert record.keys(labels=True).tolist() == (train if trains else [])
        assert record.classes == ({str(digit) for digit in range(10)} if trains else set())


@pytest.mark.parametrize("source", ["ssl", "pretrain"])
@pytest.mark.parametrize("task", ["classify", "fewshot"])
@pytest.mark.parametrize("seed", [0, 1])
def test_letters_of_pre_training_are_no_letters_of_the_test(
    source: Task, task: Task, seed: int
) -> None:
    """Check the chain of `make table`, with one seed or two."""
    before = load_dataset(DataConfig(name="glyphs", image_size=28), source)
    data = load_dataset(DataConfig(name="glyphs", image_size=28, seed=seed), task)
    record = SeenRecord().then(Training.on(before, 0, labels=source == "pretrain"))
    assert len(record.keys(labels=source == "pretrain")) > 10_000
    assert met(record, data, data.val).seen == 0
    assert met(record, data, data.test).seen == 0
    judged = {data.classes[label] for label in np.unique(data.test.targets())}
    assert not record.classes & judged


def test_letters_of_classify_are_those_of_few_shot() -> None:
    before = load_dataset(DataConfig(name="glyphs", image_size=28), "classify")
    data = load_dataset(DataConfig(name="glyphs", image_size=28), "fewshot")
    record = SeenRecord().then(Training.on(before, 0, labels=True))
    for split in (data.val, data.test):
        common = np.intersect1d(before.train.indices, split.indices)
        assert met(record, data, split).with_labels == len(common) > 400


def test_a_study_of_earlier_splits_keeps_them(call: Call, tmp_path: Path) -> None:
    """The manifest names no version of the splits, so the same command continues with version 1."""
    study = tmp_path / "runs/pretrain"
    assert call("pretrain", *ONE, "--set", "data.split=1").code == 0
    path = study / "study.json"
    earlier = json.loads(path.read_text())
    for values in (earlier["base"], earlier["pins"]):
        values.pop("data.split", None)
        values.pop("data.transductive", None)
    del earlier["seen"]
    path.write_text(json.dumps(earlier))
    before = read_state(study / "events.jsonl").trials[0].config

    assert call("pretrain", *DIGITS, "--trials", "2").code == 0
    assert read_manifest(path).base["data.split"] == 1
    after = read_state(study / "events.jsonl").trials
    assert [run.config["data.split"] for run in after.values()] == [1, 1]
    assert after[0].config == before
    assert "data.split was 1, is 2" in call("pretrain", *ONE, "--set", "data.split=2").line
