"""The head is lost, or a study moves. The real command line resumes it elsewhere, from an object
store or a copied folder."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests import REPO
from tests.kills import Command, check_mlflow, wait_until
from tests.mlflow_store import store as mlflow_store
from tune.study.events import EventLog
from tune.study.record import read_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


def on_machine(home: Path, endpoint: str, trials: int, *more: str) -> Command:
    """The command on a machine whose cache, and with it the copy of the bucket, is in `home`."""
    aws = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    home.mkdir(parents=True, exist_ok=True)
    command = Command(
        home, "--concurrent", "1", *more, trials=trials, VISTUNE_CACHE=str(home), **aws
    )
    command.argv[command.argv.index("--storage") + 1] = "s3://heads/runs"
    command.log = home / "object-storage/s3/heads/runs/ssl/events.jsonl"
    return command


def report(command: Command, *arguments: str) -> str:
    argv = [
        sys.executable,
        str(REPO / "tune/report.py"),
        *arguments,
        "--storage",
        "s3://heads/runs",
    ]
    return subprocess.run(
        argv, env=command.environment, capture_output=True, text=True, check=True, timeout=600
    ).stdout


def found(log: Path) -> list[dict[str, object]]:
    """Reports and ends of trials and repeats, in order, without times and processes."""
    events = [e for e in EventLog.read(log)[0] if e["event"] in ("report", "end")]
    kept = [
        e
        | {"t": 0, "metrics": {k: v for k, v in e["metrics"].items() if not k.startswith("time/")}}
        for e in events
    ]
    return sorted(kept, key=lambda e: (str(e["trial"]), str(e.get("repeat")), e.get("epoch", 99)))


def test_a_head_that_is_lost_with_its_disk(tmp_path: Path) -> None:
    trials = 4
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        plain = Command(tmp_path / "plain", "--concurrent", "1", trials=trials)
        assert plain.finish() == 0, plain.output
        first = on_machine(tmp_path / "first", endpoint, trials)
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import boto3; boto3.client('s3').create_bucket(Bucket='heads')",
            ],
            env=first.environment,
            check=True,
            timeout=300,
        )
        process = first.start()
        wait_until(
            lambda: len(first.events("end")) > 0 and len(first.events("start")) > 1, first, process
        )
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not first.alive(), first)
        shutil.rmtree(tmp_path / "first" / "object-storage")
        new = on_machine(tmp_path / "first", endpoint, trials)
        assert new.finish() == 0, new.output
        assert "are copied to s3://heads/runs/ssl" in new.output
        assert found(new.log) == found(plain.log)
        ends = Counter((e["trial"], e.get("repeat")) for e in new.events("end"))
        assert set(ends.values()) == {1}
        assert {number for number, repeat in ends if repeat is None} == set(range(trials))
        reader = on_machine(tmp_path / "reader", endpoint, trials)  # a laptop that only reads
        assert f"{trials} trials" in report(reader, "show", "ssl")
        page = Path(report(reader, "html", "ssl").strip())
        assert page.exists()
        best = read_record(reader.log.parent).best_number()
        weights = f"trials/{best:04d}/best.pt"
        new.storage = new.log.parent.parent
        check_mlflow(new, trials)
        command = on_machine(tmp_path / "other", endpoint, trials, "--plan", "--study", "later")
        assert command.finish() == 0, command.output
        sha = (new.log.parent / weights).read_bytes()
        argv = [
            sys.executable,
            "-c",
            "import sys, pathlib, tune.object_store.s3 as s3; "
            "print(s3.present(pathlib.Path(sys.argv[1])))",
            str(reader.log.parent / weights),
        ]
        subprocess.run(argv, cwd=REPO, env=reader.environment, check=True, timeout=300)
        assert (reader.log.parent / weights).read_bytes() == sha
    finally:
        server.stop()


def test_a_study_begun_with_one_worker_is_finished_elsewhere_with_two(tmp_path: Path) -> None:
    laptop = Command(tmp_path / "laptop", trials=2)
    assert laptop.finish() == 0, laptop.output
    (tmp_path / "cluster").mkdir()
    shutil.move(laptop.storage, tmp_path / "cluster" / "runs")
    cluster = Command(tmp_path / "cluster" / "runs", "--workers", "2", trials=3)
    before = cluster.events()
    assert cluster.finish() == 0, cluster.output
    assert cluster.events()[: len(before)] == before
    ends = Counter((e["trial"], e.get("repeat")) for e in cluster.events("end"))
    assert set(ends.values()) == {1}
    assert {number for number, repeat in ends if repeat is None} == {0, 1, 2}
    check_mlflow(cluster, 3)
    assert not laptop.storage.exists()  # nothing was written to the study's former folder
    assert {run["status"] for run in mlflow_store(cluster.storage).values()} == {"FINISHED"}
