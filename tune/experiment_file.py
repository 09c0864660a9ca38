"""Experiments from outside the repository: a user's own file, or an installed package.

    python tune/run.py path/to/mine.py          # its EXPERIMENT, or the only one that it holds
    python tune/run.py path/to/mine.py:LARGE    # one of several, by the name of its variable
    python tune/run.py mine                     # entry point of the group vistune.experiments

A study stores the text of the file, so that its trials can be exported and repeated without the
file. For a package it stores the text of the module, to detect changes.
"""

import hashlib
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from trainables.config import nearest
from trainables.errors import UserError, first_line
from trainables.files import write_atomically
from tune.experiments import EXPERIMENTS, Experiment
from tune.own_model import check_model

USUAL = "EXPERIMENT"
"""Variable of a file's experiment if none is named."""
GROUP = "vistune.experiments"
"""Group of entry points: name of the experiment -> an `Experiment`."""


@dataclass(frozen=True)
class Code:
    """The source text of a file that defines an experiment."""

    path: str
    """Absolute path from which it was read."""
    variable: str
    """Name of the module variable that is the experiment."""
    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def typed(self) -> str:
        """The experiment as it would be typed on the command line."""
        return f"{self.path}:{self.variable}"

    def keep_in(self, study: Path) -> None:
        """Write the file if it was generated in the study's folder."""
        path = Path(self.path)
        if path.parent == study:
            write_atomically(path, self.text)

    def as_json(self) -> dict[str, Any]:
        """Return the entry for study.json."""
        return {
            "path": self.path,
            "variable": self.variable,
            "sha256": self.digest,
            "text": self.text,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Code":
        """Build the code from its entry in study.json."""
        return cls(value["path"], value["variable"], value["text"])


@dataclass(frozen=True, kw_only=True)
class OwnExperiment(Experiment):
    """An experiment from a file. It is sent to workers as the text of the file, which each process
    runs once, so that two trials there share the same classes. A search space that was bound to
    options is not sent, because workers do not search."""

    code: Code

    def __reduce__(self) -> tuple[Callable[[Code], Experiment], tuple[Code]]:
        return from_code, (self.code,)


@dataclass(frozen=True, kw_only=True)
class AnnouncedExperiment(Experiment):
    """An experiment of an installed package, which workers import from their own installation."""

    module: str
    """Module that defines it."""
    text: str = field(repr=False)
    """Source text of the module; "" if it has none."""

    def as_json(self) -> dict[str, Any] | None:
        """Return the entry for study.json; None without a source text."""
        if not self.text:
            return None
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return {"name": self.module, "module": self.module, "sha256": digest, "text": self.text}


def find_experiment(word: str) -> Experiment:
    """Return the experiment that is named on the command line: a file, one of ours, or one that an
    installed package registers as an entry point.

    Raises:
        UserError: there is no such experiment, or its file cannot be run.
    """
    if _names_file(word):
        return _from_file(word)
    if word in EXPERIMENTS:
        return EXPERIMENTS[word]

    announced = {point.name: point for point in entry_points(group=GROUP)}
    if word not in announced:
        known = [*EXPERIMENTS, *announced]
        raise UserError(
            f"unknown experiment {word!r} (a file of your own ends in .py){nearest(word, known)}"
        )
    return _from_package(announced[word])


def experiment_of(name: str, code: Mapping[str, Any] | None) -> Experiment:
    """Return the experiment of a recorded study.

    Args:
        name: `experiment` of its manifest.
        code: `code` of its manifest.
    Raises:
        UserError: there is no such experiment, or its code cannot be run.
    """
    return find_experiment(name) if code is None else from_code(Code.from_json(code))


def from_code(code: Code) -> OwnExperiment:
    """Run the code, once per process, and return its experiment.

    Raises:
        UserError: the code fails or defines no such experiment, or the experiment has the name of
            one of ours.
    """
    module = _module(code)
    held = _experiments_in(module)
    found = held.get(code.variable or USUAL)
    if not code.variable and len(held) == 1:
        (found,) = held.values()
    if found is None:
        raise UserError(_none_found(code, held))
    if found.name in EXPERIMENTS:
        raise UserError(
            f"experiment {found.name!r} of {code.path} has the name of one of vistune's own; "
            "give it another"
        )

    variable = next(name for name, experiment in held.items() if experiment is found)
    return OwnExperiment(**_values(found), code=Code(code.path, variable, code.text))


def _from_package(point: EntryPoint) -> AnnouncedExperiment:
    try:
        found = point.load()
    except Exception as error:
        raise UserError(
            f"entry point {point.name!r} of {point.value} cannot be loaded: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(found, Experiment) or found.name != point.name:
        raise UserError(
            f"entry point {point.name!r} of {point.value} is not an Experiment of that name"
        )
    try:
        text = inspect.getsource(sys.modules[point.module])
    except (OSError, TypeError):  # compiled
        text = ""
    return AnnouncedExperiment(**_values(found), module=point.module, text=text)


def _values(experiment: Experiment) -> dict[str, Any]:
    return {each.name: getattr(experiment, each.name) for each in fields(Experiment)}


def _names_file(word: str) -> bool:
    return word.partition(".py:")[0] != word or word.endswith(".py")


def _from_file(word: str) -> OwnExperiment:
    stem, colon, variable = word.partition(".py:")
    path = Path(f"{stem}.py" if colon else word).expanduser().absolute()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"experiment file {path} cannot be read: {reason}") from None
    experiment = from_code(Code(str(path), variable, text))
    check_model(experiment, str(path))
    return experiment


def _module(code: Code) -> ModuleType:
    """Return the module of this text; run the text if this process has not done so yet."""
    name = f"vistune_own_{code.digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]

    # Tracebacks can show source lines, even on machines without the file.
    linecache.cache[code.path] = (len(code.text), None, code.text.splitlines(True), code.path)
    folder = str(Path(code.path).parent)
    # Appended last, because a file beside it must not hide a package.
    if Path(folder).is_dir() and folder not in sys.path:
        sys.path.append(folder)

    module = ModuleType(name)
    module.__file__ = code.path
    sys.modules[name] = module  # dataclasses look up their module
    try:
        exec(compile(code.text, code.path, "exec"), module.__dict__)
    except UserError as error:  # e.g. an invalid range
        del sys.modules[name]
        raise UserError(f"{code.path}: {error}") from None
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(f"{code.path} cannot be run: {_told(error, code.path)}") from error
    return module


def _told(error: BaseException, path: str) -> str:
    """Describe an error in one line, with the line number in the file."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    line = lines[-1] if lines else None
    message: object = error
    if isinstance(error, SyntaxError):
        line = error.lineno
        message = error.msg
    where = "" if line is None else f"line {line}: "
    return f"{where}{type(error).__name__}: {message}"


def _experiments_in(module: ModuleType) -> dict[str, Experiment]:
    """Return variable -> experiment, in the order of the file, without our own ones."""
    ours = {id(experiment) for experiment in EXPERIMENTS.values()}
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Experiment) and id(value) not in ours
    }


def _none_found(code: Code, held: Mapping[str, Experiment]) -> str:
    names = ", ".join(held)
    if code.variable:
        there = f"it holds {names}" if held else "it holds none"
        return f"{code.path} has no experiment {code.variable}; {there}"
    if held:
        first = next(iter(held))
        return (
            f"{code.path} contains several experiments ({names}): "
            f"name one, as in {code.path}:{first}"
        )
    return (
        f"{code.path} contains no Experiment; it must define one, such as "
        "EXPERIMENT = Experiment(name=..., ...) (docs/adding-a-trainable.md)"
    )
