"""Mutation testing: find changes to the code that no test notices.

    pip install -e '.[mutation]'
    python benchmarks/mutation.py --mutants 600 --seed 0 --out mutants.jsonl  # resumes
    python benchmarks/mutation.py --summary mutants.jsonl

cosmic-ray lists every mutation of the rooms below; a seed draws some of them. Where several
operators could replace one operator, one is drawn; annotations are left out. Each mutant runs in a
copy of the tree against the tests that execute its line, fastest first, in its own process. If a
change is within functions, the process is a fork of one that has collected the tests, and the
imported functions get the changed code. Any other change is imported, in a fork of a process that
has imported torch and Optuna. A mutant is killed if a test fails or the tests take five times as
long (plus 30 s); it survives otherwise. docs/notes/mutation.md lists the survivors with reasons.
"""

import argparse
import ast
import gc
import inspect
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

REPO = Path(__file__).resolve().parents[1]
TARGETS = [
    "tune/study",
    "tune/search",
    "tune/reports/verdict.py",
    "tune/reports/doubts.py",
    "tune/reports/statistics.py",
    "trainables/engine",
]
TESTS = [
    "tests/tune/study",
    "tests/tune/search",
    "tests/tune/cli/test_clock.py",
    "tests/tune/reports/test_doubts.py",
    "tests/tune/reports/test_no_claim.py",
    "tests/tune/reports/test_statistics.py",
    "tests/tune/reports/test_report.py",
    "tests/tune/reports/test_report_contents.py",
    "tests/tune/reports/test_pooled_table.py",
    "tests/trainables/engine",
    "tests/trainables/test_pace.py",
    "tests/vistune/test_enqueue.py",
]
SLOWEST_TEST_S = 20.0
"""Slower tests are not run."""
BUDGET_S = 40.0
"""Limit on the time of all tests of one mutant together, on the unmutated code."""
HANGS_S = 100
"""A test that takes this long is waiting or looping."""
PATIENCE = 4
_NOT_FOUND = 77


@dataclass(frozen=True)
class Mutant:
    """One change: an operator of cosmic-ray at its n-th position in a file."""

    path: str
    operator: str
    occurrence: int
    line: int
    column: int

    @property
    def name(self) -> str:
        return f"{self.path}:{self.line} {self.operator}#{self.occurrence}"


def all_mutants() -> Iterator[Mutant]:
    """Yield every mutation of the targets, in a fixed order."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

    operators = {name: plugins.get_operator(name) for name in sorted(plugins.operator_names())}
    for target in TARGETS:
        whole = REPO / target
        files = sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]
        for file in files:
            nodes = list(ast_nodes(get_ast_from_path(file)))
            annotations = annotation_spans(file.read_text())
            for name, operator in operators.items():
                if operator.arguments():
                    continue
                positions = [p for node in nodes for p in operator().mutation_positions(node)]
                for occurrence, (start, _) in enumerate(positions):
                    path = str(file.relative_to(REPO))
                    if not any(first <= start < last for first, last in annotations):
                        yield Mutant(path, name, occurrence, *start)


def annotation_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the (line, column) of the start and end of every annotation. Changing one changes no
    behaviour."""
    nodes = [
        annotation
        for node in ast.walk(ast.parse(source))
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if isinstance(annotation, ast.expr)
    ]
    return [((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0)) for n in nodes]


def statement_of(source: str, line: int) -> tuple[int, int]:
    """Return the first and last line of the innermost statement at a line, without its body."""
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    around = [node for node in statements if node.lineno <= line <= (node.end_lineno or 0)]
    if not around:
        return line, line  # a decorator
    inner = max(around, key=lambda node: (node.lineno, -(node.end_lineno or 0)))
    body = getattr(inner, "body", [])
    last = body[0].lineno - 1 if body else inner.end_lineno or inner.lineno
    if line > last:
        return line, line  # an `except`
    return inner.lineno, max(inner.lineno, last)


