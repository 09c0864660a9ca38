"""Names of studies; identities of studies and groups, from the first events of their logs."""

import hashlib
import re
from typing import Any

from trainables.errors import UserError

STUDY = "study"
GROUP = "group"
"""Values of `kind` in a log's first event; without it, the log is a study's."""
STUDY_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
"""Pattern of the name of a study, which is also the name of its folder."""
LONGEST_NAME = 200
"""Maximum length of a name: file systems allow 255, and partial files and bundles add to it."""


def check_study_name(name: str, option: str = "") -> None:
    """Check that a name can be the name of a study.

    Args:
        option: the command-line option that gives it.
    Raises:
        UserError: it cannot.
    """
    typed = f"{option} {name!r}".strip()
    if not re.fullmatch(STUDY_NAME, name):
        raise UserError(
            f"{typed} must be letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    if len(name) > LONGEST_NAME:
        raise UserError(f"{typed} has {len(name)} characters: use at most {LONGEST_NAME}")


def study_id(first: dict[str, Any]) -> str:
    """Identity of the study or group whose log begins with the event `first`: 12 hex digits.

    It depends on the name and on the time of creation, which distinguishes a study from an earlier,
    deleted one of the same name.
    """
    text = f"{first['name']} {first['t']}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
