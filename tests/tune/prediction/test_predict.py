"""`report.py predict` in every experiment, on real studies. Independent scripts score its files and
find the metric on record. Predictions equal those of the served model."""

import csv
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.one_trial import one_trial
from tests.tune.prediction.course import (
    CLASSES,
    COLORS,
    SIDE,
    course_miou,
    hand_out,
    mini_imagenet,
    office_home,
    picture,
    read_csv,
    satellite,
    write_csv,
)
from trainables.backbone.networks import BackboneConfig
from trainables.balance import BalanceConfig
from trainables.base import TrainConfig
from trainables.byol import BYOLConfig, HeadConfig
from trainables.classifier import ClassifierConfig
from trainables.data import DataConfig
from trainables.optim import OptimConfig
from trainables.protonet import EvaluationConfig, ProtoNetConfig, TrainEpisodeConfig
from trainables.segmentation import SegmentationConfig
from trainables.self_supervised import ValidationConfig
from tune import report
from tune.export import export_model
from tune.study.record import Record, read_record

TINY = BackboneConfig(width=8, pool=1)
ADAM = OptimConfig(name="adam", lr=3e-3)


def config_of(experiment: str, data: Path) -> Any:
    """A configuration that learns a little within seconds."""
    at = DataConfig(name=str(data), image_size=16)
    train = TrainConfig(epochs=2, epoch_images=96, batch_size=16)
    if experiment == "ssl":
        return BYOLConfig(
            data=at,
            backbone=TINY,
            train=replace(train, epochs=1),
            head=HeadConfig(projection_size=16, hidden_size=32),
            val=ValidationConfig(probe_steps=0),
        )
    if experiment == "fewshot":
        return ProtoNetConfig(
            data=at,
            backbone=TINY,
            episode=TrainEpisodeConfig(way=3, query=3),
            val=EvaluationConfig(way=2, shot=2, query=5, episodes=20),
            train=train,
            optim=ADAM,
        )
    if experiment == "segment":
        return SegmentationConfig(
            data=replace(at, image_size=SIDE), backbone=TINY, train=train, optim=ADAM
        )
    # class weights come from training images, which a model that predicts does not have
    weighted = BalanceConfig(by="inverse")
    return ClassifierConfig(data=at, backbone=TINY, train=train, optim=ADAM, balance=weighted)


@dataclass
class Case:
    """A study of one trial and one repeat, named `study`."""

    root: Path
    data: Path
    record: Record

    @property
    def seed(self) -> int:
        ((_, seed),) = self.record.finals()
        return seed

    def tested(self, metric: str) -> float:
        return self.record.finals()[0, self.seed][f"test/{metric}"]


