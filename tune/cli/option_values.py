"""Parse string values of options: `--set KEY=VALUE`, `--time-budget 30m`, `--concurrent auto`."""

import re
from typing import Any, Literal

from trainables.errors import UserError
from tune.cli.options import OWN_OPTION
from tune.formatting import read_assignment

AUTO: Literal["auto"] = "auto"
"""Value of `--concurrent` that lets the machine decide."""
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_pins(settings: list[str] | None) -> dict[str, Any]:
    """Read `--set` values: ["optim.lr=0.1"] -> {"optim.lr": "0.1"}.

    `trainables.config.build` checks the names and converts the values.

    Raises:
        UserError: a value is not KEY=VALUE, or the key has an option of its own.
    """
    pins = {}
    for setting in settings or []:
        pin = read_assignment(setting)
        if pin is None:
            raise UserError(f"--set {setting!r} must be KEY=VALUE, such as --set optim.lr=0.1")

        key, value = pin
        if key in OWN_OPTION:
            raise UserError(f"--set {key}: use --{OWN_OPTION[key]} {value}")
        pins[key] = value
    return pins


def parse_duration(text: str | None) -> float | None:
    """Convert "90s", "30m", "2h" or "1.5h" to seconds.

    Raises:
        UserError: the text has another form, or is 0.
    """
    if text is None:
        return None

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if match is None or float(match[1]) == 0:
        raise UserError(
            f"--time-budget {text!r} must be a number with s, m or h, such as 90s, 30m or 2h"
        )

    return float(match[1]) * _SECONDS[match[2]]


def parse_concurrent(text: str | None) -> int | Literal["auto"] | None:
    """Convert the value of `--concurrent`: a number from 1, or `auto`.

    Raises:
        UserError: the text has another form.
    """
    if text is None:
        return None
    if text == AUTO:
        return AUTO
    if not re.fullmatch(r"\+?0*[1-9]\d*", text.strip()):
        raise UserError(
            f"--concurrent {text!r} must be a number from 1, or auto: as many on each GPU as get "
            "more done together"
        )
    return int(text)
