"""`benchmarks/gpu_check.py`: how it judges, and that a row that raises counts as failed."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import Check, Row, rows_of
from benchmarks.gpu_work import FULL, NAMES, QUICK, made_data, work
from trainables.config import build, flatten
from trainables.data import FewShotData

CPU = Check(torch.device("cpu"), QUICK, ())
CARD = Check(torch.device("cuda"), FULL, ())


def test_speed_is_judged_on_a_card_at_full_size_alone() -> None:
    assert CARD.faster(True) is True
    assert CARD.faster(False) is False
    assert CPU.faster(False) is None
    assert replace(CARD, size=QUICK).faster(False) is None


@pytest.mark.parametrize(
    ("images_per_s", "holds"),
    [(96.0, True), (95.0, False)],  # 4.2 % and 5.3 % more time than at 100
)
def test_overhead_is_that_of_the_time_of_an_image(images_per_s: float, holds: bool) -> None:
    assert gpu_check._beside_limit("", images_per_s, 100.0, CARD).holds is holds


def test_a_row_that_breaks_fails_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(check: Check) -> Row:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(gpu_check.ROWS, "equal", breaks)
    (row,) = rows_of("equal", CPU)
    assert row.holds is False
    assert row.measured == "RuntimeError: no such kernel"
    assert "no such kernel" in capsys.readouterr().err
    (environment,) = rows_of("environment", CPU)
    assert environment.holds is None


def test_lines_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_check.show(Row("name " * 6, "claim " * 30, "measured " * 20, True, 12.3))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "holds" in lines[0]


@pytest.mark.parametrize("size", [QUICK, FULL], ids=["quick", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_configs_are_those_of_preset_full(
    name: str, size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu_work.made_data", lambda *_, **__: None)
    _, config, _ = work(name, size)
    assert build(type(config), flatten(config)) == config
    assert config.train.numerics == "auto"


def test_made_data_have_what_each_kind_needs() -> None:
    plain = made_data(40, 8)
    assert [len(split) for split in (plain.train, plain.val, plain.test)] == [40, 10, 10]
    masks = made_data(8, 8, masks=True).train.input_masks(np.arange(8))
    assert set(masks.unique().tolist()) == {0, 1}

    episodes = made_data(40, 8, FewShotData)
    known, new = (set(split.targets().tolist()) for split in (episodes.train, episodes.test))
    assert not known & new
