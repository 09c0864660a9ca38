"""Check everything that is claimed about GPUs on this machine's card, in one command.

    make gpu-check                                    # under 8 minutes on an H100 with 16 cores
    python benchmarks/gpu_check.py --json gpu.json    # the same with any Python that has vistune
    python benchmarks/gpu_check.py --patience 4       # a slower card: each row may take longer
    python benchmarks/gpu_check.py --device cpu --quick    # that the script runs: CI has no card

Nothing is downloaded: the data are random numbers. Every row shows a claim, the measurement, and
whether the claim holds. Claims about speed are not judged on a CPU. The exit code is 1 if a claim
fails. docs/gpu.md explains the rows.

A process of its own measures. If a check raises an error, ends that process or takes longer than
its time (`gpu_table.BUDGETS_S`), its row fails, and another process continues with the next check:
an error may leave a card's context unusable.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.gpu_table import BUDGETS_S, REFUSED, START_S, UNHURRIED_S, Row, broken, show


class Worker:
    """A process that runs checks one after the other and reports in lines of JSON.

    Args:
        command: its command line, up to the number of the file to which it writes.
        names: the checks.
    """

    def __init__(self, command: Sequence[str], names: Sequence[str]):
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [*command, str(writing), *names],
            pass_fds=[writing],
            start_new_session=True,  # so that its own children can be ended with it
        )
        os.close(writing)
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._thread.start()

    def _read(self, file: int) -> None:
        with contextlib.suppress(ValueError), os.fdopen(file) as lines:  # a torn last line
            for line in lines:
                self._lines.put(json.loads(line))
        self._lines.put(None)

    def heard(self, patience_s: float) -> dict[str, Any] | None:
        """Return the next message; None if the process has ended.

        Raises:
            queue.Empty: none has come in time.
        """
        return self._lines.get(timeout=max(0.0, patience_s))

    def ended(self) -> int:
        """Wait for the end of the process; return its exit code."""
        return self._process.wait()

    def close(self) -> None:
        """End the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Refused(Exception):
    """The device is missing; the process has said so."""


def checked(
    names: Sequence[str],
    command: Sequence[str],
    budget_s: Callable[[str], float],
    start_s: float = START_S,
) -> Iterator[Row]:
    """Run checks, each within its time, and yield their rows as they come.

    Args:
        names: keys of `BUDGETS_S`.
        command: command line of a `Worker`.
        budget_s: seconds of a check.
        start_s: seconds until a process begins its first check.
    Raises:
        Refused: the device is missing.
    """
    waiting = list(names)
    while waiting:
        worker = Worker(command, waiting)
        try:
            yield from _rows_of(worker, waiting, budget_s, start_s)
        finally:
            worker.close()


def _rows_of(
    worker: Worker, waiting: list[str], budget_s: Callable[[str], float], start_s: float
) -> Iterator[Row]:
    """Yield the rows of a process until it ends or a check takes too long, and remove their checks
    from `waiting`."""
    running: str | None = None
    deadline = time.monotonic() + start_s
    began = time.monotonic()
    while waiting:
        try:
            message = worker.heard(deadline - time.monotonic())
        except queue.Empty:
            limit = start_s if running is None else budget_s(running)
            yield broken(waiting.pop(0), f"took longer than its {limit:.0f} s", limit)
            return
        if message is None:
            code = worker.ended()
            if running is None and code == REFUSED:
                raise Refused
            yield broken(waiting.pop(0), _how(code), time.monotonic() - began)
            return

        if "begins" in message:
            running = message["begins"]
            began = time.monotonic()
            deadline = began + budget_s(running)
            continue
        yield from (Row(**row) for row in message["rows"])
        waiting.pop(0)
        if message["broken"]:
            return
        running = None
        deadline = time.monotonic() + start_s


def _how(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"the process ended with exit code {code}"
    return f"the process ended by signal {-code} ({signal.Signals(-code).name})"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    parser.add_argument("--quick", action="store_true", help="tiny networks, a few steps")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--only", nargs="+", choices=list(BUDGETS_S), default=list(BUDGETS_S))
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the time of a row")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse()
    script = [sys.executable, str(Path(__file__).resolve()), "--device", options.device]
    if options.quick:
        script.append("--quick")
    if options.worker or options.child:
        from benchmarks import gpu_rows  # imports torch

        return gpu_rows.main(script, options)

    # So that an end by `timeout` or CI ends the process that measures too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    def budget_s(name: str) -> float:
        unhurried = options.quick or options.device in ("cpu", "mps")
        return options.patience * (UNHURRIED_S if unhurried else BUDGETS_S[name])

    began = time.monotonic()
    rows: list[Row] = []
    try:
        start_s = options.patience * (UNHURRIED_S if options.quick else START_S)
        for row in checked(options.only, [*script, "--worker"], budget_s, start_s):
            show(row)
            rows.append(row)
            _write(options.json, rows, time.monotonic() - began)
    except Refused:
        return 2

    failed = [row.name for row in rows if row.holds is False]
    seconds = time.monotonic() - began
    print(f"{len(rows)} rows in {seconds:.0f} s; {', '.join(failed) or 'none'} failed")
    return int(bool(failed))


def _write(path: Path | None, rows: list[Row], seconds: float) -> None:
    """Write the rows so far, if a file is asked for."""
    if path is not None:
        written = {"command": sys.argv, "seconds": seconds, "rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
