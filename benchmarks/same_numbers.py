"""Check that two checkouts compute the same numbers: two epochs of each default study, bit for bit.

    git worktree add /tmp/base 5d3a9ec
    python benchmarks/same_numbers.py /tmp/base .               # all five, minutes on two cores
    python benchmarks/same_numbers.py /tmp/base . ssl segment   # two of them

In both checkouts the default study of an experiment starts on this machine, with seed 0 and
embedded data. It is stopped when trial 0, the untuned default, has reported twice; its schedule is
that of the whole study. If the untrained baseline comes later, the study is resumed for it.
Compared are the trial's config, the untrained baseline, and every metric of both epochs except
times. The exit code is 1 if anything differs.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

EXPERIMENTS = {
    "ssl": "ssl",
    "pretrain": "pretrain",
    "classify": "classify --setting A",
    "fewshot": "fewshot",
    "segment": "segment",
}
"""Name here -> arguments of `tune/run.py`."""
EPOCHS = 2
PATIENCE_S = 1200

Values = dict[str, Any]


def events(log: Path) -> list[Values]:
    """Return the complete lines of an event log."""
    if not log.exists():
        return []
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def reports(found: list[Values]) -> list[Values]:
    """Return the first epochs of trial 0."""
    return [event for event in found if event["event"] == "report" and event["trial"] == 0][:EPOCHS]


def untrained(found: list[Values]) -> list[Values]:
    """Return the untrained baseline as one event; no event before it is known."""
    return [event for event in found if event["event"] == "summary" and event["metrics"]]


def begin_study(tree: Path, arguments: str) -> list[Values]:
    """Run a default study until trial 0 has reported EPOCHS times, and resume it if the untrained
    baseline comes later. Return its event log."""
    with tempfile.TemporaryDirectory(prefix="vistune-same-") as storage:
        run_until(lambda found: len(reports(found)) == EPOCHS, tree, arguments, storage)
        return run_until(lambda found: bool(untrained(found)), tree, arguments, storage)


def run_until(
    is_enough: Callable[[list[Values]], bool], tree: Path, arguments: str, storage: str
) -> list[Values]:
    """Run or resume a study until its event log is sufficient. Return this log."""
    environment = os.environ | {"PYTHONPATH": str(tree), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "tune/run.py", *shlex.split(arguments)]
    process = subprocess.Popen(
        [*command, "--local", "--trials", "1", "--repeats", "0", "--storage", storage],
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return wait_for(is_enough, process, Path(storage))
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # also the process that draws its pictures
        process.wait()


def wait_for(
    is_enough: Callable[[list[Values]], bool], process: "subprocess.Popen[bytes]", storage: Path
) -> list[Values]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        ended = process.poll() is not None
        for log in storage.glob("*/events.jsonl"):
            found = events(log)
            if is_enough(found):
                return found

        if ended:
            raise SystemExit(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r}: not enough in {PATIENCE_S} s")
        time.sleep(0.2)


def numbers(found: list[Values]) -> Values:
    """Return all values that must be equal, by name."""
    start = next(event for event in found if event["event"] == "start")
    values: Values = {f"config {key}": value for key, value in start["config"].items()}
    for event in untrained(found):
        values |= {f"untrained {key}": value for key, value in event["metrics"].items()}

    for event in reports(found):
        for key, value in event["metrics"].items():
            if not key.startswith("time/"):
                values[f"epoch {event['epoch']} {key}"] = value
    return values


def differences(first: Values, second: Values) -> list[str]:
    """List the differing values. Floats are compared by `repr`, which shows their last bit and
    treats all NaNs as equal."""
    names = [*first, *(name for name in second if name not in first)]
    was = {name: repr(first[name]) if name in first else "absent" for name in names}
    now = {name: repr(second[name]) if name in second else "absent" for name in names}
    return [f"{name} was {was[name]}, is {now[name]}" for name in names if was[name] != now[name]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="a checkout")
    parser.add_argument("second", type=Path, help="another")
    parser.add_argument("experiments", nargs="*", help=f"default: {' '.join(EXPERIMENTS)}")
    arguments = parser.parse_args()
    wanted = arguments.experiments or list(EXPERIMENTS)
    if unknown := [name for name in wanted if name not in EXPERIMENTS]:
        parser.error(f"unknown experiment {unknown[0]!r}; there are {', '.join(EXPERIMENTS)}")

    trees = [arguments.first.resolve(), arguments.second.resolve()]
    differ = False
    for name in wanted:
        begin = partial(begin_study, arguments=EXPERIMENTS[name])
        with ThreadPoolExecutor(len(trees)) as pool:  # a trial uses one thread
            first, second = map(numbers, pool.map(begin, trees))
        found = differences(first, second)
        differ = differ or bool(found)

        metrics = [key for key in first if key.startswith("epoch ")]
        verdict = "; ".join(found) or f"equal ({len(metrics)} metrics of {EPOCHS} epochs)"
        print(f"{name}: {verdict}", flush=True)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
