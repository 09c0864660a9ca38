"""Find mistakes in a `ray up` file for Google Cloud (`cluster-gcp.yaml`)."""

import re
from collections.abc import Iterator
from typing import Any

from tune.clusters.placeholders import PLACEHOLDER, filled

Config = dict[str, Any]

_PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]"
_REGION = r"[a-z]+-[a-z]+\d+"
_SSH_KEY = r"[a-z_][a-z0-9_-]*:ssh-\S+ \S+.*"
_SUBNET = r"(https://\S+/)?projects/[^/]+/regions/[^/]+/subnetworks/[^/]+"


def gcp_problems(config: Config) -> Iterator[str]:
    """List problems that Ray's schema accepts but that Google would refuse or an intruder could
    exploit."""
    provider = config["provider"]
    project, region = str(provider.get("project_id", "")), str(provider.get("region", ""))
    zone = str(provider.get("availability_zone", ""))
    if not filled(project, _PROJECT):
        yield f"provider.project_id {project!r} is not a project such as vision-study-1234"
    if not filled(region, _REGION):
        yield f"provider.region {region!r} is not a region such as europe-west4"
    if PLACEHOLDER not in zone and not zone.startswith(f"{region}-"):
        yield f"provider.availability_zone {zone!r} is not in provider.region {region!r}"
    if not provider.get("use_internal_ips"):
        yield "provider.use_internal_ips is not true: nodes would be reached by public addresses"

    proxy = str(config["auth"].get("ssh_proxy_command", ""))
    if "start-iap-tunnel" not in proxy:
        yield "auth.ssh_proxy_command lacks gcloud compute start-iap-tunnel: port 22 would be open"
    elif PLACEHOLDER not in proxy and f"--zone={zone}" not in proxy.split():
        yield f"auth.ssh_proxy_command needs --zone={zone}, that of provider.availability_zone"

    head = config["head_node_type"]
    for name, node_type in config["available_node_types"].items():
        yield from _node(f"available_node_types.{name}", node_type, is_head=name == head)


def _node(where: str, node_type: Config, is_head: bool) -> Iterator[str]:
    node = node_type["node_config"]
    if is_head and node_type["resources"].get("CPU") != 0:
        yield f"{where}.resources must be {{CPU: 0}}: trials would crowd the driver out"

    # Without them Ray creates and adds an account that may do everything in the project.
    accounts = [str(account.get("email", "")) for account in node.get("serviceAccounts", [])]
    if not accounts:
        yield f"{where}.node_config.serviceAccounts is not set: name one made for this cluster"

    interfaces = node.get("networkInterfaces", [])
    if not interfaces:
        yield f"{where}.node_config.networkInterfaces is not set: Ray's default is a public address"
    for interface in interfaces:
        subnet = str(interface.get("subnetwork", ""))
        if interface.get("accessConfigs"):
            yield f"{where}: networkInterfaces.accessConfigs give the node a public address: remove"
        if not filled(subnet, _SUBNET):
            yield (
                f"{where}: subnetwork {subnet!r} is not of the form "
                "projects/.../regions/.../subnetworks/..."
            )

    yield from _metadata(where, node)
    yield from _accelerators(where, node_type, node)


def _metadata(where: str, node: Config) -> Iterator[str]:
    items = {item["key"]: str(item["value"]) for item in node.get("metadata", {}).get("items", [])}
    key = items.get("ssh-keys", "")
    if not filled(key, _SSH_KEY):
        yield f"{where}: metadata ssh-keys {key[:40]!r} is not of the form USER:ssh-ed25519 KEY"
    if items.get("block-project-ssh-keys", "").lower() != "true":
        yield f"{where}: metadata lacks block-project-ssh-keys: every key of the project gets in"


def _accelerators(where: str, node_type: Config, node: Config) -> Iterator[str]:
    gpus = sum(int(found["acceleratorCount"]) for found in node.get("guestAccelerators", []))
    if gpus != node_type["resources"].get("GPU", 0):
        yield (
            f"{where}.resources has {node_type['resources'].get('GPU', 0)} GPUs, "
            f"guestAccelerators {gpus}: they must be the same"
        )
    scheduling = node.get("scheduling") or {}
    if not isinstance(scheduling, dict):
        yield f"{where}: scheduling is a list, and Google takes a mapping, {{preemptible: true}}"
    elif gpus and scheduling.get("onHostMaintenance") != "TERMINATE":
        yield f"{where}: machines with GPUs need scheduling: {{onHostMaintenance: TERMINATE}}"
    image = str(node["disks"][0]["initializeParams"]["sourceImage"])
    if gpus and not re.search(r"CHANGE|nvidia|cuda|cu\d{3}|gpu|dl", image):
        yield f"{where}: image {image.rpartition('/')[2]!r} has no Nvidia driver by its name"
