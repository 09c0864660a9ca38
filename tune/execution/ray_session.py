"""Start Ray on this machine, or connect to a cluster."""

import contextlib
import functools
import inspect
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import node, services, utils

from trainables.errors import UserError, first_line
from tune.execution import ahead, launch_worker, silent_agent, template
from tune.execution.capacity import on_a_cluster
from tune.execution.code_path import OwnCodeFirst
from tune.execution.session_folder import SessionFolder, remove_old
from tune.execution.socket_folder import socket_folder

_CONNECT_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 90.0
"""Time for Ray's node to come up. Ray itself allows half a minute, which is too little if many
programs share few cores."""
_HANG_S = 4 * _START_TIMEOUT_S
"""A start that has neither succeeded nor failed by then hangs."""
_LOOK_S = 0.1
_OBJECT_STORE_BYTES = 128 * 2**20
_LAUNCHER = str(Path(launch_worker.__file__).resolve())
_AGENT = str(Path(silent_agent.__file__).resolve())

_folder: SessionFolder | None = None
"""The folder of the Ray that was started here."""


@contextlib.contextmanager
def ray_session(workers: int = 1) -> Iterator[None]:
    """Provide Ray for one search, or for several in a row.

    A session within another one uses the outer one's Ray, and leaves it running.

    Args:
        workers: workers of each trial.
    Raises:
        UserError: see `start_ray`.
    """
    started_here = _started_ahead() or start_ray(dashboard=workers > 1)
    _take_signals_back()
    try:
        yield
    except BaseException:
        keep_logs()
        raise
    finally:
        if started_here:
            stop_ray()


def _started_ahead() -> bool:
    """Wait for a start that `ahead` has begun. Return False if there is none, or if it failed: on a
    very busy machine, the start gives up after `_START_TIMEOUT_S`.

    Raises:
        UserError: it hangs.
    """
    begun = ahead.take()
    if begun is None:
        return False
    try:
        failure = begun.exception(_HANG_S)
    except TimeoutError:
        raise _not_started("nothing was heard of it") from None
    return failure is None and begun.result()


def _not_started(why: str) -> UserError:
    return UserError(
        f"Ray did not start on this machine ({why}); run the same command again, or add --local"
    )


def _take_signals_back() -> None:
    """Put this process's handlers back in front of those that Ray has set from another thread,
    below Python. Ray's print a stack, and abort whatever has not ended three seconds later."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler is not None:
                signal.signal(number, handler)


def stop_ray() -> None:
    """Stop the Ray that `start_ray` has started here."""
    global _folder
    ray.shutdown()
    template.end()
    ahead.release()
    if _folder is not None:
        _folder.remove()
        _folder = None


def keep_logs() -> None:
    """Keep the logs of Ray's processes when Ray is stopped, because one of them was lost or the run
    failed."""
    if _folder is not None:
        _folder.is_wanted = True


def start_ray(cpus: int | None = None, dashboard: bool = False) -> bool:
    """Connect to the cluster at RAY_ADDRESS, or start Ray on this machine only (127.0.0.1).

    Args:
        cpus: CPUs of a Ray that is started here; default: all.
        dashboard: start the dashboard. Ray Train uses its State API to free what the workers of a
            stopped trial held.
    Returns:
        True if Ray was started here.
    Raises:
        UserError: no cluster answers at RAY_ADDRESS, Ray does not start, or the State API does not
            answer.
    """
    started = _start_or_connect(cpus, dashboard)
    if dashboard:
        _require_state_api()
    return started


def _require_state_api() -> None:
    import ray.util.state  # takes half a second; others need not wait for it

    try:
        ray.util.state.list_actors(limit=1)
    except Exception as error:
        raise UserError(
            "trials of several workers need Ray's State API, which does not answer "
            f"({first_line(error)}); install ray[default], start the cluster with its dashboard, "
            "or use --workers 1"
        ) from None


def _start_or_connect(cpus: int | None, dashboard: bool) -> bool:
    if ray.is_initialized():
        return False
    if on_a_cluster():
        _connect(os.environ["RAY_ADDRESS"])
        return False
    _start(cpus, dashboard)
    return True


def _start(cpus: int | None, dashboard: bool) -> None:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # one user, this machine only
    global _folder
    temp_dir = socket_folder()
    port = _free_port()
    if dashboard:  # the address of this Ray, not of another one on the machine
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    try:
        with _own_signals(), _loopback(), _own_sessions(), _lean(dashboard), _forking():
            ray.init(
                address="local",
                _node_ip_address="127.0.0.1",
                include_dashboard=dashboard,
                dashboard_port=port,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECT_STORE_BYTES,
                configure_logging=False,
                num_cpus=cpus,
                job_config=OwnCodeFirst(),
                _temp_dir=temp_dir,
            )
    except Exception as error:  # Ray raises plain ones
        raise _not_started(first_line(error)) from error
    _folder = SessionFolder(_session_folder())
    remove_old(_folder.path.parent)


def _session_folder() -> Path:
    """Folder of the Ray that has just been started; Ray's public functions do not return it."""
    started: Any = ray._private.worker._global_node
    return Path(started.get_session_dir_path())


