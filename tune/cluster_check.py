"""`make cluster-check`: find mistakes in a cluster file before `ray up` or `kubectl apply` spends
money or opens a port.

    python -m tune.cluster_check [cluster.yaml | cluster-onprem.yaml | cluster-gcp.yaml |
                                  cluster/kuberay.yaml]

Prints one line per problem, with the value and the remedy; the exit code is then 2. Ray's own
schema is one of the checks. It accepts much that fails later: an image of another region, a missing
key, a dashboard on 0.0.0.0, a head that was never started.
"""

import logging
import re
import stat
import sys
from collections.abc import Iterator
from copy import deepcopy
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tune.startup import check_python

check_python()

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from trainables.redaction import redacted
from tune.clusters.gcp import gcp_problems
from tune.clusters.kuberay import kuberay_problems
from tune.clusters.pins import pin_problems
from tune.clusters.placeholders import PLACEHOLDER, filled, placeholders

Config = dict[str, Any]

TOKEN = "~/.ray/auth_token"
_IDS = {
    "ImageId": r"ami-[0-9a-f]{8,17}",
    "SubnetIds": r"subnet-[0-9a-f]{8,17}",
    "SecurityGroupIds": r"sg-[0-9a-f]{8,17}",
}
_STACK_NAME = "vistune"
_REGION = r"[a-z]{2}(-[a-z]+)+-\d"
_HOST = re.compile(r"(?!-)[A-Za-z0-9.-]+")
_NEEDED = {
    "head_start_ray_commands": (
        "--head",
        "--autoscaling-config=~/ray_bootstrap_config.yaml",
        "--dashboard-host=127.0.0.1",
    ),
    "worker_start_ray_commands": ("--address=$RAY_HEAD_IP:6379",),
}
"""List of commands that start Ray -> options that `ray start` must have there."""


def problems(path: Path) -> list[str]:
    """List everything that keeps this file from creating a working, closed cluster; [] if nothing
    does."""
    try:
        text = path.read_text()
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except OSError as error:
        return [
            f"cannot be read ({error.strerror}): name a cluster file, as in make cluster-check "
            "CLUSTER=cluster-onprem.yaml"
        ]
    except yaml.YAMLError as error:
        return [f"is not YAML: {' '.join(str(error).split())}"]
    if any(isinstance(document, dict) and "apiVersion" in document for document in documents):
        return [*placeholders(text), *kuberay_problems(documents)]

    config = documents[0] if documents else None
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        return ["has no section `provider`: begin from the cluster.yaml of this project"]
    return [*placeholders(text), *_ray_up_problems(config)]


def _ray_up_problems(config: Config) -> list[str]:
    """List the problems of a `ray up` file, except placeholders that are still to be filled in."""
    kinds = {"aws": _aws, "local": _onprem, "gcp": gcp_problems}
    name = config["provider"].get("type")
    kind = kinds.get(name)
    if kind is None:
        return [f"provider.type {name!r} is not known here: aws, gcp or local"]

    if refusal := _schema(config):
        return [refusal]  # the other checks rely on the schema

    found = [*_files(config), *_commands(config), *pin_problems(config), *kind(config)]
    return list(dict.fromkeys(found))


def _schema(config: Config) -> str | None:
    logging.getLogger("ray.autoscaler._private.util").setLevel(logging.WARNING)  # hides its notes
    try:
        validate_config(prepare_config(deepcopy(config)))
    except Exception as error:  # from jsonschema, from Ray, or a KeyError if a section is missing
        message = str(getattr(error, "message", "")) or str(error) or repr(error)
        return f"Ray refuses it: {message.splitlines()[0][:300]}"
    return None


def _files(config: Config) -> Iterator[str]:
    key = config["auth"].get("ssh_private_key", "")
    if not key:
        yield (
            "auth.ssh_private_key is not set: name a key made for this cluster; without one Ray "
            "makes its own"
        )
    else:
        yield from _private(
            f"auth.ssh_private_key {key}", Path(key), "docs/cluster.md says how to make it"
        )
    mounts = config.get("file_mounts", {})
    if mounts.get(TOKEN) != TOKEN:
        yield (
            f"file_mounts lacks `{TOKEN}: {TOKEN}`: without the token nodes do not let each other "
            "in"
        )
    else:
        yield from _private(
            f"the token {TOKEN}",
            Path(TOKEN),
            f"make it with `ray get-auth-token --generate && chmod 600 {TOKEN}`",
        )
    for there, here in mounts.items():
        if there != TOKEN and not Path(here).expanduser().exists():
            yield f"file_mounts {there}: {here} does not exist on this machine"


def _private(what: str, path: Path, remedy: str) -> Iterator[str]:
    path = path.expanduser()
    if not path.is_file():
        yield f"{what} does not exist: {remedy}"
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield f"{what} can be read by others: chmod 600 {path}"


