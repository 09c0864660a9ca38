"""Summarize the cost of a study: epochs, CPU and GPU time, and the epochs saved by pruning and
caching."""

from collections import Counter

from tune.formatting import duration
from tune.search.rungs import Curve, check_rungs
from tune.study.record import Record, Run


def budget_rows(record: Record) -> list[list[str]]:
    """Return the name and value of each cost, as text."""
    trials = list(record.trials.values())
    repeats = list(record.repeats.values())
    runs = [*trials, *repeats]

    costs = {
        "trials": _states(trials),
        "epochs of trials": _epochs(record),
        "epochs saved by pruning and failures": _saved_by_pruning(record),
        "epochs saved by cached features": _saved_by_features(runs),
        "epochs of repeats on fresh seeds": _epochs_of_repeats(repeats),
        "CPU time of reserved cores": _cpu_time(runs),
        "GPU time": _gpu_time(runs),
    }
    if record.manifest.function:
        del costs["epochs saved by cached features"]
    elapsed = _elapsed(runs)
    if elapsed is not None:
        costs["from the first start to the last end"] = elapsed
    ranks = rung_lines(record)
    if ranks:
        costs["rank correlation of rungs with later values"] = "; ".join(ranks)
    return [[name, cost] for name, cost in costs.items()]


def rung_lines(record: Record) -> list[str]:
    """Return one line per rung that says how well it has ranked trials, and one for all of which
    nothing can be said yet. Empty if the study does not check its rungs."""
    epochs = record.length
    version = record.manifest.rules["rungs"]
    curves = [_curve(run, record) for run in record.trials.values()]
    checks = check_rungs(curves, epochs, version)
    told = [check.line(epochs) for check in checks if check.correlation is not None]
    untold = [str(check.rung.epoch(epochs)) for check in checks if check.correlation is None]
    if untold:
        epochs_of = "epoch" if len(untold) == 1 else "epochs"
        told.append(f"{epochs_of} {', '.join(untold)}: too few trials continued to tell")
    return told


def _curve(run: Run, record: Record) -> Curve:
    objective = record.objective
    values = {
        epoch: float(metrics[objective])
        for epoch, metrics in zip(run.epochs, run.history, strict=True)
        if metrics.get(objective) is not None
    }
    end = run.value if run.state == "COMPLETE" else None
    epochs = record.planned(run)
    if not record.manifest.function:
        epochs = int(run.config.get("train.epochs", epochs))
    return Curve(values, epochs, end)


def _states(trials: list[Run]) -> str:
    """Count trials by state, e.g. `12 complete, 4 pruned`."""
    states = Counter(run.state for run in trials)
    counts = []
    for state, count in sorted(states.items()):
        counts.append(f"{count} {state.lower()}")
    return ", ".join(counts) or "none"


def _epochs(record: Record) -> str:
    planned = sum(record.planned(run) for run in record.trials.values())
    return f"{record.epochs} of {planned}"


def _saved_by_pruning(record: Record) -> str:
    saved, _ = record.epochs_saved
    return f"{saved} ({record.saved:.0%})"


def _epochs_of_repeats(repeats: list[Run]) -> str:
    epochs = sum(len(run.history) for run in repeats)
    return f"{epochs} in {len(repeats)} runs"


def _cpu_time(runs: list[Run]) -> str:
    seconds = sum(run.cpu_seconds for run in runs)
    return duration(seconds)


def _gpu_time(runs: list[Run]) -> str:
    seconds = sum(run.gpu_seconds for run in runs)
    if not seconds:
        return "none"
    return duration(seconds)


def _elapsed(runs: list[Run]) -> str | None:
    """Return the time from the first start to the last end; None before any run has ended."""
    starts = [run.started for run in runs if run.started]
    ends = [run.ended for run in runs if run.ended]
    if not starts or not ends:
        return None
    milliseconds = max(ends) - min(starts)
    return f"{duration(milliseconds / 1000)}, interruptions included"


def _saved_by_features(runs: list[Run]) -> str:
    """Count the epochs that cached features saved, compared with running the backbone at every
    step."""
    epochs = 0
    saved = 0.0  # seconds
    spent = 0.0
    trained = 0.0
    for run in runs:
        for metrics in run.history:
            if metrics.get("features/cached"):
                epochs += 1
                saved += metrics.get("time/saved_s") or 0.0
                spent += metrics.get("time/features_s") or 0.0
                trained += metrics.get("time/epoch_s") or 0.0
    if not saved:
        return "none: no features were looked up"

    saved_epochs = saved / (saved + trained) * epochs
    return (
        f"{saved_epochs:.1f} of {epochs} that looked them up: "
        f"{duration(saved)} of the frozen backbone's, for {duration(spent)} spent on them"
    )
