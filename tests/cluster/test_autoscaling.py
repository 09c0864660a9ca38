"""A cluster grows from no worker to two for a study without --concurrent, and shrinks back to none
after it. A worker that the cloud takes away, as with spot machines, is replaced while the study
runs. The cloud is Ray's fake one, whose machines are raylets of this machine."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import REPO
from tests.kills import Command, LongCommand, check_mlflow, check_study, two_run, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

TRIALS = 8
HEAD = "f" * 51 + "00000"
OTHERS: dict[str, object] = {
    key: []
    for key in (
        "initialization_commands",
        "setup_commands",
        "head_setup_commands",
        "worker_setup_commands",
        "head_start_ray_commands",
        "worker_start_ray_commands",
        "cluster_synced_files",
        "rsync_exclude",
        "rsync_filter",
    )
}


def cluster_file(gcs: str) -> dict[str, object]:
    """The file that `ray up` leaves on the head: from zero to two workers with a GPU."""
    return OTHERS | {
        "cluster_name": "fake",
        "max_workers": 2,
        "upscaling_speed": 1,
        "idle_timeout_minutes": 0.1,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": HEAD,
            "gcs_address": gcs,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 80_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
    }


@contextlib.contextmanager
def cloud(command: Command) -> Iterator[Callable[[], set[str]]]:
    """Start a head without processors that may start two workers. Yield a function that returns
    their current ids."""
    import ray

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gcs = f"{ray.util.get_node_ip_address()}:{port}"
    home = command.storage / "home"
    home.mkdir()
    command.environment |= {
        "HOME": str(home),
        "PYTHONPATH": str(REPO),
        "RAY_ADDRESS": gcs,
        "RAY_AUTH_MODE": "disabled",
    }
    written = home / "ray_bootstrap_config.yaml"
    written.write_text(json.dumps(cluster_file(gcs)))
    environment = command.environment | {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        "RAY_NODE_TYPE_NAME": "ray.head.default",
    }
    head = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        f"--port={port}",
        "--num-cpus=0",
        "--include-dashboard=false",
        "--object-store-memory=80000000",
        f"--autoscaling-config={written}",
        "--disable-usage-stats",
    ]
    del environment["RAY_ADDRESS"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        try:
            subprocess.run(
                head, env=environment, check=True, timeout=120, stdout=subprocess.DEVNULL
            )
            ray.init(gcs, log_to_driver=False)
            yield lambda: {node["NodeID"] for node in ray.nodes() if node["Alive"]} - {HEAD}
        finally:
            ray.shutdown()
            command.kill_all()
            _forget(gcs)


def _forget(gcs: str) -> None:
    """Remove the file that `ray start` wrote, as `ray stop` would. Otherwise later `ray.init()`
    calls of this user would look for that cluster."""
    noted = Path("/tmp/ray/ray_current_cluster")
    if noted.exists() and noted.read_text() == gcs:
        noted.unlink()


class Growing(LongCommand):
    """A study that runs as many trials at a time as the cluster holds."""

    def __init__(self, storage: Path):
        super().__init__(storage, trials=TRIALS)
        at = self.argv.index("--concurrent")
        del self.argv[at : at + 2]


def test_workers_come_for_a_study_and_go_after_it_and_one_taken_away_is_replaced(
    tmp_path: Path,
) -> None:
    command = Growing(tmp_path / "runs")
    with cloud(command) as workers:
        assert workers() == set()
        process = command.start()
        wait_until(lambda: two_run(command.events()), command, process)
        first = workers()
        assert len(first) == 2
        taken, at_loss = min(first), time.monotonic()
        there = f"RAY_OVERRIDE_NODE_ID_FOR_TESTING={taken}"
        assert command.alive(there)
        command.kill_all(there)  # SIGKILL all that runs on that worker
        wait_until(lambda: len(workers() - {taken}) == 2, command, process)
        print(f"a worker that was taken away is replaced after {time.monotonic() - at_loss:.0f} s")
        wait_until(lambda: any(e["attempt"] > 1 for e in command.events("start")), command, process)
        assert process.wait(900) == 0, command.output
        ended = time.monotonic()
        wait_until(lambda: not workers(), command)
        print(f"no worker is left {time.monotonic() - ended:.0f} s after the study")
    check_study(command, TRIALS)
    check_mlflow(command, TRIALS)
    assert [e["attempt"] for e in command.events("start") if e["attempt"] > 1] == [2]
