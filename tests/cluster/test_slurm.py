"""cluster/slurm.sbatch through sbatch: a real study on two nodes of a SLURM on this machine. The
end of the job's time interrupts it."""

import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import REPO
from tests.cluster.slurm import Slurm, unavailable
from tune.clusters.joining import not_joined
from tune.study.events import EventLog

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(unavailable()), reason=unavailable()),
]

TRIALS = 2
SMALL = (
    "train.epoch_images=256",
    "train.epochs=12",
    "val.probe_steps=0",
    "head.hidden_size=256",
    "data.image_size=28",
)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm") / "s") as found:
        yield found


class Job:
    """A job that runs the study."""

    def __init__(self, slurm: Slurm, root: Path):
        self.slurm = slurm
        self.storage = root / "runs"
        self.tokens = root / "tokens"
        self.output = root / "job.out"
        self.number = self.submit()

    def submit(self) -> str:
        study = ["ssl", "--study", "s", "--storage", str(self.storage), "--pictures", "none"]
        study += ["--trials", str(TRIALS), "--repeats", "1"]
        study += [word for value in SMALL for word in ("--set", value)]
        # On two machines the addresses would differ, but here both nodes are this machine.
        said = self.slurm.typed(
            *("sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--chdir={REPO}"),
            *("--mem=0", f"--output={self.output}", "cluster/slurm.sbatch", *study),
            VISTUNE_PYTHON=sys.executable,
            VISTUNE_SLURM_TOKENS=str(self.tokens),
            VISTUNE_HEAD_ADDRESS="127.0.0.1",
            PYTHONPATH=str(REPO),
        )
        assert said.strip().isdecimal(), said
        return said.strip()

    def events(self, kind: str) -> list[dict[str, Any]]:
        log = self.storage / "s" / "events.jsonl"
        found = EventLog.read(log)[0] if log.exists() else []
        return [event for event in found if event["event"] == kind]

    def running(self) -> set[int]:
        """Numbers of the trials that have started and not ended."""
        started, ended = ({e["trial"] for e in self.events(kind)} for kind in ("start", "end"))
        return started - ended - {None}

    def wait(self, ready: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                said = self.output.read_text() if self.output.exists() else ""
                raise AssertionError(said[-4000:] + self.slurm.logs())
            time.sleep(0.5)

    def dashboard(self) -> int:
        """HTTP status of a request without the token."""
        url = f"http://127.0.0.1:{30000 + int(self.number) % 10000}/api/jobs/"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code


def test_a_study_ends_although_its_time_is_over_in_between(slurm: Slurm, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path)
    began = time.monotonic()
    job.wait(lambda: len(job.running()) == 2, 300)  # one trial on each node
    print(f"two trials side by side after {time.monotonic() - began:.0f} s")
    job.wait(lambda: any(e["epoch"] > 1 for e in job.events("report")), 300)

    # while it runs: only its user can read the token, and requests without it are refused
    (token,) = job.tokens.glob("*.token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert job.dashboard() == 401

    # SLURM does this two minutes before the job's time ends
    slurm.typed("scancel", "--batch", "--signal=USR1", job.number)
    job.wait(lambda: "is queued again" in job.output.read_text(), 120)
    job.wait(lambda: slurm.state(job.number) in ("COMPLETED", "FAILED"), 600)
    print(f"the study's end after {time.monotonic() - began:.0f} s")

    said = job.output.read_text()
    assert slurm.state(job.number) == "COMPLETED", said[-4000:]
    assert len(job.events("finish")) == 2, said[-4000:]  # interrupted, then finished
    assert job.events("finish")[-1]["state"] == "FINISHED"
    check_whole(job)
    assert any(e["attempt"] > 1 for e in job.events("start"))

    # nothing is left behind, once SLURM has ended what the job started
    job.wait(lambda: left_of(job) == [], 60)
    assert list(job.tokens.iterdir()) == []
    assert not_joined(job.storage) == []
    assert not Path(f"/tmp/vistune-{job.number}").exists()


def check_whole(job: Job) -> None:
    """Assert that nothing is lost, and nothing is there twice."""
    ends = Counter((e["trial"], e.get("repeat")) for e in job.events("end"))
    assert set(ends.values()) == {1}
    assert sorted(n for n, repeat in ends if repeat is None) == list(range(TRIALS))
    for trial, repeat in ends:
        epochs = [
            e["epoch"]
            for e in job.events("report")
            if (e["trial"], e.get("repeat")) == (trial, repeat)
        ]
        assert epochs == list(range(1, len(epochs) + 1))


def left_of(job: Job) -> list[str]:
    """Processes that still have the job's number in their environment."""
    wanted = f"SLURM_JOB_ID={job.number}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(f"{process.name} {(process / 'cmdline').read_bytes()[:80]!r}")
        except OSError:
            continue
    return [each for each in found if not each.startswith(f"{os.getpid()} ")]


def test_what_is_run_without_sbatch_says_so() -> None:
    environment = {key: value for key, value in os.environ.items() if "SLURM" not in key}
    done = subprocess.run(
        ["bash", str(REPO / "cluster/slurm.sbatch"), "ssl"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "submit this file, do not run it" in done.stderr
