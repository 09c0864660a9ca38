"""The steps of docs/migrate.md: its files are written into one folder, and its commands run
there."""

import ast
import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import REPO
from tests.commands import Call
from tune.study.record import read_record

PAGE = (REPO / "docs/migrate.md").read_text()
FILES = re.findall(r"^```(?:python|yaml) (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh (before|after)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BEFORE = [text.strip() for kind, text in COMMANDS if kind == "before"]
AFTER = [text.strip() for kind, text in COMMANDS if kind == "after"]
SMALL = ("--local", "--trials", "3", "--repeats", "0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES:
        (tmp_path / name).write_text(text)
    return tmp_path


def missing(command: str) -> list[str]:
    """Packages that the files of a command import and that are not installed."""
    named = [text for name, text in FILES if name in command.split() and name.endswith(".py")]
    imported = set()
    for text in named:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module))
    here = {Path(name).stem for name, _ in FILES}
    packages = {name.partition(".")[0] for name in imported} - here
    return sorted(name for name in packages if find_spec(name) is None)


def test_every_tool_has_both_sides() -> None:
    sections = PAGE.split("\n## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == [
        "Plain PyTorch",
        "Ray Tune",
        "Optuna",
        "Lightning",
        "A W&B sweep",
    ]
    assert all("```sh before" in text and "```sh after" in text for text in sections)
    for name, text in FILES:
        if name.endswith(".py"):
            ast.parse(text, name)


@pytest.mark.slow
@pytest.mark.parametrize("command", BEFORE)
def test_before(command: str, folder: Path) -> None:
    if missing(command):
        pytest.skip(f"not installed: {missing(command)}")

    typed = command.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    alone = os.environ | {"RAY_ADDRESS": "local"}  # not a cluster that another test left behind
    done = subprocess.run(
        typed, shell=True, cwd=folder, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", AFTER)
def test_after(command: str, folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing(command):
        pytest.skip(f"not installed: {missing(command)}")
    for name, _ in FILES:  # drop modules of the same names from earlier tests
        monkeypatch.delitem(sys.modules, Path(name).stem, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    typed = command.replace("-- python ", f"-- {shlex.quote(sys.executable)} ")
    program, *words = shlex.split(typed)
    assert program == "vistune"
    small = [*words[:1], *SMALL, *words[1:]]

    said = call(*small)

    assert said.code == 0, said.err
    (study,) = (path.parent for path in folder.glob("runs/*/study.json"))
    record = read_record(study)
    assert len(record.trials) == 3
    assert not [run.reason for run in record.trials.values() if run.state == "FAIL"]
