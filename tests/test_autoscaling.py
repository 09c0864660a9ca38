"""A cluster without workers, whose pretended machines Ray's own autoscaler starts: 0 -> 2 -> 0 around a study without options."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_lab.hosts import HOME, SHARED, Laboratory, unavailable
from tests.test_kills import REPO, SMALL, Command, check_study, wait_until
from tune.events import EventLog

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(unavailable()), reason=f"no hosts: {unavailable()}"),
]

TRIALS = 4
HEAD = "f" * 51 + "00000"  # the node that the provider takes for its head
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
# By the name of its class: the wheel lacks a file that the type `fake_multinode` reads.
CONFIG: dict[str, Any] = {
    "cluster_name": "pretended", "max_workers": 2, "upscaling_speed": 1, "idle_timeout_minutes": 0.2, "auth": {}, "docker": {},
    "provider": {"type": "external", "module": PROVIDER, "head_node_id": HEAD, "launch_multiple": True, "disable_node_updaters": True,
                 "disable_launch_config_check": True},
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 1, "GPU": 1, "object_store_memory": 80_000_000}, "node_config": {}, "min_workers": 0,
                "max_workers": 2},
    },
    "initialization_commands": [], "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
    "head_start_ray_commands": [], "worker_start_ray_commands": [], "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [],
    "file_mounts": {}, "file_mounts_sync_continuously": False,
}  # fmt: skip
ALIVE = "import ray; ray.init('auto', logging_level='error', log_to_driver=False); print('ALIVE', sum(n['Alive'] for n in ray.nodes()) - 1)"


def test_from_no_worker_to_two_and_back(tmp_path: Path) -> None:
    environment = "export PATH=~/venv/bin:$PATH RAY_AUTH_MODE=disabled OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0"
    version_2 = f"RAY_enable_autoscaler_v2=1 RAY_CLOUD_INSTANCE_ID={HEAD} RAY_OVERRIDE_NODE_ID_FOR_TESTING={HEAD} RAY_NODE_TYPE_NAME=head"
    with Laboratory(tmp_path / "lab", ["head"]) as lab:
        head, log = lab["head"], lab.shared / "runs/ssl/events.jsonl"
        head.run(f"cat > {HOME}/ray_bootstrap_config.yaml <<'END'\n{json.dumps(CONFIG)}\nEND")
        head.run(
            f"{environment} RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 PYTHONPATH={REPO} {version_2}; ray start --head --port=6379 "
            "--num-cpus=0 --include-dashboard=false --object-store-memory=80000000 --autoscaling-config=$HOME/ray_bootstrap_config.yaml"
        )

        def workers() -> int:
            said = head.run(f"{environment}; python -c \"{ALIVE}\"")
            return int(said.rpartition("ALIVE")[2])

        assert workers() == 0
        settings = " ".join(f"--set {s}" for s in SMALL)
        driver = head.start(
            f"{environment} RAY_ADDRESS=head:6379; cd {REPO}; "
            f"python tune/run.py ssl --storage {SHARED}/runs --trials {TRIALS} --repeats 0 {settings} > {SHARED}/out.txt 2>&1"
        )
        wait_until(lambda: workers() == 2, 500)
        assert driver.wait(900) == 0, (lab.shared / "out.txt").read_text()[-3000:]
        events = EventLog.read(log)[0]
        spans = [[e["t"] for e in events if e["event"] in ("start", "end") and e["trial"] == n] for n in range(TRIALS)]
        assert any(a[0] < b[-1] and b[0] < a[-1] for i, a in enumerate(spans) for b in spans[:i]), "never two trials at a time"
        wait_until(lambda: workers() == 0, 120)
        check_study(Command(lab.shared / "runs", trials=TRIALS), TRIALS)
