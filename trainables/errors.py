"""The kinds of failure: the user can fix it, one trial is lost, or its workers must restart."""

from trainables.redaction import redacted


class UserError(Exception):
    """Wrong use or bad input.

    The message is one line that names the value and the remedy. The command line prints it and
    exits with 2. It holds no password, whatever it was made of.

    Args:
        message: the line, or an error whose line it is.
        more: further arguments of a subclass, kept as `Exception` keeps them.
    """

    def __init__(self, message: object = "", *more: object):
        super().__init__(redacted(str(message)), *map(_clean, more))

    def _render_traceback_(self) -> list[str]:
        """The error as a notebook shows it (IPython asks for it by this name): its line alone."""
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
    """First line of an exception's message, at most `limit` characters and without passwords;
    without a message, the name of its type."""
    lines = redacted(str(error)).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:limit]