MAKE: dict[str, Callable[[Path], Path]] = {
    "pretrain": office_home,
    "ssl": office_home,
    "fewshot": mini_imagenet,
    "segment": satellite,
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Return the case of an experiment. Each is trained once."""
    made: dict[str, Case] = {}

    def case(experiment: str) -> Case:
        if experiment not in made:
            root = tmp_path_factory.mktemp(experiment)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("VISTUNE_CACHE", str(root / "cache"))
                data = MAKE[experiment](root / "data")
                config = config_of(experiment, data)
                if experiment == "fewshot":
                    config = replace(config, val=replace(config.val, way=3))
                folder = one_trial(root / "runs", "study", experiment, config, repeats=1)
            made[experiment] = Case(root, data, read_record(folder))
        return made[experiment]

    return case


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `report.py predict`, and return exit code, output, errors."""

    def typed(case: Case, study: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.setenv("VISTUNE_CACHE", str(case.root / "cache"))
        storage = ["--storage", str(case.root / "runs")]
        argv = ["report.py", "predict", study, *map(str, words), *storage]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as left:
            report.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out, said.err

    return typed


# ---------------------------------------------------------------- the metric on record


def test_hidden_csv_of_the_course_scores_what_is_on_record(
    cases: Any, run: Any, tmp_path: Path
) -> None:
    case = cases("pretrain")
    solution = {row["filename"]: row["label"] for row in read_csv(case.data / "val.csv")}
    hand_out(case.data / "val", tmp_path / "test")
    order = np.random.default_rng(1).permutation(sorted(solution)).tolist()
    hidden = [["id", "taken", "filename", "label"]]
    hidden += [[str(n), "2021, May", name, ""] for n, name in enumerate(order)]
    write_csv(tmp_path / "test.csv", hidden)

    out = tmp_path / "answers" / "pred.csv"
    words = (tmp_path / "test.csv", "--out", out, "--repeat", case.seed)
    code, said, errors = run(case, "study/0", *words)
    assert (code, errors) == (0, "")
    answers = read_csv(out)
    assert list(answers[0]) == hidden[0]
    assert [[r["id"], r["taken"], r["filename"]] for r in answers] == [h[:3] for h in hidden[1:]]
    right = sum(row["label"] == solution[row["filename"]] for row in answers)
    assert right / len(answers) == pytest.approx(case.tested("top1"), abs=1e-12)
    assert 1 / 3 < case.tested("top1") < 1  # so that a mistake would show
    assert "have labels" not in said


def test_episode_csv_of_the_course_scores_what_is_on_record(
    cases: Any, run: Any, tmp_path: Path
) -> None:
    case = cases("fewshot")
    label = {row["id"]: row["label"] for row in read_csv(case.data / "val.csv")}
    # without labels, as handed out
    hand_out(case.data / "val", tmp_path / "val")
    ids = [["id", "filename"]]
    ids += [[row["id"], row["filename"]] for row in read_csv(case.data / "val.csv")]
    write_csv(tmp_path / "val.csv", ids)
    shutil.copy(case.data / "val_testcase.csv", tmp_path)

    episodes = tmp_path / "val_testcase.csv"
    out = tmp_path / "pred.csv"
    code, said, errors = run(case, "study", episodes, "--out", out, "--repeat", case.seed)
    assert (code, errors) == (0, "")
    answers = read_csv(out)
    asked = read_csv(episodes)
    assert list(answers[0]) == ["episode_id", *(f"query{m}" for m in range(9))]
    accuracies = []
    for answer, episode in zip(answers, asked, strict=True):
        assert answer["episode_id"] == episode["episode_id"]
        classes = [label[episode[f"class{n}_support0"]] for n in range(3)]
        right = [classes[int(answer[f"query{m}"])] == label[episode[f"query{m}"]] for m in range(9)]
        accuracies.append(np.mean(right))
    expected = case.tested("episode_top1")
    assert np.mean(accuracies) == pytest.approx(expected, abs=1e-9)
    assert 1 / 3 < expected < 1
    assert "have labels" not in said

    _, said, _ = run(case, "study", case.data, "--out", tmp_path / "again.csv")
    found = re.search(r"30 episodes have labels: accuracy (\S+) \+- \S+; (.*)", said)
    assert found is not None
    record = f"test/episode_top1 on record: {expected:.4f} (its repeat)"
    assert found[2] == record


def test_satellite_folder_scores_what_is_on_record(cases: Any, run: Any, tmp_path: Path) -> None:
    case = cases("segment")
    alone = hand_out(case.data / "validation", tmp_path / "images")
    words = ("--out", tmp_path / "masks", "--repeat", case.seed)
    code, said, errors = run(case, "study", alone, *words)
    assert (code, errors) == (0, "")
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == [f"{number:04d}_mask.png" for number in range(9)]
    score = course_miou(tmp_path / "masks", case.data / "validation")
    assert score == pytest.approx(case.tested("miou"), abs=1e-6)
    assert 0.1 < score < 0.999
    with Image.open(tmp_path / "masks" / "0003_mask.png") as mask:
        assert (mask.mode, mask.size) == ("RGB", (SIDE, SIDE))
        found = {tuple(c) for c in np.asarray(mask).reshape(-1, 3).tolist()}
    assert found <= {tuple(c) for c in COLORS.tolist()}

    # with the true masks next to the images
    _, said, _ = run(case, "study", case.data / "validation", "--out", tmp_path / "again")
    assert re.search(r"9 have masks: mIoU 0\.\d{4}; test/miou on record: ", said)
    assert len(list((tmp_path / "again").iterdir())) == 9


# ---------------------------------------------------------------- the served model


def test_labels_are_those_of_the_exported_model(cases: Any, run: Any, tmp_path: Path) -> None:
    import mlflow.pyfunc

    case = cases("pretrain")
    out = tmp_path / "labels.csv"
    code, _, errors = run(case, "study", case.data / "val", "--out", out, "--probabilities")
    assert (code, errors) == (0, "")
    rows = read_csv(out)
    assert list(rows[0]) == ["filename", "label", *(f"p_{name}" for name in CLASSES)]
    names = sorted(path.name for path in (case.data / "val").iterdir())
    assert [row["filename"] for row in rows] == names
    model = export_model("study", case.root / "runs", tmp_path / "model")
    served = mlflow.pyfunc.load_model(str(model.folder))
    images = [np.asarray(Image.open(case.data / "val" / name).convert("RGB")) for name in names]
    answer = served.predict(np.stack(images))
    assert [row["label"] for row in rows] == answer.idxmax(axis=1).tolist()
    shown = [[float(row[f"p_{name}"]) for name in CLASSES] for row in rows]
    np.testing.assert_allclose(shown, answer.to_numpy(), atol=1e-5)


def test_features_are_those_of_the_exported_model(cases: Any, run: Any, tmp_path: Path) -> None:
    import mlflow.pyfunc

    case = cases("ssl")
    mixed = hand_out(case.data / "val", tmp_path / "in" / "b")
    picture(1, 7, side=31).resize((50, 31)).save(tmp_path / "in" / "a.png")
    out = tmp_path / "features.npz"
    code, said, errors = run(case, "study", tmp_path / "in", "--out", out)
    assert (code, errors) == (0, "")
    with np.load(out) as arrays:
        features, names = arrays["features"], arrays["filenames"].tolist()
    assert names == ["a.png", *(f"b/{path.name}" for path in sorted(mixed.iterdir()))]
    assert features.dtype == np.float32
    assert f"features {features.shape}" in said
    model = export_model("study", case.root / "runs", tmp_path / "model")
    served = mlflow.pyfunc.load_model(str(model.folder))
    for name, feature in zip(names, features, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "in" / name).convert("RGB"))
        np.testing.assert_allclose(served.predict(pixels[None])[0], feature, atol=1e-5)


def test_masks_are_those_of_the_exported_model(cases: Any, run: Any, tmp_path: Path) -> None:
    import mlflow.pyfunc

    case = cases("segment")
    alone = hand_out(case.data / "validation", tmp_path / "in")
    code, _, errors = run(case, "study", alone, "--out", tmp_path / "masks")
    assert (code, errors) == (0, "")
    model = export_model("study", case.root / "runs", tmp_path / "model")
    served = mlflow.pyfunc.load_model(str(model.folder))
    for path in sorted(alone.iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        written = np.asarray(Image.open(tmp_path / "masks" / f"{path.stem[:4]}_mask.png"))
        np.testing.assert_array_equal(written, COLORS[served.predict(pixels[None])[0]])


def test_answers_to_episodes_are_those_of_the_exported_model(
    cases: Any, run: Any, tmp_path: Path
) -> None:
    import mlflow.pyfunc

    case = cases("fewshot")
    code, _, errors = run(case, "study", case.data, "--out", tmp_path / "pred.csv")
    assert (code, errors) == (0, "")
    model = export_model("study", case.root / "runs", tmp_path / "model")
    served = mlflow.pyfunc.load_model(str(model.folder))
    file = {
        row["id"]: case.data / "val" / row["filename"] for row in read_csv(case.data / "val.csv")
    }
    for answer, episode in zip(
        read_csv(tmp_path / "pred.csv")[:5], read_csv(case.data / "val_testcase.csv"), strict=False
    ):
        support = [name for name in episode if "support" in name]
        query = [name for name in episode if name.startswith("query")]
        opened = [Image.open(file[episode[name]]).convert("RGB") for name in [*support, *query]]
        labels = [name.split("_")[0].removeprefix("class") for name in support]
        said = served.predict(np.stack([np.asarray(one) for one in opened]), {"labels": labels})
        assert [answer[name] for name in query] == said.idxmax(axis=1).tolist()


# ---------------------------------------------------------------- labels in the folder


def test_a_labelled_csv_is_scored_class_by_class(cases: Any, run: Any, tmp_path: Path) -> None:
    from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

    case = cases("pretrain")
    out = tmp_path / "pred.csv"
    code, said, _ = run(case, "study", case.data / "val.csv", "--out", out)
    assert code == 0
    true = [row["label"] for row in read_csv(case.data / "val.csv")]
    predicted = [row["label"] for row in read_csv(out)]
    top1 = np.mean(np.array(true) == predicted)
    balanced = balanced_accuracy_score(true, predicted)
    macro = f1_score(true, predicted, average="macro")
    assert f"30 have labels: top-1 {top1:.4f}, balanced accuracy {balanced:.4f}" in said
    assert f"macro-F1 {macro:.4f}; test/top1 on record: {case.tested('top1'):.4f}" in said
    for name, recall in zip(
        CLASSES, recall_score(true, predicted, labels=CLASSES, average=None), strict=True
    ):
        (line,) = [line for line in said.splitlines() if line.startswith(name)]
        assert line.split()[-5] == "10"
        assert line.split()[-3] == f"{recall:.3f}"


def test_folders_named_as_classes_are_labels(cases: Any, run: Any, tmp_path: Path) -> None:
    case = cases("pretrain")
    for name in CLASSES[:2]:
        hand_out(case.data / "val", tmp_path / "in" / name, f"val{CLASSES.index(name)}0*.jpg")
    _, said, _ = run(case, "study", tmp_path / "in", "--out", tmp_path / "pred.csv")
    rows = read_csv(tmp_path / "pred.csv")
    right = [row["filename"].split("/")[0] == row["label"] for row in rows]
    assert f"20 have labels: top-1 {np.mean(right):.4f}" in said


def test_labels_that_are_not_compared_are_told(cases: Any, run: Any, tmp_path: Path) -> None:
    case = cases("pretrain")
    rows = read_csv(case.data / "val.csv")
    rows[0]["label"] = "owl"
    rows[1]["label"] = ""
    lines = [["id", "filename", "label"], *([*row.values()] for row in rows)]
    hand_out(case.data / "val", tmp_path / "in/val")
    write_csv(tmp_path / "in/val.csv", lines)
    words = (tmp_path / "in/val.csv", "--out", tmp_path / "pred.csv")
    _, said, _ = run(case, "study", *words)
    assert (
        "labels are not compared with the answers: 1 of 30 images have none; owl is no class of "
        "the model" in said
    )


def test_a_csv_of_another_dialect_stays_what_it_is(cases: Any, run: Any, tmp_path: Path) -> None:
    case = cases("pretrain")
    hand_out(case.data / "val", tmp_path / "TestImages", "val1*.jpg")
    names = sorted(path.stem for path in (tmp_path / "TestImages").iterdir())
    lines = ["image_id;note;species", *(f"{name};a, b;" for name in names)]
    (tmp_path / "sample.csv").write_text("\n".join(lines) + "\n")
    words = (tmp_path / "sample.csv", "--out", tmp_path / "pred.csv")
    code, _, errors = run(case, "study", *words)
    assert (code, errors) == (0, "")
    answers = (tmp_path / "pred.csv").read_text().splitlines()
    assert answers[0] == lines[0]
    assert [line.rpartition(";")[0] for line in answers[1:]] == [f"{n};a, b" for n in names]
    assert {line.rpartition(";")[2] for line in answers[1:]} <= set(CLASSES)


# ---------------------------------------------------------------- wrong use


def test_wrong_use_is_one_line_and_writes_nothing(cases: Any, run: Any, tmp_path: Path) -> None:
    case = cases("pretrain")
    empty = tmp_path / "empty"
    empty.mkdir()
    write_csv(tmp_path / "no_name.csv", [["number", "label"], ["0", ""]])
    write_csv(tmp_path / "no_line.csv", [["id", "filename", "label"]])
    write_csv(tmp_path / "gone.csv", [["filename"], ["a.jpg"], ["b.jpg"]])
    write_csv(tmp_path / "blank.csv", [["id", "filename"], ["0", "x.jpg"], ["1", ""]])
    (tmp_path / "there.csv").write_text("kept")
    (tmp_path / "notes.txt").write_text("")
    val = case.data / "val"
    out = tmp_path / "out.csv"
    wrong: list[tuple[str, list[object], str]] = [
        ("nothing", [val], r"no study 'nothing' in .*; valid: study"),
        ("study/7", [val], r"trial '7' of study 'study' has no weights; completed trials: 0"),
        ("study/x", [val], r"trial 'x' of study 'study' has no weights"),
        ("study", [empty / "gone"], r"gone does not exist; give a folder of images"),
        ("study", [empty], r"empty contains no images \(\.jpg .*; give another folder"),
        ("study", [tmp_path / "none"], r"none does not exist; give a folder of images, or a csv"),
        ("study", [tmp_path / "notes.txt"], r"notes\.txt is not a csv; give a folder"),
        ("study", [tmp_path / "no_name.csv"], r"has no column filename \(found: number, label\)"),
        ("study", [tmp_path / "no_line.csv"], r"names no images: it has no line below its header"),
        ("study", [tmp_path / "gone.csv"], r"names 2 files that are not there \(a.jpg, b.jpg\)"),
        ("study", [tmp_path / "blank.csv"], r"blank\.csv line 3 has no file name"),
        ("study", [val, "--repeat", 5], r"--repeat 5: trial 0 of study 'study' .* there are: \d+"),
    ]
    for study, words, message in wrong:
        code, said, errors = run(case, study, *words, "--out", out)
        assert (code, said) == (2, ""), message
        assert errors.startswith("vistune: ")
        assert errors.count("\n") == 1
        assert re.search(message, errors), errors
        assert not out.exists()

    for there, message in (
        (tmp_path / "there.csv", "already exists; give another --out, or --overwrite"),
        (empty, "is a folder; name a file in it"),
    ):
        _, _, errors = run(case, "study", val, "--out", there)
        assert message in errors
    assert (tmp_path / "there.csv").read_text() == "kept"
    code, _, _ = run(case, "study", val, "--out", tmp_path / "there.csv", "--overwrite")
    assert code == 0
    assert len(read_csv(tmp_path / "there.csv")) == 30


def test_images_that_cannot_be_read_are_all_named(cases: Any, run: Any, tmp_path: Path) -> None:
    case = cases("pretrain")
    folder = hand_out(case.data / "val", tmp_path / "in", "val0*.jpg")
    (folder / "a.jpg").write_bytes(b"")
    (folder / "z.png").write_bytes(b"no image")
    out = tmp_path / "out.csv"
    code, _, errors = run(case, "study", folder, "--out", out)
    assert code == 2
    assert "2 of 12 images cannot be read" in errors
    assert "a.jpg: zero bytes" in errors
    assert "z.png: not an image" in errors
    assert "leave them out with --skip-corrupt" in errors
    assert not out.exists()
    code, said, _ = run(case, "study", folder, "--out", out, "--skip-corrupt")
    assert code == 0
    assert "left out" in said
    assert len(read_csv(out)) == 10


def test_the_limit_of_pixels_is_the_users(cases: Any, run: Any, tmp_path: Path) -> None:
    case = cases("pretrain")
    folder = hand_out(case.data / "val", tmp_path / "in", "val0*.jpg")
    picture(0, 0).resize((1200, 1000)).save(folder / "wide.jpg")
    words = ("study", folder, "--out", tmp_path / "out.csv")
    code, _, errors = run(case, *words, "--max-megapixels", 1)
    assert code == 2
    assert "wide.jpg: 1200x1000 pixels, more than 1 megapixels" in errors
    assert "(predict: --max-megapixels 2)" in errors
    code, _, _ = run(case, *words, "--max-megapixels", 2)
    assert code == 0
    assert len(read_csv(tmp_path / "out.csv")) == 11


def test_what_only_some_experiments_have(cases: Any, run: Any, tmp_path: Path) -> None:
    fewshot = cases("fewshot")
    out = tmp_path / "out.csv"
    for words, message in (
        ([fewshot.data / "val"], "has none whose columns name support and query images"),
        ([fewshot.data / "val.csv"], "names no episodes"),
        ([fewshot.data, "--probabilities"], "fewshot gives no probabilities"),
        ([fewshot.data, "--skip-corrupt"], "an episode needs all of its images"),
    ):
        code, _, errors = run(fewshot, "study", *words, "--out", out)
        assert code == 2
        assert message in errors
        assert errors.count("\n") == 1
    # ids that no column explains
    shutil.copy(fewshot.data / "val_testcase.csv", tmp_path)
    code, _, errors = run(fewshot, "study", tmp_path / "val_testcase.csv", "--out", out)
    assert "says which images the ids of its episodes are (there is no other csv)" in errors
    assert "add val.csv with columns id,filename" in errors


# ---------------------------------------------------------------- episodes without class names


def test_columns_without_classes_are_numbered_by_label(
    cases: Any, run: Any, tmp_path: Path
) -> None:
    case = cases("fewshot")
    run(case, "study", case.data / "val_testcase.csv", "--out", tmp_path / "named.csv")
    folder = tmp_path / "plain"
    hand_out(case.data / "val", folder / "val")
    shutil.copy(case.data / "val.csv", folder)
    with (case.data / "val_testcase.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    plain = [re.sub(r"class\d_support\d", f"support{n}", name) for n, name in enumerate(header)]
    write_csv(folder / "val_episodes.csv", [plain, *lines])
    code, _, errors = run(case, "study", folder, "--out", tmp_path / "plain.csv")
    assert code == 0, errors
    assert (tmp_path / "plain.csv").read_text() == (tmp_path / "named.csv").read_text()


# ---------------------------------------------------------------- a training folder that is missing


def test_names_of_classes_outlive_the_training_data(cases: Any, run: Any, tmp_path: Path) -> None:
    case = cases("pretrain")
    val = hand_out(case.data / "val", tmp_path / "val")
    run(case, "study", val, "--out", tmp_path / "before.csv")
    moved = case.data.with_name("elsewhere")
    case.data.rename(moved)
    try:
        code, _, errors = run(case, "study", val, "--out", tmp_path / "gone.csv")
        assert code == 0, errors
        words = ("--out", tmp_path / "moved.csv", "--data", moved)
        code, _, errors = run(case, "study", val, *words)
        assert code == 0, errors
    finally:
        moved.rename(case.data)
    before = (tmp_path / "before.csv").read_text()
    assert (tmp_path / "gone.csv").read_text() == before
    assert (tmp_path / "moved.csv").read_text() == before


def test_the_range_of_12_bits_outlives_the_training_data(run: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 2400)):
        (data / name).mkdir(parents=True)
        for number in range(24):
            values = rng.integers(low, low + 1500, (16, 16)).astype(np.uint16)
            Image.fromarray(values).save(data / name / f"{number:02d}.png")
    new = hand_out(data / "bright", tmp_path / "new", "1*.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
        folder = one_trial(tmp_path / "runs", "study", "pretrain", config_of("pretrain", data))
    case = Case(tmp_path, data, read_record(folder))

    words = ("study", new, "--probabilities", "--out")
    assert run(case, *words, tmp_path / "before.csv")[0] == 0
    data.rename(tmp_path / "elsewhere")
    code, _, errors = run(case, *words, tmp_path / "gone.csv")
    assert code == 0, errors
    assert (tmp_path / "gone.csv").read_text() == (tmp_path / "before.csv").read_text()
