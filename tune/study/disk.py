"""The disk that a study lies on: which errors are its own, and when a run waits for it.

One rule serves the driver and the processes of trials: every error of the operating system about
a file of the study is the storage's, and costs no trial. Where several machines share the disk,
it comes back when its server does, and the run waits; on a disk of this machine it ends at once.
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
"""Types of file systems that other machines serve."""

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
"""Errors of a disk or of the machine, whatever file they are about."""
_MISSING = frozenset([errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST])
_OF_THIS_MACHINE = frozenset([errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
"""Limits that no server lifts: nothing is gained by waiting."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
PATIENCE_S = 3600.0
"""A run ends where a shared disk is away for so long."""
_BREATH_S = 0.5
_MOUNTS = Path("/proc/self/mountinfo")


class StudyEnds(UserError):
    """The run cannot continue, for a reason that is no trial's. The same command resumes once it is
    mended."""


class StorageFailed(StudyEnds):
    """The study's folder cannot be written.

    No trial is to blame and none could succeed: the run waits or ends, the trials stay open.

    Attributes:
        code: errno of the failure; None where it is not known.
    """

    def __init__(self, message: str, code: int | None = None):
        super().__init__(message)
        self.code = code

    @classmethod
    def of(cls, error: OSError, path: str | Path) -> "StorageFailed":
        """The failure that `error` tells of.

        Args:
            path: the file or folder, where the error does not name one.
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
    """The storage failure behind `error` (torch wraps such errors), or None where it has another
    cause.

    A disk that is full, read-only or failing is one wherever it is met; below the study's folder
    every error of the operating system is, such as one of a network disk that has gone away.

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

    # torch.save to a path reports "iostream error" and no more
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
    # A file that a trainable looks for in vain is its own affair, unless the whole folder is gone.
    return error.errno not in _MISSING or not _is_folder(own)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # the disk does not answer
        return False


def may_pass(failure: StorageFailed) -> bool:
    """True unless it is a limit of this machine, which no server lifts."""
    return failure.code not in _OF_THIS_MACHINE


class Patience:
    """Waiting for a shared disk, with growing pauses, told once.

    Args:
        folder: of the study. Its file system is looked up now, while it answers. None: a failure
            is final, whatever disk it is.

    Attributes:
        tell: is called with a sentence for the user.
        is_over: tells whether the run is to stop, which ends the waiting.
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
        """Do `write`, again and again as long as waiting may help.

        Args:
            path: the file or folder that it writes.
            before_retry: is done before another try.
        Raises:
            StorageFailed: it fails for good.
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
        """Pause before another try. False where there is to be none: on a disk of this machine,
        after an hour, or where the run is to stop."""
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
        """The disk has taken something: the next failure is another one."""
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
    """True where the folder lies on a file system that another machine serves."""
    return file_system(folder) in SHARED


def file_system(folder: Path, mounts: str | None = None) -> str:
    """The type of the file system that holds a folder; "" where the system does not say.

    Args:
        mounts: text of /proc/self/mountinfo (man 5 proc); default: that of this machine.
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
        # of mounts on one point the last hides the others
        if place.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind.split()[0])
    return found[1]


def _unescaped(point: str) -> str:
    """A mount point as it is written there: blanks and backslashes are octal."""
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        point = point.replace(code, character)
    return point


def warn(line: str) -> None:
    """Tell something that must not be missed."""
    print(f"vistune: {line}", file=sys.stderr, flush=True)
