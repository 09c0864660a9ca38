"""Find mistakes in a KubeRay file (`cluster/kuberay.yaml`) before `kubectl apply`.

Kubernetes' own schema only checks that fields exist. This module finds what it accepts and what
fails later: an image without a version, a cluster without a token, pods that do not see the folder
of the studies.
"""

import re
from collections.abc import Iterator
from typing import Any

from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr as derive_config,
)

from trainables.errors import first_line
from tune.clusters.pins import installed_ray
from tune.clusters.placeholders import PLACEHOLDER, filled

Document = dict[str, Any]

_NO_EXPORTERS = {
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
_OPEN_SERVICES = ("LoadBalancer", "NodePort")
_CLASS = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"


def kuberay_problems(documents: list[Any]) -> list[str]:
    """List everything that keeps the documents of a file from creating a working, closed
    cluster."""
    clusters = _of_kind(documents, "RayCluster")
    if len(clusters) != 1:
        return [f"has {len(clusters)} documents of kind RayCluster: it needs one"]

    cluster = clusters[0]
    if refusal := _refused_by_ray(cluster):
        return [refusal]

    found = [
        *_access(cluster, documents),
        *_versions(cluster),
        *_scaling(cluster),
        *_storage(cluster, documents),
        *_jobs(cluster, documents),
    ]
    return list(dict.fromkeys(found))


def _of_kind(documents: list[Any], kind: str) -> list[Document]:
    return [found for found in documents if isinstance(found, dict) and found.get("kind") == kind]


def _refused_by_ray(cluster: Document) -> str:
    """Return Ray's reason to refuse a cluster, as its autoscaler on the head would; "" if it
    accepts the cluster."""
    metadata = {"namespace": "default", **cluster.get("metadata", {})}
    try:
        derive_config({**cluster, "metadata": metadata})
    except Exception as error:  # KeyError for missing values, ValueError for wrong ones
        kind = type(error).__name__
        return f"Ray's autoscaler refuses the RayCluster: {kind} {first_line(error)}"
    return ""


def _groups(cluster: Document) -> Iterator[tuple[str, Document]]:
    """Yield the head and each worker group, with the name that messages use."""
    yield "headGroupSpec", cluster["spec"]["headGroupSpec"]
    for group in cluster["spec"]["workerGroupSpecs"]:
        yield f"workerGroupSpecs {group['groupName']}", group


def _ray_container(group: Document) -> Document:
    """Return Ray's container, which KubeRay takes to be the first one of a pod."""
    container: Document = group["template"]["spec"]["containers"][0]
    return container


def _access(cluster: Document, documents: list[Any]) -> Iterator[str]:
    spec = cluster["spec"]
    auth = spec.get("authOptions") or {}
    if auth.get("mode") != "token":
        yield "authOptions.mode must be token: otherwise whoever reaches a pod runs code in it"
    elif not auth.get("secretName"):
        yield "authOptions.secretName is not set: name the secret that holds your own token"

    service = spec["headGroupSpec"].get("serviceType", "ClusterIP")
    if service in _OPEN_SERVICES:
        yield f"headGroupSpec.serviceType {service} opens the head's ports: use ClusterIP"

    name = cluster["metadata"]["name"]
    selected = {"matchLabels": {"ray.io/cluster": name}}
    policies = _of_kind(documents, "NetworkPolicy")
    if not any(policy["spec"].get("podSelector") == selected for policy in policies):
        yield (
            f"no NetworkPolicy selects ray.io/cluster: {name}: any pod could reach the cluster's "
            "ports"
        )

    for where, group in _groups(cluster):
        variables = {v["name"]: v.get("value") for v in _ray_container(group).get("env", [])}
        for variable, value in _NO_EXPORTERS.items():
            if variables.get(variable) != value:
                yield (
                    f'{where}: env lacks {variable} "{value}": an exporter would answer without '
                    "the token"
                )


def _versions(cluster: Document) -> Iterator[str]:
    """Check that all pods use one image, with a tag, and the Ray version that this code was tested
    with."""
    version = str(cluster["spec"].get("rayVersion", ""))
    ours = installed_ray()
    if version != ours:
        yield f"rayVersion {version!r} is not that of this project, {ours}"

    images = {where: str(_ray_container(group)["image"]) for where, group in _groups(cluster)}
    if len(set(images.values())) > 1:
        yield f"the pods have different images, {', '.join(sorted(set(images.values())))}: use one"
    for image in sorted(set(images.values())):
        _, _, tag = image.rpartition("/")[2].partition(":")
        if "@sha256:" not in image and tag in ("", "latest"):
            yield f"image {image}: name a tag or a digest, or pods of two days would differ"


def _scaling(cluster: Document) -> Iterator[str]:
    spec = cluster["spec"]
    head = spec["headGroupSpec"]
    if str(head.get("rayStartParams", {}).get("num-cpus")) != "0":
        yield 'headGroupSpec.rayStartParams must have num-cpus: "0": trials would crowd the driver'

    if not spec.get("enableInTreeAutoscaling"):
        yield "enableInTreeAutoscaling is not true: no worker would come for a trial"

    for group in spec["workerGroupSpecs"]:
        name = f"workerGroupSpecs {group['groupName']}"
        if not 0 <= group["minReplicas"] <= group["maxReplicas"] or not group["maxReplicas"]:
            yield f"{name}: 0 <= minReplicas <= maxReplicas must hold, and maxReplicas be above 0"
        resources = _ray_container(group).get("resources", {})
        requests, limits = resources.get("requests", {}), resources.get("limits", {})
        if requests.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
            yield f"{name}: GPUs must be the same in requests and limits"


def _storage(cluster: Document, documents: list[Any]) -> Iterator[str]:
    """Check that all pods mount the same folder."""
    claims = _of_kind(documents, "PersistentVolumeClaim")
    for claim in claims:
        modes = claim["spec"].get("accessModes", [])
        if "ReadWriteMany" not in modes:
            yield f"accessModes {modes}: pods on two machines need ReadWriteMany"
        storage_class = str(claim["spec"].get("storageClassName", ""))
        if not filled(storage_class, _CLASS):
            yield f"storageClassName {storage_class!r} is not the name of a storage class"

    names = {claim["metadata"]["name"] for claim in claims}
    if not names:
        return  # perhaps the studies are in a bucket
    mounted = {where: _mounted_claims(group) & names for where, group in _groups(cluster)}
    for where, found in mounted.items():
        if not found:
            yield f"{where}: Ray's container does not mount {', '.join(sorted(names))}"


def _mounted_claims(group: Document) -> set[str]:
    """Return the names of the claims that Ray's container of a pod mounts."""
    mounts = {mount["name"] for mount in _ray_container(group).get("volumeMounts", [])}
    volumes = group["template"]["spec"].get("volumes", [])
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in volumes}
    return {claims[name]["claimName"] for name in mounts if claims.get(name)}


def _jobs(cluster: Document, documents: list[Any]) -> Iterator[str]:
    name = cluster["metadata"]["name"]
    wanted = f"clusterSelector must be ray.io/cluster: {name}"
    folders = [
        mount["mountPath"]
        for mount in _ray_container(cluster["spec"]["headGroupSpec"]).get("volumeMounts", [])
    ]
    for job in _of_kind(documents, "RayJob"):
        selector = job["spec"].get("clusterSelector", {})
        if selector.get("ray.io/cluster") != name:
            yield f"RayJob {job['metadata']['name']}: {wanted}"

        found = re.search(r"--storage[ =](\S+)", str(job["spec"].get("entrypoint", "")))
        storage = found[1] if found else ""
        kept = storage.startswith("s3://") or any(
            storage.startswith(f"{folder}/") for folder in folders
        )
        if not kept and PLACEHOLDER not in storage:
            yield (
                f"RayJob {job['metadata']['name']}: --storage {storage or 'is missing'}: the study "
                "would be lost with the pod; use a mounted folder or s3://"
            )
