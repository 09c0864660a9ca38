"""Values of a cluster file that are still to be filled in: words with CHANGE in them, whose line
says in a comment what belongs there."""

import re

PLACEHOLDER = "CHANGE"


def placeholders(text: str) -> list[str]:
    """List the values of a file that are still placeholders, one line of text each."""
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
    """True if `value` is such an id, or a placeholder, which has its own line already."""
    return PLACEHOLDER in value or re.fullmatch(pattern, value) is not None
