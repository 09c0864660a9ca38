"""Cluster files: Ray and a mocked EC2 accept what `make cluster-check` passes. Ray and MLflow
listen on the expected addresses only."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import REPO
from tune.cluster_check import main, problems

VALUES = {
    "CHANGE-region": "eu-central-1",
    "ami-CHANGE": "ami-0123456789abcdef0",
    "[subnet-CHANGE]": "[subnet-0123456789abcdef0]",
    "[sg-CHANGE]": "[sg-0123456789abcdef0]",
    "fs-CHANGE": "fs-0123456789abcdef0.efs.eu-central-1.amazonaws.com",
    "CHANGE-head": "10.0.0.1",
    "[CHANGE-worker]": "[10.0.0.2, gpu-2]",
    "CHANGE-user": "vision",
}
GOOGLE = {
    "CHANGE-project": "vision-study-1234",
    "CHANGE-region": "europe-west4",
    "CHANGE-zone": "europe-west4-a",
    "CHANGE-image": "projects/ubuntu-os-accelerator-images/global/images/family/nvidia-580",
    "CHANGE-subnet": "projects/vision-study-1234/regions/europe-west4/subnetworks/vistune",
    "CHANGE-head": "head@vision-study-1234.iam.gserviceaccount.com",
    "CHANGE-worker": "worker@vision-study-1234.iam.gserviceaccount.com",
    "CHANGE-key": "vistune:ssh-ed25519 AAAA vistune",
    "CHANGE-server": "10.0.0.9",
}
FILES = ["cluster.yaml", "cluster-onprem.yaml", "cluster-gcp.yaml"]


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home with keys and a token. The repository is the current folder, as for `ray up`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(REPO)
    for name in (".ssh/vistune.pem", ".ssh/vistune", ".ray/auth_token"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("secret")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def filled(name: str) -> str:
    text = (REPO / name).read_text()
    values = GOOGLE if name == "cluster-gcp.yaml" else VALUES
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


@pytest.mark.parametrize("name", FILES)
def test_every_line_to_change_is_named_until_it_is_changed(name: str, tmp_path: Path) -> None:
    marked = [
        str(n)
        for n, line in enumerate((REPO / name).read_text().splitlines(), 1)
        if "# CHANGE" in line
    ]
    said = problems(REPO / name)
    assert len(marked) >= 3
    assert [
        re.findall(r"^line (\d+): \S+ is a placeholder; put in: .", line)[0] for line in said
    ] == marked
    (tmp_path / name).write_text(filled(name))
    assert problems(tmp_path / name) == []


MISTAKES = [
    ("cluster.yaml", "upscaling_speed", "upscaling_sped", "upscaling_sped"),
    ("cluster.yaml", "head_node_type: head", "head_node_type: chief", "head_node_type"),
    ("cluster.yaml", "type: aws", "type: azure", "aws, gcp or local"),
    ("cluster.yaml", "cluster_name: vistune", "cluster_name: mine", "of the cluster 'vistune'"),
    ("cluster.yaml", "node.sh install cuda", "env.sh", "lack `bash ~/vistune/cluster/node.sh inst"),
    ("cluster.yaml", "bash ~/vistune/cluster/node.sh install cuda", "pip install ray", "is newest"),
    ("cluster.yaml", "node.sh head", "env.sh", "workers compare their versions"),
    ("cluster.yaml", "bash ~/vistune/cluster/node.sh join ", "", "say so nowhere"),
    (
        "cluster-onprem.yaml",
        "  ~/vistune/constraints-cuda.txt: constraints-cuda.txt",
        "  ~/vistune/LICENSE: LICENSE",
        "nodes install what it names",
    ),
    ("cluster.yaml", "region: eu-central-1", "region: europe", "'europe' is not a region"),
    ("cluster.yaml", "region: eu-central-1", "region: us-east-1", "they must be the same"),
    ("cluster.yaml", "ami-0123456789abcdef0", "ami-oops", "'ami-oops' is not of the form ami-"),
    (
        "cluster.yaml",
        "SecurityGroupIds: &groups [sg-0123456789abcdef0]",
        "SecurityGroupIds: &groups []",
        "open to the world",
    ),
    ("cluster.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "0.0.0.0"),
    ("cluster.yaml", "ray start --head", "sleep 1", "no `ray start`"),
    ("cluster.yaml", "use_internal_ips: true", "use_internal_ips: false", "public addresses"),
    ("cluster.yaml", "resources: {CPU: 0}", "resources: {CPU: 2}", "crowd the driver out"),
    ("cluster.yaml", "{HttpTokens: required}", "{}", "HttpTokens"),
    (
        "cluster.yaml",
        "IamInstanceProfile: {Name: vistune-worker}",
        "Monitoring: {Enabled: true}",
        "IamInstanceProfile is not set",
    ),
    ("cluster.yaml", "cluster/env.sh", "cluster/job.yaml", "RAY_AUTH_MODE"),
    (
        "cluster.yaml",
        "~/.ray/auth_token: ~/.ray/auth_token",
        "~/data: /no/such/folder",
        "without the token",
    ),
    (
        "cluster.yaml",
        "~/.ray/auth_token: ~/.ray/auth_token",
        "~/data: /no/such/folder",
        "/no/such/folder does not exist",
    ),
    ("cluster.yaml", "vistune.pem", "other.pem", "other.pem does not exist"),
    ("cluster-onprem.yaml", "10.0.0.1", "10.0.0.300", "'10.0.0.300' is not an address"),
    ("cluster-onprem.yaml", "gpu-2", "10.0.0.1", "10.0.0.1 is there twice"),
    ("cluster-onprem.yaml", " --disable-usage-stats", "", "lacks --disable-usage-stats"),
    ("cluster-onprem.yaml", "provider:", "provider: [", "is not YAML"),
    ("cluster-gcp.yaml", "vision-study-1234", "V1", "'V1' is not a project"),
    ("cluster-gcp.yaml", "zone: europe-west4-a", "zone: us-east1-a", "is not in provider.region"),
    (
        "cluster-gcp.yaml",
        "--zone=europe-west4-a",
        "--zone=us-east1-a",
        "needs --zone=europe-west4-a",
    ),
    ("cluster-gcp.yaml", "start-iap-tunnel", "ssh", "port 22 would be open"),
    ("cluster-gcp.yaml", "use_internal_ips: true", "use_internal_ips: false", "public addresses"),
    ("cluster-gcp.yaml", "resources: {CPU: 0}", "resources: {CPU: 2}", "crowd the driver out"),
    ("cluster-gcp.yaml", "serviceAccounts", "accounts", "serviceAccounts is not set"),
    ("cluster-gcp.yaml", "networkInterfaces", "network", "a public address"),
    (
        "cluster-gcp.yaml",
        "[{subnetwork: ",
        "[{accessConfigs: [{type: ONE_TO_ONE_NAT}], subnetwork: ",
        "give the node a public address",
    ),
    ("cluster-gcp.yaml", "/subnetworks/vistune", "", "is not of the form projects/"),
    ("cluster-gcp.yaml", "block-project-ssh-keys", "other", "every key of the project gets in"),
    ("cluster-gcp.yaml", "vistune:ssh-ed25519", "ssh-ed25519", "not of the form USER:ssh-ed25519"),
    ("cluster-gcp.yaml", "acceleratorCount: 1", "acceleratorCount: 2", "must be the same"),
    ("cluster-gcp.yaml", "onHostMaintenance: TERMINATE", "preemptible: false", "onHostMaintenance"),
    ("cluster-gcp.yaml", "nvidia-580", "ubuntu-2404", "has no Nvidia driver by its name"),
]


@pytest.mark.parametrize(
    ("name", "right", "wrong", "says"), MISTAKES, ids=[f"{m[2][:24]}" for m in MISTAKES]
)
def test_a_mistake_is_one_line_that_names_it(
    name: str, right: str, wrong: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = filled(name)
    assert right in text
    (tmp_path / name).write_text(text.replace(right, wrong))
    assert main([str(tmp_path / name)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if says in line]
    assert len(lines) >= 1
    assert all(line.startswith(str(tmp_path / name)) for line in lines)


def test_secrets_that_others_can_read_are_refused(home: Path) -> None:
    (home / ".ray/auth_token").chmod(0o644)
    (home / "cluster.yaml").write_text(filled("cluster.yaml"))
    assert problems(home / "cluster.yaml") == [
        f"the token ~/.ray/auth_token can be read by others: chmod 600 {home}/.ray/auth_token"
    ]


def test_a_job_leaves_studies_and_weights_at_home() -> None:
    job = yaml.safe_load((REPO / "cluster/job.yaml").read_text())
    assert {".git", ".venv", "/runs", "*.pt"} <= set(job["excludes"])


def test_scripts_are_bash(tmp_path: Path) -> None:
    for script in sorted((REPO / "cluster").glob("*.sh")):
        subprocess.run(["bash", "-n", str(script)], check=True)
    command = ["bash", "-c", f". {REPO}/cluster/env.sh; env"]
    said = subprocess.run(
        command,
        env={"HOME": str(tmp_path), "PATH": "/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "RAY_AUTH_MODE=token" in said


@pytest.fixture
def aws(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """cluster.yaml in an account that moto mocks, filled in with the outputs of the stack of
    cluster/aws.cfn.yaml."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    import boto3
    import moto
    from ray.autoscaler._private.aws import config as aws_config
    from ray.autoscaler._private.aws import utils

    with moto.mock_aws():
        for cache in (utils.resource_cache, utils.client_cache, aws_config._get_subnets_or_die):
            cache.cache_clear()
        ec2, stacks = boto3.client("ec2"), boto3.client("cloudformation")
        subnet = ec2.describe_subnets()["Subnets"][0]
        (home / ".ssh/vistune.pem").write_text(
            ec2.create_key_pair(KeyName="vistune")["KeyMaterial"]
        )
        stacks.create_stack(
            StackName="vistune",
            TemplateBody=(REPO / "cluster/aws.cfn.yaml").read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": "Vpc", "ParameterValue": subnet["VpcId"]},
                {"ParameterKey": "Subnet", "ParameterValue": subnet["SubnetId"]},
            ],
        )
        outputs = {
            o["OutputKey"]: o["OutputValue"]
            for o in stacks.describe_stacks(StackName="vistune")["Stacks"][0]["Outputs"]
        }
        text = (REPO / "cluster.yaml").read_text()
        image = ec2.describe_images()["Images"][0]["ImageId"]
        values = {
            "CHANGE-region": "eu-central-1",
            "ami-CHANGE": image,
            "subnet-CHANGE": outputs["Subnet"],
            "sg-CHANGE": outputs["SecurityGroup"],
            "fs-CHANGE": outputs["FileSystem"],
        }
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        (home / "cluster.yaml").write_text(text)
        assert problems(home / "cluster.yaml") == []
        yield yaml.safe_load(text)


