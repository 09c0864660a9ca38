"""Entry points of the commands `vistune`, `vistune-report` and `vistune-ui`."""

import json
import shlex
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

__all__ = ["report", "run", "ui"]

_WRONG_USE = 2
_PACKAGES = ("tune", "trainables", "search_spaces")
_MARK = "vistune"
"""A word in the first docstring of each of our packages."""


def run() -> None:
    """Run `vistune`, which is `tune/run.py`."""
    _begin()

    from tune.run import command_line

    command_line()


def report() -> None:
    """Run `vistune-report`, which is `tune/report.py`."""
    _begin()

    from tune.report import main

    main()


def ui() -> None:
    """Run `vistune-ui`, which is `python -m tune.ui`."""
    _begin()

    from tune.surroundings import prepare_process
    from tune.ui import main

    prepare_process()
    sys.exit(main())


def _begin() -> None:
    """Refuse foreign packages, and let Ctrl-C end the following imports silently."""
    _refuse_foreign_packages()

    from tune.startup import end_on_interrupt

    end_on_interrupt()


def foreign_package() -> str | None:
    """Name the first of our packages for which Python would import another one instead.

    PyPI has another package named `tune`. If it is installed later, it overwrites ours; if it is
    uninstalled, our `tune/__init__.py` is removed too.
    """
    ours = Path(__file__).resolve().parent.parent

    for name in _PACKAGES:
        spec = find_spec(name)
        source = None if spec is None or spec.origin is None else Path(spec.origin).resolve()

        if source != ours / name / "__init__.py":
            return name
        if _MARK not in source.read_text():
            return name

    return None


def remedy() -> str:
    """Return the command that restores our packages after `tune` from PyPI has replaced them."""
    pip = f"{shlex.quote(sys.executable)} -m pip"
    source = shlex.quote(_installed_from())

    return f"{pip} uninstall -y tune && {pip} install --force-reinstall --no-deps {source}"


def _installed_from() -> str:
    """Return the argument for `pip install`: the folder or the wheel that was installed."""
    try:
        origin = json.loads(distribution("vistune").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return "vistune"

    return str(origin.get("url", "vistune")).removeprefix("file://")


def _refuse_foreign_packages() -> None:
    name = foreign_package()
    if name is None:
        return

    print(
        f"vistune: the package {name!r} that Python imports is not vistune's own, but another one "
        f"of that name (PyPI has a `tune`); put ours back: {remedy()}",
        file=sys.stderr,
    )
    sys.exit(_WRONG_USE)
