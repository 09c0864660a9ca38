"""Notes about machines that could not join a cluster.

`cluster/node.sh` writes them into the folder of the studies, which all machines share:

    <storage>/.nodes/head-<name>  versions of the head that has this address, or of this SLURM job,
                                  which every worker compares with its own
    <storage>/.nodes/<host>.txt   seconds since 1970, and why this machine could not join

A machine that joins removes its own note. The note of a spot machine stays, because the machine
never comes back.
"""

from dataclasses import dataclass
from pathlib import Path

FOLDER = ".nodes"
_LONGEST = 300


@dataclass(frozen=True)
class NotJoined:
    """A machine that could not join."""

    host: str
    at: float
    """Seconds since 1970."""
    reason: str
    """Reason, in one line."""


def not_joined(storage: Path, since: float = 0.0) -> list[NotJoined]:
    """Read the notes of machines that could not join since a given time, oldest first.

    Args:
        storage: folder of the studies.
        since: seconds since 1970.
    """
    found = []
    for path in sorted((storage / FOLDER).glob("*.txt")):
        note = _read(path)
        if note is not None and note.at >= since:
            found.append(note)
    return sorted(found, key=lambda note: note.at)


def _read(path: Path) -> NotJoined | None:
    """Read a note; None if it is incomplete or has just been removed."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None

    first, _, rest = text.partition("\n")
    if not first.isdecimal():
        return None

    reason = " ".join(rest.split())[:_LONGEST]
    return NotJoined(path.stem, float(first), reason or "no reason is known")
