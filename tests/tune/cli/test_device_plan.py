"""`--plan` tells the device, and whether compilation pays."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.trainables.engine.test_fit import Recorder
from tests.trainables.engine.test_waits import STEPS
from trainables.base import CompileMode
from tune.cli.device_plan import chosen, compilation

KIND, CONFIG = STEPS["classify"]


def said(directory: Path, step_s: float, mode: CompileMode = "default") -> str:
    data = KIND.load_data(CONFIG.data)
    return compilation(KIND, CONFIG, data, Recorder(directory), mode, step_s, steps=100)


@pytest.mark.parametrize(
    ("mode", "step_s", "verdict"),
    [
        ("default", 60.0, "; --set train.compile=True"),
        (
            "reduce-overhead",
            60.0,
            "; --set train.compile=True --set train.compile_mode=reduce-overhead",
        ),
        ("default", 0.0, "; leave train.compile=False"),
    ],
)
def test_compilation_pays_where_a_whole_trial_is_shorter(
    mode: CompileMode,
    step_s: float,
    verdict: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: compiled.append(mode))
    line = said(tmp_path, step_s, mode)
    assert set(compiled) == {mode}
    assert line.startswith(f"torch.compile ({mode}): ")
    assert line.endswith(verdict)


def test_without_a_compiler_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: nn.Module, mode: str) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(nn.Module, "compile", fails)
    assert said(tmp_path, 1.0) == (
        "torch.compile (default): fails here (RuntimeError); leave train.compile=False"
    )


def test_out_of_memory_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: nn.Module, mode: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(nn.Module, "compile", fails)
    line = said(tmp_path, 1.0)
    assert line.startswith("torch.compile (default): not measured, because memory ran out")


def test_on_a_cpu_the_plan_has_one_line_about_it() -> None:
    (line,) = chosen(CONFIG, KIND.load_data(CONFIG.data), torch.device("cpu"))
    assert line.startswith("device: CPU (train.device=auto); float32")
