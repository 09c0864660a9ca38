"""Records that MLflow permanently refuses."""

import json
from pathlib import Path

from trainables.redaction import redacted

_REASON_LENGTH = 500


class Rejected:
    """Keeps refused records in a file with the reason, so that the rest can be sent."""

    def __init__(self, path: Path):
        self.path = path
        self._known: set[str] = set()
        if path.exists():
            self._known.update(path.read_text().splitlines())

    @property
    def count(self) -> int:
        """Number of records in the file."""
        return len(self._known)

    def add(self, run: str, kind: str, name: str, value: str, reason: str) -> None:
        """Write a record to the file once; a replay meets the same refusals again."""
        reason = redacted(reason).strip()[:_REASON_LENGTH]
        line = json.dumps(
            {"run": run, "kind": kind, "name": name, "value": value, "reason": reason}
        )
        if line in self._known:
            return

        self._known.add(line)
        with self.path.open("a") as file:
            file.write(line + "\n")
