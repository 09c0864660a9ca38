"""The steps of docs/functions.md: its file becomes a study with a verdict."""

import re
from pathlib import Path

import pytest

from tests import REPO
from tests.commands import Call
from tune.reports.verdict import judge_study
from tune.study.record import read_record

PAGE = (REPO / "docs/functions.md").read_text()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (text,) = re.findall(r"^```python mine.py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_the_page_leads_to_a_verdict(call: Call, mine: Path, tmp_path: Path) -> None:
    said = call("mine.py", "--local", "--trials", "5", "--repeats", "2")

    assert said.code == 0, said.err
    record = read_record(tmp_path / "runs/mine")
    verdict = judge_study(record)
    assert verdict is not None, said.out
    assert verdict.covers_images
    best = record.best_number()
    assert best is not None
    assert record.completed[best] > 0.9
