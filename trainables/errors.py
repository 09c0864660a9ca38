"""How things go wrong: the user can mend it, one trial is lost, or its workers must start again."""


class UserError(Exception):
    """Wrong use or bad input. The message is one line that names the value and the remedy; the
    command line prints it and exits with 2."""


class TrialFailed(Exception):
    """This trial cannot go on. `reason` is a short word for the record (`nan`, `collapse`, `oom`,
    `data`, `workers`)."""

    def __init__(self, reason: str, message: str = ""):
        super().__init__(message or reason)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return (type(self), (self.reason, self.message))


class StartAgain(Exception):
    """The workers of this trial are out of step and are to be started again, from the checkpoint.
    No fault of the trial's."""
