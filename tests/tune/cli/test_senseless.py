"""Invalid values are refused in one line each, and no study is begun."""

from pathlib import Path

import pytest

from tests.commands import LOCAL_TOY, Call
from tests.crash.attacks.typed import SENSELESS

MEANS_SOMETHING = ("--set optim.lr=0", "--trials 99999999999999999999")


@pytest.mark.parametrize("words", [words for words in SENSELESS if words not in MEANS_SOMETHING])
def test_a_value_that_means_nothing_is_refused_in_a_line(words: str, call: Call) -> None:
    option, _, value = words.partition(" ")
    said = call(*LOCAL_TOY, "1", "--set", "train.epochs=1", option, value)
    assert said.code == 2
    assert said.line
    assert not Path("runs/toy/study.json").exists()
