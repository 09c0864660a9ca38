"""Metrics of a command: lines of its files and of its output become reports, epoch by epoch."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import TrialFailed
from trainables.files import FIRST_EPOCH, write_atomically
from tune.execution.function_run import NO_REPORT, FunctionRun
from tune.execution.script_output import Tail

if TYPE_CHECKING:
    from tune.execution.script import Script

OUTPUT = "output.txt"
STDOUT = "-"
"""Stands for standard output, in place of a file of metrics."""

_TEST = "test/"
_OF_IMAGES = ("per_image", "groups")


class ScriptFailed(Exception):
    """The command's exit code is not 0, or it has written something that cannot be read."""


class Reader:
    """Turns lines into reports, epoch by epoch."""

    def __init__(self, script: "Script", config: Mapping[str, Any], run: FunctionRun):
        self._script = script
        self._config = config
        self._run = run
        self._note = run.directory / FIRST_EPOCH
        self._first: int | None = None
        self._epoch = 0
        self._pending: dict[str, float] = {}
        self._tested: dict[str, Any] = {}
        self._other: Any = None
        """The objective of a line, if it was no number."""
        if self._note.exists():
            self._first = json.loads(self._note.read_text())["first"]

    def begin_anew(self) -> None:
        """Forget what an earlier start has counted."""
        self._first = None
        self._note.unlink(missing_ok=True)

    def read(self, sources: list[Tail], last: bool = False) -> None:
        """Report what is new in these files.

        Args:
            last: the command has ended, so a line without an end is complete.
        """
        for source in sources:
            if source.begins_anew():
                self._epoch = 0
            for line in source.lines(last):
                self._on_line(metrics_in(self._script, line.strip(), source.path))

    def finish(self) -> None:
        """Pass on the results on the test split.

        Raises:
            TrialFailed: `no report`, as no line had the objective.
        """
        if self._run.best is None:
            raise TrialFailed(NO_REPORT, self._why_nothing())
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
            self._other = found.get(objective, self._other)
            return
        self._epoch = self._number(epoch)
        pending, self._pending = self._pending, {}
        self._run.report_epoch(self._epoch, self._length(length), pending)

    def _why_nothing(self) -> str:
        objective = self._script.objective
        if self._other is not None:
            return f"the command wrote {objective} {self._other!r}, which is not a number"
        if self._pending:
            names = ", ".join(self._pending)
            return f"the command wrote {names}, but not the objective {objective}"
        line = f'{{"epoch": 1, "{objective}": 0.5}}'
        if self._script.patterns:
            return f"no line of its output matches a --pattern, and none is like {line}"
        if self._script.metrics == STDOUT:
            return f"the command ended without a line like {line} in its output"
        return (
            f"the command ended without a line like {line} in {self._script.metrics} in "
            "{directory}; --metrics names another file, --pattern reads its output"
        )

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


def metrics_in(script: "Script", line: str, source: Path) -> dict[str, Any]:
    """Return the values in a line: the fields of a JSON object, or the groups of a pattern."""
    is_output = source.name == OUTPUT
    if is_output and script.patterns:
        for pattern in script.patterns:
            match = re.search(pattern, line)
            if match is not None:
                return _renamed(match.groupdict(), script.objective)
    if (is_output and script.metrics != STDOUT) or not line.startswith("{"):
        return {}
    try:
        found = json.loads(line)
    except ValueError:  # a line that a kill has cut off
        return {}
    return found if isinstance(found, dict) else {}


def _renamed(groups: Mapping[str, str | None], objective: str) -> dict[str, Any]:
    """Return the numbers in a pattern's groups; `test_accuracy` is the objective on the test
    split."""
    found: dict[str, Any] = {}
    for name, text in groups.items():
        if text is None:
            continue
        try:
            value = float(text)
        except ValueError:
            raise ScriptFailed(
                f"the pattern's group {name} has found {text!r}, which is not a number: let it "
                rf"match digits alone, such as (?P<{name}>[\d.]+)"
            ) from None
        is_test = name == f"test_{objective}"
        found[f"{_TEST}{objective}" if is_test else name] = value
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