@pytest.mark.slow
def test_ec2_launches_head_and_workers_of_the_aws_file(aws: dict[str, Any]) -> None:
    """Ray's own node provider runs against moto. No instance is started, but every request is
    parsed and answered."""
    import boto3
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider

    config = _bootstrap_config(aws, no_config_cache=True)
    types = config["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert (types["gpu_spot"]["resources"]["GPU"], types["gpu_spot"]["resources"]["CPU"]) == (1, 4)
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    for kind in ("head", "gpu_spot", "gpu_ondemand"):
        tags = {"ray-node-type": "head" if kind == "head" else "worker", "ray-node-name": kind}
        provider.create_node(types[kind]["node_config"], tags, 1)
    ec2 = boto3.client("ec2")
    instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    assert sorted(i["InstanceType"] for i in instances) == ["g5.xlarge", "g5.xlarge", "m6i.large"]
    assert sorted(i.get("InstanceLifecycle", "on-demand") for i in instances) == [
        "on-demand",
        "on-demand",
        "spot",
    ]
    assert {i["IamInstanceProfile"]["Arn"].rpartition("/")[2] for i in instances} == {
        "vistune-head",
        "vistune-worker",
    }
    names = {group["GroupId"] for instance in instances for group in instance["SecurityGroups"]}
    assert len(names) == 1
    groups = ec2.describe_security_groups(GroupIds=list(names))["SecurityGroups"]
    for rule in groups[0]["IpPermissions"]:  # the group admits only itself
        assert (rule["IpRanges"], rule.get("Ipv6Ranges", [])) == ([], [])
        assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [groups[0]["GroupId"]]
    for node in provider.non_terminated_nodes({}):
        provider.terminate_node(node)
    assert provider.non_terminated_nodes({}) == []


LISTEN = """
import os, psutil
from tune.execution.ray_session import start_ray
assert start_ray(cpus=1, dashboard=True)
import ray
@ray.remote
def pid(): return os.getpid()
ray.get(pid.remote())
me = psutil.Process()
for process in [me, *me.children(recursive=True)]:
    for c in process.net_connections(kind="inet"):
        if c.status == psutil.CONN_LISTEN or (c.type == 2 and not c.raddr):
            print("LISTENS", c.laddr.ip, c.laddr.port, *process.cmdline()[:3])
ray.shutdown()
os._exit(0)
"""


@pytest.mark.slow
def test_ray_of_a_laptop_listens_on_loopback_alone() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, "-c", LISTEN], env=environment, capture_output=True, text=True, timeout=240
    )
    sockets = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("LISTENS")]
    assert len(sockets) >= 5, done.stderr  # GCS, raylet, dashboard, agents
    assert {s[0] for s in sockets} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, sockets


def answer(url: str) -> int:
    """HTTP status of a URL."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_mlflow_of_the_head_starts_once_on_loopback_and_asks_for_its_password(
    tmp_path: Path,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "VISTUNE_MLFLOW_DIR": str(tmp_path / "mlflow"),
        "VISTUNE_MLFLOW_PORT": str(port),
        "MLFLOW_TRACKING_PASSWORD": "correct horse battery",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    start = ["bash", str(REPO / "cluster/mlflow-server.sh")]
    try:
        said = subprocess.run(
            start, env=environment, capture_output=True, text=True, timeout=240, check=True
        ).stderr
        assert said == "", (tmp_path / "mlflow/mlflow.log").read_text()[-2000:]
        first = (tmp_path / "mlflow/pid").read_text()
        assert answer(f"http://127.0.0.1:{port}/health") == 200
        assert (
            answer(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0") == 401
        )
        # another address of this machine, on which it does not listen
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.2", port)) != 0
        subprocess.run(start, env=environment, timeout=60, check=True)
        assert (tmp_path / "mlflow/pid").read_text() == first
    finally:
        if (tmp_path / "mlflow/pid").exists():
            os.killpg(int((tmp_path / "mlflow/pid").read_text()), signal.SIGKILL)
