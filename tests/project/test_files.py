"""Files outside the code agree with each other and with the code."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import REPO

CPU, CUDA = "constraints-cpu.txt", "constraints-cuda.txt"


def text(name: str) -> str:
    return (REPO / name).read_text()


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text("pyproject.toml"))["project"]
    return found


def recipe(target: str) -> list[str]:
    """The commands of a target in the Makefile, without the path of the environment."""
    after = text("Makefile").partition(f"\n{target}:")[2]
    lines = after.split("\n")[1:]
    commands = []
    for line in lines:
        if not line.startswith("\t"):
            break
        commands.append(line.strip().replace("$(BIN)/", ""))
    return commands


def locked(name: str) -> dict[str, str]:
    """Package -> version in a lock file."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text(name), re.MULTILINE))


def test_make_alone_lists_the_targets_that_say_what_they_do() -> None:
    # Under `make test` this would be a sub-make, which prints additional lines.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make"], cwd=REPO, env=environment, capture_output=True, text=True, check=True
    )
    listed = done.stdout
    targets = re.findall(r"^([a-z-]+):.*## (.+)$", text("Makefile"), re.MULTILINE)
    assert len(targets) > 12
    lines = [line.split(maxsplit=2) for line in listed.splitlines()]
    assert lines == [["make", name, about] for name, about in targets]

    phony = " ".join(re.findall(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)).split()
    assert {name for name, _ in targets} <= set(phony)


def test_an_image_without_docker_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'Cannot connect' >&2; exit 1\n")
    (tmp_path / "docker").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(
        ["make", "image"], cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if "***" not in line]
    assert said == ["make image: no docker daemon answers on this machine; start or install docker"]


@pytest.mark.parametrize("name", [CPU, CUDA])
def test_a_lock_names_public_indexes_alone(name: str) -> None:
    pin = re.compile(r"[\w.-]+==[\w.]+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    lines = [line for line in text(name).splitlines() if not line.startswith("#")]
    assert [line for line in lines if not pin.fullmatch(line)] == []
    urls = re.findall(r"\S+://\S+", text(name))
    assert urls == (["https://download.pytorch.org/whl/cpu"] if name == CPU else [])


def test_the_locks_differ_in_cuda_alone() -> None:
    cpu, cuda = locked(CPU), locked(CUDA)
    assert cpu.items() <= cuda.items()
    only = cuda.keys() - cpu.keys()
    assert {"torch", "torchvision", "triton"} <= only
    rest = only - {"torch", "torchvision", "triton"}
    assert all(package.startswith(("nvidia-", "cuda-")) for package in rest)
    for package in ("torch", "torchvision"):
        assert f" {package}=={cuda[package]}" in text(CPU).partition("\n\n")[0]


def test_the_locks_hold_every_dependency() -> None:
    extras = project()["optional-dependencies"].values()
    wanted = [*project()["dependencies"], *(one for extra in extras for one in extra)]
    names = {re.split(r"[\[~=>< ]", one)[0].lower() for one in wanted} - {"vistune"}
    assert names <= locked(CUDA).keys()


def test_pre_commit_runs_what_make_lint_does() -> None:
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    entries = [hook["entry"].removeprefix(".venv/bin/") for hook in hooks]
    checked = [command.split(" ")[:2] for command in recipe("lint")]
    assert ["ruff", "check"] in checked
    assert ["ruff", "format"] in checked
    assert ["mypy"] in checked
    assert [entry.partition(" --")[0] for entry in entries] == ["ruff check", "ruff format", "mypy"]


def test_github_calls_what_every_change_has_passed() -> None:
    job = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["checks"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["bash .ci/run"]

    oldest, newest = job["strategy"]["matrix"]["python"]
    assert project()["requires-python"] == f">={oldest}"
    assert float(newest.partition(".")[2]) > float(oldest.partition(".")[2])


def test_forms_can_be_read() -> None:
    for path in sorted((REPO / ".github/ISSUE_TEMPLATE").glob("*.yml")):
        form = yaml.safe_load(path.read_text())
        assert path.name == "config.yml" or {"name", "description", "body"} <= form.keys()

    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == project()["license"] == "Apache-2.0"
    assert "Apache License\n" in text("LICENSE")
    assert "END OF TERMS AND CONDITIONS" in text("LICENSE")


def test_containers_name_files_that_are_there() -> None:
    container = json.loads(text(".devcontainer/devcontainer.json"))
    assert container["postCreateCommand"] == "make .venv/installed"

    docker = text("Dockerfile")
    copied = re.findall(r"^COPY (.*) \./$", docker, re.MULTILINE)[0].split()
    assert copied == [CPU, CUDA]
    ignored = text(".dockerignore").split()
    assert not {"pyproject.toml", "setup.py", "README.md", "cluster", *copied} & set(ignored)

    # The header of the lock has the command by which the image installs torch for CPUs.
    pattern = r"^#  *pip install --no-deps (--index-url \S+ torch==\S+ torchvision==\S+)$"
    assert len(re.findall(pattern, text(CPU), re.MULTILINE)) == 1


def test_the_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^(##+) (.*)$", text("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == ("##", "[Unreleased]")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {name for level, name in headings if level == "###"} <= kinds


def test_nodes_of_a_cluster_have_what_their_installation_reads() -> None:
    for name in ("cluster.yaml", "cluster-onprem.yaml"):
        mounts = yaml.safe_load(text(name))["file_mounts"]
        needed = {"pyproject.toml", "README.md", "vistune", "tune", "trainables", "search_spaces"}
        assert {f"~/vistune/{path}" for path in needed} <= mounts.keys()
