"""Repeats computed in different floating-point formats are not one sample."""

from types import SimpleNamespace
from typing import Any

import pytest

from trainables.engine import numerics
from tune.reports import doubts
from tune.reports.doubts import doubts_about_numerics


def study(*in_bfloat16: bool | None) -> Any:
    """A study with one repeat per entry: in bfloat16, in float32, or still running (None)."""
    repeats = {}
    for seed, bf16 in enumerate(in_bfloat16):
        metrics = {} if bf16 is None else {"best/val/top1": 0.5}
        if bf16:
            metrics[numerics.IN_BFLOAT16] = 1.0
        repeats[0, seed] = SimpleNamespace(metrics=metrics)
    return SimpleNamespace(repeats=repeats)


@pytest.mark.parametrize(
    "repeats", [(), (True, True), (False, False), (True, None), (None, False, False)]
)
def test_repeats_of_one_kind_are_no_doubt(repeats: tuple[bool | None, ...]) -> None:
    assert list(doubts_about_numerics(study(*repeats))) == []


def test_a_mixture_is_told_with_its_counts_and_the_remedy() -> None:
    (doubt,) = doubts_about_numerics(study(True, False, None, True))
    assert doubt.startswith("2 of 3 repeats were trained in bfloat16")
    assert "--set train.numerics=as_set" in doubt


def test_the_metric_has_one_name() -> None:
    assert doubts.IN_BFLOAT16 == numerics.IN_BFLOAT16
