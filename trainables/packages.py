"""Optional packages, which only parts of vistune need."""

import re
from importlib import metadata


def install(*packages: str) -> str:
    """The pip command for packages, in the versions that vistune's extras require, if vistune
    itself is installed."""
    known = _requirements()
    wanted = [known.get(package, package) for package in packages]
    quoted = " ".join(f"'{one}'" if re.search("[<>~]", one) else one for one in wanted)
    return f"pip install {quoted}"


def _requirements() -> dict[str, str]:
    """Package -> requirement of vistune's extras, such as `timm~=1.0.31`."""
    try:
        lines = metadata.requires("vistune") or []
    except metadata.PackageNotFoundError:
        return {}
    asked = [line.partition(";")[0].strip() for line in lines]
    return {re.split(r"[^\w.-]", one)[0]: one for one in asked}
