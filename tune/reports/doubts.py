"""Reasons to doubt a study's result, each with a remedy."""

import math
from collections.abc import Iterator
from pathlib import Path

from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tune.command_line import command
from tune.formatting import counted
from tune.reports.marks import marks
from tune.reports.statistics import significance
from tune.reports.verdict import judge_study
from tune.search.pruner import curves_of, longest
from tune.search.rungs import check_rungs
from tune.study.manifest import Manifest
from tune.study.view import StudyView

IN_BFLOAT16 = "train/bf16"
"""Metric that marks a bfloat16 run (`trainables/engine/numerics.py`, which imports torch)."""

FEW_TRIALS = 12
"""Searches with fewer trials get a warning."""

_EDGE = 0.02  # as a fraction of the range
_RISE = 0.02  # relative gain of the last epoch
_CURVE_EPOCHS = 4  # shorter curves show no trend


def doubts(study: StudyView, storage: Path) -> list[str]:
    """List the reasons to doubt the study's result; each names a remedy.

    Args:
        storage: the folder that contains the study's folder.
    """
    trials = study.frozen_trials()
    manifest = study.manifest
    found = [] if manifest.data_summary is None else list(manifest.data_summary.warnings)
    found += [*marks(manifest), *_doubts_about_search(study, storage, trials)]

    number = study.best_number()
    if number is None:
        return [*found, "no trial ran to the end, so there is no best one"]

    best = next((trial for trial in trials if trial.number == number), None)
    if best is None:
        lost = (
            f"study.journal lacks trial {number}, so nothing is known about its parameters; "
            "restore the file from a copy"
        )
        return [*found, lost]

    found += _doubts_about_learning(study, best)
    found += doubts_about_numerics(study)
    if number != 0:
        found += _parameters_at_edge(best)
    found += _doubts_about_gain(study)
    found += _doubts_about_budget(best, manifest)
    return found


def _rungs_that_do_not_rank(study: StudyView, trials: list[FrozenTrial]) -> Iterator[str]:
    manifest = study.manifest
    epochs = 0 if manifest.function else int(manifest.base["train.epochs"])
    epochs = longest(trials, epochs)
    curves = curves_of(trials, epochs)
    for check in check_rungs(curves, epochs, manifest.rules["rungs"]):
        if check.is_off:
            yield (
                f"the rung at epoch {check.rung.epoch(epochs)} is off, because its order says "
                f"little about the end: rank correlation {check.correlation:.2f} over "
                f"{check.trials} trials that continued; it may have stopped good trials, and more "
                f"epochs{_how(manifest)} move the rungs"
            )


def _doubts_about_search(
    study: StudyView, storage: Path, trials: list[FrozenTrial]
) -> Iterator[str]:
    finished = [trial for trial in trials if trial.state.is_finished()]
    # Without one that has run to the end, more trials are not what is missing.
    has_result = any(trial.state == TrialState.COMPLETE for trial in finished)
    if has_result and len(finished) < FEW_TRIALS:
        yield (
            f"only {counted(len(finished), 'trial')}: fewer than {FEW_TRIALS} show little; "
            "ask for more with --trials"
        )

    yield from _rungs_that_do_not_rank(study, trials)

    failed = sum(trial.state == TrialState.FAIL for trial in finished)
    if failed > len(finished) / 4:
        show = command("report", "show", study.manifest.name, storage=storage, anywhere=True)
        yield f"{failed} of {len(finished)} trials failed; `{show}` has the reasons"


def _doubts_about_learning(study: StudyView, best: FrozenTrial) -> Iterator[str]:
    untrained = study.summary.get(f"baseline/{study.objective}")
    if untrained is None:
        return
    if math.isnan(untrained):
        yield (
            "the untrained network could not be measured, "
            "so it is unknown whether anything was learned; events.jsonl has the reason"
        )
    elif best.value is not None and best.value <= untrained:
        yield (
            f"no trial beat the untrained network ({study.objective} {untrained:.4f}): "
            "nothing was learned; train longer or widen the space"
        )


def doubts_about_numerics(study: StudyView) -> Iterator[str]:
    """Yield a doubt if some repeats ran in bfloat16 and others in float32. With
    `train.numerics=auto` this depends on each repeat's device."""
    ended = [run for run in study.repeats.values() if run.metrics]
    in_bfloat16 = [run for run in ended if run.metrics.get(IN_BFLOAT16)]
    if in_bfloat16 and len(in_bfloat16) < len(ended):
        yield (
            f"{len(in_bfloat16)} of {len(ended)} repeats were trained in bfloat16 and the others "
            "in float32, because their devices differ; --set train.numerics=as_set makes all equal"
        )


def _parameters_at_edge(best: FrozenTrial) -> Iterator[str]:
    for name, distribution in best.distributions.items():
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            continue
        value = best.params[name]
        if _is_at_edge(value, distribution):
            yield (
                f"the best {name}={value:g} lies at the edge of its range "
                f"({distribution.low:g} to {distribution.high:g}); widen the range or pin it beyond"
            )


def _is_at_edge(value: float, distribution: FloatDistribution | IntDistribution) -> bool:
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return min(value - low, high - value) < _EDGE * (high - low)


def _doubts_about_gain(study: StudyView) -> Iterator[str]:
    verdict = judge_study(study)
    if verdict is None or verdict.decided:
        return
    noise = "seeds and test images" if verdict.covers_images else "seeds"
    yield (
        f"the gain over the default ({verdict.gain}) may be noise between {noise}; "
        f"{verdict.seeds} fresh seeds cannot tell. More --repeats are a second look, which decides "
        f"at a p-value below {significance(study.look + 1):.2g} instead of {verdict.level:.2g}"
    )


def _how(manifest: Manifest) -> str:
    """Say how to give a study more epochs; "" for a function, which sets its own."""
    return "" if manifest.function else " (--set train.epochs=...)"


def _doubts_about_budget(best: FrozenTrial, manifest: Manifest) -> Iterator[str]:
    curve = [value for _, value in sorted(best.intermediate_values.items())]
    if len(curve) < _CURVE_EPOCHS:
        return
    last = curve[-1]
    rise = last - curve[-2]
    if last != max(curve) or rise <= _RISE * abs(last):
        return
    if manifest.function:
        yield "the best trial was still rising at its last epoch; give it more epochs"
        return
    yield (
        "the best trial was still rising at its last epoch; "
        "give it more epochs with --set train.epochs=..."
    )
