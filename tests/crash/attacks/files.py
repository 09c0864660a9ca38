"""Files of a study that something else has changed."""

import json
import os
import shutil
import signal
import subprocess
import time

from tests.crash.attacks.common import (
    NOWHERE,
    REPORT,
    SHORT,
    TWO,
    ended,
    finished,
    first,
    report,
    whole,
    wrong,
)
from tests.crash.place import Place

EDITS: dict[str, object] = {
    "base": None,
    "space": 5,
    "rules": 5,
    "created": "yesterday",
    "data": [],
    "name": "../x",
    "versions": None,
    "repeats": "x",
    "keep": "some",
    "objective": "val/none",
    "seed": "a",
    "pins": 3,
    "preset": "huge",
    "experiment": "other",
    "commit": 7,
    "begun_as": 5,
    "objectives": "x",
    "unheard_of": 1,
}


def edited(place: Place) -> str:
    """Values in study.json are edited by hand."""
    problem = finished(place)
    manifest = (place.study / "study.json").read_text()
    for key, value in EDITS.items():
        (place.study / "study.json").write_text(json.dumps(json.loads(manifest) | {key: value}))
        for done in (
            report(place, "show", "toy"),
            report(place, "html", "toy"),
            place.toy("--trials", "3", *SHORT, **NOWHERE),
        ):
            found = wrong(done, 0, 1, 2)
            if found:
                problem = problem or f"{key}={value!r}: {found}"
        shutil.rmtree(place.storage / "x", ignore_errors=True)
    return problem


def odd_database(place: Place) -> str:
    """Something else is in the place of MLflow's database."""
    for what in ("folder", "dangling", "garbage", "fifo", "socket"):
        database = place.storage / "mlflow.db"
        shutil.rmtree(place.storage)
        place.storage.mkdir()
        if what == "folder":
            database.mkdir()
        elif what == "dangling":
            database.symlink_to("/nowhere/mlflow.db")
        elif what == "garbage":
            database.write_bytes(b"SQLite format 3\0" + bytes(9000))
        elif what == "fifo":
            os.mkfifo(database)
        else:
            subprocess.run(["python3", "-c", _SOCKET, str(database)], check=True)
        done = ended(place, place.start_toy(*TWO), 150)
        found = first(wrong(done), whole(place))
        sync = ended(place, place.start(REPORT, "sync", "--storage", "runs"), 150)
        found = first(found, wrong(sync, 0, 2))
        if found:
            return f"{what}: {found}"
    return ""


_SOCKET = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"


def interrupted_mlflow(place: Place) -> str:
    """Ctrl-C comes twice while MLflow makes its tables, at ten different moments."""
    for number in range(10):
        shutil.rmtree(place.storage)
        shutil.rmtree(place.folder / "cache", ignore_errors=True)
        place.storage.mkdir()
        process = place.start_toy("--trials", "1", *SHORT)
        place.wait_for(lambda: any((place.folder / "cache").glob("mlflow*.partial")), process)
        time.sleep(0.3 * number)
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        killed = ended(place, process)
        done = place.toy("--trials", "1", *SHORT)
        sync = place.command(REPORT, "sync", "--storage", "runs")
        found = first(wrong(killed, 130, 0), wrong(done), wrong(sync), whole(place, 1))
        if found or place.runs() != ["toy", "trial-000"]:
            return f"moment {number}: {found or place.runs()}; {done}; {sync}"
        left = [str(path) for path in place.folder.rglob("*.damaged-*")]
        if left:
            return f"moment {number}: {left[0]}"
    return ""


def odd_locks(place: Place) -> str:
    """Folders are in the place of lock files."""
    problem = finished(place)
    for name in (".lock", "tracking.lock", ".addition.lock", ".holder.json", "enqueued.jsonl"):
        shutil.rmtree(place.study / name, ignore_errors=True)
        (place.study / name).unlink(missing_ok=True)
        (place.study / name).mkdir()
        for done in (
            report(place, "show", "toy"),
            report(place, "html", "toy"),
            place.toy("--trials", "2", *SHORT, **NOWHERE),
        ):
            problem = problem or (f"{name}: {wrong(done, 0, 2)}" if wrong(done, 0, 2) else "")
        (place.study / name).rmdir()
    return first(problem, finished(place))


def odd_logs(place: Place) -> str:
    """Files are in the place of the folders of `--log`."""
    problem = finished(place)
    for name in ("csv", "tensorboard"):
        (place.study / name).write_text("a file")
        done = place.toy("--trials", "2", *SHORT, "--log", name, **NOWHERE)
        problem = first(problem, wrong(done, says=("behind",)))
        (place.study / name).unlink()
        done = report(place, "sync", "--log", name)
        problem = first(problem, wrong(done, 0, 2))
    return problem
