"""Format values for tables, reports and the terminal."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from rich.console import Console

DEFAULT = "(the default)"
_ERROR_LENGTH = 300
_LINE = re.compile(r" \(\S+ line \d+\)$")
"""End of a reason that names a line of the user's file."""


def format_value(value: object) -> str:
    """Format a config value briefly, as `--set` takes it: floats with three digits, None as
    `none`."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def duration(seconds: float) -> str:
    """Format a duration: `4.2 s`, `3 min 05 s`, `1 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def moment(written: str) -> str:
    """Format a recorded time: `2026-11-30 00:10 UTC`."""
    return f"{datetime.fromisoformat(written).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: `1 trial`, `12 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def failure(reason: str, error: str | None) -> str:
    """Say in one line why a run failed: the recorded reason and the last line of its error, which
    may be a traceback."""
    lines = (error or "").strip().splitlines()
    last = lines[-1].strip() if lines else ""
    kind, _, message = last.partition(": ")
    if kind.rpartition(".")[2] == reason:  # `package.ValueError: message`
        last = message
    if not last:
        return reason
    shown = last if len(last) <= _ERROR_LENGTH else f"{last[: _ERROR_LENGTH - 3]}..."

    # The reason of a function is its error, cut and with a line: the message is said once.
    own = _LINE.search(reason)
    cut = reason[: own.start()] if own else reason
    if ": " in cut and last.startswith(cut):
        return shown + (own[0] if own else "")
    if last in cut:
        return reason
    return f"{reason}: {shown}"


def assignments(values: Mapping[str, object]) -> str:
    """Format values as `optim.lr=0.1, optim.name=sgd`; "" if there are none."""
    return ", ".join(f"{key}={format_value(value)}" for key, value in values.items())


def read_assignment(text: str) -> tuple[str, str] | None:
    """Split `KEY=VALUE`, in which spaces around key and value are allowed. Return None if it has
    another form. The value may be empty."""
    key, equals, value = (part.strip() for part in text.partition("="))
    return (key, value) if key and equals else None


def line_width(out: Console, most: int = 100) -> int:
    """Return the number of characters per line: the terminal's, at most `most`; in a pipe,
    `most`."""
    return min(most, out.width) if out.is_terminal else most


def print_prose(out: Console, text: str) -> None:
    """Print a line of text, wrapped at words on a terminal."""
    out.print(text, soft_wrap=not out.is_terminal)


def plain_console(width: int | None = None) -> Console:
    """Return a console that prints text unchanged, because a name may contain what rich takes for
    markup or an emoji.

    Args:
        width: characters per line; default: the terminal's width.
    """
    return Console(
        highlight=False,
        soft_wrap=True,
        markup=False,
        emoji=False,
        width=width,
        force_jupyter=False,  # print plain text in a notebook too
    )
