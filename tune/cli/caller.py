"""The caller that runs studies: a command, or a program that imports vistune, such as a
notebook."""

import sys
from dataclasses import dataclass
from typing import Literal

from trainables.redaction import redacted
from tune.command_line import resume_command
from tune.surroundings import has_fallen_silent

Progress = Literal["auto", "text", "none"]
"""`auto`: a live table on a terminal and in a notebook, otherwise lines; `text`: lines; `none`:
only warnings."""


@dataclass(frozen=True)
class Caller:
    """The side that requested a run, and how to report to it."""

    is_command: bool = False
    """True for a command line: the run handles Ctrl-C and SIGTERM, and the process ends with the
    run. A program keeps its own signal handlers and gets KeyboardInterrupt."""

    progress: Progress = "auto"

    @property
    def shows_table(self) -> bool:
        """True in a notebook, unless text was requested."""
        return self.progress == "auto" and not self.is_command and in_notebook()

    @property
    def how_to_resume(self) -> str:
        """End of a line about a stopped study, which says how to resume it."""
        if self.is_command:
            return f"Resume with: {resume_command()}"
        return "The same call resumes"

    def say(self, line: str) -> None:
        """Report something that the user waits for."""
        if self.progress != "none":
            print(redacted(line), flush=True)

    def say_again(self, line: str) -> None:
        """Repeat a line on standard error if standard output no longer takes it, e.g. because the
        same Ctrl-C ended the reader (`| tee`)."""
        if self.is_command and has_fallen_silent(sys.stdout):
            self.warn(line)

    def warn(self, line: str) -> None:
        """Report something that must not be missed."""
        print(f"vistune: {redacted(line)}", file=sys.stderr, flush=True)


COMMAND_LINE = Caller(is_command=True)


def in_notebook() -> bool:
    """True if this process is a notebook kernel, which displays rich output and has no terminal."""
    shell = sys.modules.get("IPython.core.interactiveshell")
    if shell is None or not shell.InteractiveShell.initialized():
        return False
    return type(shell.InteractiveShell.instance()).__name__ == "ZMQInteractiveShell"
