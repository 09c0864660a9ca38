"""The studies that are killed: commands that take a fraction of a second, in forked processes."""

import contextlib
import functools
import gc
import importlib
import importlib.metadata
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.crash.function import FUNCTION
from tests.crash.operations import watch
from tests.toy import TOY, space_with_bugs
from tune.experiments import EXPERIMENTS

_SHORT = ("--set", "train.epochs=2")
_LOGS = ("--log", "csv", "--log", "tensorboard")


@dataclass(frozen=True)
class TinyStudy:
    """A study to be killed."""

    name: str
    words: tuple[str, ...]
    """The experiment and its options. `--local`, `--storage` and `--pictures` are added."""
    files: tuple[tuple[str, str], ...] = ()
    """Name and content of files next to the storage."""
    mlflow: bool = False
    """True if it is sent to MLflow."""
    most: int | None = None
    """At most this many of its crashes are tried, if there are thousands; None: all."""


STUDIES = {
    study.name: study
    for study in (
        TinyStudy("toy", ("toy", "--trials", "4", "--repeats", "1", *_SHORT)),
        TinyStudy("kept", ("toy", "--trials", "5", "--repeats", "0", "--pruner", "none", *_SHORT)),
        TinyStudy("failing", ("failing", "--trials", "6", "--repeats", "0", *_SHORT)),
        TinyStudy(
            "function",
            ("../mine.py", "--trials", "3", "--repeats", "1"),
            files=(("mine.py", FUNCTION),),
        ),
        TinyStudy("records", ("toy", "--trials", "2", "--repeats", "0", *_SHORT, *_LOGS)),
        TinyStudy(
            "mlflow",
            ("toy", "--trials", "2", "--repeats", "1", *_SHORT),
            mlflow=True,
            most=160,
        ),
    )
}


class Home:
    """A place in which one study runs again and again, each time from nothing.

    Attributes:
        path: the folder whose changes count: storage and cache.
        said: file with everything that the last command printed.
    """

    def __init__(self, folder: Path, study: TinyStudy):
        self.study = study
        self.path = folder / "home"
        self.storage = self.path / "runs"
        self.said = folder / "said.txt"
        self.record = folder / "record"
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in study.files:
            (folder / name).write_text(content)

    def clear(self) -> None:
        """Remove everything that the study has left."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()

    def run(self, kill_at: int = 0, *, torn: bool = False, record: bool = False) -> int:
        """Run the command in a forked process. Arguments as in `operations.watch`.

        Returns:
            Its exit code, or minus the signal that killed it.
        """

        def command() -> None:
            watch(self.path, kill_at=kill_at, torn=torn, record=self.record if record else None)
            _command(self.study)

        return forked(command, self.path, self.said)


def prepare() -> None:
    """Disable what a command would start or wait for, and import in this process what it
    imports."""
    import torch

    import tune.cli.session
    import tune.study.kept_files
    import tune.study.manifest
    import tune.tracking.replay

    # A busy machine is not a crash, so MLflow gets enough time.
    tune.cli.session.DRAIN_S = 900.0
    tune.tracking.replay.PATIENCE_S = 300.0
    tune.study.kept_files.KEPT_TRIALS = 1  # so that weights are removed in spite of few trials
    EXPERIMENTS["toy"] = TOY
    EXPERIMENTS["failing"] = replace(TOY, name="failing", space=space_with_bugs)
    tune.study.manifest._git = lambda *_: ""  # it would start a process each time
    torch.cuda.manual_seed_all = lambda _: None  # it records its caller, for each seed
    importlib.metadata.version = functools.cache(importlib.metadata.version)  # reads many files
    tune.study.manifest.versions()

    with tempfile.TemporaryDirectory(prefix="vistune-crash-") as scratch:
        for name in ("toy", "mlflow", "function", "records"):
            home = Home(Path(scratch) / name, STUDIES[name])
            home.clear()
            _import_what_it_imports(home)
    gc.collect()
    gc.freeze()  # so that garbage collections in forks copy no pages


def _import_what_it_imports(home: "Home") -> None:
    """Run a study in a forked process, then import all its modules in this one."""
    names = home.path.parent / "modules"
    leave = os._exit

    def tell(code: int) -> None:
        names.write_text("\n".join(sys.modules))
        leave(code)

    def command() -> None:
        os._exit = tell  # type: ignore[assignment]
        _command(home.study)

    code = forked(command, home.path, home.said)
    assert code == 0, home.said.read_text()
    for name in names.read_text().splitlines():
        # Some are aliases that a package gave to its parts.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def forked(run: Callable[[], None], folder: Path, said: Path) -> int:
    """Run something in a fork of this process. Return its exit code, or minus the signal that
    killed it.

    Args:
        folder: current folder of the fork.
        said: file for its output.
    """
    pid = os.fork()
    if pid == 0:
        _become(run, folder, said)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _become(run: Callable[[], None], folder: Path, said: Path) -> None:
    code = 70
    try:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.chdir(folder)
        random.seed()
        run()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _command(study: TinyStudy) -> None:
    from tune import run
    from tune.cli.session import Session

    # MLflow's empty database is made once: it takes thousands of changes, and has its own test.
    folder = Path.cwd().parent if study.mlflow else Path.cwd()
    os.environ["VISTUNE_CACHE"] = str(folder / "cache")
    if not study.mlflow:
        Session.track = _not_tracked  # type: ignore[method-assign]
    words = ["--local", "--storage", "runs", "--pictures", "none"]
    sys.argv = ["tune/run.py", *study.words, *words]
    run.command_line()


def _not_tracked(*_: Any) -> None:
    """Send a study nowhere."""


def plant(defect: str) -> None:
    """Plant one defect in the code, which the crashes must find.

    Args:
        defect: a key of `DEFECTS`.
    """
    if defect not in DEFECTS:
        raise SystemExit(f"no defect {defect!r}; there are {', '.join(DEFECTS)}")
    owner, name, wrong = DEFECTS[defect]
    place = importlib.import_module(owner)
    *inside, last = name.split(".")
    for part in inside:
        place = getattr(place, part)
    setattr(place, last, wrong)


def _in_place(path: Path, content: str | bytes) -> None:
    """Write without a partial file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _remove_last_alone(files: Any) -> None:
    """Remove the weights of the last trial only, not of those that ended in earlier starts."""
    for last in files._state.just_ended[-1:]:
        files._remove_of_ended(last)


class _WithoutSync:
    """The module os with an fsync that does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name == "fsync":
            return lambda _: None
        return getattr(os, name)


DEFECTS: dict[str, tuple[str, str, Any]] = {
    # the log is not synced
    "unsynced": ("tune.study.events", "os", _WithoutSync()),
    # files are written in place
    "torn": ("tune.study.manifest", "write_atomically", _in_place),
    # partial files stay
    "leftover": ("tune.study.study", "remove_partials", lambda _: None),
    # a resumed trial reports its last epoch again
    "twice": ("tune.study.study", "Study.is_new_epoch", lambda *_: True),
    # weights of trials that ended in an earlier start are not removed
    "forgets": ("tune.study.kept_files", "KeptFiles.begin", _remove_last_alone),
}
"""Defect -> module, name in it, and its replacement."""