def _connect(address: str) -> None:
    """Connect to the cluster at `address`.

    If nobody listens there, Ray would try for a quarter of an hour without a word. So a plain
    connection is tried first.
    """
    host, _, port = address.rpartition(":")
    try:
        if "://" not in address and port.isdecimal():
            endpoint = (host.strip("[]"), int(port))
            socket.create_connection(endpoint, timeout=_CONNECT_TIMEOUT_S).close()
        with _own_signals():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, job_config=OwnCodeFirst())
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster at RAY_ADDRESS={address} ({first_line(error)}); start it, "
            "or unset RAY_ADDRESS to run on this machine alone"
        ) from error


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Keep Ray on 127.0.0.1.

    Ray replaces that address with the machine's address in the network, where anyone could run code
    in it. The replaced function is private to Ray: tests/tune/execution/test_ray_tune.py inspects
    the sockets.
    """
    original = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = original


@contextlib.contextmanager
def _own_sessions() -> Iterator[None]:
    """Keep Ray's daemons out of this process's group.

    Batch systems, `timeout` and a closed terminal send a signal to the whole group. This process
    then stops its trials in order, and needs Ray for that. The daemons still end with this process:
    they have asked the kernel for that.
    """
    original = services.ConsolePopen

    class OwnSession(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, start_new_session=True, **kwargs)

    services.ConsolePopen = OwnSession  # type: ignore[misc]
    try:
        yield
    finally:
        services.ConsolePopen = original  # type: ignore[misc]


@contextlib.contextmanager
def _lean(dashboard: bool) -> Iterator[None]:
    """Keep Ray from starting Python processes that nobody uses here, each of which imports Ray.
    These are the one that forwards workers' output to the driver and, without a dashboard, its
    server, its agent and the autoscaler's monitor. Workers are started by `launch_worker.py`.

    The replaced functions are private to Ray: tests/tune/execution/test_template.py checks the
    processes.
    """
    replaced: list[tuple[Any, str, Callable[..., Any]]] = [
        (node.Node, "start_log_monitor", lambda self: None),
        (services, "start_raylet", _with_our_launcher(services.start_raylet)),
        (services, "get_node", patient(services.get_node)),
    ]
    if not dashboard:
        replaced += [
            (services, "start_api_server", lambda *args, **options: (None, None)),
            (node.Node, "start_monitor", lambda self: None),
            (services, "start_ray_process", _with_silent_agent(services.start_ray_process)),
            # it would import packages that only the dashboard needs
            (utils, "get_dashboard_dependency_error", lambda: ImportError("not asked for")),
        ]

    with contextlib.ExitStack() as stack:
        for owner, name, ours in replaced:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, ours)
        yield


def patient(
    get_node: Callable[..., Any], timeout_s: float = _START_TIMEOUT_S
) -> Callable[..., Any]:
    """Wrap Ray's function that looks up a newly started node, so that it waits for the node."""

    @functools.wraps(get_node)
    def wait(*args: Any, **options: Any) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return get_node(*args, **options)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > deadline:
                    raise
            time.sleep(_LOOK_S)

    return wait


def _with_our_launcher(start_raylet: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Ray's function that starts a raylet, so that it uses our script for starting workers."""
    signature = inspect.signature(start_raylet)

    @functools.wraps(start_raylet)
    def start(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options)
        given.arguments["setup_worker_path"] = _LAUNCHER
        return start_raylet(*given.args, **given.kwargs)

    return start


def _with_silent_agent(start_process: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Ray's function that starts a process, so that a raylet gets our agent."""
    rays = subprocess.list2cmdline([str(Path(services.RAY_PATH) / "dashboard" / "agent.py")])
    ours = subprocess.list2cmdline([_AGENT])

    @functools.wraps(start_process)
    def start(command: list[str], *args: Any, **options: Any) -> Any:
        words = []
        for word in command:
            is_agents = word.startswith("--dashboard_agent_command=")
            words.append(word.replace(rays, ours, 1) if is_agents else word)
        return start_process(words, *args, **options)

    return start


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """Name the socket of the template, which forks workers, in the environment that Ray's processes
    inherit."""
    os.environ[launch_worker.SOCKET] = str(template.begin().socket)
    try:
        yield
    finally:
        del os.environ[launch_worker.SOCKET]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's signal handlers: Ray sets its own for SIGTERM, which prints a stack and
    aborts. In another thread, where Python sets none, `_take_signals_back` does it afterwards."""
    if threading.current_thread() is not threading.main_thread():
        with _silent(logging.getLogger("ray._private.worker")):  # it would warn about that
            yield
        return

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Suppress a logger's warnings."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
