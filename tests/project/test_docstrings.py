"""Docstrings are sentences: none begins as a fragment."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import REPO

FRAGMENTS = {"Of", "What", "Whether", "Where", "Who", "Which", "How"}
FILES = [
    path
    for package in ("vistune", "tune", "trainables", "search_spaces")
    for path in sorted((REPO / package).rglob("*.py"))
]


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, first word) of every docstring of a file, including those of attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", [])
        for statement in body if isinstance(body, list) else []:
            value = getattr(statement, "value", None)
            if (
                isinstance(statement, ast.Expr)
                and isinstance(value, ast.Constant)
                and isinstance(value.value, str)
                and value.value.strip()
            ):
                yield statement.lineno, value.value.split()[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_docstring_is_a_sentence(path: Path) -> None:
    fragments = [(line, word) for line, word in docstrings(path) if word in FRAGMENTS]
    assert fragments == []
