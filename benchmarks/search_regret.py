"""Regret of our study and of other searches after 4, 8 and 16 full trainings, on recorded learning
curves.

    python benchmarks/search_regret.py --seeds 20  # ours and Optuna's, in this environment
    python benchmarks/search_regret.py --report    # ratios, from the record

    python3.11 -m venv peers && peers/bin/pip install -r benchmarks/peers.txt
    peers/bin/python benchmarks/search_regret.py --seeds 20 --contestants ASHA ASHA-CQR DEHB

The record, `benchmarks/data/search_regret.csv`, has a line for each search. Recorded searches are
not run again, so an interrupted measurement resumes.

Every search runs two trials at a time, epoch by epoch, and starts with the same default. All except
our study see a range as [0, 1], the position in it on a log scale; so a rate whose range depends on
the optimizer is one parameter for them, as it is for us. Searches that ask for a configuration at a
higher fidelity pay only for the additional epochs, as if its training had been kept.

Regret: best value of the table minus the best one reported so far, in units of the distance from
the best to the median configuration. Ratios: geometric mean over tables of mean(ours) /
mean(theirs); means count as .001 at least. Intervals, 95 %: a bootstrap over seeds.

Rungs and sampler of our study were chosen on the tables of `TUNED`. Those of `REPORTED` were
recorded afterwards, and nothing was chosen on them.
"""

import argparse
import csv
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.search_records import REGRET, Ratio, ratios
from benchmarks.search_tables import CURVES, REPORTED, Table, tables

BUDGETS = (4, 8, 16)
"""Budgets of a search, in full trainings."""
AT_A_TIME = 2
OURS = "study"
TUNED = CURVES
RECORD = REGRET


@dataclass
class Job:
    """A training that a search asks for."""

    handle: Any
    params: dict[str, Any]
    """The table's parameters."""
    epochs: range
    """Epochs to run, counted from 0."""
    seen: list[float] = field(default_factory=list)
    """Values of the epochs so far, including those before the job."""


class Searcher(Protocol):
    """A search with an ask-and-tell interface."""

    def ask(self) -> Job | None:
        """Return the next training; None if the search has to wait for one that runs."""

    def report(self, job: Job, epoch: int, value: float) -> bool:
        """Record the value of an epoch, counted from 1. Return False to stop the training."""

    def end(self, job: Job, stopped: bool) -> None:
        """Record the end of a training, stopped or at the last requested epoch."""


# -- points of a table's space


def axes_of(table: Table) -> dict[str, list[Any] | None]:
    """Return {parameter: its choices, or None for a range}."""
    said = dict(table.default)
    found: dict[str, list[Any] | None] = {}
    for name in table.axes:
        values = table.values_of(name, said)
        found[name] = None if table.is_range(values) else values
    return found


