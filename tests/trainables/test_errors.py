"""What a message quotes of another library's exception."""

import pytest

from trainables.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one"), "one"),
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one  \ntwo"), "one  "),
        (ValueError(), "ValueError"),
        (ValueError("  \n "), "ValueError"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_first_line_of_an_exception(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_the_limit_can_be_chosen() -> None:
    assert first_line(ValueError("abcdef"), limit=3) == "abc"
