"""Compare `ssl` priors of another data set with the default and with random configurations.

    python benchmarks/ssl_priors.py --seeds 3    # adds to benchmarks/data/ssl_priors.jsonl
    python benchmarks/ssl_priors.py --report

Trainings are those of `label_free.py`: a small network, some 20 CPU seconds. On each data set the
default is trained, and the configurations that `priors.py` chooses from the other one. kNN is the
mean over seeds. "Better than": the part of the recorded random configurations, of one training
each, whose kNN is lower.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.label_free import train
from benchmarks.priors import DEFAULTS, Config, choose, defaults_of, of_record, recorded
from trainables.config import build, flatten
from tune.cli.orientation import facing, oriented
from tune.experiments import EXPERIMENTS
from tune.search.space import Nearest, fitted

TASKS = ("digits-long", "earth-long")
FIRST_SEED = 500
"""Number of the first training; the random configurations have numbers below 100."""


def wanted(task: str) -> Iterator[tuple[str, Config]]:
    """Yield the configurations to train on a task, by name."""
    experiment = EXPERIMENTS["ssl"]
    base = flatten(build(experiment.config, experiment.presets["tiny"]))
    base |= {"data.name": task.partition("-")[0]}
    base |= oriented(base, {}, experiment.name, {})
    space = facing(experiment, base).space

    yield "default", fitted(Nearest(base, base), space, "tiny", {})
    other = next(one for one in TASKS if one != task)
    if defaults_of(other) and recorded(other):
        for place, point in enumerate(choose({other: of_record(other)}), 1):
            yield f"prior {place}", fitted(Nearest(point["config"], base), space, "tiny", {})


def record(seeds: int) -> None:
    """Train what is missing. Defaults come first, because a prior must beat them."""
    loaded: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for only_default in (True, False):
        for task in TASKS:
            for name, config in wanted(task):
                if (name == "default") != only_default:
                    continue
                for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                    if (task, name, seed) not in known():
                        _train(task, name, dict(config), seed, loaded, inputs)


def _train(
    task: str,
    name: str,
    config: dict[str, Any],
    seed: int,
    loaded: dict[str, Any],
    inputs: dict[str, Any],
) -> None:
    """Train one configuration and add it to the record."""
    with tempfile.TemporaryDirectory() as scratch:
        nowhere = Path(scratch)
        run = train(task, seed, config, nowhere, loaded, inputs, nowhere, every=99)
    truth = run["epochs"][-1]["truth"]
    line = {"data": task, "name": name, "seed": seed, "config": config, "cpu_s": run["cpu_s"]}
    line |= {kind: round(truth[kind], 4) for kind in ("val.knn", "test.knn")}
    print(line, flush=True)
    with DEFAULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def lines() -> list[dict[str, Any]]:
    """Return the record."""
    return [json.loads(line) for line in DEFAULTS.read_text().splitlines()]


def known() -> set[tuple[str, str, int]]:
    """Return what has been trained."""
    if not DEFAULTS.exists():
        return set()
    return {(line["data"], line["name"], line["seed"]) for line in lines()}


def report() -> None:
    """Print kNN of the default and of the other data set's prior beside random configurations."""
    for task in TASKS:
        randoms = [run["last"]["truth"] for run in recorded(task)]
        print(f"{task}: {len(randoms)} random configurations")
        found = [line for line in lines() if line["data"] == task]
        for name in dict.fromkeys(line["name"] for line in found):
            cells = []
            for kind in ("val.knn", "test.knn"):
                values = np.array([line[kind] for line in found if line["name"] == name])
                error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
                below = np.mean([truth[kind] < values.mean() for truth in randoms])
                cells.append(f"{kind} {values.mean():.4f} +- {error:.4f}, better than {below:.0%}")
            print(f"  {name}: {'   '.join(cells)}   {len(values)} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        report()
        return
    torch.set_num_threads(1)
    record(options.seeds)


if __name__ == "__main__":
    main()
