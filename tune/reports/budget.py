"""What a study cost: epochs, time of CPUs and GPUs, and what pruning and caching saved."""

from collections import Counter

from tune.formatting import duration
from tune.study.record import Record, Run


def budget_rows(record: Record) -> list[list[str]]:
    """Name and value of each cost, as text."""
    trials = list(record.trials.values())
    repeats = list(record.repeats.values())
    runs = [*trials, *repeats]

    planned_epochs = len(trials) * int(record.manifest.base["train.epochs"])
    saved_epochs, _ = record.epochs_saved
    repeat_epochs = sum(len(run.history) for run in repeats)
    cpu_seconds = sum(run.cpu_seconds for run in runs)
    gpu_seconds = sum(run.gpu_seconds for run in runs)

    rows = [
        ["trials", _states(trials)],
        ["epochs of trials", f"{record.epochs} of {planned_epochs}"],
        ["epochs saved by pruning and failures", f"{saved_epochs} ({record.saved:.0%})"],
        ["epochs saved by cached features", _saved_by_features(runs)],
        ["epochs of repeats on fresh seeds", f"{repeat_epochs} in {len(repeats)} runs"],
        ["CPU time of reserved cores", duration(cpu_seconds)],
        ["GPU time", duration(gpu_seconds) if gpu_seconds else "none"],
    ]
    starts = [run.started for run in runs if run.started]
    ends = [run.ended for run in runs if run.ended]
    if starts and ends:
        elapsed = (max(ends) - min(starts)) / 1000
        whole = f"{duration(elapsed)}, interruptions included"
        rows.append(["from the first start to the last end", whole])
    return rows


def _states(trials: list[Run]) -> str:
    """Count trials by state, such as `12 complete, 4 pruned`."""
    states = Counter(run.state for run in trials)
    counts = [f"{count} {state.lower()}" for state, count in sorted(states.items())]
    return ", ".join(counts) or "none"


def _saved_by_features(runs: list[Run]) -> str:
    """Epochs that cached features saved, against computing the backbone at every step."""
    epochs = [metrics for run in runs for metrics in run.history if metrics.get("features/cached")]
    saved = sum(metrics.get("time/saved_s") or 0.0 for metrics in epochs)
    if not saved:
        return "none: no features were looked up"

    spent = sum(metrics.get("time/features_s") or 0.0 for metrics in epochs)
    trained = sum(metrics.get("time/epoch_s") or 0.0 for metrics in epochs)
    saved_epochs = saved / (saved + trained) * len(epochs)
    return (
        f"{saved_epochs:.1f} of {len(epochs)} that looked them up: "
        f"{duration(saved)} of the frozen backbone's, for {duration(spent)} spent on them"
    )
