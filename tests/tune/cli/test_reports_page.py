"""Every command of docs/reports.md is run in the order of the page, on small folders in the
course's layouts. Afterwards, every file that the page says can be handed in exists."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision.models._api import WeightsEnum

from tests import REPO
from tests.commands import Call, leave_pictures, use_mlflow
from tests.tune.prediction.course import (
    hand_out,
    mini_imagenet,
    office_home,
    picture,
    read_csv,
    satellite,
)
from trainables.files import content_hash
from tune import report

PAGE = REPO / "docs/reports.md"
COMMAND = re.compile(r"`((?:python tune/|\.\.\. |report\.py )[^`]*)`")
SIZE = (
    "--preset tiny --local --trials 1 --repeats 1 --set data.image_size=16 --set train.epochs=2 "
    "--set train.epoch_images=32 --set train.batch_size=16"
)
WIDTH = "--set backbone.width=8 --set backbone.pool=1"
BYOL = "--set val.probe_steps=0 --set head.hidden_size=32 --set head.projection_size=16"
EPISODES = (
    "--set train.batch_size=32 --set episode.way=4 --set episode.query=2 "
    "--set val.way=2 --set val.query=2"
)
SMALL = {
    "ssl": f"{SIZE} {WIDTH} {BYOL}",
    "pretrain": f"{SIZE} {WIDTH}",
    "classify": f"{SIZE} {WIDTH}",
    "fewshot": f"{SIZE} {WIDTH} {EPISODES}",
    "segment": f"{SIZE} --set data.image_size=32 --set train.batch_size=8",
}
"""Options that make an experiment take seconds."""
ONE_STEP = "--set train.epoch_images=8 --set train.batch_size=8"
SMALLER = {
    "convnext_base": "--set backbone.name=resnet18",  # whose weights are written in a second
    "fcn32s-vgg16": f"{ONE_STEP} --set model.head=conv2",  # 38 million weights, not 134 million
    "deeplabv3-resnet50": ONE_STEP,
}
"""Network on the page -> options that make it train in seconds."""
NAMED = ("0013", "0062", "0104")
"""Images that the course reports had to show."""


def tables() -> dict[str, str]:
    """The parts of the homework by title, each with its table."""
    homework = PAGE.read_text().partition("## The homework")[2].partition("\n## ")[0]
    parts = re.split(r"^\*\*(.+?)\*\*.*$", homework, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def commands(table: str) -> list[str]:
    """The commands of a table. A command that begins with dots continues the run before it."""
    found: list[str] = []
    run = ""
    for typed in COMMAND.findall(table):
        whole = typed.replace("...", run, 1) if typed.startswith("...") else typed
        whole = re.sub(r"^report\.py", "python tune/report.py", whole)
        if whole.startswith("python tune/run.py"):
            run = whole
        found.append(whole)
    return found


def handed_in(table: str) -> list[str]:
    """The files of studies that a table names."""
    return re.findall(r"`(runs/[^`]*)`", table)


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders as the course handed them out, and the weights that torchvision publishes, in its
    cache."""
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    mini_imagenet(Path("MINI"))
    for path in Path("MINI").rglob("*.jpg"):  # otherwise its pictures would equal those of OFFICE
        with Image.open(path) as image:
            turned = ImageOps.mirror(image)
        turned.save(path)
    office_home(Path("OFFICE"))
    hand_out(Path("OFFICE/val"), Path("OFFICE/test"))
    rows = read_csv(Path("OFFICE/val.csv"))
    lines = ["id,filename,label", *(f"{row['id']},{row['filename']}," for row in rows)]
    Path("OFFICE/test.csv").write_text("\n".join(lines) + "\n")

    for part, each in (("train_50", 20), ("val_50", 5)):
        folder = Path("FIFTY") / part
        folder.mkdir(parents=True)
        for label in range(3):
            for number in range(each):
                place = number + 400 * (part == "val_50")
                picture(label, place).save(folder / f"{label}_{place}.png")
    hand_out(Path("FIFTY/val_50"), Path("IMAGES"), "*.png")

    satellite(Path("SAT"))
    for number, name in enumerate(NAMED, 1):
        for kind in ("sat.jpg", "mask.png"):
            path = Path(f"SAT/validation/{number:04d}_{kind}")
            path.rename(path.with_name(f"{name}_{kind}"))

    torch.manual_seed(1234)  # must differ from a trial's initial weights, which are refused
    cached = tmp_path / "home/hub/checkpoints"
    cached.mkdir(parents=True)
    weights = cached / "weights.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), weights)
    weights = weights.rename(cached / f"resnet18-{content_hash(weights)[:8]}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    address = f"http://127.0.0.1:9/{weights.name}"  # nothing listens there
    monkeypatch.setattr(WeightsEnum, "url", property(lambda self: address))


def in_small(command: str) -> list[str]:
    """The words of a command after `python`, with the options that make it small."""
    words = shlex.split(command)[1:]
    if words[0] == "tune/run.py":
        words[2:2] = shlex.split(SMALL[words[1]])
        for network, smaller in SMALLER.items():
            if network in command:
                words += shlex.split(smaller)
        if "--compare" in words:
            words += ["--searches", "1"]
    return words


def test_the_page_has_the_commands_of_every_part() -> None:
    found = [command for table in tables().values() for command in commands(table)]
    assert len(tables()) == 4
    assert len(found) > 18
    for experiment in ("ssl", "pretrain", "classify", "fewshot", "segment"):
        assert any(command.startswith(f"python tune/run.py {experiment}") for command in found)
    assert len([command for command in found if " predict " in command]) == 4
    assert all(handed_in(table) for table in tables().values())


ANSWERS = {
    "Self-supervised pre-training and transfer": ["id", "filename", "label"],
    "Classification of 50 classes": ["filename", "label"],
    "Few-shot learning": ["episode_id", *(f"query{number}" for number in range(9))],
    "Semantic segmentation": [],
}
"""Part -> columns of the csv that is handed in."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", ANSWERS)
def test_a_part_of_the_page_can_be_typed_from_top_to_bottom(
    part: str,
    call: Call,
    course: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_mlflow(monkeypatch)
    leave_pictures(monkeypatch)
    table = tables()[part]

    def look(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", list(words))
        with pytest.raises(SystemExit) as left:
            report.main()
        assert left.value.code in (0, None), f"{shlex.join(words)}\n{capsys.readouterr().err}"

    for command in commands(table):
        words = in_small(command)
        if words[0] == "tune/run.py":
            said = call(*words[1:])
            assert said.code == 0, f"{shlex.join(words)}\n{said.out[-2000:]}\n{said.err}"
        elif words[1] != "sam":  # sam is tested in tests/tune/reports/test_sam.py
            look(*words)

    if ANSWERS[part]:
        assert list(read_csv(Path("pred.csv"))[0]) == ANSWERS[part]
    else:
        named = {f"{name}_mask.png" for name in NAMED}
        assert named < {path.name for path in Path("masks").iterdir()}

    for study in {path.split("/")[1] for path in handed_in(table) if "/plots/" in path}:
        look("report.py", "html", study)  # draws the missing pictures
    for path in handed_in(table):
        assert list(Path().glob(path)), path
