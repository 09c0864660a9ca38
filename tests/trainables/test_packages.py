"""The message about a missing package names the versions pinned by the extras."""

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
    """Pins are listed as in a fresh installation; those installed here may be older than the
    checkout."""
    listed = [f'{one}; extra == "{name}"' for name, found in EXTRAS.items() for one in found]
    monkeypatch.setattr(metadata, "requires", lambda name: listed)
    (pinned,) = EXTRAS[extra]
    package = re.split("[<>~=]", pinned)[0]
    assert install(package) == f"pip install '{pinned}'"


def test_a_package_that_nobody_pins_is_asked_for_by_name() -> None:
    assert install("no-such-package") == "pip install no-such-package"
