"""Conversion of NumPy and torch values in spaces and defaults: no config, record or text holds
them."""

from typing import Any


def native(value: Any) -> Any:
    """Convert a value of NumPy or torch to Python: to a number, or to a list for an array."""
    return value.tolist() if hasattr(value, "tolist") else value


def native_literal(literal: Any) -> Any:
    """Convert a literal of a space: its ends, or its choices."""
    literal = native(literal)
    if isinstance(literal, list | tuple):
        return type(literal)(native(value) for value in literal)
    return literal
