"""Whoever runs studies: a command, or a program that imports vistune, such as a notebook."""

import sys
from dataclasses import dataclass
from typing import Literal

from trainables.redaction import redacted
from tune.command_line import resume_command
from tune.surroundings import has_fallen_silent

Progress = Literal["auto", "text", "none"]
"""`auto`: a live table at a terminal and in a notebook, otherwise lines; `text`: lines; `none`:
nothing but warnings."""


@dataclass(frozen=True)
class Caller:
    """The side that has asked for a run, and how it is told."""

    is_command: bool = False
    """It is a command line: the run takes Ctrl-C and SIGTERM for itself, and the process ends with
    it. A program keeps its own signal handlers, and gets KeyboardInterrupt."""

    progress: Progress = "auto"

    @property
    def shows_table(self) -> bool:
        """True in a notebook that has not asked for text."""
        return self.progress == "auto" and not self.is_command and in_notebook()

    @property
    def how_to_resume(self) -> str:
        """The end of a line about a study that was stopped."""
        if self.is_command:
            return f"Resume with: {resume_command()}"
        return "The same call resumes"

    def say(self, line: str) -> None:
        """Tell something that the user waits for."""
        if self.progress != "none":
            print(redacted(line), flush=True)

    def say_again(self, line: str) -> None:
        """Tell on standard error what standard output has not taken, such as that of a command
        whose reader (`| tee`) the same Ctrl-C has ended."""
        if self.is_command and has_fallen_silent(sys.stdout):
            self.warn(line)

    def warn(self, line: str) -> None:
        """Tell something that must not be missed."""
        print(f"vistune: {redacted(line)}", file=sys.stderr, flush=True)


COMMAND_LINE = Caller(is_command=True)


def in_notebook() -> bool:
    """Tell whether this process is a notebook's kernel, which shows what is displayed and has no
    terminal."""
    shell = sys.modules.get("IPython.core.interactiveshell")
    if shell is None or not shell.InteractiveShell.initialized():
        return False
    return type(shell.InteractiveShell.instance()).__name__ == "ZMQInteractiveShell"