def params_at(table: Table, point: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a point: a choice, or a position in [0, 1] for a range."""
    params: dict[str, Any] = {}
    for name in table.axes:
        values = table.values_of(name, params)
        if not table.is_range(values):
            params[name] = point[name]
            continue
        low, high = math.log(min(values)), math.log(max(values))
        params[name] = math.exp(low + float(point[name]) * (high - low))
    return params


def default_point(table: Table) -> dict[str, Any]:
    """Return the point of the table's default."""
    point = {}
    for name in table.axes:
        values = table.values_of(name, table.default)
        value = table.default[name]
        if table.is_range(values):
            low, high = math.log(min(values)), math.log(max(values))
            value = (math.log(value) - low) / (high - low)
        point[name] = value
    return point


# -- one search


def regrets(searcher: Searcher, table: Table) -> list[float]:
    """Return the normalised regret of a search after each budget."""
    trace = list(itertools.islice(best_so_far(searcher, table), BUDGETS[-1] * table.epochs))
    best = float(table.values.max())
    span = best - float(np.median(table.values))
    return [(best - trace[budget * table.epochs - 1]) / span for budget in BUDGETS]


def best_so_far(searcher: Searcher, table: Table) -> Iterator[float]:
    """Yield the best value after every epoch that is run."""
    best = -math.inf
    live: list[Job] = []
    while True:
        while len(live) < AT_A_TIME and (job := searcher.ask()) is not None:
            curve = table.curve(job.params)
            job.seen = list(curve[: job.epochs.start])
            if job.epochs:
                live.append(job)
            else:
                searcher.end(job, stopped=False)
        assert live, "the search has nothing to do"

        for job in list(live):
            value = table.curve(job.params)[len(job.seen)]
            job.seen.append(value)
            best = max(best, value)
            yield best

            goes_on = searcher.report(job, len(job.seen), value)
            done = len(job.seen) == job.epochs.stop
            if done or not goes_on:
                live.remove(job)
                searcher.end(job, stopped=not done)


# -- contestants


class Whole:
    """A searcher of `search_efficiency.py`, which stops a training or lets it run to its end."""

    def __init__(self, searcher: Any, table: Table):
        self._searcher = searcher
        self._table = table

    def ask(self) -> Job | None:
        asked = self._searcher.ask()
        if asked is None:
            return None
        handle, params = asked
        return Job(handle, params, range(self._table.epochs))

    def report(self, job: Job, epoch: int, value: float) -> bool:
        goes_on: bool = self._searcher.report(job.handle, epoch, value)
        return goes_on

    def end(self, job: Job, stopped: bool) -> None:
        self._searcher.end(job.handle, job.seen, stopped)


def _study(table: Table, seed: int) -> Searcher:
    from benchmarks.search_efficiency import OurStudy

    return Whole(OurStudy(table, seed, trials=BUDGETS[-1] * table.epochs + AT_A_TIME), table)


def _optuna(sampler: str, pruner: str) -> "Contestant":
    def make(table: Table, seed: int) -> Searcher:
        from benchmarks.search_optuna import OptunaPositions

        return OptunaPositions(table, seed, sampler, pruner)

    return make


def _peer(name: str, *details: Any) -> "Contestant":
    def make(table: Table, seed: int) -> Searcher:
        import benchmarks.search_peers as peers

        searcher: Searcher = getattr(peers, name)(table, seed, *details)
        return searcher

    return make


Contestant = Callable[[Table, int], Searcher]
CONTESTANTS: dict[str, Contestant] = {
    OURS: _study,
    "random": _optuna("random", "none"),
    "TPE, halving by 3": _optuna("tpe", "halving"),
    "TPE, Hyperband": _optuna("tpe", "hyperband"),
    "GP": _optuna("gp", "none"),
    "ASHA": _peer("SyneTune", "random_search"),
    "ASHA-BORE": _peer("SyneTune", "bore"),
    "ASHA-CQR": _peer("SyneTune", "cqr"),
    "BOHB": _peer("SyneTune", "kde"),
    "SMAC": _peer("Smac"),
    "DEHB": _peer("Dehb"),
    "HEBO": _peer("Hebo"),
}
HERE = (OURS, "random", "TPE, halving by 3", "TPE, Hyperband", "GP")
"""Contestants available in vistune's own environment."""


# -- the record

Key = tuple[str, str, int]
"""Contestant, table, seed."""
Done = dict[Key, list[float]]
"""Regrets after each budget."""


def read(path: Path = RECORD) -> Done:
    """Return the recorded searches."""
    if not path.exists():
        return {}
    with path.open() as file:
        rows = list(csv.reader(file))
    return {
        (name, table, int(seed)): [float(value) for value in rest[: len(BUDGETS)]]
        for name, table, seed, *rest in rows[1:]
    }


def record(names: Sequence[str], found: Sequence[Table], seeds: int, path: Path) -> None:
    """Run the searches that the record lacks, and add them line by line."""
    done = read(path)
    if not path.exists():
        header = ["contestant", "table", "seed", *(f"after {n}" for n in BUDGETS), "cpu_s"]
        path.write_text(_line(header))
    for seed, table, name in itertools.product(range(seeds), found, names):
        if (name, table.name, seed) in done:
            continue
        began = time.process_time()
        values = regrets(CONTESTANTS[name](table, seed), table)
        seconds = time.process_time() - began
        row = [name, table.name, seed, *(f"{value:.5f}" for value in values), f"{seconds:.2f}"]
        with path.open("a") as file:
            file.write(_line(row))


def _line(row: Sequence[Any]) -> str:
    return ",".join(f'"{cell}"' if "," in str(cell) else str(cell) for cell in row) + "\n"


def together(done: Done, name: str, group: Sequence[str]) -> list[np.ndarray]:
    """Return the regrets of a contestant, an array (seeds, budgets) for each table; empty if a
    table is missing."""
    found = []
    for table in group:
        rows = [values for (who, which, _), values in done.items() if (who, which) == (name, table)]
        if not rows:
            return []
        found.append(np.array(rows))
    return found


def compared(done: Done, name: str, group: Sequence[str]) -> list[Ratio]:
    """Return our regret over a contestant's, for each budget; empty if a table is missing."""
    ours = together(done, OURS, group)
    theirs = together(done, name, group)
    return ratios(ours, theirs) if ours and theirs else []


def report(path: Path) -> None:
    """Print regrets and ratios, for the tables used for tuning and for the others."""
    done = read(path)
    for title, group in (("tuned on", TUNED), ("reported only", REPORTED)):
        ours = together(done, OURS, group)
        if not ours:
            continue
        print(f"{title}: {', '.join(group)}; ours {np.mean([one.mean(0) for one in ours], 0)}")
        for name in dict.fromkeys(name for name, _, _ in done):
            cells = compared(done, name, group)
            if name != OURS and cells:
                seeds = min(map(len, together(done, name, group)))
                print(f"  {name:20} {'   '.join(map(str, cells))}   {seeds} seeds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contestants", nargs="*", default=list(HERE), choices=list(CONTESTANTS))
    parser.add_argument("--tables", nargs="*", default=[*TUNED, *REPORTED])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--report", action="store_true", help="ratios of what is recorded")
    options = parser.parse_args()
    if options.report:
        report(options.record)
    else:
        record(options.contestants, tables(options.tables), options.seeds, options.record)


if __name__ == "__main__":
    main()
