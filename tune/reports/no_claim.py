"""Explain why a study makes no claim yet, and which command changes that."""

from collections import Counter

from optuna.trial import FrozenTrial, TrialState

from tune.study.rules import WINNER
from tune.study.view import StudyView
from tune.study.work import DIVERGED

_NEEDED = 2
"""Repeats needed of each of two configurations; with fewer, the noise cannot be estimated."""
_RETRY = "the same command with --retry-failed trains them again"
_RETRY_ONE = "the same command with --retry-failed trains it again"


def why_no_claim(study: StudyView) -> str:
    """Say in one or two sentences why there is no verdict, with the remedy."""
    number = study.best_number()
    trials = study.frozen_trials()
    if number is None:
        return f"No trial has run to the end, so there is nothing to claim{_ended(trials)}"
    if study.repeat_rule.rule == WINNER:
        return (
            f"Trial {number} leads on the split that selects. This search is one observation of "
            "its comparison, whose table has the verdict."
        )
    if list(study.completed) == [0]:
        return (
            "No trial but the default has run to the end, so there is nothing to compare"
            f"{_ended(trials[1:])}"
        )
    leads = f"No claim yet: trial {number} leads on the split that selects, but"
    failed = _failed_default(trials)
    if failed:
        return f"{leads} {failed}"
    return f"{leads} it or the default has fewer than two repeats under fresh seeds{_few(study)}"


def _ended(trials: list[FrozenTrial]) -> str:
    """Complete a sentence: how the other trials ended, and the remedy."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    stopped = [trial for trial in trials if trial.state == TrialState.PRUNED]
    if not failed and not stopped:
        return "; a larger --trials adds trials."

    parts = []
    if failed:
        parts.append(f"{len(failed)} failed ({_reasons(failed)})")
    if stopped:
        were = "was" if len(stopped) == 1 else "were"
        parts.append(f"{len(stopped)} {were} stopped ({_reasons(stopped)})")
    remedy = "a larger --trials adds trials"
    if failed:
        remedy = f"fix the cause, and {_RETRY}; {remedy}"
    elif all(trial.user_attrs.get("reason") in DIVERGED for trial in stopped):
        remedy = f"try lower learning rates, or find the cause (docs/troubleshooting.md); {remedy}"
    return f": {', '.join(parts)}. Remedy: {remedy}."


def _reasons(trials: list[FrozenTrial]) -> str:
    """List the three most frequent reasons for which trials ended. Epochs in the reasons are
    dropped, so that equal reasons are counted together."""
    named = Counter(str(trial.user_attrs.get("reason") or "at a rung") for trial in trials)
    kinds: Counter[str] = Counter()
    for reason, count in named.items():
        kinds[reason.partition(" at epoch")[0]] += count
    return ", ".join(reason for reason, _ in kinds.most_common(3))


def _failed_default(trials: list[FrozenTrial]) -> str:
    """Say that the default failed; "" if it did not."""
    if not trials or trials[0].state != TrialState.FAIL:
        return ""
    reason = trials[0].user_attrs.get("reason") or "no reason on record"
    return f"trial 0, the default, has failed ({reason}): {_RETRY_ONE}."


def _few(study: StudyView) -> str:
    """Complete a sentence: why repeats are missing, and the remedy."""
    failed = [run.reason for run in study.repeats.values() if run.state == "FAIL"]
    if failed:
        reasons = ", ".join(sorted({str(reason) for reason in failed}))
        return f": {len(failed)} repeats failed ({reasons}); {_RETRY}."
    asked = study.manifest.repeats
    if asked is not None and asked < _NEEDED:
        return f", as --repeats was {asked}: the same command with --repeats 6 adds them."
    return ": the same command makes those that are missing."
