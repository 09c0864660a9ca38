"""Errors of the disk that a study lies on, and when a run waits for it.

One rule serves the driver and the processes of trials: when the operating system reports an error
about a file of the study, the storage is to blame, and no trial fails. A shared disk comes back
when its server does, so the run waits. On a local disk the run ends at once.
"""

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainables.errors import UserError
from tune.formatting import duration

__all__ = [
    "Patience",
    "StorageFailed",
    "StudyEnds",
    "file_system",
    "is_shared",
    "may_pass",
    "storage_failure",
    "warn",
]

SHARED = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph-fuse",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.juicefs",
        "fuse.mount-s3",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "panfs",
        "pvfs2",
        "smb3",
        "virtiofs",
        "wekafs",
    ]
)
"""Types of file systems that another machine serves."""

_NEVER_A_TRIALS = frozenset(
    [
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.ESTALE,
        errno.EMFILE,
        errno.ENFILE,
    ]
)
"""Errors of a disk or of the machine, whichever file they are about."""
_MISSING = frozenset([errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST])
_OF_THIS_MACHINE = frozenset([errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
"""Limits of this machine: waiting does not help."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
PATIENCE_S = 3600.0
"""A run ends if a shared disk stays away for longer than this."""
_BREATH_S = 0.5
_MOUNTS = Path("/proc/self/mountinfo")


class StudyEnds(UserError):
    """The run cannot continue, and no trial is to blame. Once the cause is fixed, the same command
    resumes it."""


class StorageFailed(StudyEnds):
    """The study's folder cannot be written.

    No trial is to blame, and none could succeed: the run waits or ends, and the trials stay open.

    Attributes:
        code: errno of the failure; None if it is not known.
    """

    def __init__(self, message: str, code: int | None = None):
        super().__init__(message)
        self.code = code

    @classmethod
    def of(cls, error: OSError, path: str | Path) -> "StorageFailed":
        """Return the failure that `error` describes.

        Args:
            path: file or folder to name if the error does not name one.
        """
        where = error.filename or path
        why = error.strerror or str(error)
        message = (
            f"cannot write {where}: {why}; fix that and run the same command again, "
            "nothing recorded is lost"
        )
        return cls(message, error.errno)


def storage_failure(
    error: BaseException, study: Path, own: Path | None = None
) -> StorageFailed | None:
    """Return the storage failure behind `error` (torch wraps such errors); None if it has another
    cause.

    A full, read-only or failing disk is to blame wherever the error occurs. Below the study's
    folder, the disk is to blame for every other error too (a network disk may have gone away),
    except for a missing file in a folder that is still there.

    Args:
        study: folder of the study.
        own: folder of the run that failed; default: that of the study.
    """
    folder = study if own is None else own
    for cause in _causes(error):
        if isinstance(cause, StorageFailed):
            return cause
        if isinstance(cause, OSError) and _is_the_storages(cause, study, folder):
            return StorageFailed.of(cause, folder)

    # torch.save to a path reports only "iostream error"
    try:
        is_full = shutil.disk_usage(folder).free == 0
    except OSError as gone:
        return StorageFailed.of(gone, folder)
    if is_full:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return StorageFailed.of(full, folder)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_the_storages(error: OSError, study: Path, own: Path) -> bool:
    if error.errno in _NEVER_A_TRIALS:
        return True
    if error.errno is None or not isinstance(error.filename, str | Path):
        return False
    if not Path(error.filename).is_relative_to(study):
        return False
    # A trainable may look for a missing file; the disk is to blame only if the whole folder is
    # gone.
    return error.errno not in _MISSING or not _is_folder(own)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the disk does not answer
        return False


def may_pass(failure: StorageFailed) -> bool:
    """True unless the failure is a limit of this machine, which waiting does not lift."""
    return failure.code not in _OF_THIS_MACHINE


class Patience:
    """Waits for a shared disk, with growing pauses, and tells the user once.

    Args:
        folder: folder of the study. Its file system is looked up now, while it answers. None: every
            failure is final.

    Attributes:
        tell: called with a sentence for the user.
        is_over: returns True if the run is to stop, which ends the waiting.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.tell: Callable[[str], None] = warn
        self.is_over: Callable[[], bool] = lambda: False
        self._shared = folder is not None and is_shared(folder)
        self._since: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def insist(
        self, write: Callable[[], None], path: Path, before_retry: Callable[[], None] | None = None
    ) -> None:
        """Call `write` until it succeeds, as long as waiting may help.

        Args:
            path: the file or folder that it writes.
            before_retry: called before every further try.
        Raises:
            StorageFailed: waiting does not help, or did not help for an hour.
        """
        while True:
            try:
                write()
            except OSError as error:
                failure = StorageFailed.of(error, path)
                if not self.wait(failure):
                    raise failure from error
                if before_retry is not None:
                    before_retry()
            else:
                self.succeeded()
                return

    def wait(self, failure: StorageFailed) -> bool:
        """Pause before another try. Return False if there should be none: on a local disk, for a
        limit of this machine, after an hour, or if the run is to stop."""
        if not self._shared or not may_pass(failure):
            return False

        if self._since is None:
            self._since = time.monotonic()
            problem = str(failure).partition(";")[0]
            limit = duration(PATIENCE_S)
            self.tell(f"{problem}; waiting up to {limit} for the shared disk, nothing is lost")
        if time.monotonic() - self._since > PATIENCE_S:
            return False

        self._sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return not self.is_over()

    def succeeded(self) -> None:
        """Note that a write succeeded: the next failure begins a new wait."""
        if self._since is None:
            return
        away = duration(time.monotonic() - self._since)
        self._since = None
        self._pause_s = FIRST_PAUSE_S
        self.tell(f"{self.folder} can be written again after {away}; the study continues")

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.is_over():
            time.sleep(min(_BREATH_S, seconds))


def is_shared(folder: Path) -> bool:
    """True if the folder lies on a file system that another machine serves."""
    return file_system(folder) in SHARED


def file_system(folder: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds a folder; "" if the system does not tell.

    Args:
        mounts: text of /proc/self/mountinfo (man 5 proc); default: this machine's.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(errors="replace")
        except OSError:
            return ""

    place = Path(os.path.realpath(folder))
    found = ("", "")
    for line in mounts.splitlines():
        about, _, kind = line.partition(" - ")
        fields = about.split()
        if len(fields) < 5 or not kind:
            continue
        point = _unescaped(fields[4])
        # of several mounts on one point, the last hides the others
        if place.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind.split()[0])
    return found[1]


def _unescaped(point: str) -> str:
    """Decode a mount point from mountinfo, which writes blanks and backslashes in octal."""
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        point = point.replace(code, character)
    return point


def warn(line: str) -> None:
    """Print a warning to stderr."""
    print(f"vistune: {line}", file=sys.stderr, flush=True)
