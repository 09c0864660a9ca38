"""Stands in for the agent of Ray's dashboard on a machine without a dashboard.

    python silent_agent.py RAY'S ARGUMENTS...

Ray's own agent imports all of Ray, which takes a second of CPU time and 80 MB, to serve requests
that nobody makes here. The raylet needs a process that lives and says that there are no ports.
Ray's agent says the same if the packages of the dashboard are not installed (`--minimal`). This
file imports only the standard library.
"""

import os
import sys
import time

_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
_NO_PORT = "-1"
_LOOK_S = 1.0


def main() -> None:
    """Report that there are no ports, and wait for the end of the raylet."""
    raylet = os.getppid()
    folder, node = _argument("--session-dir="), _argument("--node-id=")
    for port in _PORTS:
        _write(f"{folder}/{port}_{node}", _NO_PORT)
    while os.getppid() == raylet:
        time.sleep(_LOOK_S)


def _argument(name: str) -> str:
    for word in sys.argv[1:]:
        if word.startswith(name):
            return word[len(name) :]
    raise SystemExit(f"{name} is missing")


def _write(path: str, content: str) -> None:
    partial = f"{path}.{os.getpid()}"
    with open(partial, "w") as file:  # noqa: PTH123, pathlib is an import of its own
        file.write(content)
    os.replace(partial, path)  # noqa: PTH105


if __name__ == "__main__":
    main()
