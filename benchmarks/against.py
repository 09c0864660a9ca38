"""Speed of this tree against an earlier commit, in turns on one machine.

    python benchmarks/against.py 5d3a9ec                       # all three scripts, median of 7
    python benchmarks/against.py 5d3a9ec loop.py --runs 3

Each tree runs its own copy of the script with its own cache, because the layout of stores has
changed. The earlier tree is checked out into a temporary worktree. A ratio is this tree over the
earlier one, pair by pair; below 1, this tree is faster. The interval around the median comes from
the ordered ratios (with 7 pairs from the smallest to the largest: 98 %).
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.earlier_tree import earlier_tree

REPO = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "loop.py": ([], r"^overhead ([+-][\d.]+) %", "CPU of a training step over a bare loop's"),
    "trial_gap.py": (
        ["--plain", "2", "--nested", "2"],
        r"^vistune\s+([\d.]+)",
        "seconds between trials",
    ),
    "thousand_trials.py": (
        # one report a trial: with more, the rungs of the two trees would stop different trials
        ["--trials", "400", "--epochs", "1"],
        r"driver CPU time per trial ([\d.]+) ms",
        "driver CPU ms per trial, of 400",
    ),
}
"""Script -> options, the figure in its output, the meaning of that figure."""


def measure(tree: Path, script: str, cache: Path) -> float:
    options, pattern, _ = SCRIPTS[script]
    command = [sys.executable, str(tree / "benchmarks" / script), *options]
    environment = os.environ | {"PYTHONPATH": str(tree), "VISTUNE_CACHE": str(cache)}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    found = re.search(pattern, done.stdout, re.MULTILINE)
    if found is None:
        sys.exit(f"{' '.join(command)} printed no figure:\n{done.stdout}{done.stderr}")
    figure = float(found[1])
    return 1 + figure / 100 if script == "loop.py" else figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit")
    parser.add_argument("scripts", nargs="*", default=list(SCRIPTS))
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with (
        earlier_tree(options.commit) as before,
        tempfile.TemporaryDirectory(prefix="against-") as scratch,
    ):
        for script in options.scripts:
            compare({"now": REPO, "before": before}, Path(scratch), script, options.runs)


def compare(trees: dict[str, Path], scratch: Path, script: str, runs: int) -> None:
    figures: dict[str, list[float]] = {name: [] for name in trees}
    for run in range(runs):
        for name in list(trees)[:: 1 if run % 2 else -1]:
            figures[name].append(measure(trees[name], script, scratch / f"cache-{name}"))
        print(
            f"{script} {run + 1}: {figures['now'][-1]:.4g} and {figures['before'][-1]:.4g}",
            flush=True,
        )
    ours = figures["now"]
    theirs = figures["before"]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print(
        f"{script}, {SCRIPTS[script][2]}: {statistics.median(ours):.4g} and "
        f"{statistics.median(theirs):.4g}, ratio {statistics.median(ratios):.3f} "
        f"[{min(ratios):.3f}, {max(ratios):.3f}]",
        flush=True,
    )


if __name__ == "__main__":
    main()
