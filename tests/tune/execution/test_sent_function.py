"""A function that is sent to the processes of trials."""

import threading
from typing import Any

import pytest

from trainables.errors import UserError
from tune.execution.ray_tune import check_can_be_sent
from vistune import function_experiment


def test_a_function_that_cannot_be_sent_is_told_in_one_line() -> None:
    lock = threading.Lock()

    def locked(config: dict[str, Any], run: Any) -> None:
        with lock:
            run.report(accuracy=1.0)

    space = {"lr": (0.1, 1.0)}
    made = function_experiment(locked, objective="accuracy", space=space, name="mine")
    with pytest.raises(UserError, match=r"function of mine cannot .*lock.*; create what it needs"):
        check_can_be_sent(made)
    check_can_be_sent(function_experiment(lambda *given: None, objective="a", space=space))
