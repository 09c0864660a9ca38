"""With `train.ema` on the command line, a study evaluates and keeps the averaged weights."""

from pathlib import Path

import pytest

from tests.commands import SMALL, Call
from tune.export import export_model
from tune.study.record import read_record
from vistune import load_study

STUDY = ("pretrain", "--data", "digits", *SMALL, "--set", "train.epoch_images=96")
AVERAGED = ("--trials", "2", "--repeats", "2", "--set", "train.ema=0.9", "--pictures", "none")


@pytest.mark.heavy
def test_a_study_of_averaged_weights_is_judged_tested_and_exported_by_them(
    call: Call, tmp_path: Path
) -> None:
    said = call(*STUDY, *AVERAGED)
    assert said.code == 0, said.err
    assert "searched by val/top1_ema" in said.out
    assert "test/top1_ema" in said.out

    record = read_record(tmp_path / "runs/pretrain")
    assert record.summary["baseline/test/top1_ema"] == record.summary["baseline/test/top1"]
    for run in record.repeats.values():
        assert run.outcome is not None
        assert run.outcome.metrics["test/top1_ema"] == run.outcome.metrics["test/top1"]
    exported = export_model("pretrain", tmp_path / "runs")
    assert exported.measured == exported.recorded
    assert "val/top1_ema" in str(exported)
    assert call(*STUDY, *AVERAGED).code == 0
    assert load_study(tmp_path / "runs/pretrain").best is not None


def test_a_search_of_the_decay_needs_a_metric_that_all_trials_have(call: Call) -> None:
    space = ("--space", "train.ema=0.0..0.99")
    said = call(*STUDY, *space, "--plan")
    assert said.code == 2
    assert "name the metric of all with --objective" in said.line
