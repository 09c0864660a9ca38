"""A fork of a single-threaded process: what it keeps, and how it ends. The tests fork from a
separate process, because this one may have threads of other tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import REPO

BEGIN = """
import atexit, fcntl, json, os, signal, socket, sys, tempfile, threading, time
from pathlib import Path
from tune.execution.fork import Fork, may_fork

folder = Path(sys.argv[1])
ours, theirs = socket.socketpair()
"""
KEEPS = """
signal.signal(signal.SIGTERM, lambda *_: None)
locked = open(folder / "lock", "w")
fcntl.flock(locked, fcntl.LOCK_EX)
atexit.register(lambda: (folder / f"ended-{os.getpid()}").touch())
temporary = tempfile.TemporaryDirectory(dir=folder)
parent = os.getpid()

def call():
    files = list(Path("/proc/self/fd").iterdir())
    about = {
        "session": os.getsid(0) == os.getpid(),
        "files": [int(path.name) for path in files if path.exists()],
        "kept": theirs.fileno(),
        "default": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "input": sys.stdin.read(),
    }
    print("nobody reads this")
    global own
    own = tempfile.TemporaryDirectory(dir=folder, prefix="own-")
    atexit.register(lambda: (folder / f"own-end-{os.getpid()}").touch())
    (folder / "about").write_text(json.dumps(about))
    raise SystemExit(7)

try:
    assert may_fork()
    fork = Fork(call, keep=theirs.fileno())
    assert fork.poll() is None
    fork.stdin.close()
    code = fork.wait()
    found = {
        "code": code,
        "again": fork.poll(),
        "callers' end": (folder / f"ended-{fork.pid}").exists(),
        "callers' folder": os.path.exists(temporary.name),
        "own end": (folder / f"own-end-{fork.pid}").exists(),
        "own folders": len(list(folder.glob("own-*"))) - 1,
    }
    print(json.dumps(found), flush=True)
finally:
    (folder / "finally").write_text(f"{(folder / 'finally').exists()} {os.getpid() == parent}")
"""
KILLED = """
fork = Fork(lambda: time.sleep(60), keep=theirs.fileno())
fork.kill()
print(json.dumps({"code": fork.wait()}), flush=True)
fork.kill()
"""
THREADS = """
thread = threading.Thread(target=lambda: ours.recv(1))
thread.start()
with_thread = may_fork()
theirs.send(b"1")
thread.join()
deadline = time.monotonic() + 30
while not may_fork() and time.monotonic() < deadline:  # the system may still have to end it
    time.sleep(0.01)
alone = may_fork()

import ctypes.util  # a thread that Python does not know
library = ctypes.CDLL(None)
number = ctypes.c_ulong()
run = ctypes.cast(library.pause, ctypes.c_void_p)
library.pthread_create(ctypes.byref(number), None, run, None)
print(json.dumps([with_thread, alone, may_fork()]), flush=True)
os._exit(0)
"""


def answer(code: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(folder)],
        capture_output=True,
        text=True,
        cwd=REPO,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_fork_keeps_one_file_and_nothing_of_its_callers_runs(tmp_path: Path) -> None:
    assert answer(KEEPS, tmp_path) == {
        "code": 7,
        "again": 7,
        "callers' end": False,
        "callers' folder": True,
        "own end": True,
        "own folders": 0,
    }
    about = json.loads((tmp_path / "about").read_text())
    assert about["session"]
    assert about["default"]
    assert about["input"] == ""
    assert set(about["files"]) <= {0, 1, 2, about["kept"]}
    assert (tmp_path / "finally").read_text() == "False True"  # once, in the process that forked


def test_a_killed_fork_is_told_by_its_signal(tmp_path: Path) -> None:
    assert answer(KILLED, tmp_path) == {"code": -9}


def test_a_process_with_threads_is_not_forked(tmp_path: Path) -> None:
    assert answer(THREADS, tmp_path) == [False, True, False]


def test_a_template_that_is_a_fork_gives_workers_what_is_imported(tmp_path: Path) -> None:
    """The worker is a fork of the template and ends as a process does. The template ends with its
    driver."""
    (tmp_path / "default_worker.py").write_text(
        "import os, sys\n"
        "print(os.getppid(), 'decimal' in sys.modules, __name__, sys.argv[1], flush=True)\n"
        "sys.exit(3)\n"
    )
    code = f"""
import subprocess
from tune.execution import launch_worker, template
template.MODULES = ("decimal", "numpy")
served = template.begin(shared=True)
assert isinstance(served._process, Fork)
words = [{str(tmp_path / "default_worker.py")!r}, "there"]
environment = {{**os.environ, launch_worker.SOCKET: str(served.socket)}}
out = (folder / "out").open("w")
subprocess.run([sys.executable, launch_worker.__file__, *words], env=environment, stdout=out)
while not (folder / "out").read_text().endswith("\\n"):
    time.sleep(0.01)
parent, *said = (folder / "out").read_text().split()
place = served.socket.parent
print(json.dumps([int(parent) == served._process.pid, said, served.serves]), flush=True)
served._process.stdin.close()
assert served._process.wait() == 0
assert not place.exists()
"""
    assert answer(code, tmp_path) == [True, ["True", "__main__", "there"], True]


@pytest.mark.parametrize("unsafe", ["decimal", "nothing"])
def test_no_template_is_forked_where_it_could_not_serve(unsafe: str, tmp_path: Path) -> None:
    code = f"""
import subprocess
from tune.execution import template
template.MODULES = ("decimal",)
template._UNSAFE = {unsafe!r}
served = template.begin(shared=True)
print(json.dumps(isinstance(served._process, Fork)), flush=True)
template.end()
"""
    assert answer(code, tmp_path) == (unsafe == "nothing")