def draw(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Draw a sample of the places that can be changed, with one change for each place."""
    places: dict[tuple[str, int, int, str], list[Mutant]] = {}
    for mutant in mutants:
        family = mutant.operator.split("_")[0]
        places.setdefault((mutant.path, mutant.line, mutant.column, family), []).append(mutant)
    generator = random.Random(seed)
    chosen = generator.sample(list(places.values()), min(count, len(places)))
    return [generator.choice(options) for options in chosen]


def mutated_source(mutant: Mutant) -> str | None:
    """Return the file with the change; None if the result is not Python, such as `{+fields}`."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    operator = plugins.get_operator(mutant.operator)()
    source = mutate_code((REPO / mutant.path).read_text(), operator, mutant.occurrence)
    try:
        ast.parse(source or "")
    except SyntaxError:
        return None
    return source


class Coverage:
    """Tests that execute a line, and the time that each test takes.

    Attributes:
        seconds: test id -> its time on the unmutated code, under the tracer.
        tests: file -> line -> ids of the tests that execute it; "" stands for the import.
    """

    def __init__(self, saved: dict[str, Any]):
        self.seconds: dict[str, float] = saved["seconds"]
        self.tests: dict[str, dict[str, list[str]]] = saved["tests"]

    def of(self, mutant: Mutant) -> list[str]:
        """Return ids of the tests to run, fastest first, within the budget. A test is not known if
        only processes that it starts execute the line."""
        lines = self.tests.get(mutant.path, {})
        first, last = statement_of((REPO / mutant.path).read_text(), mutant.line)
        found = {test for line in range(first, last + 1) for test in lines.get(str(line), [])}
        if found == {""}:  # a constant: take every test that uses its module
            found = {test for tests in lines.values() for test in tests}
        known = sorted((self.seconds[test], test) for test in found if test in self.seconds)
        chosen: list[str] = []
        spent = 0.0
        for seconds, test in known:
            spent += seconds
            if seconds > SLOWEST_TEST_S or spent > BUDGET_S:
                break
            chosen.append(test)
        return chosen


def measure_coverage(out: Path) -> None:
    """Run the tests once and record which of them execute each line."""
    import coverage
    import pytest

    tracer = coverage.Coverage(
        data_file=None, source=[str(REPO / p) for p in ("tune", "trainables")]
    )

    class Contexts:
        def __init__(self) -> None:
            self.seconds: dict[str, float] = {}

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.passed:
                before = self.seconds.get(report.nodeid, 0.0)
                self.seconds[report.nodeid] = before + report.duration

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
            tracer.switch_context(item.nodeid)
            yield
            tracer.switch_context("")

    contexts = Contexts()
    tracer.start()
    pytest.main(["-q", "-p", "no:cacheprovider", *TESTS], plugins=[contexts])
    tracer.stop()
    data = tracer.get_data()
    tests = {
        str(Path(file).relative_to(REPO)): {
            str(line): sorted(names) for line, names in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    out.write_text(json.dumps({"seconds": contexts.seconds, "tests": tests}))


def copy_of_tree(into: Path) -> Path:
    files = subprocess.check_output(["git", "ls-files"], cwd=REPO, text=True).splitlines()
    for name in files:
        if (REPO / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, into / name)
    return into


@dataclass(frozen=True)
class Change:
    """A mutant and how it is tested."""

    mutant: Mutant
    source: str
    """The whole changed file."""
    tests: list[str]
    limit_s: float
    """Limit in CPU seconds, which a busy machine does not use up. A process that only waits gets
    `PATIENCE` times as many wall-clock seconds."""

    def functions(self) -> dict[tuple[str, int], CodeType] | None:
        """Return {(qualified name, first line) of each changed function: its changed code}; None if
        the change is not limited to bodies of functions."""
        before = (REPO / self.mutant.path).read_text()
        name = self.mutant.path
        return changed(compile(before, name, "exec"), compile(self.source, name, "exec"))


def changed(old: CodeType, new: CodeType) -> dict[tuple[str, int], CodeType] | None:
    """Return the outermost differing functions in the body of a module or class, with their new
    code."""
    if _shell(old) != _shell(new):
        return None
    found: dict[tuple[str, int], CodeType] = {}
    for before, after in zip(_inner(old), _inner(new), strict=True):
        if before == after:
            continue
        is_function = bool(before.co_flags & inspect.CO_NEWLOCALS)
        place = before.co_qualname, before.co_firstlineno
        within = {place: after} if is_function else changed(before, after)
        if within is None or before.co_freevars != after.co_freevars:
            return None
        found |= within
    return found


def _inner(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _shell(code: CodeType) -> tuple[object, ...]:
    """Return a body without the functions and classes in it."""
    constants = [
        constant.co_qualname if isinstance(constant, CodeType) else (type(constant), constant)
        for constant in code.co_consts
    ]
    return code.co_code, code.co_names, repr(constants)


def swap(tree: Path, path: str, functions: dict[tuple[str, int], CodeType]) -> bool:
    """Give imported functions other code. Return False if one of them is not found."""
    gc.unfreeze()  # the tests' conftest.py freezes the imported objects
    missing = set(functions)
    for thing in gc.get_objects():
        if not isinstance(thing, FunctionType):
            continue
        code = thing.__code__
        place = code.co_qualname, code.co_firstlineno
        if place in functions and code.co_filename == str(tree / path):
            thing.__code__ = functions[place].replace(co_filename=code.co_filename)
            missing.discard(place)
    return not missing


def collect(tree: Path) -> None:
    """Import the code and the tests, as pytest does."""
    import pytest

    _enter(tree)
    null = os.open(os.devnull, os.O_RDWR)
    kept = os.dup(1)
    os.dup2(null, 1)
    pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *TESTS])
    os.dup2(kept, 1)


def _enter(tree: Path) -> None:
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[0:0] = [str(tree)]


def fork_and_test(tree: Path, change: Change, is_imported: bool) -> str:
    """Run tests in a forked process. Return "killed", "timeout", "survived" or "not found".

    Args:
        is_imported: True if the code is imported already, so its functions are changed in place.
    """
    limit_s = change.limit_s
    child = os.fork()
    if child == 0:
        os.setsid()
        seconds = math.ceil(limit_s)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        import pytest

        if is_imported:
            functions = change.functions()
            if not functions or not swap(tree, change.mutant.path, functions):
                os._exit(_NOT_FOUND)
        else:
            _enter(tree)
        options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout", str(HANGS_S)]
        code = pytest.main([*options, *change.tests])
        os._exit(0 if code == 0 else 1)

    deadline = time.monotonic() + PATIENCE * limit_s
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return _result(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _result(status: int) -> str:
    """Return the result of a child that has ended, from its wait status."""
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return "timeout"
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == _NOT_FOUND:
        return "not found"
    return "survived" if status == 0 else "killed"


def preload() -> None:
    """Import packages that the tests need and no mutant changes."""
    import numpy
    import optuna
    import pytest
    import scipy.stats
    import sklearn
    import torch

    torch.set_num_threads(1)
    del numpy, optuna, pytest, scipy, sklearn


def run(mutants: list[Mutant], coverage: Coverage, say: Callable[[dict[str, Any]], None]) -> None:
    preload()
    changes = []
    for mutant in mutants:
        tests = coverage.of(mutant)
        source = mutated_source(mutant)
        if source is not None:
            limit_s = 30 + 5 * sum(coverage.seconds[test] for test in tests)
            changes.append(Change(mutant, source, tests, limit_s))
    within = [change for change in changes if change.tests and change.functions()]
    others = [change for change in changes if change not in within]

    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        tree = copy_of_tree(Path(name))
        child = os.fork()  # this process must not import the code that the other changes mutate
        if child == 0:
            collect(tree)
            code = _run_all(tree, within, True, say)
            os._exit(code)
        _, status = os.waitpid(child, 0)
        if status == 0:
            _run_all(tree, others, False, say)


def _run_all(
    tree: Path, changes: list[Change], is_imported: bool, say: Callable[[dict[str, Any]], None]
) -> int:
    for change in changes:
        mutant = change.mutant
        result = "not covered"
        began = time.monotonic()
        if change.tests:
            (tree / mutant.path).write_text(change.source)  # also for processes that tests start
            result = fork_and_test(tree, change, is_imported)
            shutil.copy2(REPO / mutant.path, tree / mutant.path)
        seconds = round(time.monotonic() - began, 1)
        say({**vars(mutant), "result": result, "tests": len(change.tests), "seconds": seconds})
    return 0


def summary(out: Path) -> None:
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    rooms: dict[str, dict[str, int]] = {}
    for row in rows:
        room = row["path"] if "reports" in row["path"] else str(Path(row["path"]).parent)
        counts = rooms.setdefault(room, {})
        counts[row["result"]] = counts.get(row["result"], 0) + 1
    for room, counts in sorted(rooms.items()):
        print(f"{room}: " + ", ".join(f"{n} {result}" for result, n in sorted(counts.items())))
    for row in rows:
        if row["result"] in ("survived", "not covered"):
            print(
                f"{row['result']}: {row['path']}:{row['line']} {row['operator']}"
                f"#{row['occurrence']}"
            )


def diff(mutant: Mutant) -> str:
    import difflib

    before = (REPO / mutant.path).read_text().splitlines()
    after = (mutated_source(mutant) or "").splitlines()
    return "\n".join(difflib.unified_diff(before, after, lineterm="", n=1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("mutants.jsonl"))
    parser.add_argument("--coverage", type=Path, default=Path("mutants-coverage.json"))
    parser.add_argument("--cover", action="store_true", help="measure --coverage and end")
    parser.add_argument("--part", default="0/1", help="K/N: every N-th mutant from the K-th on")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--summary", type=Path)
    parser.add_argument("--diff", help="print the diff of every mutant whose name contains this")
    options = parser.parse_args()
    if options.summary is not None:
        summary(options.summary)
        return
    if options.cover:
        out = options.coverage.resolve()
        os.chdir(REPO)
        sys.path.insert(0, str(REPO))
        measure_coverage(out)
        return

    mutants = list(all_mutants())
    drawn = draw(mutants, options.mutants, options.seed)
    if options.diff is not None:
        for mutant in drawn:
            if options.diff in mutant.name:
                print(mutant.name, diff(mutant), sep="\n")
        return

    if not options.coverage.exists():
        # In its own process: this one must not have imported the code that it mutates.
        command = [sys.executable, __file__, "--cover", "--coverage", str(options.coverage)]
        subprocess.run(command, check=True)
    coverage = Coverage(json.loads(options.coverage.read_text()))
    done = set()
    if options.out.exists():
        for line in options.out.read_text().splitlines():
            row = json.loads(line)
            done.add((row["path"], row["operator"], row["occurrence"]))
    first, step = map(int, options.part.split("/"))
    todo = [m for m in drawn[first::step] if (m.path, m.operator, m.occurrence) not in done]
    print(f"{len(mutants)} mutations, {len(drawn)} drawn, {len(todo)} to run here", flush=True)
    end = time.monotonic() + 60 * options.minutes

    def say(row: dict[str, Any]) -> None:
        with options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            row["result"],
            f"{row['path']}:{row['line']}",
            row["operator"],
            row["seconds"],
            flush=True,
        )
        if time.monotonic() > end:
            sys.exit("out of time: the same command continues")

    run(todo, coverage, say)


if __name__ == "__main__":
    main()
