"""Documents agree with the product: the code can print each line quoted in docs/troubleshooting.md,
and links between documents work."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import REPO

PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
_NOT_SAID = (
    "--set ",
    "--study ",
    "--storage ",
    "--gpus",
    "--concurrent",
    "python ",
    "make ",
    "fuser ",
    "ray ",
    "unset ",
)
ANY = "\0"  # stands for a value that is filled in


def messages() -> Iterator[str]:
    """Every string in the code, with `ANY` for each value in it."""
    for package in ("tune", "trainables"):
        for path in (REPO / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        str(part.value) if isinstance(part, ast.Constant) else ANY
                        for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def quoted(page: str) -> list[str]:
    """Lines of the product that a page quotes: code with a blank in it that is neither a command
    nor an option."""
    code = re.findall(r"`([^`\n]+)`", page)
    return [text for text in code if " " in text and not text.startswith(_NOT_SAID)]


def is_said(line: str, said: list[str]) -> bool:
    """True if one message has the fixed parts of a line in order, with filled-in values between
    them."""
    parts = [re.escape(part.strip()) for part in line.split("...") if part.strip()]
    pattern = re.compile(rf".*?[{ANY} ]*".join(parts), re.DOTALL)
    return any(pattern.search(message) for message in said)


def test_quoted_lines_are_those_of_the_code() -> None:
    said = list(messages())
    lines = quoted((REPO / "docs/troubleshooting.md").read_text())
    assert len(lines) > 30
    assert [line for line in lines if not is_said(line, said)] == []
    assert not is_said("study ... is being walked by another process", said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (REPO / "README.md").read_text()
    assert [
        page.name for page in (REPO / "docs").glob("*.md") if f"docs/{page.name}" not in readme
    ] == []
