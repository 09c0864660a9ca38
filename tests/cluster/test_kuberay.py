"""cluster/kuberay.yaml against the schemas of KubeRay and Kubernetes, and `make cluster-check`."""

import copy
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests import REPO
from tune.cluster_check import main, problems
from tune.execution.capacity import at_its_largest

FILE = REPO / "cluster/kuberay.yaml"
SCHEMAS = Path(__file__).parent / "schemas"
VALUES = {"CHANGE-class": "efs", "CHANGE-registry": "registry.example/vision"}


def filled() -> str:
    text = FILE.read_text()
    for placeholder, value in VALUES.items():
        text = text.replace(placeholder, value)
    return text


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(filled()))


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents() if document["kind"] == kind]
    return found


def strict(schema: Any) -> Any:
    """Make a schema refuse unknown fields, which Kubernetes drops silently, and read int-or-string
    as Kubernetes does."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema

    found = {key: strict(value) for key, value in schema.items()}
    if found.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    is_open = "additionalProperties" in found or "x-kubernetes-preserve-unknown-fields" in found
    if isinstance(found.get("properties"), dict) and not is_open:
        found["additionalProperties"] = False
    return found


def schema_of(kind: str) -> Any:
    with gzip.open(SCHEMAS / f"{kind}.json.gz", "rt") as file:
        return strict(json.load(file))


KINDS = ["RayCluster", "RayJob", "NetworkPolicy", "PersistentVolumeClaim"]


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    # the schemas themselves are not checked, which would take ten seconds each
    return {kind: jsonschema.Draft7Validator(schema_of(kind)) for kind in KINDS}


def test_the_file_has_these_kinds_once() -> None:
    assert sorted(document["kind"] for document in documents()) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_fits_its_schema(kind: str, schemas: dict[str, Any]) -> None:
    document = of_kind(kind)
    # Kubernetes defines metadata itself
    schemas[kind].validate({**document, "metadata": {}})


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayCluster", ["spec", "headGroupSpec", "rayStartParam"], {}),
        ("RayCluster", ["spec", "authOptions", "mode"], "password"),
        ("RayCluster", ["spec", "workerGroupSpecs", 0, "maxReplicas"], "eight"),
        ("RayJob", ["spec", "clusterSelectors"], {}),
        ("NetworkPolicy", ["spec", "policyType"], ["Ingress"]),
        ("PersistentVolumeClaim", ["spec", "accessModes"], "ReadWriteMany"),
    ],
)
def test_the_schemas_find_a_mistake(
    kind: str, path: list[Any], value: Any, schemas: dict[str, Any]
) -> None:
    document = {**of_kind(kind), "metadata": {}}
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not schemas[kind].is_valid(document)


def test_the_file_as_it_is_has_two_values_to_fill_in() -> None:
    said = problems(FILE)
    assert len(said) == len(VALUES)
    assert all("is a placeholder; put in: " in line for line in said)


def test_the_filled_file_is_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kuberay.yaml"
    path.write_text(filled())
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: ready for kubectl apply\n"


MISTAKES = [
    ("mode: token", "mode: disabled", "whoever reaches a pod runs code in it"),
    (", secretName: vistune-token", "", "secretName is not set"),
    ("rayVersion: 2.60.0", "rayVersion: 2.59.0", "rayVersion '2.59.0' is not that"),
    ("vistune:cuda", "vistune", "name a tag or a digest"),
    ("vistune:cuda", "vistune:latest", "name a tag or a digest"),
    ('{num-cpus: "0"}', "{}", "trials would crowd the driver"),
    ("serviceType: ClusterIP", "serviceType: LoadBalancer", "opens the head's ports"),
    ("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "no worker would come"),
    ("maxReplicas: 8", "maxReplicas: 0", "minReplicas <= maxReplicas"),
    ("groupName: gpu", "name: gpu", "refuses the RayCluster"),
    ("[ReadWriteMany]", "[ReadWriteOnce]", "pods on two machines need ReadWriteMany"),
    ("{name: vistune, mountPath: /mnt/vistune}", "{name: shm, mountPath: /mnt}", "does not mount"),
    ("--storage /mnt/vistune/runs", "--storage runs", "would be lost with the pod"),
    ("clusterSelector: {ray.io/cluster: vistune}", "clusterSelector: {a: b}", "clusterSelector"),
    ("kind: NetworkPolicy", "kind: Networkpolicy", "no NetworkPolicy selects"),
    ('{name: DASHBOARD_METRIC_PORT, value: "-1"}', '{name: A, value: "-1"}', "without the token"),
    ("kind: RayCluster", "kind: RayService", "0 documents of kind RayCluster"),
]


@pytest.mark.parametrize(("right", "wrong", "says"), MISTAKES, ids=[m[2][:24] for m in MISTAKES])
def test_a_mistake_is_one_line_that_names_it(
    right: str, wrong: str, says: str, tmp_path: Path
) -> None:
    text = filled()
    assert right in text
    path = tmp_path / "kuberay.yaml"
    path.write_text(text.replace(right, wrong))
    assert [line for line in problems(path) if says in line]


def test_a_study_waits_for_as_many_workers_as_the_file_allows() -> None:
    """Ray's own parser reads the RayCluster, and gives the size that trials are planned for."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    cluster = copy.deepcopy(of_kind("RayCluster"))
    cluster["metadata"]["namespace"] = "default"
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
    assert at_its_largest(config) == {"CPU": 32.0, "GPU": 8.0}


@pytest.fixture
def kubernetes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Pretend to be in a pod of KubeRay. Yield the paths that are requested from Kubernetes."""
    from ray.autoscaler._private.kuberay import node_provider

    from tune.execution.kuberay import cluster_of_kubernetes

    asked: list[str] = []

    class Client:
        def __init__(self, namespace: str) -> None:
            self.namespace = namespace

        def get(self, path: str) -> dict[str, Any]:
            asked.append(f"{self.namespace}/{path}")
            if "missing" in path:
                raise ConnectionError("nobody answers")
            cluster = of_kind("RayCluster")
            cluster["metadata"]["namespace"] = self.namespace
            return cluster

    monkeypatch.setattr(node_provider, "KubernetesHttpApiClient", Client)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "vistune")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "science")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    cluster_of_kubernetes.cache_clear()
    yield asked
    cluster_of_kubernetes.cache_clear()


def test_the_driver_reads_the_size_from_kubernetes(
    kubernetes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tune.execution import capacity

    monkeypatch.setattr(capacity.ray, "cluster_resources", lambda: {"CPU": 0.0})
    assert capacity.cluster_resources() == {"CPU": 32.0, "GPU": 8.0}
    assert capacity.gpus_of_a_worker(None) == 1.0
    assert kubernetes == ["science/rayclusters/vistune"]  # one request


def test_a_cluster_that_cannot_be_read_is_taken_as_it_is(
    kubernetes: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tune.execution import capacity

    monkeypatch.setenv("RAY_CLUSTER_NAME", "missing")
    monkeypatch.setattr(capacity.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    assert capacity.cluster_resources() == {"CPU": 4.0, "GPU": 2.0}
    assert "nobody answers" in caplog.text
