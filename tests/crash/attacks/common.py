"""Commands of an attack, and checks of what they leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.crash.place import Done, Place

SHORT = ("--local", "--repeats", "0", "--pictures", "none", "--set", "train.epochs=2")
TWO = ("--trials", "2", *SHORT)
SLOW = ("--trials", "2", *SHORT[:-1], "train.epochs=40", "--set", "sleep_s=0.02")
NOWHERE = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
"""An address without a server, for attacks that are not about MLflow."""
REPORT = "tune/report.py"
PRETRAIN = (
    *("pretrain", "--data", "digits", "--local", "--trials", "1", "--repeats", "0"),
    *("--pictures", "none", "--storage", "runs"),
    *("--set", "train.epochs=1", "--set", "train.epoch_images=64"),
)
"""A study whose model can be exported."""
FAKETIME = [""]
"""Path of libfaketime's library, or "" if it is missing."""
TOY_COMMAND = Path(__file__).parents[1] / "toy_command.py"


def wrong(done: Done, *codes: int, says: tuple[str, ...] = ()) -> str:
    """Return what is wrong with a command that should have ended with one of these codes (default:
    0)."""
    if "Traceback" in done.said:
        return f"traceback: {' | '.join(done.said.strip().splitlines()[-2:])[:300]}"
    if done.code not in (codes or (0,)):
        return str(done)
    missing = [word for word in says if word not in done.said]
    return f"not a word of {missing[0]!r}: {done}" if missing else ""


def first(*problems: str) -> str:
    """The first problem, or "" if there is none."""
    return next(filter(None, problems), "")


def whole(place: Place, trials: int = 2) -> str:
    """Return what is wrong with the record of a study that has reached its end."""
    states = place.states()
    if states.total() != trials or states["FAIL"]:
        return f"ended: {dict(states)} of {trials}"
    seen = [(e["trial"], e.get("repeat"), e["epoch"]) for e in place.events("report")]
    if len(seen) != len(set(seen)):
        return "an epoch is there twice"
    partial = [str(p) for p in place.study.rglob("*.partial")]
    return f"left: {partial[0]}" if partial else ""


def finished(place: Place, *words: str, **environment: str) -> str:
    """Run the study to its end, and return what is wrong then."""
    done = place.toy(*(words or TWO), **(NOWHERE | environment))
    return first(wrong(done), whole(place))


def report(place: Place, *words: str, **environment: str) -> Done:
    """Run a command of `report.py` on the storage."""
    return place.command(REPORT, *words, "--storage", "runs", **environment)


def beside(place: Place, *words: str) -> Done:
    """Run a report while the study runs."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(place.checkout / REPORT), *words, "--storage", "runs"],
        cwd=place.folder,
        env=os.environ | place.environment,
        capture_output=True,
        text=True,
    )
    return Done(done.returncode, done.stdout + done.stderr, time.monotonic() - began)


def running(place: Place, *words: str, epochs: int = 3) -> subprocess.Popen[bytes]:
    """Start a study, and wait until it has reported a few epochs."""
    process = place.start_toy(*(words or SLOW), **NOWHERE)
    place.wait_for(lambda: len(place.events("report")) >= epochs, process)
    return process


def ended(place: Place, process: subprocess.Popen[bytes], seconds: float = 120) -> Done:
    """Wait for a command to end."""
    began = time.monotonic()
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        place.kill(process)
        code = -999
    place.end()
    return Done(code, place.said, time.monotonic() - began)


def shell(place: Place, line: str) -> int:
    """Run a line of bash in the place."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=place.folder,
        env=os.environ | place.environment | NOWHERE,
        timeout=600,
        start_new_session=True,
    )
    return done.returncode


def toy_line(place: Place, *words: str) -> str:
    script = TOY_COMMAND
    return f"{sys.executable} {script} {place.checkout} toy --storage runs {' '.join(words)}"


def report_line(place: Place, *words: str) -> str:
    return f"{sys.executable} {place.checkout}/{REPORT} {' '.join(words)} --storage runs"
