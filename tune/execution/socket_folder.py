"""A folder for Ray whose paths are short enough for sockets."""

import os
import stat
import tempfile
from pathlib import Path

from trainables.errors import UserError

_LONGEST_PATH = 107  # bytes of a socket's path on Linux
_WITHIN = len("/session_2026-11-28_12-00-00_123456_4194304/sockets/dash_SomeModuleOfRay")
_OF_RAY = "ray"  # a folder inside ours, because Ray opens its own to everybody
_SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")


def socket_folder() -> str | None:
    """Return the folder in which Ray keeps its sessions; None: Ray's own choice, `ray` in
    $RAY_TMPDIR or $TMPDIR.

    A batch system may give each job a TMPDIR that is too long for Ray's sockets. Then a folder of
    this user is used in /tmp, or in another short place.

    Raises:
        UserError: TMPDIR is too long, and no shorter place can be written.
    """
    named = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if _fits(Path(named) / "ray"):
        return None

    for place in _SHORT_PLACES:
        folder = Path(place) / f"vistune-{os.getuid()}"
        if _is_ours(folder):
            return str(folder / _OF_RAY)

    raise UserError(
        f"TMPDIR={named} is too long for the sockets of Ray ({_LONGEST_PATH} bytes), and "
        f"{', '.join(_SHORT_PLACES)} cannot be written; set TMPDIR to a shorter folder, "
        "or add --local"
    )


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder)) + _WITHIN <= _LONGEST_PATH


def _is_ours(folder: Path) -> bool:
    """Create the folder for this user only; False if that is impossible, or if another user has
    created it."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        folder.chmod(0o700)  # Ray may have opened it
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
