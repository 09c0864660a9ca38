"""Repeat past failures through the command line, against this checkout or an earlier one.

    python -m tests.crash.acts                                    this checkout
    python -m tests.crash.acts --checkout ../before               that of 5d3a9ec, say
    python -m tests.crash.acts --only storage --only records

Each act repeats one number of docs/notes/crash.md on a study of the toy. It returns what broke, or
an empty string. At 5d3a9ec all of them broke.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests import REPO
from tests.crash.place import Case, Place, try_each
from tests.crash.servers import (
    BUCKET,
    bucket_server,
    names_in_bucket,
    password_server,
    put_in_bucket,
)
from tests.crash.spot import KILLS

SHORT = ("--local", "--repeats", "0", "--set", "train.epochs=2")


def storage(place: Place) -> str:
    """The handle of a network disk is stale, so checkpoints cannot be written."""
    words = ("--trials", "8", *SHORT)
    done = place.toy(*words, act="errno:ESTALE")
    if failed := place.states()["FAIL"]:
        return f"{failed} of 8 trials FAIL; {done}"
    if done.code != 1 or "Stale file handle" not in done.said:
        return f"no word of the disk: {done}"
    done = place.toy(*words)
    return "" if _all_ended(place, 8) else f"not resumed: {done}"


def breaker(place: Place) -> str:
    """A library is missing, so no trial can train."""
    words = ("--trials", "10", *SHORT)
    done = place.toy(*words, act="broken")
    if place.states()["FAIL"] > 5:
        return f"{place.states()['FAIL']} of 10 trials are eaten; {done}"
    done = place.toy(*words)
    return "" if _all_ended(place, 10) else f"after the repair {dict(place.states())}: {done}"


def retry(place: Place) -> str:
    """Only the default failed, for an external reason."""
    place.toy("--trials", "3", *SHORT, act="broken:first")
    if place.states()["FAIL"] != 1:
        return f"the act itself failed: {dict(place.states())}, {place.said[-300:]}"
    done = place.toy("--trials", "3", *SHORT, "--retry-failed")
    return "" if _all_ended(place, 3) else f"trial 0 stays failed: {done}"


def spot(place: Place) -> str:
    """A trial on Ray loses its process after every new epoch."""
    words = ("--trials", "1", "--repeats", "0", "--set", "train.epochs=8", "--concurrent", "1")
    done = place.toy(*words, act="spot")
    killed = len((place.folder / "kills").read_text())
    if _all_ended(place, 1) and killed == KILLS:
        return ""
    return f"{killed} processes lost, {dict(place.states())}: {done}"


def mlflow(place: Place) -> str:
    """SIGKILL comes while MLflow makes its tables."""
    words = ("--trials", "1", *SHORT)
    for seconds in (0.3, 1.0, 2.0):
        shutil.rmtree(place.storage)
        shutil.rmtree(place.folder / "cache", ignore_errors=True)
        place.storage.mkdir()
        process = place.start_toy(*words)
        place.wait_for(lambda: any(_databases(place)), process)
        time.sleep(seconds)
        place.kill(process)
        done = place.toy(*words)
        sync = place.command("tune/report.py", "sync", "--storage", "runs")
        if place.runs() != ["toy", "trial-000"]:
            return f"killed after {seconds} s, MLflow has {place.runs()}: {done}; {sync}"
    return ""


def _databases(place: Place) -> Iterator[Path]:
    """Files that are, or will become, a database of MLflow."""
    for path in place.folder.rglob("*mlflow*db*"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_size > 0 and "lock" not in path.name:
                yield path


def records(place: Place) -> str:
    """A disk or an editor loses a line of the log."""
    place.toy("--trials", "3", *SHORT)
    log = place.study / "events.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    lost = next(n for n, line in enumerate(lines) if '"event": "end"' in line or '"end"' in line)
    log.write_text("".join(lines[:lost] + lines[lost + 1 :]))
    done = place.toy("--trials", "3", *SHORT)
    ends = [event["trial"] for event in place.events("end")]
    return "" if sorted(ends) == [0, 1, 2] else f"ends on record: {sorted(ends)}; {done}"


def copied(place: Place) -> str:
    """A study is copied under another name, and both are sent to MLflow."""
    place.toy("--trials", "2", *SHORT)
    shutil.copytree(place.study, place.storage / "other")
    done = place.toy("--trials", "3", *SHORT, "--study", "other")
    place.command("tune/report.py", "sync", "--storage", "runs")
    trials = sum(name.startswith("trial-") for name in place.runs())
    return "" if trials == 5 else f"MLflow has {trials} runs of trials instead of 2 + 3: {done}"


def named(place: Place) -> str:
    """A study has the name of one of the storage's files."""
    done = place.toy("--trials", "1", *SHORT, "--study", "mlflow.db")
    return "" if done.code == 2 and "--study" in done.said else str(done)


