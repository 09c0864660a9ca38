"""Values of NumPy and torch in spaces and defaults: no config, record or text holds them."""

from typing import Any


def native(value: Any) -> Any:
    """A value of NumPy or torch as Python's own: a number, or a list of an array's numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def native_literal(literal: Any) -> Any:
    """The same for a space's literal: its ends, or its choices."""
    literal = native(literal)
    if isinstance(literal, list | tuple):
        return type(literal)(native(value) for value in literal)
    return literal
