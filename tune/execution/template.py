"""A process that has imported what trials need, and from which workers of Ray are forked. So torch
and our modules are imported once for all trials of a run, while the driver reads the data.

    python template.py FILE FOLDER MODULE...

    FILE: number of a listening socket; FOLDER: its folder

A fork has the modules and nothing else of this process, which has one thread, has computed nothing
and knows no GPU. The fork gets the arguments, environment, folder and files of the worker that Ray
wanted to start (`launch_worker.py`). Ray itself is imported in the fork, because its libraries read
the environment and begin to draw random names when they are imported. The process ends with the
driver, whose end closes its standard input.

A driver that has one thread and no GPU, and needs the modules itself, forks the template instead of
running the command above. Then nothing is imported twice.
"""

import array
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune.execution.fork import Process

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("tune.execution.trial", "pandas", "pyarrow.fs", "requests", "aiohttp", "tensorboardX")
"""Imported for every experiment; all but the first are what Ray Tune imports."""
_UNSAFE = "ray"
"""Package that several processes must not share."""
_WITHOUT_CUDA = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Environment of the process. A module that looks for a GPU while it is imported then does not
initialise CUDA, which forks could not use. Forks have the environment of their worker."""
_CUDA_FILE = "/dev/nvidia-uvm"
"""Open in any process that has initialised CUDA."""


class Template:
    """The template process, as its driver sees it.

    Args:
        modules: modules to import; one that cannot be imported is left to the trials.
        shared: this process needs the modules too, and runs only our code. They are imported here
            first, and the template is a fork, if this process may be forked.
        later: modules that only trials need.
    Raises:
        UserError: there is no folder for its socket.
    """

    def __init__(
        self, modules: Sequence[str] = (), shared: bool = False, later: Sequence[str] = ()
    ):
        from tune.execution.socket_folder import socket_folder

        near_ray = socket_folder()  # not None if TMPDIR is too long
        place = None if near_ray is None else Path(near_ray).parent
        self._folder = Path(tempfile.mkdtemp(prefix="template-", dir=place))
        self.socket = self._folder / "socket"
        self._process: Process | None = None
        modules = (*MODULES, *modules)
        # Checked before the imports: pandas starts a thread, which forks do without.
        shared = shared and _has_one_thread()
        if shared:
            _import_all(modules)

        # It listens before the process exists: workers may ask at any time.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            listening.bind(str(self.socket))
            listening.listen(128)
            with contextlib.suppress(OSError):
                if shared and not _is_spoilt():
                    self._process = self._forked(listening, (*modules, *later))
                else:
                    self._process = self._started(listening, (*modules, *later))

    def _started(self, listening: socket.socket, modules: Sequence[str]) -> "Process":
        """Start a Python process."""
        file = listening.fileno()
        return subprocess.Popen(
            [sys.executable, __file__, str(file), str(self._folder), *modules],
            env={**os.environ, **_WITHOUT_CUDA},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[file],
            start_new_session=True,  # Ctrl-C is for the driver
        )

    def _forked(self, listening: socket.socket, modules: Sequence[str]) -> "Process":
        """Fork this process."""
        from tune.execution.fork import Fork

        file = listening.fileno()
        folder = str(self._folder)

        def call() -> None:
            os.environ.update(_WITHOUT_CUDA)
            serve(file, folder, modules)

        return Fork(call, keep=file)

    @property
    def serves(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End the process; its forks live on."""
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.kill()
            process.wait()
        self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)


_current: Template | None = None


def begin(modules: Sequence[str] = (), shared: bool = False, later: Sequence[str] = ()) -> Template:
    """Return the template of this process; start one unless one serves already.

    Args:
        modules, shared, later: see `Template`.
    """
    global _current
    if _current is None or not _current.serves:
        end()
        _current = Template(modules, shared, later)
    return _current


def end() -> None:
    """End the template of this process, if there is one."""
    global _current
    if _current is not None:
        _current.close()
    _current = None


