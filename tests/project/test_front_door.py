"""A newcomer's first commands: a Python that is too old or lacks the packages, and commands as they
are printed."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from tests import REPO
from tune import command_line, startup
from tune.command_line import command, install_command, replay_command, resume_command

EMPTY_PATH = "/usr/bin:/bin"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True, with_pip=False)
    return folder / "bin/python"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files of a checkout that the first lines of the commands need."""
    folder = tmp_path / "vistune"
    for name in ("tune", "trainables", "search_spaces"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", folder)
    return folder


def said(command: list[str], cwd: Path) -> str:
    """Run a command that must end with code 2, and return its one line."""
    environment = {"PATH": EMPTY_PATH, "HOME": os.environ["HOME"]}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("vistune: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("vistune: ").strip()


@pytest.mark.parametrize(
    "words",
    [
        "tune/run.py ssl --plan",
        "tune/report.py show",
        "-m tune.ui",
        "-m tune.export model images out",
        "-m tune.cluster_check cluster.yaml",
    ],
)
def test_a_python_without_packages_is_told_how_to_start(
    words: str, bare: Path, clone: Path
) -> None:
    missing = f"{bare} lacks ray, torch, torchvision and "
    line = said([str(bare), *words.split()], clone)
    assert line.startswith(missing)
    assert "run `make .venv/installed`" in line
    assert f"`{bare} -m pip install -e .`" in line

    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(sys.executable)
    line = said([str(bare), *words.split()], clone)
    assert line.startswith(missing)
    assert line.endswith(f"run `.venv/bin/python {words}`")


def test_the_line_fits_the_folder_that_one_is_in(bare: Path, clone: Path) -> None:
    line = said([str(bare), str(clone / "tune/run.py"), "ssl", "--study", "a b"], clone.parent)
    assert "run `make -C ./vistune .venv/installed`" in line
    assert "pip install -e ./vistune`" in line

    (clone / ".venv/bin").mkdir(parents=True)
    (clone / ".venv/bin/python").symlink_to(sys.executable)
    line = said([str(bare), str(clone / "tune/run.py"), "ssl", "--study", "a b"], clone.parent)
    assert line.endswith("run `vistune/.venv/bin/python vistune/tune/run.py ssl --study 'a b'`")


def test_a_broken_installation_is_not_sent_in_a_circle(clone: Path) -> None:
    venv.create(clone / ".venv", symlinks=True, with_pip=False)
    line = said([str(clone / ".venv/bin/python"), "tune/run.py", "ssl"], clone)
    assert line.endswith(f"run `{clone}/.venv/bin/python -m pip install -e .`")


def old_python() -> str | None:
    """Path of a Python before 3.11 on this machine, or None."""
    places = [Path("/usr/bin"), *Path.home().glob(".pyenv/versions/3.*/bin")]
    for minor in (10, 9, 8, 7, 6):
        for place in places:
            path = place / f"python3.{minor}"
            if path.exists():
                return str(path)
    return None


def test_an_old_python_is_told_so(clone: Path) -> None:
    python = old_python()
    if python is None:
        pytest.skip("no Python before 3.11 on this machine")
    for script in ("tune/run.py", "tune/report.py"):
        line = said([python, script], clone)
        assert re.match(r"Python 3\.\d+ is too old, 3\.11 or newer is needed: run `make ", line)


@pytest.mark.parametrize("name", ["__init__", "run", "report", "ui", "export", "startup"])
def test_an_old_python_can_read_what_it_runs_first(name: str) -> None:
    ast.parse((REPO / f"tune/{name}.py").read_text(), feature_version=(3, 8))


def test_the_modules_that_are_asked_for_are_those_of_pyproject() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    imported = {"byol-pytorch": "byol_pytorch", "scikit-learn": "sklearn", "pillow": "PIL"}
    imported |= {"fonttools": "fontTools", "tensorboardx": "tensorboardX", "pyyaml": "yaml"}

    names = [re.split(r"[\[~=>]", wanted)[0] for wanted in project["dependencies"]]
    names.remove("basemap-data")  # a module in mpl_toolkits, a folder that matplotlib has too
    assert [imported.get(name, name) for name in names] == list(startup.MODULES)

    oldest = ".".join(map(str, startup.OLDEST))
    assert project["requires-python"] == f">={oldest}"
    assert f"({', '.join(map(str, startup.OLDEST))})" in (REPO / "Makefile").read_text()


def test_a_command_is_spelled_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tune/run.py"])
    monkeypatch.setattr(sys, "executable", str(REPO / ".venv/bin/python"))
    monkeypatch.chdir(REPO)
    python = ".venv/bin/python"
    assert command("run", "ssl") == f"{python} tune/run.py ssl"
    assert command("report", "show", "a b") == f"{python} tune/report.py show 'a b'"
    assert command("ui") == f"{python} -m tune.ui"
    assert command("ui", storage=REPO / "runs") == f"{python} -m tune.ui"
    assert command("ui", storage=REPO / "other") == f"{python} -m tune.ui --storage {REPO}/other"
    assert install_command("sam") == f"{python} -m pip install -e '.[sam]'"
    assert replay_command("ssl", REPO / "runs/mine", 3) == (
        f"{python} tune/run.py ssl --local --trial mine/3"
    )
    whole = f"{REPO}/.venv/bin/python {REPO}/tune/run.py ssl --local --trial mine/3"
    kept = replay_command("ssl", REPO / "runs/mine", 3, anywhere=True)
    assert kept == f"{whole} --storage {REPO}/runs"


def test_a_program_in_this_folder_is_not_looked_for_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tune/run.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.chdir(tmp_path)
    assert command("ui") == "./python -m tune.ui"
    assert startup.shorter(tmp_path) == "."


def test_storage_is_the_one_that_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for typed, words in (
        (["--storage", "mine"], ["--storage", "mine"]),
        (["--storage=mine"], ["--storage", "mine"]),
        (["--storage", "s3://bucket/runs"], ["--storage", "s3://bucket/runs"]),
        (["--storage", "other"], ["--storage", str(tmp_path / "mine")]),
        ([], ["--storage", str(tmp_path / "mine")]),
    ):
        monkeypatch.setattr(sys, "argv", ["tune/run.py", "ssl", *typed])
        assert command_line.storage_option(tmp_path / "mine") == words


def test_started_by_an_entry_point_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "venv/bin"
    folder.mkdir(parents=True)
    for name in ("python", "vistune", "vistune-report", "vistune-ui"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(sys, "argv", [str(folder / "vistune"), "ssl", "--study", "a b"])

    monkeypatch.setenv("PATH", EMPTY_PATH)
    assert resume_command() == "venv/bin/vistune ssl --study 'a b'"
    assert command("report", "show") == "venv/bin/vistune-report show"
    assert command("export") == "venv/bin/python -m tune.export"

    monkeypatch.setenv("PATH", f"{folder}:{EMPTY_PATH}")
    assert resume_command() == "vistune ssl --study 'a b'"
    assert command("ui") == "vistune-ui"
    assert command("ui", anywhere=True) == "vistune-ui"


SPELLED = re.compile(r"\bpython (tune/|-m tune\.)|`make ui|pip install '?vistune")


def test_no_message_spells_a_command_by_itself() -> None:
    """Docstrings may, as documents do: they assume the root of a checkout with its environment
    active."""
    found = []
    for package in ("tune", "trainables", "search_spaces", "vistune"):
        for path in sorted((REPO / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            documents = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and node.body
                and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                text = node.value if isinstance(node, ast.Constant) else None
                if isinstance(text, str) and id(node) not in documents and SPELLED.search(text):
                    found.append(f"{path.relative_to(REPO)}:{node.lineno}: {text}")
    assert found == []


@pytest.mark.slow
def test_what_a_run_prints_can_be_typed_in_a_shell_without_the_environment(tmp_path: Path) -> None:
    """The run is interrupted by its time budget. Its resume command is typed, then every other
    command that is printed."""
    small = "--data digits --trials 2 --repeats 1 --local --set train.epoch_images=64"
    tiny = "--set data.image_size=8 --set backbone.width=8 --set backbone.pool=1"
    words = ["pretrain", *small.split(), *tiny.split(), "--set", "train.epochs=1"]
    environment = {"PATH": EMPTY_PATH, "HOME": str(tmp_path), "MPLBACKEND": "Agg"}

    def shell(line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    first = subprocess.run(
        [sys.executable, str(REPO / "tune/run.py"), *words, "--time-budget", "1s"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (resume,) = re.findall(r"Resume with: (.*)$", first.stdout, re.MULTILINE)
    assert not Path(resume.split()[0]).is_absolute() or len(resume.split()[0]) < 60
    out = shell(resume.replace("--time-budget 1s", "--time-budget 5m"))
    assert "2/2 trials" in out

    (ui,) = re.findall(r"compare the trials in MLflow: (.*)$", out, re.MULTILINE)
    shell(f"{ui} --help")
    python = f"{sys.executable} {REPO}/tune/report.py"
    shell(f"{python} html pretrain")
    page = (tmp_path / "runs/pretrain/report.html").read_text()
    (lines,) = re.findall(r"<pre>([^<]*--local --trial[^<]*)</pre>", page)
    replay = [line for line in lines.splitlines() if not line.startswith("git checkout")]
    assert "the replay equals the record" in shell("; ".join(replay))
