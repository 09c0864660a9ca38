"""Quotes of another library's exception in a message."""

import pickle

import pytest

from trainables.errors import TrialFailed, UserError, first_line


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


def test_an_error_is_made_of_whatever_exceptions_are_made_of() -> None:
    """If making an error failed, that failure would hide the first one."""
    cause = OSError(28, "No space left on device")
    assert str(UserError(cause)) == str(cause)
    assert TrialFailed("data", cause).message == str(cause)

    error = UserError("no such column", 7, "https://me:word@host/")
    again = pickle.loads(pickle.dumps(error))
    assert again.args == error.args == ("no such column", 7, "https://***@host/")
