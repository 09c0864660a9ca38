"""Shared parts of the command lines `tune/run.py` and `tune/report.py`."""

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from trainables.errors import first_line
from trainables.redaction import redacted
from tune.command_line import command, started_by_entry_point

WRONG_USE = 2
_INTERRUPTED = 130
_PATHLIBS = ("Could not determine home directory", "Symlink loop")
"""Beginnings of pathlib's own error messages, which are raised as RuntimeErrors."""


def _print_version(wanted: bool) -> None:
    if not wanted:
        return

    from vistune import __version__

    print(f"vistune {__version__}")
    raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
]


def new_app(**settings: Any) -> typer.Typer:
    """Return an app without frames around its errors. Shell completion needs a command with a
    name."""
    completion = started_by_entry_point()
    return typer.Typer(add_completion=completion, pretty_exceptions_enable=False, **settings)


def with_version(function: Callable[..., None]) -> Callable[..., None]:
    """Add `--version` to the options of a command."""

    def command(*, version: bool, **values: Any) -> None:
        function(**values)

    option = inspect.Parameter(
        "version", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Version
    )
    signature = inspect.signature(function)
    parameters = [*signature.parameters.values(), option]

    command.__doc__ = function.__doc__
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def _in_lines(docstring: str) -> str:
    """Return a docstring with one line per paragraph, which the terminal wraps as needed."""
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def told_os_error(error: OSError | RuntimeError) -> str:
    """Describe an operating system error in one line.

    Raises:
        OSError, RuntimeError: the error itself, if it does not come from the operating system but
            is a bug of ours.
    """
    if isinstance(error, RuntimeError):
        if not str(error).startswith(_PATHLIBS):
            raise error
        return f"{first_line(error).rstrip('.')}: use a path without `~`, and no link to itself"
    if error.errno is None:
        raise error
    why = error.strerror or first_line(error)
    return redacted(why if error.filename is None else f"{error.filename}: {why}")


def _told_wrong_use(error: typer.TyperException) -> str:
    """Describe wrong use. A value that has failed a check is named, which typer leaves out."""
    option = getattr(error, "param", None)
    checks = getattr(error.__cause__, "errors", None)
    if option is None or checks is None:
        return error.format_message()
    from trainables.config import rule_of

    wrong = checks()[0]
    return f"{option.opts[0]} {wrong['input']!r} must be {rule_of(wrong['msg'])}"


def run_app(app: typer.Typer, program: str, first: str = "") -> NoReturn:
    """Run the typed command and exit. Wrong use is reported in one line, like all other errors.

    Args:
        program: run or report.
        first: word that selected this app and is not one of its arguments.
    """
    for registered in app.registered_commands:
        text = registered.help or getattr(registered.callback, "__doc__", None)
        registered.help = _in_lines(text or "")

    words = sys.argv[2:] if first else sys.argv[1:]
    try:
        sys.exit(app(words, standalone_mode=False) or 0)
    except typer.Abort:  # Ctrl-D instead of an answer
        print("vistune: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except typer.TyperException as error:
        message = redacted(_told_wrong_use(error)).rstrip(".")
        context: Any = getattr(error, "ctx", None)
        asked = first
        if context is not None and context.parent is not None:
            asked = context.info_name
        shown = command(program, *([asked] if asked else []), "--help")
        joint = " " if message.endswith("?") else "; "
        listed = "commands" if message.startswith("No such command") else "options"
        print(f"vistune: {message}{joint}`{shown}` lists the {listed}", file=sys.stderr)
        sys.exit(WRONG_USE)