def _commands(config: Config) -> Iterator[str]:
    """Check how nodes start, which Ray's schema does not check."""
    for name, needed in _NEEDED.items():
        started = [line for line in config.get(name, []) if "ray start" in line]
        if not started:
            yield f"{name} has no `ray start`"
            continue
        for option in (*needed, "--disable-usage-stats"):
            if option not in started[0].split():
                yield f"{name}: `ray start` lacks {option}"

    for name in (name for name in config if name.endswith("_commands")):
        for command in config[name]:
            if "0.0.0.0" in command:
                yield (
                    f"{name}: `{command[:60]}...` listens on 0.0.0.0, on all networks: use "
                    "127.0.0.1 and a tunnel"
                )

    setup = config.get("setup_commands", [])
    if not any("cluster/env.sh" in line or "RAY_AUTH_MODE=token" in line for line in setup):
        yield (
            "setup_commands do not set RAY_AUTH_MODE=token: copy cluster/env.sh as cluster.yaml "
            "does"
        )


def _aws(config: Config) -> Iterator[str]:
    provider, types = config["provider"], config["available_node_types"]
    region = str(provider.get("region", ""))
    if not filled(region, _REGION):
        yield f"provider.region {region!r} is not a region such as eu-central-1"
    if "security_group" in provider:
        yield (
            "provider.security_group makes a group that opens port 22 to the world: remove it, and "
            "name your own in SecurityGroupIds"
        )
    if not provider.get("use_internal_ips"):
        yield "provider.use_internal_ips is not true: nodes would be reached by public addresses"
    if config["cluster_name"] != _STACK_NAME:
        yield (
            f"cluster_name {config['cluster_name']!r}: the stack lets the head start and end "
            f"machines of the cluster {_STACK_NAME!r} alone"
        )
    if types[config["head_node_type"]]["resources"].get("CPU") != 0:
        yield (
            f"available_node_types.{config['head_node_type']}.resources must be {{CPU: 0}}: trials "
            "would crowd the driver out"
        )
    for name, node_type in types.items():
        if node_type.get("min_workers", 0) > node_type.get("max_workers", config["max_workers"]):
            yield (
                f"available_node_types.{name}: min_workers {node_type['min_workers']} is more than "
                f"max_workers {node_type['max_workers']}"
            )
        yield from _instance(f"available_node_types.{name}.node_config", node_type["node_config"])
    for command in config.get("setup_commands", []):
        for system, there in re.findall(r"(fs-\S+?)\.efs\.([a-z0-9-]+)\.amazonaws", command):
            if PLACEHOLDER not in system and there != region:
                yield (
                    f"setup_commands mount {system} of {there}, but provider.region is {region}: "
                    "they must be the same"
                )


def _instance(where: str, node: Config) -> Iterator[str]:
    for key, pattern in _IDS.items():
        values = node.get(key) or []
        for value in [values] if isinstance(values, str) else values:
            if not filled(str(value), pattern):
                yield f"{key} {value!r} is not of the form {pattern.partition('-')[0]}-..."
        if not values:
            yield (
                f"{where}.{key} is not set: Ray's default is an old image, any subnet, or a group "
                "open to the world"
            )
    if not node.get("IamInstanceProfile"):
        yield (
            f"{where}.IamInstanceProfile is not set: use {{Name: vistune-head}} or {{Name: "
            f"vistune-worker}} of cluster/aws.cfn.yaml"
        )
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield (
            f"{where}.MetadataOptions must be {{HttpTokens: required}}: otherwise a hijacked "
            "request reads the profile's credentials"
        )


def _onprem(config: Config) -> Iterator[str]:
    provider = config["provider"]
    head, workers = (
        str(provider.get("head_ip", "")),
        [str(w) for w in provider.get("worker_ips") or []],
    )
    if not workers:
        yield "provider.worker_ips is empty: name at least one machine, as in [10.0.0.2]"
    for address in (head, *workers):
        if not _address(address):
            yield f"provider: {address!r} is not an address or host name"
    for address in sorted({a for a in (head, *workers) if (head, *workers).count(a) > 1}):
        yield (
            f"provider: {address} is there twice; each machine is one address, and the head is no "
            "worker"
        )


def _address(text: str) -> bool:
    if not re.fullmatch(r"[0-9.]+", text) and ":" not in text:
        return PLACEHOLDER in text or _HOST.fullmatch(text) is not None
    try:
        return not ip_address(text).is_unspecified
    except ValueError:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. The exit code is 0 if the file is ready for `ray up` or `kubectl
    apply`, otherwise 2."""
    names = (sys.argv[1:] if arguments is None else arguments) or ["cluster.yaml"]
    code = 0
    for name in names:
        found = problems(Path(name))
        for problem in found:
            print(redacted(f"{name}: {problem}"), file=sys.stderr)
        if found:
            code = 2
        else:
            print(f"{name}: ready for {_command(name)}")
    return code


def _command(name: str) -> str:
    """Return the command that takes such a file."""
    return "kubectl apply" if "kuberay" in name else "ray up"


if __name__ == "__main__":
    sys.exit(main())
