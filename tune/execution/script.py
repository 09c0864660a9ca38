"""A command that trains, called as a function is: `script(config, run)`.

    metrics.jsonl   one JSON object for each epoch, which the command appends
    output.txt      everything that it prints
    .script.json    the number of its first epoch
    .script.lock    held while a command lives: its successor waits, and no two write here

The command says which epoch a line is about, so that lines that it writes again after a resume are
known. It resumes by itself, from the file that `{resume_from}` names.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from trainables.errors import TrialFailed
from trainables.files import FIRST_EPOCH, write_atomically
from tune.execution import supervisor
from tune.execution.function_run import FunctionRun
from tune.execution.script_output import Tail
from tune.execution.silence import HUNG

METRICS = "metrics.jsonl"
OUTPUT = "output.txt"
STDOUT = "-"
"""Stands for standard output, in place of a file of metrics."""
GIVEN = ("seed", "threads", "directory", "metrics", "device", "resume_from")
"""Names that a command may use beside those of the config."""

_LOCK = ".script.lock"
_PLACE = re.compile(r"\{([A-Za-z_][\w.]*)\}")
_RESUME = "resume_from"
_TEST = "test/"
_OF_IMAGES = ("per_image", "groups")
_POLL_S = 0.1
_LINES = 20  # of output that a failure shows


class ScriptFailed(Exception):
    """The command has ended with an exit code, or has written something that cannot be read."""


@dataclass(frozen=True)
class Script:
    """A command, and how its metrics are read."""

    words: tuple[str, ...]
    """The command; `{lr}` stands for the value of `lr`, `{directory}` for the trial's folder."""
    folder: str
    """Folder that it is run in."""
    objective: str
    """Metric that selects, as the command writes it: without a minus."""
    metrics: str = METRICS
    """File of JSON lines in the trial's folder; `-`: standard output."""
    patterns: tuple[str, ...] = ()
    """Patterns of lines of output whose named groups are metrics."""
    checkpoint: str = "last.pt"
    """File in the trial's folder that it resumes from; of a pattern such as `*.ckpt` the newest."""
    epochs: int | str | None = None
    """Epochs of a trial, or the name of the config value that has them."""
    resumes_itself: bool = field(default=True, init=False)

    @property
    def names(self) -> list[str]:
        """Names that the command uses."""
        return [name for word in self.words for name in _PLACE.findall(word)]

    @property
    def doubtful_names(self) -> list[str]:
        """The same without words that have blanks, such as code, whose braces may be its own."""
        plain = [word for word in self.words if not re.search(r"\s", word)]
        return [name for word in plain for name in _PLACE.findall(word)]

    @property
    def source(self) -> str:
        """Everything that was given, as a study keeps it."""
        return "\n".join(f"{name} = {value!r}" for name, value in vars(self).items())

    @property
    def can_resume(self) -> bool:
        """True where the command takes a checkpoint."""
        return _RESUME in self.names

    def __call__(self, config: Mapping[str, Any], run: FunctionRun) -> None:
        """Run the command to its end and report what it writes.

        Raises:
            ScriptFailed: it ends with another exit code than 0.
        """
        with (run.directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._run(config, run, lock.fileno())

    def _run(self, config: Mapping[str, Any], run: FunctionRun, lock: int) -> None:
        """Run the command in a folder that no other one writes to."""
        checkpoint = self._checkpoint(run.directory) if self.can_resume else None
        reader = _Reader(self, config, run)
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
        with _Process(words, self.folder, environment, output, lock) as process:
            ended = None
            while ended is None:
                ended = process.poll()
                reader.read(sources)
                if ended is None:
                    _give_up_if_silent(run)
                    time.sleep(_POLL_S)
        if ended != 0:
            raise ScriptFailed(_failure(ended, output))

        reader.read(sources, last=True)
        reader.finish()

    def filled(
        self, config: Mapping[str, Any], run: FunctionRun, checkpoint: Path | None
    ) -> list[str]:
        """Return the command of one trial. Without a checkpoint a word with `{resume_from}` is left
        out, and so is an option before it."""
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
        """Leave nothing of an earlier start to be read. Its metrics are removed: whether the
        command appends to them or writes them anew, what stands there is of this start."""
        for source in sources:
            is_output = source.path.name == OUTPUT
            if not is_output and source.path.is_relative_to(directory):
                source.path.unlink(missing_ok=True)
            source.skip()

    def metrics_in(self, line: str, source: Path) -> dict[str, Any]:
        """Return what a line says: the fields of a JSON object, or the groups of a pattern."""
        is_output = source.name == OUTPUT
        if is_output and self.patterns:
            for pattern in self.patterns:
                match = re.search(pattern, line)
                if match is not None:
                    return _renamed(match.groupdict(), self.objective)
        if (is_output and self.metrics != STDOUT) or not line.startswith("{"):
            return {}
        try:
            found = json.loads(line)
        except ValueError:  # a line that a kill has cut
            return {}
        return found if isinstance(found, dict) else {}


class _Reader:
    """Turns lines into reports, epoch by epoch."""

    def __init__(self, script: Script, config: Mapping[str, Any], run: FunctionRun):
        self._script = script
        self._config = config
        self._run = run
        self._note = run.directory / FIRST_EPOCH
        self._first: int | None = None
        self._epoch = 0
        self._pending: dict[str, float] = {}
        self._tested: dict[str, Any] = {}
        if self._note.exists():
            self._first = json.loads(self._note.read_text())["first"]

    def begin_anew(self) -> None:
        """Forget what an earlier start has counted."""
        self._first = None
        self._note.unlink(missing_ok=True)

    def read(self, sources: list[Tail], last: bool = False) -> None:
        """Report what is new in these files.

        Args:
            last: the command has ended: a line without an end is a whole one.
        """
        for source in sources:
            if source.begins_anew():
                self._epoch = 0
            for line in source.lines(last):
                self._on_line(self._script.metrics_in(line.strip(), source.path))

    def finish(self) -> None:
        """Hand on the results on the test split."""
        if self._tested:
            per_image = self._tested.pop("per_image", None)
            groups = self._tested.pop("groups", None)
            self._run.test(per_image=per_image, groups=groups, **self._tested)

    def _on_line(self, found: dict[str, Any]) -> None:
        tested = [key for key in found if key.startswith(_TEST)]
        for key in tested:
            self._tested[key.removeprefix(_TEST)] = found[key]
        if tested:
            self._tested |= {key: found[key] for key in _OF_IMAGES if key in found}
        numbers = {key: value for key, value in found.items() if _is_number(value)}
        metrics = {key: value for key, value in numbers.items() if not key.startswith(_TEST)}
        length = metrics.pop("epochs", None)
        epoch = metrics.pop("epoch", None)

        self._pending |= metrics
        objective = self._script.objective
        if objective not in self._pending and f"val/{objective}" not in self._pending:
            return
        self._epoch = self._number(epoch)
        pending, self._pending = self._pending, {}
        self._run.report_epoch(self._epoch, self._length(length), pending)

    def _number(self, epoch: float | None) -> int:
        """Number of an epoch, from 1."""
        if epoch is None:
            if self._script.can_resume:
                raise ScriptFailed(
                    'its lines must say which epoch they are about ("epoch": 3), as it resumes '
                    "with {resume_from}"
                )
            return self._epoch + 1

        if self._first is None:
            self._first = 0 if epoch == 0 else 1
            write_atomically(self._note, json.dumps({"first": self._first}) + "\n")
        return int(epoch) - self._first + 1

    def _length(self, said: float | None) -> int | None:
        if said is not None:
            return int(said)
        epochs = self._script.epochs
        if isinstance(epochs, str):
            epochs = int(self._config[epochs])
        return epochs


class _Process:
    """The running command; leaving the block ends it and all that it has started."""

    def __init__(
        self, words: list[str], folder: str, environment: dict[str, str], output: Path, lock: int
    ):
        self._words = [sys.executable, "-I", "-S", supervisor.__file__, *words]
        self._folder = folder
        self._environment = environment
        self._output = output
        self._lock = lock

    def __enter__(self) -> Self:
        with self._output.open("ab") as file:
            if file.tell():
                file.write(b"\n")  # a kill may have cut a line
            self._process = subprocess.Popen(
                self._words,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=[self._lock],  # held by the supervisor, which may outlive this process
                start_new_session=True,  # Ctrl-C is for vistune, which lets an epoch end
            )
        return self

    def poll(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(2 * supervisor.GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _give_up_if_silent(run: FunctionRun) -> None:
    """Leave a command that hangs; leaving ends it.

    Raises:
        TrialFailed: `hung`.
    """
    overdue = run.silence.overdue()
    if overdue:
        raise TrialFailed(HUNG, overdue)


def _failure(code: int, output: Path) -> str:
    """Say how a command ended, and what it printed last."""
    how = f"exit code {code}"
    if code > 128:
        how = f"killed by signal {code - 128}"
    text = output.read_text(errors="replace") if output.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()][-_LINES:]
    if not lines:
        return f"{how}, without a word"
    return "\n".join([f"{how}: {lines[-1].strip()}", *lines])


def _renamed(groups: Mapping[str, str | None], objective: str) -> dict[str, Any]:
    """Numbers of a pattern's groups; `test_accuracy` is the objective on the test split."""
    found: dict[str, Any] = {}
    for name, text in groups.items():
        if text is None:
            continue
        value = float(text)
        is_test = name == f"test_{objective}"
        found[f"{_TEST}{objective}" if is_test else name] = value
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _text(values: Mapping[str, Any], match: "re.Match[str]") -> str:
    """The value of a name as a word of a command line; braces around another word stay."""
    value = values.get(match[1], match[0])
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
