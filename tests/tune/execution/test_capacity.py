"""The capacity that a growing cluster may reach, read from its file."""

from pathlib import Path

import pytest
import ray
import torch
import yaml

from tests.commands import LOCAL_TOY, Call
from trainables.errors import UserError
from tune.execution.capacity import (
    ConcurrencyLimit,
    at_its_largest,
    cluster_resources,
    gpus_of_a_worker,
    machine_resources,
    refuse_what_never_fits,
)
from tune.execution.ray_session import patient
from tune.execution.worker_group import WorkerGroup

CONFIG = {
    "max_workers": 8,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "spot": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 6},
        "large": {"resources": {"CPU": 2, "GPU": 4}, "max_workers": 3},
    },
}


def test_each_kind_of_machine_up_to_its_number_and_all_up_to_the_cluster_s() -> None:
    assert at_its_largest(CONFIG) == {"CPU": 6 * 4 + 2 * 2, "GPU": 3 * 4 + 5 * 1}
    assert at_its_largest({**CONFIG, "max_workers": 100}) == {
        "CPU": 6 * 4 + 3 * 2,
        "GPU": 3 * 4 + 6 * 1,
    }
    assert at_its_largest({**CONFIG, "max_workers": 0}) == {"CPU": 0, "GPU": 0}


def test_machines_of_one_s_own_are_counted_when_they_are_there() -> None:
    """Their file says nothing of resources."""
    config = {
        "max_workers": 2,
        "head_node_type": "n",
        "available_node_types": {"n": {"resources": {}, "max_workers": 2}},
    }
    assert at_its_largest(config) == {"CPU": 0, "GPU": 0}


def test_from_no_machine_a_study_asks_for_all_and_for_their_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"node:10.0.0.1": 1.0})
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert cluster_resources() == {"CPU": 0, "GPU": 0}  # without a cluster: a stray file
    assert ConcurrencyLimit(WorkerGroup(1, 1.0, 0.0), None)() == 1
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert gpus_of_a_worker(None) == 1.0
    assert gpus_of_a_worker(0.5) == 0.5
    assert gpus_of_a_worker(None, "cuda") == 1.0
    assert gpus_of_a_worker(None, "cpu") == 0.0
    with pytest.raises(UserError, match=r"--gpus-per-worker 1 with train.device=cpu"):
        gpus_of_a_worker(1.0, "cpu")
    assert ConcurrencyLimit(WorkerGroup(1, 1.0, 1.0), None)() == 17
    assert ConcurrencyLimit(WorkerGroup(2, 1.0, 1.0), None)() == 8
    assert ConcurrencyLimit(WorkerGroup(1, 1.0, 0.0), None)() == 28
    assert ConcurrencyLimit(WorkerGroup(1, 1.0, 1.0), 3)() == 3
    refuse_what_never_fits(WorkerGroup(16, 1.0, 1.0))
    with pytest.raises(
        UserError, match="--workers 18 need 18 GPUs, and Ray has 17; use --workers 17"
    ):
        refuse_what_never_fits(WorkerGroup(18, 1.0, 1.0))


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5, 8, 10, 20])
def test_a_gpu_holds_as_many_trials_as_it_is_shared_by(
    monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """In floats, 1 // 0.2 is 4."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 99.0, "GPU": 3.0})
    share = int(10_000 / parts) / 10_000  # Ray counts in units of 1 / 10,000
    assert ConcurrencyLimit(WorkerGroup(1, 1.0, share), None)() == 3 * parts
    assert (
        ConcurrencyLimit(WorkerGroup(1, 1.0, 0.3), None)() == 9
    )  # a share cannot be split over two GPUs


def test_a_single_worker_that_this_machine_can_never_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    refuse_what_never_fits(WorkerGroup(1, 2.0, 0.0))
    with pytest.raises(
        UserError, match=r"a trial needs 3 CPUs \(--set train.threads\), and this machine has 2"
    ):
        refuse_what_never_fits(WorkerGroup(1, 3.0, 0.0))
    with pytest.raises(
        UserError, match=r"a trial needs 0.5 GPUs \(--gpus-per-worker\), and this machine has 0"
    ):
        refuse_what_never_fits(WorkerGroup(1, 1.0, 0.5))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # the cluster may grow
    refuse_what_never_fits(WorkerGroup(1, 1.0, 1.0))


def test_this_machine_has_what_ray_says_it_has() -> None:
    """Ray need not be started: the count is the one that a Ray on this machine begins with."""
    found = machine_resources()
    assert found["CPU"] == float(ray._private.utils.get_num_cpus())
    assert found["GPU"] == float(torch.cuda.device_count())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", "9"), "--workers 9 need 9 CPUs, and Ray has 2; use --workers 2"),
        (("--gpus-per-worker", "1"), "a trial needs 1 GPUs (--gpus-per-worker), and this machine"),
        (("--set", "train.threads=3"), "a trial needs 3 CPUs (--set train.threads), and this mach"),
    ],
)
def test_what_this_machine_has_no_room_for_leaves_no_study_behind(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    """The command is refused before Ray is started. The corrected command then begins the study."""

    def start(*given: object, **named: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("tune.execution.ray_session.start_ray", start)
    monkeypatch.setattr(
        "tune.execution.capacity.machine_resources", lambda: {"CPU": 2.0, "GPU": 0.0}
    )
    monkeypatch.setattr("tune.cli.prepare.check_workers", lambda *given: None)  # concerns images
    refused = call("toy", "--trials", "1", "--repeats", "0", *words)
    assert refused.code == 2
    assert said in refused.line
    assert not Path("runs/toy").exists()
    assert call(*LOCAL_TOY, "1").code == 0


@pytest.mark.parametrize(
    "setting", ["train.batch_size=999999999", "train.threads=100000", "train.threads=0"]
)
@pytest.mark.parametrize("where", ["--local", "--plan"])
def test_values_that_cannot_work_are_refused_at_once(call: Call, setting: str, where: str) -> None:
    refused = call("toy", where, "--set", setting)
    assert refused.code == 2
    assert setting.partition("=")[0] in refused.line
    assert not Path("runs/toy").exists()


def test_a_node_that_comes_up_late_is_waited_for() -> None:
    calls = []

    def get_node(name: str) -> str:
        calls.append(name)
        if len(calls) < 4:
            raise RuntimeError("no such node yet")
        return f"{name} is there"

    assert patient(get_node)("head") == "head is there"
    assert calls == ["head"] * 4
    calls.clear()
    with pytest.raises(RuntimeError, match="no such node yet"):
        patient(get_node, timeout_s=0.0)("head")
