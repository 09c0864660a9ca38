"""The source text of a function that is not in a stored file, e.g. one from a notebook cell. A
study stores it, so that a changed function does not silently continue the study."""

import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

_PLAIN = (str, int, float, bool, type(None))


def source_of(call: Callable[..., Any]) -> dict[str, Any] | None:
    """Return a function's entry for study.json: name, sha256 and text. None for an object without a
    text of its own.

    Strings and paths in the function's closure, and plain arguments bound to it, are part of the
    text, because they may name its data.
    """
    text = _text(call)
    if not text:
        return None
    name = getattr(call, "__name__", type(call).__name__)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"name": name, "sha256": digest, "text": text}


def _text(call: Any) -> str:
    own = getattr(call, "source", None)
    if isinstance(own, str):
        return own
    if isinstance(call, functools.partial):
        bound: list[tuple[Any, Any]] = [*enumerate(call.args), *call.keywords.items()]
        lines = [f"{key} = {value!r}" for key, value in bound if isinstance(value, _PLAIN)]
        return "\n".join([_text(call.func), *lines])

    code = getattr(call, "__code__", None)
    if not isinstance(code, CodeType):
        return ""
    try:
        text = textwrap.dedent(inspect.getsource(call))
    except (OSError, TypeError):  # typed at a prompt, or received by a worker process
        text = _digest(code)
    return "\n".join([text, *_enclosed(call)])


def _enclosed(call: Any) -> Iterator[str]:
    """Yield the strings and paths in the function's closure. Numbers are left out, because they may
    be counters."""
    cells = getattr(call, "__closure__", None) or ()
    for name, cell in zip(call.__code__.co_freevars, cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if isinstance(value, str | Path):
            yield f"{name} = {str(value)!r}"


def _digest(code: CodeType) -> str:
    """Hash a function's instructions and constants, without its position in a file."""
    digest = hashlib.sha256(code.co_code)
    digest.update(" ".join([*code.co_names, *code.co_varnames]).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            text = _digest(constant)
        elif isinstance(constant, frozenset):
            text = repr(sorted(map(repr, constant)))
        else:
            text = repr(constant)
        digest.update(text.encode())
    return digest.hexdigest()
