"""Settings of a function: refusals, and a comparison from its searches to its table. The table runs
none of the function's code."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces.settings import Fixed
from tests.commands import Call
from trainables.errors import UserError
from tune import report
from tune.study.group import Group, members
from tune.study.manifest import read_manifest
from vistune import function_experiment

MINE = '''
"""Reports a curve that its learning rate bends; nothing is trained."""

from vistune import function_experiment


def train(config, run):
    """A curve of four epochs."""
    worth = 0.5 + 0.3 * config["mixup"] - 0.1 * abs(config["lr"] - 0.3)
    for epoch in run.epochs(4):
        run.report(accuracy=worth * (epoch + 1) / 4)
    run.test(accuracy=worth - 0.001 * (run.seed % 7))


EXPERIMENT = function_experiment(
    train,
    objective="accuracy",
    space={"lr": (0.01, 1.0, "log")},
    default={"lr": 0.05, "mixup": 0.0},
    compare={"mix": {"without": {"mixup": 0.0}, "with": {"mixup": 0.5}}},
)
'''


def train(config: dict[str, Any], run: Any) -> None:
    """Never called."""


def settings(compare: Any) -> Any:
    return function_experiment(
        train,
        objective="accuracy",
        space={"lr": (0.1, 1.0)},
        default={"mixup": 0.0},
        name="own",
        compare=compare,
    )


def test_settings_fix_values_and_are_compared_with_the_first() -> None:
    compare = {"mix": {"off": {}, "low": {"mixup": np.float64(0.2)}, "high": {"mixup": 0.4}}}
    found = settings(compare).comparisons["mix"]
    assert found.settings["low"] == Fixed("mixup=0.2", {"mixup": 0.2})
    assert found.settings["off"].about == "the default"
    assert list(found.questions) == ["low-off", "high-off"]


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        ({"mix": {"one": {}}}, "compare 'mix' needs two settings or more, got ['one']"),
        ({"mi-x": {"a": {}, "b": {}}}, "compare 'mi-x' must be letters, digits and _"),
        ({"mix": {"a-b": {}, "c": {}}}, "setting of compare 'mix' 'a-b' must be letters"),
        (
            {"mix": {"a": {}, "b": {"mixupp": 1}}},
            "'mixupp' (its usual value belongs in default); did",
        ),
        ({"m": {"a": {}, "b": {}}, "n": {"c": {}, "a": {}}}, "two settings have the name 'a'"),
    ],
)
def test_settings_that_cannot_be_are_refused(compare: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        settings(compare)
    assert said in str(error.value)


@pytest.mark.heavy
def test_settings_of_a_function_are_searched_and_compared(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    options = ("--compare", "mix", "--searches", "2", "--trials", "2", "--repeats", "2", "--local")
    said = call(str(mine), *options)
    assert said.code == 0, said.err

    runs = tmp_path / "runs"
    studies = {path.parent.name for path in runs.glob("*/study.json")}
    assert studies == {
        f"mine-mix-{side}-r{number}" for side in ("with", "without") for number in (1, 2)
    }
    pins = read_manifest(runs / "mine-mix-with-r1" / "study.json").pins
    assert pins == {"mixup": 0.5}
    seeds = {read_manifest(runs / name / "study.json").seed for name in studies}
    assert len(seeds) == 2  # both sides of one search share a seed

    mine.unlink()  # the report needs no file
    monkeypatch.setattr("tune.experiment_file.from_code", lambda code: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["tune/report.py", "table", "mine-mix"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        report.main()
    assert not left.value.code
    shown = capsys.readouterr().out
    assert "with-without" in shown
    assert "2 searches" in shown
    with (runs / "mine-mix" / "table.csv").open() as file:
        rows = {(row["row"], row["search"]): row for row in csv.DictReader(file)}
    assert any("with-without" in key[0] for key in rows)

    begun = members(runs / "mine-mix", 1)
    assert begun is not None
    assert begun.comparison.questions == {"with-without": "does with beat without"}
    assert f"{mine}:EXPERIMENT --compare mix" in begun.command
    assert Group.at(runs / "mine-mix").searches == 2
