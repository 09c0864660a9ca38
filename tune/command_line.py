"""Format vistune's commands for printing. A printed command works as it stands, in a shell without
the environment active, if it is typed in the folder where it was printed."""

import shlex
import shutil
import sys
from contextlib import suppress
from importlib.metadata import requires
from itertools import pairwise
from pathlib import Path

from trainables.redaction import redacted
from tune.startup import ROOT, is_checkout, shorter

ENTRY_POINTS = {"run": "vistune", "report": "vistune-report", "ui": "vistune-ui"}
DEFAULT_STORAGE = "runs"


def command(program: str, *words: str, storage: Path | None = None, anywhere: bool = False) -> str:
    """Format a command.

    Args:
        program: run, report, or the name of a module of `tune` to run with `python -m`.
        words: arguments of the program.
        storage: folder of the studies concerned; adds `--storage` if it is not the default.
        anywhere: the command must work from every folder, e.g. because it is written to a file.
    """
    where = [] if storage is None else storage_option(storage, anywhere)
    return shlex.join([*_program(program, anywhere), *words, *where])


def resume_command() -> str:
    """Return the typed command line in a form that runs as printed, without passwords."""
    script = Path(sys.argv[0])
    words = [redacted(word) for word in sys.argv[1:]]
    if started_by_entry_point():
        return shlex.join([_entry_point(script.name, False), *words])
    with suppress(FileNotFoundError):  # the current folder is gone
        script = script.absolute()
    return shlex.join([_python(False), shorter(script), *words])


def replay_command(experiment: str, study: Path, number: int, anywhere: bool = False) -> str:
    """Return the command that runs a trial again and compares it with the record, epoch by epoch.

    Args:
        study: the study's folder.
        anywhere: as in `command`.
    """
    trial = f"{study.name}/{number}"
    words = (experiment, "--local", "--trial", trial)
    return command("run", *words, storage=study.parent, anywhere=anywhere)


def install_command(extra: str) -> str:
    """Return the command that installs the packages of one of our extras into this environment."""
    pip = [_python(False), "-m", "pip", "install"]
    if is_checkout():
        root = "." if Path.cwd() == ROOT else shorter(ROOT)
        return shlex.join([*pip, "-e", f"{root}[{extra}]"])

    # There is no release whose extra could be named, so list the packages themselves.
    wanted = f'extra == "{extra}"'
    found = [r.partition(";")[0].strip() for r in requires("vistune") or [] if wanted in r]
    return shlex.join([*pip, *found])


def started_by_entry_point() -> bool:
    """True if this process was started as `vistune` or one of its sibling commands, not as a script
    of `tune/`."""
    return Path(sys.argv[0]).name in ENTRY_POINTS.values()


def storage_option(storage: Path, anywhere: bool = False) -> list[str]:
    """Return `--storage ...` for a folder of studies; [] if it is the default in the current
    folder."""
    typed = typed_storage()
    if typed is not None and "://" in typed:
        return ["--storage", redacted(typed)]
    if anywhere:
        return ["--storage", str(storage)]
    with suppress(FileNotFoundError):  # the current folder is gone
        if storage == Path(DEFAULT_STORAGE).resolve():
            return []
        if typed is not None and Path(typed).expanduser().resolve() == storage:
            return ["--storage", typed]
    return ["--storage", str(storage)]


def typed_storage() -> str | None:
    """Return the value of `--storage` in the command line of this process."""
    for word, following in pairwise([*sys.argv[1:], ""]):
        if word == "--storage":
            return following
        if word.startswith("--storage="):
            return word.partition("=")[2]
    return None


def _program(program: str, anywhere: bool) -> list[str]:
    name = ENTRY_POINTS.get(program)
    by_entry_point = started_by_entry_point() or not is_checkout()
    if name is not None and by_entry_point and _beside_python(name).exists():
        return [_entry_point(name, anywhere)]

    if program in ("run", "report"):
        script = ROOT / "tune" / f"{program}.py"
        return [_python(anywhere), str(script) if anywhere else shorter(script)]
    return [_python(anywhere), "-m", f"tune.{program}"]


def _python(anywhere: bool) -> str:
    return sys.executable if anywhere else shorter(Path(sys.executable))


def _entry_point(name: str, anywhere: bool) -> str:
    """Return the bare name if a shell finds it, otherwise its path."""
    path = _beside_python(name)
    found = shutil.which(name)
    if found is not None and Path(found).resolve() == path.resolve():
        return name
    return str(path) if anywhere else shorter(path)


def _beside_python(name: str) -> Path:
    return Path(sys.executable).parent / name
