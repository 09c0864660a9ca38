"""Dependence has one direction: tune -> search_spaces -> trainables."""

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
FORBIDDEN = {
    "trainables": {"tune", "search_spaces", "ray", "optuna", "mlflow", "typer"},
    "search_spaces": {"tune", "ray", "optuna", "mlflow", "typer"},
    "tune": {"tests", "benchmarks"},
}
MODULES = [path for package in FORBIDDEN for path in sorted((REPO / package).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    """Top-level names of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} line {node.lineno}: relative import"
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPO)))
def test_imports_point_one_way(path: Path) -> None:
    assert not set(imported(path)) & FORBIDDEN[path.relative_to(REPO).parts[0]]


def test_only_what_starts_ray_imports_it() -> None:
    allowed = ["cluster_check.py", "room.py", "runtimes.py", "search.py", "workers.py"]
    assert [path.name for path in MODULES if "ray" in imported(path)] == allowed


def test_trainables_and_spaces_bring_no_search_library_with_them() -> None:
    """What their own dependencies import counts as well."""
    program = (
        "import sys, trainables.byol, trainables.engine, search_spaces.ssl; "
        "print(sorted({'ray', 'optuna', 'mlflow', 'tune'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_who_only_looks_at_a_study_does_not_wait_for_torch() -> None:
    """Its import alone takes longer than the leaderboard of 1,000 trials."""
    heavy = {"torch", "torchvision", "ray", "mlflow", "matplotlib"}
    program = f"import sys, tune.report, tune.evidence; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_no_script_of_tune_hides_another_module() -> None:
    """`python tune/run.py` puts tune/ on the path of Ray's workers, before the standard library."""
    own = {path.stem for path in (REPO / "tune").glob("*.py")} - {"__init__"}
    installed = {name for name in importlib.metadata.packages_distributions() if not name.startswith("__editable__")}
    assert not own & (set(sys.stdlib_module_names) | installed)
    assert {"ray", "optuna", "torch"} <= installed  # the list is a real one
