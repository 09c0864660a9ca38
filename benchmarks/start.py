"""From Enter to the end of a trial's first training step: CPU and wall time, and where they go.

    python benchmarks/start.py                    # three turns
    python benchmarks/start.py --turns 5 --trace  # also every stamp of the last turn
    python benchmarks/start.py --only "vistune --workers 2"    # a trial of two workers

The contenders take turns: a Python process that imports torch, `vistune --local`, a bare Ray task
that imports torch, and vistune. CPU is that of the command and of all processes that it has started
by then, Ray's daemons included. vistune runs studies of the tiny network on digits, in a new
storage, with a warm cache of data.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from process_meter import COMMAND, MARK, kill
from record_file import add_record_option, record_speed

REPO = Path(__file__).resolve().parents[1]
PROBE = REPO / "benchmarks" / "start_probe"
PATIENCE_S = 240
LIMIT_OF_BARE = 1.2
STUDY = (
    str(REPO / "tune/run.py"),
    "pretrain",
    "--data",
    "digits",
    "--trials",
    "4",
    "--repeats",
    "0",
)
_TORCH = """
import torch
import sitecustomize
sitecustomize.first_step()
"""
_RAY = f"""
import os
import ray
ray.init(address="local", include_dashboard=False, log_to_driver=False)
@ray.remote
def task():
    exec({_TORCH!r})
ray.get(task.remote())
"""
CONTENDERS = {
    "Python with torch": ("-c", _TORCH),
    "vistune --local": (*STUDY, "--local"),
    "a bare Ray task with torch": ("-c", _RAY),
    "vistune": STUDY,
}
ON_REQUEST = {"vistune --workers 2": (*STUDY, "--workers", "2")}
"""Further contenders that `--only` accepts."""
ALL = CONTENDERS | ON_REQUEST
BARE = {"vistune --local": "Python with torch", "vistune": "a bare Ray task with torch"}


@dataclass(frozen=True)
class Start:
    """One measured start."""

    wall: float
    roles: dict[str, float]
    stamps: list[list[object]]
    began: float

    @property
    def cpu(self) -> float:
        return sum(self.roles.values())


def measure(words: tuple[str, ...], cache: Path) -> Start:
    """Start a command and end it after its first step."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="start-", ignore_cleanup_errors=True) as folder:
        stamps = Path(folder) / "stamps"
        environment = os.environ | {
            MARK: mark,
            "VISTUNE_BENCH_STAMPS": str(stamps),
            "VISTUNE_CACHE": str(cache),
            "PYTHONPATH": os.pathsep.join([str(PROBE), str(REPO)]),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        environment.pop("RAY_ADDRESS", None)
        with (Path(folder) / "out").open("w+") as out:
            began = time.time()
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                found = _first_step(stamps, process, began)
            finally:
                kill(mark)
                process.wait()
            if found is None:
                out.seek(0)
                sys.exit(f"no first step of {' '.join(words)[:200]}:\n{out.read()[-3000:]}")
        return found


def _first_step(stamps: Path, process: "subprocess.Popen[bytes]", began: float) -> Start | None:
    while time.time() < began + PATIENCE_S:
        lines = stamps.read_text().splitlines(keepends=True) if stamps.exists() else []
        read = [json.loads(line) for line in lines if line.endswith("\n")]
        last = [line for line in read if line[1] == "first step"]
        if last:
            ended = next((line for line in read if line[1:3] == ["train_step", "end"]), last[0])
            return Start(ended[3] - began, last[0][5]["roles"], read, began)
        if process.poll() is not None:
            return None
        time.sleep(0.1)
    return None


def spans(start: Start) -> list[tuple[str, str, float, float, float]]:
    """Return every stamped span: process, name, begin and end in s after Enter, CPU seconds."""
    names: dict[object, str] = {}
    open_ones: dict[tuple[object, object], tuple[float, float]] = {}
    found = []
    for line in start.stamps:
        pid, name, kind, at, cpu = line[:5]
        names.setdefault(pid, f"process {len(names) + 1}")
        if kind == "begin":
            open_ones[pid, name] = (at, cpu)
        elif (pid, name) in open_ones:
            since, before = open_ones[pid, name]
            found.append(
                (names[pid], str(name), since - start.began, at - start.began, cpu - before)
            )
    return sorted(found, key=lambda span: (span[0], span[2]))


def show_trace(name: str, start: Start) -> None:
    print(f"\n{name}: what the stamps say (spans contain those within them)")
    print(f"{'':12}{'':34}{'from s':>8}{'to s':>8}{'CPU s':>8}")
    for process, what, since, until, cpu in spans(start):
        print(f"{process:12}{what:34}{since:8.2f}{until:8.2f}{cpu:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--only", choices=ALL, action="append")
    parser.add_argument("--cache", type=Path, help="a warm cache; default: made by a first start")
    add_record_option(parser)
    options = parser.parse_args()

    chosen = {name: ALL[name] for name in options.only or CONTENDERS}
    cache = options.cache or Path(tempfile.mkdtemp(prefix="start-cache-"))
    measured: dict[str, list[Start]] = {name: [] for name in chosen}
    try:
        if options.cache is None:
            measure(CONTENDERS["vistune --local"], cache)
        for turn in range(options.turns):
            for name in list(chosen)[:: 1 if turn % 2 == 0 else -1]:
                measured[name].append(measure(chosen[name], cache))
    finally:
        if options.cache is None:
            shutil.rmtree(cache, ignore_errors=True)
    report(measured)
    record_speed(
        options.record,
        {
            "starts": [
                {"contender": name, "wall": start.wall, "cpu": start.cpu, "roles": start.roles}
                for name, starts in measured.items()
                for start in starts
            ]
        },
    )
    if options.trace:
        for name, starts in measured.items():
            show_trace(name, starts[-1])


def report(measured: dict[str, list[Start]]) -> None:
    load = os.getloadavg()[0]
    turns = max(len(starts) for starts in measured.values())
    print(f"Enter to the end of the first step, medians of {turns}; load {load:.1f}")
    print(f"{'':30}{'CPU s':>8}{'wall s':>8}{'of the bare one':>22}")
    for name, starts in measured.items():
        cpu = statistics.median(start.cpu for start in starts)
        wall = statistics.median(start.wall for start in starts)
        bare = measured.get(BARE.get(name, ""))
        beside = ""
        if bare:
            of_cpu = cpu / statistics.median(start.cpu for start in bare)
            of_wall = wall / statistics.median(start.wall for start in bare)
            beside = f"CPU {of_cpu:.2f}, wall {of_wall:.2f}"
        print(f"{name:30}{cpu:8.2f}{wall:8.2f}{beside:>22}")

    print("\nCPU seconds by process (medians)")
    roles = dict.fromkeys(role for s in measured.values() for start in s for role in start.roles)
    for role in sorted(roles, key=lambda role: role != COMMAND):
        print(f"  {role}")
        for name, starts in measured.items():
            seconds = statistics.median(start.roles.get(role, 0.0) for start in starts)
            if seconds:
                print(f"    {name:40}{seconds:6.2f}")


if __name__ == "__main__":
    main()