def twice(place: Place) -> str:
    """Another process has just begun the study, and has written nothing yet."""
    place.study.mkdir()
    with (place.study / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = place.toy("--trials", "1", *SHORT)
    written = sorted(path.name for path in place.study.iterdir() if not path.name.startswith("."))
    if done.code != 2:
        return f"it was not refused: {done}"
    return "" if not written else f"the loser wrote {', '.join(written)}"


def bucket(place: Place) -> str:
    """In a bucket, SIGKILL comes between writing weights and renaming them. Other objects are there
    that a head left when it was killed before it removed them."""
    address = f"s3://{BUCKET}/runs"
    with bucket_server() as environment:
        words = ("--trials", "3", *SHORT, "--storage", address)
        place.toy(*words, act="killed", **environment)
        place.toy(*words, **environment)
        for name in ("last.pt", "best.pt.tmp", "best.pt.0a1b2c3d.partial"):
            put_in_bucket(environment, f"runs/toy/trials/0000/{name}")
        done = place.toy(*words, **environment)
        names = [*names_in_bucket(environment), *(str(path) for path, _ in place.texts())]
    left = [name for name in names if name.endswith((".tmp", ".partial", ".new", "last.pt"))]
    if done.code != 0:
        return str(done)
    return "" if not left else f"left: {', '.join(left)}"


def password(place: Place) -> str:
    """An MLflow server asks for user and password."""
    secret = "pa55w0rd"
    with password_server() as (port, authorised):
        address = f"http://someone:{secret}@127.0.0.1:{port}"
        done = place.toy("--trials", "1", *SHORT, MLFLOW_TRACKING_URI=address)
    shown = [str(path) for path, text in place.texts() if secret in text]
    if shown:
        return f"the password is in {', '.join(shown)}"
    return "" if authorised else f"the server was never asked with the password: {done}"


def pruned(place: Place) -> str:
    """Snapshots of stopped trials, which are never drawn, must not stay."""
    place.toy("--trials", "8", "--local", "--repeats", "0", "--set", "train.epochs=9")
    stopped = [e["trial"] for e in place.events("end") if e["state"] == "PRUNED"]
    folders = [place.study / f"trials/{number:04d}" for number in stopped]
    left = [path for folder in folders for path in folder.rglob("*.npz")]
    if not stopped:
        return "the act itself failed: no trial was stopped"
    return "" if not left else f"{len(left)} files of {len(stopped)} stopped trials are left"


def group(place: Place) -> str:
    """SIGTERM goes to the whole process group on Ray, as scancel, systemd and `timeout` send it."""
    words = ("--trials", "6", "--repeats", "0", "--set", "train.epochs=30", "--concurrent", "1")
    process = place.start_toy(*words, "--set", "sleep_s=0.2")
    place.wait_for(lambda: len(place.events("report")) > 1, process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    code = process.wait(180)
    seconds = time.monotonic() - began
    said = place.said
    place.end()
    if code == 130 and "Resume with" in said:
        return ""
    return f"exit {code} after {seconds:.0f} s: {said.strip().splitlines()[-1][:200]}"


def cluster(place: Place) -> str:
    """A joining machine installs pinned packages, and a head may start only its own machines."""
    files = [*place.checkout.glob("cluster*.yaml"), *place.checkout.glob("cluster/*.*")]
    if not any("--require-hashes" in path.read_text() for path in files):
        return "nodes install what pip finds on that day"
    policy = (place.checkout / "cluster/aws.cfn.yaml").read_text()
    wide = [line.strip() for line in policy.splitlines() if 'Resource: "*"' in line]
    free = [line for line in wide if "RunInstances" in line or "CreateTags" in line]
    return "" if not free else f"on all of the account: {free[0]}"


def room(place: Place) -> str:
    """A command asks for more workers than this machine has cores, and must leave no study
    behind."""
    words = ("pretrain", "--data", "digits", "--trials", "1", "--storage", "runs")
    done = place.command("tune/run.py", *words, "--workers", "9")
    if done.code != 2 or "--workers" not in done.said:
        return str(done)
    left = place.storage / "pretrain/study.json"
    return "" if not left.exists() else f"study.json is left behind: {done}"


def senseless(place: Place) -> str:
    """Values that cannot work are refused."""
    for value in ("train.threads=100000", "train.batch_size=999999999"):
        done = place.command(
            "tune/run.py", "pretrain", "--data", "digits", "--local", "--trials", "1",
            "--repeats", "0", "--storage", "runs", "--set", "train.epochs=1", "--set", value,
        )  # fmt: skip
        if done.code != 2:
            return f"--set {value}: {done}"
    return ""


def served(place: Place) -> str:
    """Floats from 0 to 1 are sent to a served classifier that takes bytes."""
    common = ("--set", "train.epochs=1", "--set", "train.epoch_images=64")
    done = place.command(
        "tune/run.py", "pretrain", "--data", "digits", "--local", "--trials", "1", "--repeats", "0",
        "--storage", "runs", *common,
    )  # fmt: skip
    exported = place.command("tune/report.py", "export", "pretrain", "--storage", "runs")
    model = place.storage / "pretrain/model"
    if not model.exists():
        return f"the act itself failed: {done}; {exported}"
    (place.folder / "serve.py").write_text(_SERVE)
    asked = subprocess.run(
        [sys.executable, "serve.py", str(model)],
        cwd=place.folder,
        env=os.environ | {"PYTHONPATH": str(place.checkout)},
        capture_output=True,
        text=True,
    )
    answer = asked.stdout.strip().splitlines()[-1:] or [asked.stderr.strip()[-200:]]
    return "" if answer == ["refused"] else f"it answered {answer[0][:200]}"


_SERVE = """
import json, sys
import mlflow.pyfunc, numpy as np
from mlflow.pyfunc import scoring_server
model = mlflow.pyfunc.load_model(sys.argv[1])
schema = model.metadata.get_input_schema()
shape = [size if size > 0 else 2 for size in schema.inputs[0].shape]
body = json.dumps({"inputs": np.random.default_rng(0).random(shape).tolist()})
try:
    answer = scoring_server.invocations(body, "application/json", model, schema)
    print(answer.status, answer.response)
except Exception as error:
    print("refused" if "255" in str(error) else f"another error: {error!r}")
"""


ACTS: dict[str, tuple[str, Case]] = {
    "storage": ("1", storage),
    "breaker": ("2", breaker),
    "retry": ("2", retry),
    "spot": ("3", spot),
    "mlflow": ("4", mlflow),
    "records": ("5", records),
    "copied": ("5", copied),
    "named": ("5", named),
    "twice": ("6", twice),
    "bucket": ("7", bucket),
    "password": ("8", password),
    "cluster": ("9", cluster),
    "pruned": ("10", pruned),
    "group": ("11", group),
    "room": ("11", room),
    "senseless": ("11", senseless),
    "served": ("12", served),
}
"""Name -> number of the issue, and the act."""


def _all_ended(place: Place, trials: int) -> bool:
    """True if this many trials have ended, and none has failed."""
    states = place.states()
    return states.total() == trials and not states["FAIL"]


def main() -> int:
    """Parse argv, run the acts, print a line for each. Return 1 if something broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.acts", description=__doc__)
    parser.add_argument("--checkout", type=Path, default=REPO, help="default: this one")
    parser.add_argument("--only", action="append", choices=ACTS, help="default: all")
    options = parser.parse_args()

    checkout = options.checkout.resolve()
    with tempfile.TemporaryDirectory(prefix="vistune-acts-") as scratch:
        database = _empty_database(Path(scratch), checkout)

        def place_of(name: str) -> Place:
            return Place(Path(scratch) / name, checkout, None if name == "mlflow" else database)

        return try_each(ACTS, options.only or ACTS, place_of)


def _empty_database(scratch: Path, checkout: Path) -> Path:
    """MLflow's database, made once for all acts but `mlflow`."""
    place = Place(scratch / "empty", checkout)
    database = place.folder / "mlflow.db"
    program = f"import mlflow; mlflow.MlflowClient('sqlite:///{database}').search_experiments()"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return database


if __name__ == "__main__":
    sys.exit(main())
