"""Actions that the head's role of cluster/aws.cfn.yaml may take in an account, by IAM's own rules:
a request is allowed if a statement names its action and all its resources, and its conditions
hold."""

import fnmatch
from typing import Any

import pytest
import yaml

from tests import REPO

REFERENCES = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::AccountId": "111122223333",
    "Subnet": "subnet-1",
    "SecurityGroup.GroupId": "sg-1",
    "WorkerRole.Arn": "arn:aws:iam::111122223333:role/vistune-worker",
    "WorkerProfile.Arn": "arn:aws:iam::111122223333:instance-profile/vistune-worker",
    "InstanceTypes": ["g5.*", "g6.*"],
}
ARN = "arn:aws:ec2:eu-central-1:111122223333:"
TAG = "ray-cluster-name"


class Template(yaml.SafeLoader):
    """A YAML loader that reads CloudFormation's short forms."""


def _resolved(loader: Template, suffix: str, node: Any) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    text = loader.construct_scalar(node)
    if suffix == "Sub":
        for name, value in REFERENCES.items():
            text = text.replace(f"${{{name}}}", str(value))
        return text
    return REFERENCES.get(text, text)


Template.add_multi_constructor("!", _resolved)


def statements() -> list[dict[str, Any]]:
    text = (REPO / "cluster/aws.cfn.yaml").read_text()
    template = yaml.load(text, Template)
    (policy,) = template["Resources"]["HeadRole"]["Properties"]["Policies"]
    found: list[dict[str, Any]] = policy["PolicyDocument"]["Statement"]
    return found


def _each(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _holds(operator: str, wanted: Any, found: str | None) -> bool:
    if found is None:
        return False
    if operator == "StringLike":
        return any(fnmatch.fnmatchcase(found, pattern) for pattern in _each(wanted))
    assert operator in ("StringEquals", "ArnEquals")
    return found in _each(wanted)


def allowed(action: str, resource: str, context: dict[str, str] | None = None) -> bool:
    """True if some statement allows the action on one resource."""
    for statement in statements():
        if statement["Effect"] != "Allow":
            continue
        if not any(fnmatch.fnmatchcase(action, name) for name in _each(statement["Action"])):
            continue
        if not any(fnmatch.fnmatchcase(resource, name) for name in _each(statement["Resource"])):
            continue
        conditions = [
            (operator, wanted, (context or {}).get(key))
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        ]
        if all(_holds(*condition) for condition in conditions):
            return True
    return False


START = {
    f"aws:RequestTag/{TAG}": "vistune",
    "ec2:InstanceType": "g5.xlarge",
    "ec2:InstanceProfile": REFERENCES["WorkerProfile.Arn"],
}
BESIDE = [
    f"{ARN}subnet/subnet-1",
    f"{ARN}security-group/sg-1",
    f"{ARN}key-pair/vistune",
    f"{ARN}network-interface/*",
    f"{ARN}volume/*",
    f"{ARN}spot-instances-request/*",
    "arn:aws:ec2:eu-central-1::image/ami-1",
]


def test_the_head_starts_the_clusters_workers() -> None:
    assert allowed("ec2:RunInstances", f"{ARN}instance/*", START)
    assert all(allowed("ec2:RunInstances", resource) for resource in BESIDE)
    assert allowed(
        "ec2:CreateTags",
        f"{ARN}instance/*",
        {"ec2:CreateAction": "RunInstances", f"aws:RequestTag/{TAG}": "vistune"},
    )


@pytest.mark.parametrize("action", ["ec2:TerminateInstances", "ec2:CreateTags", "ec2:DeleteTags"])
def test_the_head_touches_the_clusters_machines_alone(action: str) -> None:
    machine = f"{ARN}instance/i-1"
    assert allowed(action, machine, {f"ec2:ResourceTag/{TAG}": "vistune"})
    assert not allowed(action, machine, {f"ec2:ResourceTag/{TAG}": "payroll"})
    assert not allowed(action, machine)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"aws:RequestTag/{TAG}", "payroll"),
        (f"aws:RequestTag/{TAG}", None),
        ("ec2:InstanceType", "p5.48xlarge"),
        ("ec2:InstanceProfile", "arn:aws:iam::111122223333:instance-profile/vistune-head"),
        ("ec2:InstanceProfile", "arn:aws:iam::111122223333:instance-profile/admin"),
    ],
)
def test_the_head_starts_no_other_machine(key: str, value: str | None) -> None:
    context = {**START, key: value}
    named = {name: found for name, found in context.items() if found is not None}
    assert not allowed("ec2:RunInstances", f"{ARN}instance/*", named)


@pytest.mark.parametrize(
    "resource",
    [f"{ARN}subnet/subnet-2", f"{ARN}security-group/sg-2", f"{ARN}key-pair/someone"],
)
def test_the_head_starts_machines_nowhere_else(resource: str) -> None:
    assert not allowed("ec2:RunInstances", resource, START)


def test_a_tag_cannot_be_put_on_a_machine_that_is_not_the_clusters() -> None:
    """Otherwise the head could tag any machine as its own, and then terminate it."""
    own = {f"aws:RequestTag/{TAG}": "vistune"}
    assert not allowed("ec2:CreateTags", f"{ARN}instance/i-1", own)


def test_nothing_but_reading_is_allowed_on_all_resources() -> None:
    wide = [each["Action"] for each in statements() if each["Resource"] == "*"]
    assert wide == ["ec2:Describe*", "iam:GetInstanceProfile"]
