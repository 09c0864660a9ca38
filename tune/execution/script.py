"""A command that trains, called like a function: `script(config, run)`.

    metrics.jsonl   one JSON object for each epoch, which the command appends
    output.txt      everything that it prints
    .script.json    the number of its first epoch
    .script.lock    held while a command lives: its successor waits, so no two write here

The command says which epoch a line is about, so lines that it writes again after a resume are
recognized. It resumes by itself, from the file that `{resume_from}` names.
"""

import fcntl
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.errors import TrialFailed
from tune.execution.function_run import FunctionRun
from tune.execution.script_output import Tail
from tune.execution.script_process import Process, failure
from tune.execution.script_reader import OUTPUT, STDOUT, Reader, ScriptFailed
from tune.execution.silence import HUNG

METRICS = "metrics.jsonl"
GIVEN = ("seed", "threads", "directory", "metrics", "device", "resume_from")
"""Names that a command may use besides those of the config."""

_LOCK = ".script.lock"
_PLACE = re.compile(r"\{([A-Za-z_][\w.]*)\}")
_RESUME = "resume_from"
_POLL_S = 0.1


@dataclass(frozen=True)
class Script:
    """A command, and how its metrics are read."""

    words: tuple[str, ...]
    """The command; `{lr}` stands for the value of `lr`, `{directory}` for the trial's folder."""
    folder: str
    """Folder in which it runs."""
    objective: str
    """Metric that selects, as the command writes it, without a minus."""
    metrics: str = METRICS
    """File of JSON lines in the trial's folder; `-`: standard output."""
    patterns: tuple[str, ...] = ()
    """Patterns of lines of output whose named groups are metrics."""
    checkpoint: str = "last.pt"
    """File in the trial's folder to resume from; for a pattern such as `*.ckpt`, the newest one."""
    epochs: int | str | None = None
    """Epochs of a trial, or the name of the config value that contains them."""
    resumes_itself: bool = field(default=True, init=False)

    @property
    def names(self) -> list[str]:
        """Names that the command uses."""
        return [name for word in self.words for name in _PLACE.findall(word)]

    @property
    def doubtful_names(self) -> list[str]:
        """The same, but without words that contain blanks, such as code, whose braces may be its
        own."""
        plain = [word for word in self.words if not re.search(r"\s", word)]
        return [name for word in plain for name in _PLACE.findall(word)]

    @property
    def source(self) -> str:
        """Everything that was given, as a study records it."""
        return "\n".join(f"{name} = {value!r}" for name, value in vars(self).items())

    @property
    def can_resume(self) -> bool:
        """True if the command accepts a checkpoint."""
        return _RESUME in self.names

    def __call__(self, config: Mapping[str, Any], run: FunctionRun) -> None:
        """Run the command to its end and report what it writes.

        Raises:
            ScriptFailed: its exit code is not 0.
        """
        with (run.directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._run(config, run, lock.fileno())

    def _run(self, config: Mapping[str, Any], run: FunctionRun, lock: int) -> None:
        """Run the command in a folder that no other command writes to."""
        checkpoint = self._checkpoint(run.directory) if self.can_resume else None
        reader = Reader(self, config, run)
        sources = self._sources(run.directory)
        if checkpoint is None:
            run.begin_anew()
            reader.begin_anew()
            self._clear(run.directory, sources)
        else:
            for source in sources:
                source.end_line()
            reader.read(sources)

        words = self.filled(config, run, checkpoint)
        environment = self._environment(config, run, checkpoint)
        output = run.directory / OUTPUT
        with Process(words, self.folder, environment, output, lock) as process:
            ended = None
            while ended is None:
                ended = process.poll()
                reader.read(sources)
                if ended is None:
                    _give_up_if_silent(run)
                    time.sleep(_POLL_S)
        if ended != 0:
            raise ScriptFailed(failure(ended, output))

        reader.read(sources, last=True)
        reader.finish()

    def filled(
        self, config: Mapping[str, Any], run: FunctionRun, checkpoint: Path | None
    ) -> list[str]:
        """Return the command of one trial. Without a checkpoint a word with `{resume_from}` is left
        out. If the word is nothing else, an option before it is left out too."""
        values = {**config, **self._given(run), _RESUME: str(checkpoint or "")}
        filled: list[str] = []
        for word in self.words:
            if checkpoint is None and _RESUME in _PLACE.findall(word):
                alone = word == f"{{{_RESUME}}}"
                if alone and filled and filled[-1].startswith("-"):
                    filled.pop()
                continue
            filled.append(_PLACE.sub(lambda match: _text(values, match), word))
        return filled

    def _given(self, run: FunctionRun) -> dict[str, Any]:
        return {
            "seed": run.seed,
            "threads": run.threads,
            "directory": run.directory,
            "metrics": run.directory / (METRICS if self.metrics == STDOUT else self.metrics),
            "device": run.device.type,
        }

    def _environment(
        self, config: Mapping[str, Any], run: FunctionRun, checkpoint: Path | None
    ) -> dict[str, str]:
        given = {**self._given(run), _RESUME: checkpoint or ""}
        named = {f"VISTUNE_{name.upper()}": str(value) for name, value in given.items()}
        threads = str(run.threads)
        return {**os.environ, **named, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}

    def _checkpoint(self, directory: Path) -> Path | None:
        found = sorted(directory.glob(self.checkpoint), key=lambda path: path.stat().st_mtime)
        return found[-1] if found else None

    def _sources(self, directory: Path) -> list[Tail]:
        sources = [Tail(directory / OUTPUT)]
        if self.metrics != STDOUT:
            sources.append(Tail(directory / self.metrics))
        return sources

    def _clear(self, directory: Path, sources: list[Tail]) -> None:
        """Make sure that nothing of an earlier start is read. Its metrics are removed, so the file
        then contains only metrics of this start, whether the command appends to it or writes it
        anew."""
        for source in sources:
            is_output = source.path.name == OUTPUT
            if not is_output and source.path.is_relative_to(directory):
                source.path.unlink(missing_ok=True)
            source.skip()


def _give_up_if_silent(run: FunctionRun) -> None:
    """Give up on a command that hangs; leaving its block ends it.

    Raises:
        TrialFailed: `hung`.
    """
    overdue = run.silence.overdue()
    if overdue:
        raise TrialFailed(HUNG, overdue)


def _text(values: Mapping[str, Any], match: "re.Match[str]") -> str:
    """Format the value of a name for a command line; braces around any other word stay."""
    value = values.get(match[1], match[0])
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
