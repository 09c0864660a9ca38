"""Dependencies point one way: tune -> search_spaces -> trainables, and down the floors of each.

A floor is a set of rooms (packages) and loose modules. A module imports from its own room and from
floors below. Two rooms on one floor do not import each other.
"""

import ast
import functools
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import REPO

FORBIDDEN = {
    "trainables": {"tune", "search_spaces", "ray", "optuna", "mlflow", "typer"},
    "search_spaces": {"tune", "ray", "optuna", "mlflow", "typer"},
    "tune": {"tests", "benchmarks"},
    "vistune": {"tests", "benchmarks"},
}
FLOORS = {
    "tune": [
        {"run", "report", "ui", "cluster_check"},
        {"cli"},
        {"upkeep"},
        {"reports", "registry", "prediction"},
        {"export", "script_experiment"},
        {"mlflow_model"},
        {"execution"},
        {"backbones"},
        {"tracking"},
        {"object_store"},
        {"study"},
        {"function_experiment"},
        {"function_settings", "function_source", "function_space"},
        {"search"},
        {"experiment_file"},
        {"own_model"},
        {"experiments"},
        {"presets"},
        {"function"},
        {"command_line", "formatting", "clusters"},
        {"startup", "surroundings"},
    ],
    "trainables": [
        {"inference_cost"},
        {"portable"},
        {"described"},
        {"served"},
        {"serving"},
        {"classifier", "protonet", "segmentation"},
        {"byol", "dino", "finetune", "moco", "simclr", "vicreg"},
        {"lightly_methods"},
        {"self_supervised"},
        {"classifiers", "segmenters"},
        {"backbone"},
        {"engine"},
        {"base"},
        {"augment", "balance", "class_metrics", "head_job", "optim", "plots", "metrics"},
        {"miou", "momentum", "pace", "schedules"},
        {"data"},
        {"config", "data_summary", "devices", "files", "outcomes"},
        {"errors"},
        {"packages", "processors", "redaction"},
    ],
}
"""Floors of each package, from the top down."""
MODULES = [path for package in FORBIDDEN for path in sorted((REPO / package).rglob("*.py"))]


@functools.cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Every import in a file, at any level."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path: Path) -> Iterator[str]:
    """Top-level names of everything that a file imports."""
    for node in imports(path):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        else:
            assert node.level == 0, f"{path} line {node.lineno}: relative import"
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_point_one_way(path: Path) -> None:
    assert not set(imported(path)) & FORBIDDEN[path.relative_to(REPO).parts[0]]


def imported_rooms(path: Path, package: str) -> Iterator[str]:
    """First names below `package` that a file imports from it: rooms and loose modules."""
    for node in imports(path):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif node.module == package:
            names = [f"{package}.{alias.name}" for alias in node.names]
        else:
            names = [str(node.module)]
        for name in names:
            top, _, rest = name.partition(".")
            if top == package and rest:
                yield rest.partition(".")[0]


def room_of(path: Path) -> str:
    return Path(path.relative_to(REPO).parts[1]).stem


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_stands_on_one_floor(package: str) -> None:
    rooms = {room_of(path) for path in sorted((REPO / package).rglob("*.py"))} - {"__init__"}
    floors = [room for floor in FLOORS[package] for room in floor]
    assert sorted(floors) == sorted(rooms)


@pytest.mark.parametrize("package", FLOORS)
def test_imports_point_down_the_floors(package: str) -> None:
    floor_of = {room: n for n, floor in enumerate(FLOORS[package]) for room in floor}
    upward = [
        f"{path.relative_to(REPO)} imports {package}.{room}"
        for path in sorted((REPO / package).rglob("*.py"))
        if path.stem != "__init__"
        for room in imported_rooms(path, package)
        if room != room_of(path) and floor_of[room] <= floor_of[room_of(path)]
    ]
    assert upward == []


def test_the_python_api_is_the_engines_only_caller() -> None:
    """The command line uses the API. Otherwise `tune` imports only its version."""
    importers = {
        str(path.relative_to(REPO)): [
            node.module for node in imports(path) if isinstance(node, ast.ImportFrom)
        ]
        for path in MODULES
    }
    callers = [name for name, modules in importers.items() if "tune.cli.execute" in modules]
    assert callers == ["vistune/engine.py"]

    found = [str(path.relative_to(REPO)) for path in MODULES if "vistune" in imported(path)]
    users = [name for name in found if not name.startswith("vistune/")]
    assert users == ["tune/cli/app.py", "tune/run.py"]
    assert [name for name in importers["tune/run.py"] if str(name).startswith("vistune")] == [
        "vistune.engine"
    ]


