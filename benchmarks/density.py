"""Print how densely the code is packed: syntax-tree nodes for each non-blank line, and long lines.

    python benchmarks/density.py              # tune and trainables
    python benchmarks/density.py --files 10   # and the densest files of each
    python benchmarks/density.py --limit 7.5  # exit code 1 where a package is denser

The measure is a symptom. Better names and smaller steps lower it; a mere line break does not make
code clearer.
"""

import argparse
import ast
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tune", "trainables")
COLUMNS = 100


@dataclass(frozen=True)
class Density:
    """Counts of one file, or of several together."""

    name: str
    nodes: int
    """Nodes of the syntax tree, as `ast.walk` yields them."""
    lines: int
    """Lines that are not blank."""
    long_lines: int
    """Lines of more than 100 characters."""

    @property
    def nodes_per_line(self) -> float:
        """Nodes for each line that is not blank."""
        return self.nodes / max(self.lines, 1)

    def row(self) -> str:
        """Return one line of the table."""
        counts = f"{self.nodes:>8} {self.lines:>7} {self.nodes_per_line:>11.2f}"
        return f"{self.name:<36} {counts} {self.long_lines:>11}"


def measure(path: Path) -> Density:
    """Count nodes and lines of one file."""
    text = path.read_text()
    lines = text.splitlines()
    nodes = sum(1 for _ in ast.walk(ast.parse(text)))
    filled = sum(1 for line in lines if line.strip())
    long_lines = sum(1 for line in lines if len(line) > COLUMNS)

    return Density(str(path.relative_to(ROOT)), nodes, filled, long_lines)


def total(name: str, files: list[Density]) -> Density:
    """Return the sum over files."""
    nodes = sum(file.nodes for file in files)
    lines = sum(file.lines for file in files)
    long_lines = sum(file.long_lines for file in files)

    return Density(name, nodes, lines, long_lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table. With `--limit`, return 1 if a package is denser or has a long line."""
    parser = argparse.ArgumentParser(description="Syntax-tree nodes per non-blank line.")
    parser.add_argument("--limit", type=float, help="most nodes per line of a package")
    parser.add_argument("--files", type=int, default=0, help="densest files to print")
    options = parser.parse_args(arguments)

    print(f"{'':<36} {'nodes':>8} {'lines':>7} {'nodes/line':>11} {'> 100 chars':>11}")
    failed = False

    for package in PACKAGES:
        files = [measure(path) for path in sorted((ROOT / package).rglob("*.py"))]
        whole = total(f"{package}/", files)
        print(whole.row())

        densest = sorted(files, key=lambda file: file.nodes_per_line, reverse=True)
        for file in densest[: options.files]:
            print(file.row())

        too_dense = options.limit is not None and whole.nodes_per_line > options.limit
        too_long = options.limit is not None and whole.long_lines > 0
        failed = failed or too_dense or too_long

    if failed:
        message = f"more than {options.limit:g} nodes per line, or lines over {COLUMNS} characters"
        print(f"density: {message}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
