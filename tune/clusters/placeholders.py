"""Values of a cluster file that still have to be filled in: words that contain CHANGE, with a
comment on the same line that says what belongs there."""

import re

PLACEHOLDER = "CHANGE"


def placeholders(text: str) -> list[str]:
    """List the values of a file that are still placeholders, one line each."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue

        value, _, remedy = line.partition("# CHANGE")
        before_comment = value.partition(" #")[0]
        words = [word.strip("[]',\"") for word in before_comment.split() if PLACEHOLDER in word]
        if words:
            wanted = remedy or ": your own value"
            found.append(f"line {number}: {words[0]} is a placeholder; put in{wanted}")
    return found


def filled(value: str, pattern: str) -> bool:
    """True if `value` matches the pattern, or is a placeholder, which is already reported on its
    own."""
    return PLACEHOLDER in value or re.fullmatch(pattern, value) is not None
