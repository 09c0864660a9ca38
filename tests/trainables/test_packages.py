"""A missing package is asked for in the versions that the extras pin."""

import re
import tomllib
from importlib import metadata

import pytest

from tests import REPO
from trainables.packages import install

EXTRAS = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", ["timm", "lightly", "smp", "safetensors", "hf", "cmaes"])
def test_a_package_is_asked_for_as_its_extra_pins_it(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a fresh installation lists them; that of this machine may be older than the checkout."""
    listed = [f'{one}; extra == "{name}"' for name, found in EXTRAS.items() for one in found]
    monkeypatch.setattr(metadata, "requires", lambda name: listed)
    (pinned,) = EXTRAS[extra]
    package = re.split("[<>~=]", pinned)[0]
    assert install(package) == f"pip install '{pinned}'"


def test_a_package_that_nobody_pins_is_asked_for_by_name() -> None:
    assert install("no-such-package") == "pip install no-such-package"
