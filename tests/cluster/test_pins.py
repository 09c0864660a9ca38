"""Machines of a cluster have the packages of the lock file. A machine that cannot join says so."""

import os
import subprocess
import time
from pathlib import Path
from socket import gethostname

import pytest

from tests import REPO
from tests.studies import finished
from tune.clusters.joining import NotJoined, not_joined
from tune.clusters.pins import LOCKS, installed_ray, lock_problems, locked, without_hash

NODE = REPO / "cluster/node.sh"


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_name_our_ray_and_a_hash_for_every_package(name: str) -> None:
    path = REPO / name
    assert len(locked(path)) > 200
    assert locked(path)["ray"] == installed_ray()
    assert without_hash(path) == []
    assert list(lock_problems(path)) == []


def test_a_lock_file_without_hash_or_with_another_ray_is_named(tmp_path: Path) -> None:
    path = tmp_path / "constraints-cuda.txt"
    path.write_text("numpy==2.4.6\nray==2.59.0 \\\n    --hash=sha256:00\n")
    first, second = lock_problems(path)
    assert first.startswith("constraints-cuda.txt: numpy has no hash")
    assert "has Ray 2.59.0 and this machine" in second


class Machine:
    """A machine of a cluster: a home, the shared folder, and a fake Python and Ray that only print
    their versions."""

    def __init__(self, root: Path, ray: str = "2.60.0", torch: str = "2.14.1"):
        self.shared = root / "runs"
        self.home = root / "home"
        self.bin = self.home / "venv/bin"
        self.bin.mkdir(parents=True, exist_ok=True)
        self.write("python", f"echo ray {ray}; echo torch {torch}")
        self.write("ray", 'echo "Ray runtime started."')
        self.write("pip", f'echo "$@" >> {root}/pip.txt')

    def write(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def node(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "HOME": str(self.home),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "VISTUNE_RUNS": str(self.shared),
            **more,
        }
        return subprocess.run(
            ["bash", str(NODE), *words], env=environment, capture_output=True, text=True, timeout=60
        )

    @property
    def notes(self) -> list[NotJoined]:
        return not_joined(self.shared)


JOIN = ("join", "ray", "start", "--address=10.0.0.1:6379")


def test_a_worker_with_the_heads_versions_joins(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.node("head").returncode == 0
    assert machine.node(*JOIN).returncode == 0
    assert machine.notes == []


def test_a_worker_with_another_torch_leaves_a_note_until_it_joins(tmp_path: Path) -> None:
    Machine(tmp_path).node("head", VISTUNE_CLUSTER="10.0.0.1")
    worker = Machine(tmp_path, torch="2.13.0")
    done = worker.node(*JOIN)
    assert done.returncode == 1
    (note,) = worker.notes
    assert note.reason == "it has torch 2.13.0, the head 2.14.1"
    assert note.reason in done.stderr
    assert abs(note.at - time.time()) < 60

    mended = Machine(tmp_path)
    assert mended.node(*JOIN).returncode == 0
    assert mended.notes == []


def test_a_head_leaves_its_versions_under_its_own_addresses(tmp_path: Path) -> None:
    head = Machine(tmp_path)
    assert head.node("head").returncode == 0
    worker = Machine(tmp_path, torch="2.13.0")
    assert worker.node("join", "ray", "start", f"--address={gethostname()}:6379").returncode == 1


def test_clusters_of_one_storage_keep_their_versions_apart(tmp_path: Path) -> None:
    Machine(tmp_path).node("head", VISTUNE_CLUSTER="slurm-1")
    other = Machine(tmp_path, torch="2.13.0")
    assert other.node("head", VISTUNE_CLUSTER="slurm-2").returncode == 0
    assert other.node(*JOIN, VISTUNE_CLUSTER="slurm-2").returncode == 0
    assert other.node(*JOIN, VISTUNE_CLUSTER="slurm-1").returncode == 1


def test_a_note_of_an_earlier_time_is_gone_while_the_machine_works(tmp_path: Path) -> None:
    worker = Machine(tmp_path)
    worker.write("ray", "echo no way; exit 1")
    worker.node(*JOIN)
    assert len(worker.notes) == 1

    worker.write("ray", f'echo "Ray runtime started."; ls {tmp_path}/runs/.nodes > {tmp_path}/seen')
    assert worker.node(*JOIN).returncode == 0
    assert (tmp_path / "seen").read_text() == ""


def test_what_ray_says_is_the_reason(tmp_path: Path) -> None:
    worker = Machine(tmp_path)
    worker.write("ray", "echo 'RuntimeError: Version mismatch: Python 3.11.7, not 3.12.3'; exit 1")
    assert worker.node(*JOIN).returncode == 1
    assert "Version mismatch: Python 3.11.7, not 3.12.3" in worker.notes[0].reason


def test_a_worker_that_has_joined_and_is_ended_leaves_no_note(tmp_path: Path) -> None:
    worker = Machine(tmp_path)
    worker.write("ray", 'echo "Ray runtime started."; exit 143')
    worker.node(*JOIN)
    assert worker.notes == []


def test_installing_takes_the_lock_file_with_hashes_and_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for _ in range(2):
        assert machine.node("install", "cuda").returncode == 0
    lock, own, again = (tmp_path / "pip.txt").read_text().splitlines()
    assert lock == f"install -q --no-deps --require-hashes -r {REPO}/constraints-cuda.txt"
    assert own == again == f"install -q --no-deps --no-build-isolation -e {REPO}"


def test_torch_for_cpus_comes_in_the_version_of_the_lock_file(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.node("install", "cpu").returncode == 0
    torch, lock, _ = (tmp_path / "pip.txt").read_text().splitlines()
    version = locked(REPO / "constraints-cuda.txt")["torch"]
    assert f"torch=={version}" in torch.split()
    assert lock.endswith("constraints-cpu.txt")


def test_an_installation_that_fails_leaves_a_note(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("pip", "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES'; exit 1")
    assert machine.node("install", "cuda").returncode == 1
    assert "DO NOT MATCH THE HASHES" in machine.notes[0].reason


def test_torn_notes_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".nodes").mkdir()
    (tmp_path / ".nodes/a.txt").write_text("")
    (tmp_path / ".nodes/b.txt").write_text("100\nno way\nto the head\n")
    (tmp_path / ".nodes/c.txt").write_text("200\n")
    assert not_joined(tmp_path) == [
        NotJoined("b", 100.0, "no way to the head"),
        NotJoined("c", 200.0, "no reason is known"),
    ]
    assert [note.host for note in not_joined(tmp_path, since=150.0)] == ["c"]


def test_of_many_machines_the_last_three_and_a_number_are_shown(tmp_path: Path) -> None:
    from tune.reports.leaderboard import _machines_missing

    notes = tmp_path / ".nodes"
    notes.mkdir()
    for n in range(5):
        (notes / f"spot-{n}.txt").write_text(f"{2_000_000_000 + n}\nno way\n")
    *machines, more = _machines_missing(tmp_path / "toy", "2026-01-01T00:00:00+00:00")
    assert [line.split()[1] for line in machines] == ["spot-2", "spot-3", "spot-4"]
    assert more.startswith("and 2 more before")


def test_show_names_machines_that_could_not_join(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from tune.reports.leaderboard import show_study

    finished(tmp_path, trials=1)
    worker = Machine(tmp_path, torch="2.13.0")
    worker.shared = tmp_path
    (tmp_path / ".nodes").mkdir()
    (tmp_path / ".nodes/head-10.0.0.1").write_text("torch 2.14.1\n")
    worker.node(*JOIN)
    (tmp_path / ".nodes/earlier.txt").write_text("100\nbefore the study\n")

    show_study(tmp_path / "toy", Console(width=80))
    shown = " ".join(capsys.readouterr().out.split())
    assert "could not join the cluster" in shown
    assert "it has torch 2.13.0, the head 2.14.1" in shown
    assert "before the study" not in shown
