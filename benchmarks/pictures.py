"""Cost of a trial's pictures: CPU seconds of the process that draws them, by step.

    python benchmarks/pictures.py                     # trials of a small network on digits
    python benchmarks/pictures.py --folder runs/ssl   # those of a study that is there
    python benchmarks/pictures.py --keep /tmp/drawn   # also to be looked at

A study without pictures is made once (two trials, two short epochs). Then the same kind of process
that a study uses draws its arrays, one trial after another. `start` is the process with its
imports, `first` a trial whose pictures are the first of the process, `next` another trial. Figures
are medians of the turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record_file import add_record_option, record_speed
from trainables.plots.draw import KINDS
from tune.reports.drawing_process import DrawingProcess

REPO = Path(__file__).resolve().parents[1]
_TICK = os.sysconf("SC_CLK_TCK")
STUDY = (
    *("pretrain", "--data", "digits", "--trials", "2", "--repeats", "0", "--local"),
    *("--pictures", "none", "--pruner", "none"),
    *("--set", "train.epochs=3", "--set", "train.epoch_images=512"),
)


def make_study(folder: Path) -> Path:
    """Train trials whose pictures are drawn later; return the study's folder."""
    command = [sys.executable, str(REPO / "tune/run.py"), *STUDY, "--storage", str(folder)]
    quiet = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=quiet)
    return folder / "pretrain"


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its threads."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICK


class Drawing:
    """A drawing process, measured from its start."""

    def __init__(self, out: Path):
        self._process = DrawingProcess()
        self._process.start()
        self._out = out
        self._used = 0.0

    def draw(self, files: list[Path], name: str) -> tuple[float, float]:
        """Draw files. Return CPU and wall seconds since the last call (or the start)."""
        began = time.monotonic()
        if not self._process.draw(name, files, self._out / name):
            sys.exit(f"the process died at {', '.join(map(str, files))}")
        wall = time.monotonic() - began
        pid = self._process.pid
        assert pid is not None
        used = cpu_seconds(pid)
        spent = used - self._used
        self._used = used
        return spent, wall

    def close(self) -> None:
        self._process.close()


def measure(study: Path, out: Path) -> dict[str, float]:
    """Measure one turn; return {step: CPU seconds}."""
    trials = [path for path in sorted(study.glob("trials/*")) if list(path.glob("*.npz"))]
    if not trials:
        sys.exit(f"no trial in {study} has arrays to be drawn")
    drawing = Drawing(out)
    refused = out / "data-none.npz"
    found: dict[str, float] = {}
    found["start"], _ = drawing.draw([refused], "none")  # a missing file costs nothing

    first = sorted(trials[0].glob("*.npz"))
    found["first trial"], found["first trial, wall"] = drawing.draw(first, "first")
    last = sorted(trials[-1].glob("*.npz"))
    found["next trial"], found["next trial, wall"] = drawing.draw(last, "next")
    for kind in KINDS:
        files = [path for path in last if path.stem.partition("-")[0] == kind]
        if files:
            found[f"of it {kind}, {len(files)}"], _ = drawing.draw(files, kind)
    data = study / "data.npz"
    if data.exists():
        found["the data"], _ = drawing.draw([data], "data")
    drawing.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="of a study; default: one is made")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder for the pictures")
    add_record_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pictures-") as scratch:
        study = options.folder or make_study(Path(scratch))
        out = options.keep or Path(scratch) / "drawn"
        turns = [measure(study, out) for _ in range(options.turns)]
        pictures = len(list((out / "next").glob("*.png")))

    print(f"{pictures} pictures a trial; medians of {options.turns}; load {os.getloadavg()[0]:.1f}")
    for name in turns[0]:
        print(f"{name:30}{statistics.median(turn[name] for turn in turns):8.2f} s")
    record_speed(options.record, {"pictures": pictures, "turns": turns})


if __name__ == "__main__":
    main()
