"""Start a worker of Ray, in place of Ray's own script. That script imports all of Ray only to start
the worker, so that every worker imports it twice.

    python launch_worker.py default_worker.py ARGUMENTS...

If a template (`template.py`) serves this driver, the worker is a fork of it, which has everything
imported; otherwise it is a process of its own. This file imports only the standard library.
"""

import array
import json
import os
import socket
import sys

SOCKET = "VISTUNE_TEMPLATE"
"""Environment variable with the path of the template's socket."""
_CONTEXT = "--serialized-runtime-env-context="
_OWN = (_CONTEXT, "--language=")
"""Arguments for this script; all others are the worker's."""
_PATIENCE_S = 50.0
"""Ray gives up on a worker that has not registered within a minute."""


def main() -> None:
    """Start the worker that the arguments describe. This returns only if the worker is a fork."""
    words = sys.argv[1:]
    context = _context(words)
    if not _is_plain(context):
        _replace_by([_ray_script(words[0]), *words])

    os.environ.update(context.get("env_vars") or {})
    rest = [word for word in words if not word.startswith(_OWN)]
    path = os.environ.pop(SOCKET, "")
    if path and _is_default(rest) and _forked(path, rest):
        return
    _replace_by(rest)


def _context(words: "list[str]") -> "dict":  # type: ignore[type-arg]
    """Return the environment that Ray has prepared for the worker."""
    for word in words:
        if word.startswith(_CONTEXT):
            context: dict = json.loads(word[len(_CONTEXT) :] or "{}")  # type: ignore[type-arg]
            return context
    return {}


def _is_plain(context: "dict") -> bool:  # type: ignore[type-arg]
    """True if the worker is this Python, and nothing has to be done before it starts."""
    python = context.get("py_executable") or sys.executable
    others = ("command_prefix", "override_worker_entrypoint")
    return python == sys.executable and not any(context.get(name) for name in others)


def _is_default(words: "list[str]") -> bool:
    """True for a worker that runs tasks. Others move objects, and need nothing of ours."""
    kinds = [word for word in words if word.startswith("--worker-type=")]
    return not kinds or kinds[-1] == "--worker-type=WORKER"


def _ray_script(worker: str) -> str:
    """Path of Ray's own script, beside the worker's."""
    folder = worker.rpartition("/")[0]
    return f"{folder}/setup_worker.py"


def _replace_by(words: "list[str]") -> None:
    os.execv(sys.executable, [sys.executable, *words])


def _forked(path: str, words: "list[str]") -> bool:
    """Ask the template for a fork; False if there is none."""
    cwd = os.getcwd()  # noqa: PTH109, pathlib is an import of its own
    request = json.dumps({"argv": words, "cwd": cwd, "env": dict(os.environ)}).encode()
    files = array.array("i", [0, 1, 2])
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as template:
            template.settimeout(_PATIENCE_S)
            template.connect(path)
            length = len(request).to_bytes(4, "big")
            template.sendmsg([length], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            template.sendall(request)
            return template.recv(1) == b"1"
    except OSError:
        return False


if __name__ == "__main__":
    main()
