"""The content of a wheel, and its commands outside the project."""

import os
import re
import shlex
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from vistune import __version__

REPO = Path(__file__).resolve().parents[2]
PACKAGES = ("vistune", "tune", "trainables", "search_spaces")


def tracked(*paths: str) -> list[str]:
    """Files of the project that Git tracks or does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (REPO / name).is_file()]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree, like a clone. Builds write into it."""
    folder = tmp_path_factory.mktemp("checkout") / "vistune"
    folder.mkdir()
    archive = folder.with_suffix(".tar")

    with tarfile.open(archive, "w") as tar:
        for name in tracked():
            tar.add(REPO / name, name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")

    return folder


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this project, built offline."""
    (checkout / "build/lib/tune").mkdir(parents=True)
    (checkout / "build/lib/tune/moved_away.py").write_text("'''Left by an earlier build.'''\n")

    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(checkout)], check=True)

    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.heavy
def test_a_wheel_holds_every_package_and_data_file(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}

    modules = set(tracked(*PACKAGES))
    cluster = {f"vistune/cluster_files/{name}" for name in tracked("cluster*.yaml", "cluster/")}

    assert "tune/run.py" in modules
    assert "trainables/data/store.py" in modules
    assert "search_spaces/priors.json" in modules
    assert "vistune/cluster_files/cluster.yaml" in cluster
    assert "vistune/cluster_files/cluster/mlflow-server.sh" in cluster
    assert held == modules | cluster


def test_packages_are_typed_and_the_version_is_said_once(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    for package in PACKAGES:
        assert archive.getinfo(f"{package}/py.typed").file_size == 0

    assert wheel.name.startswith(f"vistune-{__version__}-")
    for name in ("pyproject.toml", "setup.py", "CITATION.cff", "mkdocs.yml", "Makefile"):
        assert f'"{__version__}"' not in (REPO / name).read_text(), name


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that has the wheel, and sees the packages of this
    environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)

    (site,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is searched for modules but not for further .pth files, so an editable
    # installation there has no effect.
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "packages.pth").write_text("\n".join(here) + "\n")

    install = ["install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python")]
    subprocess.run([*pip, *install], check=True)
    return folder / "bin"


def finished(
    command: list[str], cwd: Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command in an environment that knows nothing of this project."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    kept["PATH"] = "/usr/bin:/bin"
    return subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_commands_work_in_any_folder(installed: Path, tmp_path: Path) -> None:
    """`vistune` from a wheel runs a search on Ray. Then the command that it printed is run."""
    small = "--data digits --trials 2 --repeats 0 --set train.epochs=1 --set train.epoch_images=64"
    tiny = "--set data.image_size=8 --set backbone.width=8 --set backbone.pool=1"
    words = ["pretrain", *small.split(), *tiny.split()]
    cache = {"VISTUNE_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}

    for name in ("vistune", "vistune-report"):
        said = finished([str(installed / name), "--version"], tmp_path)
        assert said.stdout == f"vistune {__version__}\n", said.stderr

    run = finished([str(installed / "vistune"), *words], tmp_path, **cache)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2/2 trials" in run.stdout
    assert (tmp_path / "runs/pretrain/study.json").exists()

    (printed,) = re.findall(r"^compare the trials in MLflow: (.*)$", run.stdout, re.MULTILINE)
    assert shlex.split(printed)[0].endswith("/vistune-ui")
    typed = finished(["bash", "-c", f"timeout 60 {printed} --help"], tmp_path, **cache)
    assert typed.returncode == 0, typed.stderr

    show = finished([str(installed / "vistune-report"), "show", "pretrain"], tmp_path, **cache)
    assert "2 trials, 2 epochs" in show.stdout, show.stderr
    export = finished([str(installed / "vistune-report"), "export", "pretrain"], tmp_path, **cache)
    assert export.returncode == 0, export.stderr
    assert (tmp_path / "runs/pretrain/model/code/trainables/served.py").exists()


@pytest.mark.slow
def test_a_foreign_tune_is_refused_and_the_remedy_works(installed: Path, tmp_path: Path) -> None:
    """Another package named `tune`, such as PyPI's, is installed over ours."""
    foreign = tmp_path / "foreign"
    (foreign / "tune").mkdir(parents=True)
    (foreign / "tune/__init__.py").write_text("'''Another project.'''\n")
    (foreign / "pyproject.toml").write_text(
        '[project]\nname = "tune"\nversion = "0.1.6"\n'
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    pip = [sys.executable, "-m", "pip", "--python", str(installed / "python")]
    offline = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "install", *offline, str(foreign)], check=True)

    for name in ("vistune", "vistune-report", "vistune-ui"):
        said = finished([str(installed / name), "--help"], tmp_path)
        assert said.returncode == 2
        assert said.stderr.startswith("vistune: the package 'tune' that Python imports is not")
        assert said.stderr.count("\n") == 1

    remedy = said.stderr.strip().partition("put ours back: ")[2]
    # The environment of this test has no pip of its own, but sees that of the other packages.
    typed = finished(["bash", "-c", remedy], tmp_path, PIP_NO_INDEX="1", PIP_QUIET="1")
    assert typed.returncode == 0, typed.stderr
    said = finished([str(installed / "vistune"), "--version"], tmp_path)
    assert said.stdout == f"vistune {__version__}\n", said.stderr


@pytest.mark.slow
def test_completion_knows_commands_and_options(installed: Path, tmp_path: Path) -> None:
    asked = {"_VISTUNE_REPORT_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    said = finished(
        [str(installed / "vistune-report")], tmp_path, COMP_WORDS="vistune-report sh", **asked
    )
    assert said.stdout.split() == ["show"], said.stderr

    for line, expected in (
        ("vistune s", "ssl ssl-simclr ssl-moco ssl-vicreg ssl-dino segment"),
        ("vistune ssl --warm", "--warm-start"),
        ("vistune fewshot --setting K", "K1 K5 K10"),
        ("vistune classify --setting ", "A B C D E A-long"),
        ("vistune fewshot --compare ", "shots distance"),
        ("vistune ssl --preset f", "full"),
    ):
        at = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        asked = {"_VISTUNE_COMPLETE": "complete_bash", **at}
        said = finished([str(installed / "vistune")], tmp_path, **asked)
        assert said.stdout.split() == expected.split(), said.stderr
