"""Text of figures in the documents: numbers, lists and tables."""

import re
from collections.abc import Iterable


def without_zeros(text: str) -> str:
    """Leave out the zero before a decimal point: .52 [.14, .78]."""
    return re.sub(r"\b0\.", ".", text)


def decimal(value: float, digits: int = 2) -> str:
    """Format with a number of decimals and no leading zero: .91."""
    return without_zeros(f"{value:.{digits}f}")


def listed(words: Iterable[object]) -> str:
    """Join with commas and "and"."""
    found = [str(word) for word in words]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    head = list(header)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def block(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table that stands apart from its markers."""
    return f"\n{markdown(header, rows)}\n"
