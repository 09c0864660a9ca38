"""Ray workers are forks of one process that has imported what trials need."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import REPO
from tests.processes import wait_for
from trainables.errors import UserError
from tune.execution import launch_worker, template
from tune.execution.template import Template

LAUNCHER = str(Path(launch_worker.__file__))
WORKER = """
import json, os, random, sys
import numpy
about = {
    "pid": os.getpid(),
    "parent": os.getppid(),
    "group": os.getpgrp(),
    "argv": sys.argv,
    "path": sys.path[0],
    "cwd": os.getcwd(),
    "env": dict(os.environ),
    "has_decimal": "decimal" in sys.modules,
    "name": __name__,
    "draws": [random.random(), float(numpy.random.random())],
}
print("said", flush=True)
with open(sys.argv[1] + "-" + str(os.getpid()), "w") as file:
    json.dump(about, file)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    path = tmp_path / "code/default_worker.py"
    path.write_text(WORKER)
    return path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Template]:
    monkeypatch.setattr(template, "MODULES", ("decimal", "numpy", "no_such_module"))
    served = Template()
    yield served
    served.close()


def launch(worker: Path, folder: Path, socket: Path | None) -> dict[str, Any]:
    """Start a worker as Ray does, and return what it reports about itself."""
    environment = {"PATH": os.environ["PATH"], "RAY_JOB_ID": "7"}
    if socket is not None:
        environment[launch_worker.SOCKET] = str(socket)
    before = set(folder.glob("about-*"))
    words = [str(worker), str(folder / "about"), "--language=PYTHON"]
    launched = subprocess.run(
        [sys.executable, LAUNCHER, *words],
        cwd=folder,
        env=environment,
        stdout=(folder / "out").open("w"),
        timeout=60,
        check=True,
    )
    assert launched.returncode == 0
    wait_for(lambda: set(folder.glob("about-*")) - before)
    (path,) = set(folder.glob("about-*")) - before
    wait_for(lambda: path.read_text().endswith("}"))
    about: dict[str, Any] = json.loads(path.read_text())
    assert about["argv"][0] == str(worker)
    assert not [word for word in about["argv"] if word.startswith("--language")]
    assert about["cwd"] == str(folder)
    assert about["path"] == str(worker.parent)
    assert about["name"] == "__main__"
    assert about["env"]["RAY_JOB_ID"] == "7"
    assert launch_worker.SOCKET not in about["env"]
    wait_for(lambda: (folder / "out").read_text() == "said\n")
    return about


def test_a_worker_is_a_fork_that_looks_like_a_process_of_its_own(
    worker: Path, served: Template, tmp_path: Path
) -> None:
    parent = psutil.Process().children()
    first = launch(worker, tmp_path, served.socket)
    second = launch(worker, tmp_path, served.socket)
    assert first["parent"] in {process.pid for process in parent}
    assert first["pid"] != second["pid"]
    assert first["group"] == first["pid"]  # Ray kills the group of a worker that has ended
    assert first["has_decimal"]
    assert first["draws"][0] != second["draws"][0]
    assert first["draws"][1] != second["draws"][1]
    assert served.serves  # a fork's end does not end the template
    assert set(first["env"]) <= {"PATH", "RAY_JOB_ID", "LC_CTYPE"}


def test_without_a_template_the_worker_is_a_process_of_its_own(
    worker: Path, served: Template, tmp_path: Path
) -> None:
    assert not launch(worker, tmp_path, None)["has_decimal"]
    assert not launch(worker, tmp_path, tmp_path / "no-socket")["has_decimal"]

    wait_for(served.socket.exists)
    served.close()
    assert not served.serves
    assert not launch(worker, tmp_path, served.socket)["has_decimal"]


TORCH = """
import os
class cuda:
    is_initialized = staticmethod(lambda: False)
    _is_in_bad_fork = staticmethod(lambda: {bad} and os.getpid() != {own})
    device_count = staticmethod(lambda: {gpus})
"""


