"""A Ray worker imports the same vistune as its driver, whatever is in the current folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPO
from tune.execution.code_path import hides_ours

PROGRAM = """
import sys
sys.path[0] = {root!r}
import ray
from tune.execution.ray_session import start_ray

def imported():
    import tune
    return tune.__file__

start_ray(cpus=1)
print(ray.get(ray.remote(imported).remote()))
ray.shutdown()
"""


@pytest.mark.heavy
@pytest.mark.slow  # starts its own Ray
def test_a_foreign_tune_in_the_current_folder_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "tune").mkdir()
    (tmp_path / "tune/__init__.py").write_text("'''Another project.'''\n")
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(root=str(REPO))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == str(REPO / "tune/__init__.py"), done.stderr


def test_only_another_copy_of_our_packages_hides_ours(tmp_path: Path) -> None:
    assert not hides_ours(REPO)
    assert not hides_ours(tmp_path)
    (tmp_path / "trainables").mkdir()
    assert not hides_ours(tmp_path)  # such as a folder of data
    (tmp_path / "trainables/__init__.py").touch()
    assert hides_ours(tmp_path)
