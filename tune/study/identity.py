"""Names of studies; identities of studies and groups, as the first event of their logs has them."""

import hashlib
from typing import Any

STUDY = "study"
GROUP = "group"
"""Values of `kind` in a log's first event; a log without it is a study's."""
STUDY_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
"""Pattern of the name of a study, which is that of its folder."""


def study_id(first: dict[str, Any]) -> str:
    """Identity of the study or group whose log begins with the event `first`: 12 hex digits.

    It depends on the name and on the time of creation, which distinguishes a study from an earlier,
    deleted one of the same name.
    """
    text = f"{first['name']} {first['t']}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
