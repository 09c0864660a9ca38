"""A checkout of an earlier commit, for benchmarks that compare two trees."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


@contextmanager
def earlier_tree(commit: str) -> Iterator[Path]:
    """Yield a temporary worktree of a commit."""
    with tempfile.TemporaryDirectory(prefix="earlier-") as folder:
        tree = Path(folder) / "before"
        git = ["git", "-C", str(REPO), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
