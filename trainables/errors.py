"""Kinds of failure: the user can fix it, one trial is lost, or the trial's workers must restart."""

from trainables.redaction import redacted


class UserError(Exception):
    """Wrong use or bad input.

    The message is one line that names the value and the remedy. The command line prints it and
    exits with 2. Passwords are redacted, wherever the message comes from.

    Args:
        message: the line, or an error whose text becomes the line.
        more: further arguments of a subclass, kept as `Exception` keeps them.
    """

    def __init__(self, message: object = "", *more: object):
        super().__init__(redacted(str(message)), *map(_clean, more))

    def _render_traceback_(self) -> list[str]:
        """One line that a notebook shows instead of a traceback; IPython calls this method."""
        return [f"vistune: {self}"]


class TrialFailed(Exception):
    """This trial cannot continue.

    Args:
        reason: a short word for the event log: `nan`, `collapse`, `oom`, `data`, `device`,
            `workers` or `hung`.
        message: details for a reader.
    """

    def __init__(self, reason: str, message: object = ""):
        shown = redacted(str(message))
        super().__init__(shown or reason)
        self.reason = reason
        self.message = shown

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (type(self), (self.reason, self.message))


class StartAgain(Exception):
    """The workers of this trial are out of step and must restart from the checkpoint.

    The trial is not to blame.
    """


def _clean(argument: object) -> object:
    return redacted(argument) if isinstance(argument, str) else argument


def first_line(error: BaseException, limit: int = 200) -> str:
    """First line of an exception's message, at most `limit` characters, with passwords redacted;
    the name of its type if it has no message."""
    lines = redacted(str(error)).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:limit]
