"""Check that all machines of a cluster have the package versions of the lock file.

A worker with another Ray version cannot join, and one with another torch version would compute
different numbers.
"""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LOCKS = ("constraints-cuda.txt", "constraints-cpu.txt")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)(.*)$", re.MULTILINE)
_NODE = "cluster/node.sh"


def locked(path: Path) -> dict[str, str]:
    """Read the version of each package in a lock file."""
    return {name: found for name, found, _ in _PIN.findall(path.read_text())}


def without_hash(path: Path) -> list[str]:
    """List the packages of a lock file that have no hash and could therefore be tampered with in
    transit."""
    return [name for name, _, rest in _PIN.findall(path.read_text()) if not rest.endswith("\\")]


def pin_problems(config: dict[str, Any]) -> Iterator[str]:
    """List everything in a `ray up` file that would let two machines differ in their packages."""
    setup = [str(command) for command in config.get("setup_commands", [])]
    for command in setup:
        if "pip install" in command:
            yield (
                f"setup_commands: `{command[:60]}` takes whatever version is newest: install with "
                f"`bash ~/vistune/{_NODE} install`"
            )
    if not any(f"{_NODE} install" in command for command in setup):
        yield f"setup_commands lack `bash ~/vistune/{_NODE} install`: it installs the lock file"

    if not any(f"{_NODE} head" in c for c in config.get("head_start_ray_commands", [])):
        yield (
            f"head_start_ray_commands lack `bash ~/vistune/{_NODE} head`: workers compare their "
            "versions with what it writes"
        )
    if not any(f"{_NODE} join" in c for c in config.get("worker_start_ray_commands", [])):
        yield (
            f"worker_start_ray_commands lack `bash ~/vistune/{_NODE} join` before `ray start`: a "
            "worker that cannot join would say so nowhere"
        )
    yield from _mounted_locks(config)


def _mounted_locks(config: dict[str, Any]) -> Iterator[str]:
    mounts = config.get("file_mounts", {})
    for name in LOCKS:
        here = mounts.get(f"~/vistune/{name}")
        if here is None:
            yield f"file_mounts lack `~/vistune/{name}: {name}`: nodes install what it names"
            continue

        path = Path(here).expanduser()
        if path.is_file():  # another check reports missing files
            yield from lock_problems(path)


def lock_problems(path: Path) -> Iterator[str]:
    """List the problems of a lock file: packages without hashes, or a Ray version that is not
    ours."""
    for name in without_hash(path):
        yield f"{path.name}: {name} has no hash; write the file again with `make lock`"

    theirs = locked(path).get("ray")
    ours = installed_ray()
    if theirs != ours:
        yield (
            f"{path.name} has Ray {theirs} and this machine {ours}: `ray up` needs the same; "
            "run `make lock`, or install what the file names"
        )


def installed_ray() -> str:
    """Return Ray's version on this machine; "none" if it is missing."""
    try:
        return version("ray")
    except PackageNotFoundError:
        return "none"
