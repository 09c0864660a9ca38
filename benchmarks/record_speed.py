"""Records of every script that claims something about speed, for docs/benchmarks.md.

    python benchmarks/record_speed.py                     # all, the slowest last
    python benchmarks/record_speed.py augment loop        # some
    python benchmarks/record_speed.py --minutes 40        # begins nothing after that
    python benchmarks/record_speed.py --quick --into /tmp/quick  # in small, to try the scripts

Each script is a process of its own and writes docs/results/speed/NAME.json. If one fails, the rest
runs all the same. Then `python benchmarks/results.py render` brings the records into the page. The
machine must have nothing else to do meanwhile.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import SPEED

REPO = Path(__file__).resolve().parents[1]
TUTORIAL = '--only "Ray\'s tutorial wiring"'
WRITTEN_HERE = (
    '--only "plain Optuna loop" --only "vistune --local, no pictures" --only "vistune --local" '
    '--only "vistune, no pictures" --only vistune'
)


EIGHT = "--workers 8 --nodes 2 --trials 80 --block 10"
TWO = "--workers 2 --nodes 1 --trials 12 --block 2"
RESNET50 = "--backbone resnet50 --image-size 128"


@dataclass(frozen=True)
class Script:
    """A script with its options."""

    file: str
    options: str = ""
    quick: str = ""
    """The options with `--quick`, which finish sooner and say nothing about speed."""

    def command(self, record: str, *, quick: bool) -> list[str]:
        options = shlex.split(self.quick if quick else self.options)
        return [f"benchmarks/{self.file}", *options, "--record", record]


SCRIPTS = {
    "time_left": Script("time_left.py"),
    "augment": Script("augment.py", "", "--rounds 2"),
    "joint_augment": Script("joint_augment.py", "", "--rounds 2"),
    "features": Script("features.py", "", "--turns 4"),
    "pictures": Script("pictures.py", "--turns 5", "--turns 1"),
    "tracking": Script("tracking.py", "", "--reports 20"),
    "loop": Script("loop.py", "", "--epochs 5 --steps 3"),
    "loop_preset": Script("loop.py", "--preset", "--preset --epochs 5 --steps 3"),
    "batch_trials_steps": Script(
        "batch_trials.py", "--steps --turns 5", "--steps --turns 2 --width 4"
    ),
    "thousand_trials_local": Script(
        "thousand_trials.py", "--local", "--local --trials 40 --block 10"
    ),
    "thousand_trials": Script("thousand_trials.py", "", "--trials 40 --block 10"),
    "cluster_8": Script("cluster_64.py", EIGHT, TWO),
    "cluster_8_torch": Script("cluster_64.py", f"{EIGHT} --torch", f"{TWO} --torch"),
    "features_resnet50": Script(
        "features.py",
        f"{RESNET50} --images 128 --turns 6 --steps 1",
        f"{RESNET50} --images 16 --turns 4 --steps 1",
    ),
    "start_workers": Script(
        "start.py",
        '--turns 3 --only "vistune --workers 2"',
        '--turns 1 --only "vistune --workers 2"',
    ),
    "loop_preset_100": Script(
        "loop.py", "--preset --steps 100 --epochs 7", "--preset --epochs 5 --steps 3"
    ),
    "trial_gap": Script("trial_gap.py", "", "--vistune 6 --plain 3 --nested 2"),
    "start": Script("start.py", "--turns 5", "--turns 1"),
    "cluster_64": Script("cluster_64.py", "", TWO),
    "batch_trials": Script(
        "batch_trials.py",
        "--seeds 2 --only digits letters",
        "--seeds 1 --trials 4 --width 2 --only digits letters",
    ),
    "batch_earlier": Script("batch_earlier.py", "", "--seeds 1 --trials 4 --width 2 --only digits"),
    "side_by_side": Script(
        "side_by_side.py",
        f"--trials 12 --runs 2 {WRITTEN_HERE}",
        f"--trials 2 {WRITTEN_HERE}",
    ),
    "side_by_side_tutorial": Script(
        "side_by_side.py", f"--trials 12 {TUTORIAL}", f"--trials 2 {TUTORIAL}"
    ),
    "side_by_side_4": Script(
        "side_by_side.py",
        f"--trials 4 --runs 2 {WRITTEN_HERE} {TUTORIAL}",
        f"--trials 1 {WRITTEN_HERE} {TUTORIAL}",
    ),
    "batch_trials_long": Script(
        "batch_trials.py", "--seeds 1 --only long", "--seeds 1 --trials 4 --width 2 --only long"
    ),
}
"""Name of the record -> script, in the order of running: the slowest last."""


def run(name: str, folder: Path, *, quick: bool) -> bool:
    """Run a script, print what it took and its last lines; return False if it failed."""
    record = name if folder == SPEED else str(folder.resolve() / name)
    words = SCRIPTS[name].command(record, quick=quick)
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=REPO,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    taken = time.monotonic() - began
    outcome = f"FAILED, exit {done.returncode}" if done.returncode else "recorded"
    lines = done.stdout.splitlines()[-40 if done.returncode else -3 :]
    print("\n".join([f"{name}: {outcome} in {taken:.0f} s", *(f"    {line}" for line in lines)]))
    return not done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCRIPTS)}")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--into", type=Path, default=SPEED, help="folder of the records")
    options = parser.parse_args()
    for name in options.names:
        if name not in SCRIPTS:
            parser.error(f"no record {name!r}; take one of {', '.join(SCRIPTS)}")
    if options.quick and options.into == SPEED:
        parser.error("--quick records are no results; name another folder by --into")

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    began = time.monotonic()
    print(f"load {os.getloadavg()[0]:.1f}")
    missing = []
    for name in options.names or SCRIPTS:
        late = time.monotonic() - began > 60 * options.minutes
        if late:
            print(f"{name}: not begun, {options.minutes:g} minutes are over")
        if late or not run(name, options.into, quick=options.quick):
            missing.append(name)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")
    if missing:
        sys.exit(f"not recorded: {' '.join(missing)}")


if __name__ == "__main__":
    main()
