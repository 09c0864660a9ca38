"""What an earlier checkout's table of A to E chose, trained again beside what today's studies
choose.

    git worktree add --detach /tmp/earlier 5d3a9ec
    (cd /tmp/earlier && make table STORAGE=/tmp/earlier-runs OPTIONS="--repeats 0")
    python benchmarks/earlier_winners.py /tmp/earlier-runs /tmp/again
    python benchmarks/earlier_winners.py /tmp/earlier-runs /tmp/again-default --trials 1

Accuracies of the two builds cannot be compared, as their test images differ. So the configurations
that the earlier studies chose, those of `ssl` and `pretrain` too, are pinned in studies of one
trial on today's splits, with today's code. Today's studies have as many trials as the earlier ones;
with `--trials 1` they are today's default alone. Each choice is repeated under fresh seeds. The
intervals cover these seeds and the draw of test images, for one search and one backbone each.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record_file import RESULTS, machine
from search_spaces.classify import SETTINGS
from trainables.files import write_atomically
from tune.reports.sampling_error import outcomes_of, sampling_variance
from tune.reports.verdict import repeat_scores, test_metric
from tune.study.record import Record, read_record

REPO = Path(__file__).resolve().parents[1]
SOURCES = {"ssl": "ssl", "supervised": "pretrain"}
"""Initialization of a setting -> the study that trains its backbone."""
OF_THE_STUDY = (
    "data.",
    "init.",
    "val.",
    "seed",
    "train.threads",
    "train.checkpoint",
    "train.rules",
)
"""Beginnings of keys that are no part of a configuration: today's values are kept."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("earlier", type=Path, help="storage of the earlier table")
    parser.add_argument("storage", type=Path, help="where to train again")
    parser.add_argument("--trials", type=int, default=16, help="of each of today's studies")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of studies and splits")
    parser.add_argument("--record", type=Path, default=RESULTS / "earlier_winners.json")
    options = parser.parse_args()

    for experiment in SOURCES.values():
        _train(options, experiment, experiment, repeats=0)
    settings = {}
    for setting, about in SETTINGS.items():
        if about.long:
            continue
        arguments = ["classify", "--setting", setting]
        today, earlier = _train(options, f"classify-{setting}", *arguments, repeats=options.repeats)
        settings[setting] = {"about": about.about, **_scores(today, earlier)}
        print(settings[setting], flush=True)
    found = {
        "command": f"python {' '.join(sys.argv)}",
        "machine": machine(),
        "commit": today.manifest.commit,
        "earlier": read_record(options.earlier / "ssl").manifest.commit,
        "recorded": datetime.now(UTC).date().isoformat(),
        "settings": settings,
    }
    write_atomically(options.record, json.dumps(found, indent=1) + "\n")


def _train(
    options: argparse.Namespace, study: str, *arguments: str, repeats: int
) -> tuple[Record, Record]:
    """Search as today, train the winner of an earlier study, and return both records."""
    budget = ["--trials", str(options.trials), "--repeats", str(repeats)]
    today = _run(options, f"today-{study}", [*arguments, *budget])
    pins = _winner(read_record(options.earlier / study), today.manifest.base)
    print(f"{study}: {pins}", flush=True)
    once = ["--trials", "1", "--repeats", str(repeats)]
    for key, value in pins.items():
        once += ["--set", f"{key}={'none' if value is None else value}"]
    return today, _run(options, f"earlier-{study}", [*arguments, *once])


def _winner(study: Record, base: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a study's choice that differ from today's default."""
    number = study.best_number() or 0
    config = study.trials[number].config
    if "normalize" not in config:
        config = config | {"normalize": "policy"}  # what every configuration did at that time
    return {
        key: value
        for key, value in config.items()
        if key in base and value != base[key] and not key.startswith(OF_THE_STUDY)
    }


def _run(options: argparse.Namespace, study: str, arguments: Sequence[str]) -> Record:
    side = study.partition("-")[0]
    command = [sys.executable, str(REPO / "tune" / "run.py"), *arguments, "--local"]
    command += ["--study", study, "--storage", str(options.storage), "--pictures", "none"]
    command += ["--seed", str(options.seed), "--set", f"data.seed={options.seed}"]
    setting = SETTINGS.get(study.rpartition("-")[2])
    if setting is not None and setting.init != "scratch":
        command += ["--backbone", f"{side}-{SOURCES[setting.init]}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return read_record(options.storage / study)


def _scores(today: Record, earlier: Record) -> dict[str, Any]:
    """Return the test scores of both choices, and the variances that test images add."""
    metric = test_metric(today.objective)
    choices = [(today, today.best_number() or 0), (earlier, 0)]
    outcomes = [outcomes_of(record, number) for record, number in choices]
    return {
        "number": choices[0][1],
        "scores": [list(repeat_scores(*choice, metric).values()) for choice in choices],
        "images": [sampling_variance(metric, one) or 0.0 for one in outcomes],
        "common_images": sampling_variance(metric, *outcomes) or 0.0,
    }


if __name__ == "__main__":
    main()
