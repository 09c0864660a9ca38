"""Every command of docs/reports.md, typed in the order of the page on small folders in the layouts
of the course; what it says can be handed in is there afterwards."""

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
from tests.commands import Call, use_mlflow
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
SMALLER = {"convnext_base": "--set backbone.name=resnet18"}
"""A network of the page -> one that is downloaded in a second."""
NAMED = ("0013", "0062", "0104")
"""Images that the reports had to show."""


def commands() -> list[str]:
    """The commands of the tables; one that begins with dots goes on from the run before."""
    found: list[str] = []
    run = ""
    for typed in COMMAND.findall(PAGE.read_text()):
        whole = typed.replace("...", run, 1) if typed.startswith("...") else typed
        whole = re.sub(r"^report\.py", "python tune/report.py", whole)
        if whole.startswith("python tune/run.py"):
            run = whole
        found.append(whole)
    return found


def handed_in() -> list[str]:
    """The files that the tables name."""
    return re.findall(r"`(runs/[^`]*)`", PAGE.read_text())


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders as the course handed them out, and the weights that torchvision publishes, in its
    cache."""
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    mini_imagenet(Path("MINI"))
    for path in Path("MINI").rglob("*.jpg"):  # the same pictures else as those of OFFICE
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

    torch.manual_seed(1234)  # weights that a trial begins from anyway are refused
    cached = tmp_path / "home/hub/checkpoints"
    cached.mkdir(parents=True)
    weights = cached / "weights.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), weights)
    weights = weights.rename(cached / f"resnet18-{content_hash(weights)[:8]}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    address = f"http://127.0.0.1:9/{weights.name}"  # nobody answers there
    monkeypatch.setattr(WeightsEnum, "url", property(lambda self: address))


def in_small(command: str) -> list[str]:
    """The words of a command after `python`, with what makes it small."""
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
    found = commands()
    assert len(found) > 18
    for experiment in ("ssl", "pretrain", "classify", "fewshot", "segment"):
        assert any(command.startswith(f"python tune/run.py {experiment}") for command in found)
    assert len([command for command in found if " predict " in command]) == 4
    assert len(handed_in()) > 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_can_be_typed_from_top_to_bottom(
    call: Call, course: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_mlflow(monkeypatch)

    def look(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", list(words))
        with pytest.raises(SystemExit) as left:
            report.main()
        assert left.value.code in (0, None), f"{shlex.join(words)}\n{capsys.readouterr().err}"

    answers = []
    for command in commands():
        words = in_small(command)
        if words[0] == "tune/run.py":
            said = call(*words[1:])
            assert said.code == 0, f"{shlex.join(words)}\n{said.out[-2000:]}\n{said.err}"
        elif words[1] != "sam":  # tests/tune/reports/test_sam.py
            Path("pred.csv").unlink(missing_ok=True)
            look(*words)
            if "pred.csv" in words:
                answers.append(list(read_csv(Path("pred.csv"))[0]))

    assert answers == [
        ["id", "filename", "label"],
        ["filename", "label"],
        ["episode_id", *(f"query{number}" for number in range(9))],
    ]
    assert {f"{name}_mask.png" for name in NAMED} < {path.name for path in Path("masks").iterdir()}

    for study in ("classify-C", "large", "better"):
        look("report.py", "html", study)  # it draws what is missing
    for path in handed_in():
        assert list(Path().glob(path)), path