@pytest.mark.parametrize(("gpus", "asked", "serves"), [(1, 1, 0), (0, 1, 1), (1, 0, 1)])
def test_no_fork_of_a_process_whose_cuda_was_initialised(
    gpus: int, asked: int, serves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork would find no GPU. A machine without a GPU has nothing to lose."""
    torch = types.ModuleType("torch")
    exec(TORCH.format(bad=asked, own=os.getpid(), gpus=gpus), torch.__dict__)
    monkeypatch.setitem(sys.modules, "torch", torch)
    waited: list[Any] = []

    def select(*_: Any) -> Any:
        waited.append(True)
        return [sys.stdin], [], []  # the driver has ended

    monkeypatch.setattr(template.select, "select", select)
    monkeypatch.setattr(template.signal, "signal", lambda *_: None)
    monkeypatch.setattr(template.threading, "active_count", lambda: 1)
    monkeypatch.setattr(template, "_UNSAFE", "nothing")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with socket.socket(socket.AF_UNIX) as listening:
        template._serve(listening, ())
    assert bool(waited) == bool(serves)


def test_modules_that_ask_for_a_gpu_do_not_initialise_cuda(
    worker: Path, served: Template, tmp_path: Path
) -> None:
    process = served._process
    assert process is not None
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    assert psutil.Process(process.pid).environ()[name] == "1"
    assert name not in launch(worker, tmp_path, served.socket)["env"]


def test_the_template_ends_with_its_driver_and_leaves_nothing(served: Template) -> None:
    wait_for(served.socket.exists)
    process = served._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # the system does this when the driver is killed
    assert process.wait(60) == 0
    assert not served.socket.parent.exists()


@pytest.mark.parametrize(
    ("context", "is_plain"),
    [
        ({}, True),
        ({"env_vars": {"A": "1"}, "command_prefix": [], "py_executable": sys.executable}, True),
        ({"py_executable": "/other/python"}, False),
        ({"command_prefix": ["conda", "activate"]}, False),
        ({"override_worker_entrypoint": "/in/the/container.py"}, False),
    ],
)
def test_workers_in_an_environment_of_their_own_are_left_to_ray(
    context: dict[str, Any], is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def replace(words: list[str]) -> None:
        asked.append(words)
        raise SystemExit

    monkeypatch.setattr(launch_worker, "_replace_by", replace)
    monkeypatch.setattr(os, "environ", {})
    words = ["/ray/workers/default_worker.py", "--node-id=1", "--language=PYTHON"]
    words.append(f"--serialized-runtime-env-context={json.dumps(context)}")
    monkeypatch.setattr(sys, "argv", ["launch_worker.py", *words])
    with pytest.raises(SystemExit):
        launch_worker.main()
    if is_plain:
        assert asked == [["/ray/workers/default_worker.py", "--node-id=1"]]
        assert os.environ == context.get("env_vars", {})
    else:
        assert asked == [["/ray/workers/setup_worker.py", *words]]


@pytest.mark.parametrize("fails", [False, True])
def test_a_start_ahead_is_used_once_and_its_failure_is_no_ones_end(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune.execution import ahead, ray_session

    starts: list[str] = []

    def start_ray(cpus: int | None = None, dashboard: bool = False) -> bool:
        starts.append(threading.current_thread().name)
        if fails and len(starts) == 1:
            raise UserError("Ray did not start on this machine")
        return True

    monkeypatch.setattr(ray_session, "start_ray", start_ray)
    monkeypatch.setattr(ray_session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(template, "begin", lambda *_, **__: None)
    ahead.begin((), workers=1)
    with ray_session.ray_session():
        assert len(starts) == 1 + fails
        assert starts[0] == "start of Ray"
        if not fails:
            assert is_alive("start of Ray")  # Ray's processes end with it
    with ray_session.ray_session():
        assert len(starts) == 2 + fails
    wait_for(lambda: not is_alive("start of Ray"))


def test_a_start_ahead_that_hangs_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from tune.execution import ahead, ray_session

    wakes = threading.Event()
    monkeypatch.setattr(ray_session, "start_ray", lambda *_, **__: wakes.wait(30))
    monkeypatch.setattr(ray_session, "_HANG_S", 0.05)
    monkeypatch.setattr(template, "begin", lambda *_, **__: None)
    ahead.begin((), workers=1)
    refused = pytest.raises(UserError, match="Ray did not start on this machine")
    with refused, ray_session.ray_session():
        pass
    wakes.set()
    ahead.release()


def test_a_refusal_leaves_no_process_of_ray_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune.execution import ahead, ray_session

    raylet = tmp_path / "raylet"
    shutil.copy(shutil.which("sleep") or "", raylet)
    started: list[subprocess.Popen[bytes]] = []

    def start_ray(cpus: int | None = None, dashboard: bool = False) -> bool:
        started.append(subprocess.Popen([raylet, "60"], start_new_session=True))
        return True

    monkeypatch.setattr(ray_session, "start_ray", start_ray)
    monkeypatch.setattr(template, "begin", lambda *_, **__: None)
    other = subprocess.Popen(["sleep", "60"])
    ahead.begin((), workers=1)
    wait_for(lambda: started)
    wait_for(lambda: ahead._own_children(["raylet"]))
    ahead.discard()
    try:
        assert started[0].wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        ahead.release()


BUSY = """
import subprocess
import numpy as np
from tune.execution import ahead, ray_session, template

def start_ray(cpus=None, dashboard=False):
    for _ in range(20):
        subprocess.run(["true"], preexec_fn=lambda: None)  # forks, as Ray does for its daemons
    return True

ray_session.start_ray = start_ray
template.begin = lambda *_, **__: None
matrix = np.random.rand(1500, 1024)
ahead.begin((), workers=1)
begun = ahead.take()
while not begun.done():
    matrix @ matrix.T
print("started", begun.result())
ahead.release()
"""


@pytest.mark.heavy
def test_ray_starts_while_the_driver_multiplies_matrices() -> None:
    """OpenBLAS would wait in each fork for threads that the driver keeps busy, for ever."""
    done = subprocess.run(
        [sys.executable, "-c", BUSY], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "started True", done.stderr


def is_alive(thread: str) -> bool:
    return thread in {one.name for one in threading.enumerate()}