def serve(file: int, folder: str, modules: Sequence[str]) -> None:
    """Import the modules, then fork for each request until the driver ends.

    Args:
        file: number of the listening socket.
        folder: folder of the socket; it is removed at the end.
    """
    own = os.getpid()
    try:
        with socket.socket(fileno=file) as listening:
            _serve(listening, modules)
    finally:
        if os.getpid() == own:
            shutil.rmtree(folder, ignore_errors=True)


def _serve(listening: socket.socket, modules: Sequence[str]) -> None:
    sys.path[0] = str(ROOT)  # in place of the folder of this file
    _import_all(modules)
    # So a fork's first garbage collection copies no pages of this process.
    gc.collect()
    gc.freeze()
    if threading.active_count() > 1 or _is_spoilt():
        return  # each worker is then a process of its own, which finds the GPU
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        connection, _ = listening.accept()
        with connection:
            request = _read(connection)
            if request is None:
                continue
            if os.fork():
                _answer(connection, request)
                continue

        listening.close()
        _become_worker(request)


def _knows_gpu() -> bool:
    """True if a module has initialised CUDA: a fork would find no GPU, and train on the CPU."""
    if _CUDA_FILE in _open_files():
        return True
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    if torch.cuda.is_initialized():
        return True

    child = os.fork()  # torch tells only in a fork
    if not child:
        is_spoilt = True
        with contextlib.suppress(Exception):
            is_spoilt = bool(torch.cuda._is_in_bad_fork())
        os._exit(int(is_spoilt))
    _, status = os.waitpid(child, 0)
    return status != 0 and torch.cuda.device_count() > 0  # without a GPU nothing is spoilt


def _open_files() -> set[str]:
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return found


def _has_one_thread() -> bool:
    from tune.execution.fork import may_fork

    return may_fork()


def _is_spoilt() -> bool:
    """True if a fork of this process could not serve as a new process does."""
    return _UNSAFE in sys.modules or _knows_gpu()


def _import_all(modules: Sequence[str]) -> None:
    """Import the modules that can be imported."""
    for name in modules:
        with contextlib.suppress(Exception):
            _import(name)


def _import(name: str) -> None:
    """Import a module or, for `experiment:NAME`, the trainable of one of our experiments."""
    kind, _, experiment = name.partition(":")
    if not experiment:
        importlib.import_module(kind)
        return

    from tune.experiments import EXPERIMENTS

    EXPERIMENTS[experiment].model()


@dataclass(frozen=True)
class Request:
    """A worker to start."""

    argv: list[str]
    cwd: str
    env: dict[str, str]
    files: list[int]
    """Its standard input, output and error, open in this process."""


def _read(connection: socket.socket) -> Request | None:
    """Read a request; None if it is not whole."""
    files = array.array("i")
    connection.settimeout(10)
    try:
        head, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * files.itemsize))
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files.frombytes(content)

        length = int.from_bytes(head, "big")
        content = b""
        while len(content) < length:
            part = connection.recv(length - len(content))
            if not part:
                raise OSError("the request ends early")
            content += part
        return Request(**json.loads(content), files=list(files))
    except (OSError, ValueError, TypeError):
        for file in files:
            os.close(file)
        return None


def _answer(connection: socket.socket, request: Request) -> None:
    for file in request.files:
        os.close(file)
    with contextlib.suppress(OSError):
        connection.sendall(b"1")


def _become_worker(request: Request) -> None:
    """Run the worker's script as Python would; does not return."""
    os.setpgid(0, 0)  # when a worker ends, Ray kills its whole group
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for place, file in enumerate(request.files):
        os.dup2(file, place)
        os.close(file)
    os.environ.clear()
    os.environ.update(request.env)
    os.chdir(request.cwd)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()

    sys.argv = request.argv
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode) for n, mode in enumerate("rww"))
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
