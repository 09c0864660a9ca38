"""`vistune script` turns a command into a file and a study, and refuses errors in one line."""

import sys
from pathlib import Path

import pytest

from tests.commands import Call
from tune.cli.options import Options
from tune.cli.script import ScriptOptions, generated_experiment
from tune.reports.verdict import judge_study
from tune.study.record import read_record

TRAIN = """
import json, sys
lr, seed, out = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with open(f"{out}/metrics.jsonl", "a") as file:
    for epoch in range(8):
        worth = 1 - abs(lr - 0.3)
        file.write(json.dumps({"epoch": epoch, "loss": 1 - worth * (epoch + 1) / 8}) + "\\n")
        file.flush()
    file.write(json.dumps({"test/loss": 1 - worth + 0.01 * (seed % 7)}) + "\\n")
"""
COMMAND = (sys.executable, "-S", "train.py", "{lr}", "{seed}", "{directory}")
OPTIONS = (
    *("--space", "lr=0.01..1:log", "--default", "lr=0.05", "--objective", "-loss"),
    *("--epochs", "8", "--local", "--trials", "3", "--repeats", "2"),
)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAIN)
    return path


@pytest.mark.heavy
def test_a_script_becomes_a_study(call: Call, train: Path, tmp_path: Path) -> None:
    said = call("script", *OPTIONS, "--", *COMMAND)

    assert said.code == 0, said.err
    record = read_record(tmp_path / "runs/train")
    assert record.manifest.space == {"lr": ["0.01 to 1 (log)"]}
    assert record.trials[0].config["lr"] == 0.05
    assert record.length == 8
    verdict = judge_study(record)
    assert verdict is not None
    assert verdict.metric == "test/-loss"
    assert record.trials[0].value == pytest.approx(-0.25)

    # The same command resumes, and so does the file that it wrote.
    assert call("script", *OPTIONS, "--", *COMMAND).code == 0
    written = tmp_path / "runs/train/experiment.py"
    again = call(str(written), "--local", "--trials", "3", "--repeats", "2")
    assert again.code == 0, again.err

    # A changed script is a changed study.
    train.write_text(TRAIN + "\n# changed\n")
    line = call("script", *OPTIONS, "--", *COMMAND).line
    assert line.startswith("study 'train' began with another experiment.py")
    assert "--accept-code continues" in line


@pytest.mark.parametrize("epochs", ["8", "n"])
def test_the_plan_of_a_script_knows_the_length_that_was_given(
    call: Call, train: Path, epochs: str
) -> None:
    length = ("--epochs", epochs, "--default", "n=8")
    said = call("script", *OPTIONS, *length, "--plan", "--", *COMMAND)
    assert said.code == 0, said.err
    assert "rungs: the best third continues after epoch 1," in said.out
    assert "8 epochs in all" in said.out
    assert "time: known once trial 0 has reported an epoch" in said.out


def test_a_study_that_was_renamed_has_the_same_code(train: Path, tmp_path: Path) -> None:
    script = ScriptOptions(command=list(COMMAND), objective="-loss", space=["lr=0.01..1:log"])
    made = [
        generated_experiment(script, Options(experiment="script", study=name, storage=storage))
        for name, storage in (("a", "runs"), ("b", "runs"), ("a", str(tmp_path / "moved")))
    ]

    assert len({experiment.code.digest for experiment in made}) == 1
    assert len({experiment.code.path for experiment in made}) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--space lr=0.1..1 --objective a -- x {lrr}", "the command has {lrr}, which has no value"),
        ("--space lr=0.1..1 --objective a -- x", "nothing in the command takes lr: write {lr}"),
        (
            "--space lr=0.1..1 --default n=1 --objective a -- x {lr}",
            "nothing in the command takes n",
        ),
        ("--space lr=1e-4-1e-1 --objective a -- x {lr}", "--space lr=1e-4-1e-1 is one value, so"),
        ("--space lr=1..0 --objective a -- x {lr}", "it must begin below its end"),
        ("--space lr=0.1..1 --default lr --objective a -- x {lr}", "--default 'lr' must be KEY="),
        ("--space lr=0.1..1 --default lr=7 --objective a -- x {lr}", "default of lr must be among"),
        ("--space lr=0.1..1 --objective a --epochs n -- x {lr}", "epochs: there is no value 'n'"),
        ("--space lr=0.1..1 --objective a --pattern (a -- x {lr}", "pattern '(a' is not a regular"),
        ("--space lr=0.1..1 --objective a --pattern a -- x {lr}", "pattern 'a' has no named group"),
        ("--space lr=0.1..1 -- x {lr}", "Missing option '--objective'"),
    ],
)
def test_wrong_use_is_one_line(call: Call, tmp_path: Path, words: str, message: str) -> None:
    said = call("script", *words.split())

    assert said.code == 2
    assert message in said.line
    assert not (tmp_path / "runs").exists()
