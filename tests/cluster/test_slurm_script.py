"""cluster/slurm.sbatch as a script, with fake commands that only note how they are called."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests import REPO

PYTHON = """#!/bin/bash
case "$*" in
  *secrets*) echo token ;;
  *run.py*) mkdir -p study; env > study/environment; ls "$VISTUNE_RUNS/.nodes" > study/notes ;;
  *version*) echo ray 2.60.0 ;;
esac
"""


def submitted(folder: Path, storage: str, umask: str = "022") -> dict[str, str]:
    """Run the script in a folder, and return the environment of its driver."""
    commands = folder / "bin"
    commands.mkdir()
    scripts = {"python": PYTHON, "ray": "#!/bin/bash\n", "srun": "#!/bin/bash\n"}
    for name, script in scripts.items():
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)

    (folder / "cluster").symlink_to(REPO / "cluster")
    environment = {
        "HOME": str(folder / "home"),
        "PATH": f"{commands}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_ON_NODE": "1",
        "SLURM_TMPDIR": str(folder / "tmp"),
        "VISTUNE_PYTHON": str(commands / "python"),
    }
    script = f"umask {umask}; exec bash cluster/slurm.sbatch ssl --storage {storage}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "study/environment").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.mark.parametrize(("umask", "mode"), [("077", 0o700), ("002", 0o775)])
def test_the_study_is_as_open_as_its_owners_files(tmp_path: Path, umask: str, mode: int) -> None:
    submitted(tmp_path, "runs", umask)
    assert stat.S_IMODE((tmp_path / "study").stat().st_mode) == mode
    tokens = tmp_path / "home/.vistune-slurm"
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o700


def test_the_versions_of_a_job_are_its_own_and_go_with_it(tmp_path: Path) -> None:
    assert submitted(tmp_path, "runs")["VISTUNE_CLUSTER"] == "slurm-7"
    assert (tmp_path / "study/notes").read_text().split() == ["head-slurm-7"]
    assert list((tmp_path / "runs/.nodes").iterdir()) == []


def test_a_bucket_makes_no_folder_of_its_name(tmp_path: Path) -> None:
    submitted(tmp_path, "s3://bucket/runs")
    assert not (tmp_path / "s3:").exists()
    assert (tmp_path / "study/notes").read_text().split() == ["head-slurm-7"]