def test_only_what_starts_ray_imports_it() -> None:
    allowed = [
        "tune/cluster_check.py",
        "tune/clusters/kuberay.py",
        "tune/execution/capacity.py",
        "tune/execution/code_path.py",
        "tune/execution/kuberay.py",
        "tune/execution/left_out.py",
        "tune/execution/lost_ray.py",
        "tune/execution/placement.py",
        "tune/execution/ray_session.py",
        "tune/execution/ray_tune.py",
        "tune/execution/runtimes.py",
        "tune/execution/trials_together.py",
        "tune/execution/tune_callbacks.py",
        "tune/execution/worker_group.py",
    ]
    found = [str(path.relative_to(REPO)) for path in MODULES if "ray" in imported(path)]
    assert found == allowed


def printed_by(program: str) -> str:
    """The output of a program in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.heavy
def test_trainables_and_spaces_bring_no_search_library_with_them() -> None:
    """Imports of their own dependencies count too."""
    program = (
        "import sys, trainables.byol, trainables.engine.fit, search_spaces.ssl; "
        "print(sorted({'ray', 'optuna', 'mlflow', 'tune'} & sys.modules.keys()))"
    )
    assert printed_by(program) == "[]"


def test_who_only_looks_at_a_study_does_not_wait_for_torch() -> None:
    """Importing torch alone takes longer than the leaderboard of 1,000 trials."""
    heavy = {"torch", "torchvision", "ray", "mlflow", "matplotlib", "plotly", "jinja2"}
    program = (
        "import sys, tune.report, tune.reports.verdict; "
        f"print(sorted({heavy} & sys.modules.keys()))"
    )
    assert printed_by(program) == "[]"


COMMANDS = """
import contextlib, io, os, runpy, sys

import tune.cli.app, tune.cli.options, typer  # as every command does

for words in sys.stdin.read().splitlines():
    if os.fork() == 0:
        sys.argv = words.split()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            os._exit = lambda code: sys.exit(code)
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as left:
                code = left.code
        print(code, *sorted(sys.modules), flush=True)
        os.kill(os.getpid(), 9)
    os.wait()
"""
"""Run each command in a process of its own, which begins with the imports that all of them need."""


def test_help_and_refusals_do_not_wait_for_what_they_do_not_use(tmp_path: Path) -> None:
    heavy = {"torch", "torchvision", "ray", "mlflow", "matplotlib", "boto3", "scipy.stats"}
    commands = [
        "tune/run.py --help",
        "tune/run.py script --help",
        "tune/run.py ssl --optoin",
        "tune/run.py sll",
        "tune/run.py ssl --workers 2 --local",
        "tune/run.py classify --setting F",
        "tune/run.py ssl --backbone pretrain",
        "tune/run.py ssl --preset tiney",
        "tune/run.py ssl --set optim.lr",
        "tune/report.py --help",
        "tune/report.py shwo",
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input="\n".join(f"{REPO}/{command}" for command in commands),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    said = done.stdout.splitlines()
    assert len(said) == len(commands), done.stderr
    for command, line in zip(commands, said, strict=True):
        code, *imported = line.split()
        assert code == ("0" if "--help" in command else "2"), command
        assert "typer" in imported
        assert heavy & set(imported) == set(), command


@pytest.mark.heavy
def test_a_driver_does_not_wait_for_what_only_trials_use() -> None:
    """It needs all configs and the loading of data, but no network."""
    only_trials = {"torchvision", "torch._dynamo", "byol_pytorch", "accelerate", "torchmetrics"}
    program = (
        "import sys, tune.execution.ray_tune, tune.cli.session; from tune.experiments import "
        "EXPERIMENTS; "
        f"[(e.trainable, e.config()) for e in EXPERIMENTS.values()]; print(sorted({only_trials} & "
        "sys.modules.keys()))"
    )
    assert printed_by(program) == "[]"


def test_no_script_of_tune_hides_another_module() -> None:
    """`python tune/run.py` puts tune/ on the path of Ray's workers, before the standard library."""
    modules = {path.stem for path in (REPO / "tune").glob("*.py")} - {"__init__"}
    rooms = {path.parent.name for path in (REPO / "tune").glob("*/__init__.py")}
    own = modules | rooms
    installed = {
        name
        for name in importlib.metadata.packages_distributions()
        if not name.startswith("__editable__")
    }
    assert not own & (set(sys.stdlib_module_names) | installed)
    assert {"ray", "optuna", "torch"} <= installed  # the list is not empty
