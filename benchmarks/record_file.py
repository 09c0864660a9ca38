"""The records that documents quote: the results of a benchmark with its command, commit and
machine, in `docs/results/`. Those about speed are in `docs/results/speed/`."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results"
SPEED = RESULTS / "speed"
LOAD = os.getloadavg()[0]
"""Load average of the machine when the script began."""
NOT_RECORDED = "not recorded"


class NotRecordedError(Exception):
    """A record is not there, or has too few seeds. The message is the command that makes it."""


def or_not_recorded(text: Callable[[], str]) -> Callable[[], str]:
    """Return a text that names the command of a missing record in its place."""

    def shown() -> str:
        try:
            return text()
        except NotRecordedError as missing:
            return f"{NOT_RECORDED} (`{missing}`)"

    return shown


def commit() -> str:
    """Return the short hash of the checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()


def write_results(name: str, found: dict[str, Any]) -> None:
    """Write `docs/results/<name>.json` with one line for each entry of a list, so that diffs are
    readable."""
    head = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for key, value in found.items():
        if isinstance(value, list):
            entries = ",\n".join(f"  {json.dumps(entry)}" for entry in value)
            lines.append(f" {json.dumps(key)}: [\n{entries}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def add_record_option(parser: argparse.ArgumentParser) -> None:
    """Add `--record [NAME]`. The name of the script is the default."""
    parser.add_argument(
        "--record",
        nargs="?",
        const=Path(sys.argv[0]).stem,
        metavar="NAME",
        help="also write docs/results/speed/NAME.json, which docs/benchmarks.md is rendered from",
    )


def record_speed(name: str | None, found: dict[str, Any]) -> None:
    """Write the record of a script about speed, if `--record` has named one.

    Args:
        name: in docs/results/speed; an absolute path leads elsewhere.
    """
    if name is not None:
        write_results(str(SPEED / name), {"load": round(LOAD, 2)} | found)


def rounded(seconds: Iterable[float]) -> list[float]:
    """Return times to the microsecond."""
    return [round(one, 6) for one in seconds]


def machine() -> str:
    """Describe processor, cores and Python of this machine in words."""
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
