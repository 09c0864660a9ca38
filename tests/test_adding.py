"""The steps of docs/adding-a-trainable.md: its blocks are added to a copy of the code, and its
commands run there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPO
from tests.commands import NO_SERVER

PAGE = (REPO / "docs/adding-a-trainable.md").read_text().partition("## In the repository")[2]
BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_page_leads_to_a_study(tmp_path: Path) -> None:
    for package in ("trainables", "search_spaces", "tune"):
        shutil.copytree(
            REPO / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    blocks = {name or kind: text for kind, name, text in BLOCK.findall(PAGE)}
    assert list(blocks) == [
        "trainables/rotation.py",
        "search_spaces/rotation.py",
        "tune/experiments.py",
        "EXPERIMENTS",
        "sh",
    ]
    for name in ("trainables/rotation.py", "search_spaces/rotation.py"):
        (tmp_path / name).write_text(blocks[name])
    registry = tmp_path / "tune/experiments.py"
    head, opening, rest = registry.read_text().partition("EXPERIMENTS: dict[str, Experiment] = {\n")
    registry.write_text(
        f"{head}{blocks['tune/experiments.py']}\n\n{opening}{blocks['EXPERIMENTS']}{rest}"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": NO_SERVER, "COLUMNS": "160"}
    said = []
    for line in blocks["sh"].splitlines():
        program, *words = shlex.split(line)
        assert program == "python"
        command = [sys.executable, *words]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
    plan, study, shown = said
    assert "dropout" in plan
    assert "trial 0 complete" in study
    assert len(list((tmp_path / "runs/rotation/trials").iterdir())) == 2
    assert "2 trials" in shown
