"""The README is short, its example runs, and its terminal output comes from the product."""

import re
from pathlib import Path

import pytest

from tests import REPO
from tests.commands import Call
from tune.experiments import EXPERIMENTS, Experiment

README = (REPO / "README.md").read_text()
IMPORTS = """
from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

from search_spaces.common import Suggest, optimizer
from trainables.base import Batch
from trainables.classifier import Classifier, ClassifierConfig
from trainables.config import config
"""
SMALL = (
    "--data digits --local --trials 2 --repeats 0 --set data.image_size=8 --set backbone.width=8 "
    "--set backbone.pool=1 --set train.epochs=1 --set train.epoch_images=64"
)


def test_readme_is_short() -> None:
    assert len(README.split()) < 600


def test_example_becomes_a_study(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(block.strip().splitlines()) <= 20
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(IMPORTS + block, "README.md", "exec"), names)

    presets = EXPERIMENTS["pretrain"].presets["tiny"] | {"optim.name": "adamw", "optim.lr": 1e-3}
    experiment = Experiment(
        name="square",
        about="the example of the README",
        model=lambda: (names["Square"], names["SquareConfig"]),
        space=names["square"],
        presets={"tiny": presets | {"optim.weight_decay": 1e-3}},
    )
    monkeypatch.setitem(EXPERIMENTS, "square", experiment)
    said = call("square", *SMALL.split())

    assert said.code == 0, said.err
    assert "scale" in (tmp_path / "runs/square/study.json").read_text()
    assert len(list((tmp_path / "runs/square/trials").iterdir())) == 2


@pytest.mark.parametrize("name", ["run", "show", "ui"])
def test_terminal_output_was_printed_by_the_product(name: str) -> None:
    """Every line is in the recording, in order (`.ci/record_terminal.py`)."""
    found = re.search(rf"<!-- recorded: {name} -->\n```text\n(.*?)```", README, re.DOTALL)
    assert found is not None
    recording = (REPO / "docs" / "recordings" / f"{name}.txt").read_text()
    printed = iter([line.rstrip() for line in recording.splitlines()])
    shown = [line for line in found[1].splitlines() if line != "..."]
    assert len(shown) >= 2
    for line in shown:
        assert line in printed  # also consumes the lines before it
