"""The rules by which a study seeds its runs, repeats some of them and names its answer.

Every rule has a version, which the manifest stores: a study keeps the rules that it began with.
docs/evidence.md explains what each rule is for.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainables.errors import UserError
from tune.search.method_names import JOINT_TPE, PRUNERS, RUNGS, SAMPLERS

FINALISTS = "finalists"
"""Version 1: the best few trials are repeated, and their repeats choose among them."""
PAIR = "pair"
"""The default and the best other trial are repeated; validation has chosen already."""
WINNER = "winner"
"""Only the chosen trial is trained again: the study is one observation among others."""

FIRST: dict[str, str | int] = {
    "repeats": FINALISTS,
    "seeds": 1,
    "sampler": 1,
    "rungs": 1,
    "warm_start": 1,
}
"""Rules of a study whose manifest does not name any."""
LATER: dict[str, str | int] = {"warm_start": 1}
"""Rules of a study whose manifest names others, but not these: they had no versions yet."""
CURRENT: dict[str, str | int] = {
    "repeats": PAIR,
    "seeds": 2,
    "sampler": 2,
    "rungs": 4,
    "warm_start": 2,
}
"""Rules of a new study."""

Keep = Literal["best", "all"]
"""Trials whose weights a study keeps (`tune/study/kept_files.py`)."""

SMALL_SPACE = 64
"""Sampler 2 repeats no configuration of a space without real numbers that has at most this many.
Sampler 1 draws them again and again."""

ENOUGH_SEARCHES = 5
"""Minimum number of searches of each setting for a verdict on settings."""

SAMPLER_NAMES = tuple(name for name in SAMPLERS if name != JOINT_TPE)
PRUNER_NAMES = tuple(name for name in PRUNERS if name != RUNGS)
"""Methods that replace the versions of the default, as `--sampler` and `--pruner` name them."""

ATTEMPTS = 3
"""Maximum number of trainings of a repeat that fails for another reason than divergence."""

REPEATS = {FINALISTS: 3, PAIR: 6, WINNER: 3}
"""Rule -> repeats of each configuration by default."""

_KNOWN: dict[str, tuple[str | int, ...]] = {
    "repeats": tuple(REPEATS),
    "seeds": (1, 2),
    "sampler": (1, 2, *SAMPLER_NAMES),
    "rungs": (1, 2, 3, 4, *PRUNER_NAMES),
    "warm_start": (1, 2),
}


def check_known(rules: Mapping[str, str | int], study: str) -> None:
    """Refuse rules of a later version: this version would follow them wrongly.

    Raises:
        UserError: this version does not know a rule, or the version of a rule.
    """
    for rule, version in rules.items():
        if version not in _KNOWN.get(rule, ()):
            raise UserError(
                f"study {study!r} follows rule {rule} {version!r}, which this vistune does not "
                "know; use the version that began it, or give this study another name with --study"
            )


def test_metric(objective: str) -> str:
    """Name the test metric of an objective: `val/knn_top1` -> `test/knn_top1`."""
    return "test/" + objective.removeprefix("val/")


def derived_seed(study: str, role: str, index: int) -> int:
    """Return a seed that no other study, role or index has (except for a 32-bit collision).

    Args:
        study: identity of the study, the same at every resume.
        role: `repeat`, `search`, ...
        index: from 0.
    """
    text = f"{study}\n{role}\n{index}"
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True)
class RepeatRule:
    """Decides which trials are trained again under fresh seeds, and which one is the study's
    answer."""

    rule: str

    top: int = 1
    """Number of finalists in version 1."""

    @property
    def configurations(self) -> int:
        """Maximum number of trials that are repeated."""
        if self.rule == FINALISTS:
            return 1 + self.top
        return 1 if self.rule == WINNER else 2

    def certain(self) -> list[int]:
        """Trials that are repeated whatever the search finds."""
        return [] if self.rule == WINNER else [0]

    def repeated(self, completed: Mapping[int, float]) -> list[int]:
        """Trials that are repeated once the search has ended.

        Args:
            completed: completed trial -> objective.
        """
        if self.rule == FINALISTS:
            return list(dict.fromkeys([0, *leaders(completed, self.top)]))
        if self.rule == WINNER:
            return leaders(completed, 1)
        challenger = self.challenger(completed)
        return [0] if challenger is None else [0, challenger]

    def challenger(self, completed: Mapping[int, float]) -> int | None:
        """The trial that is compared with the default: the best other one by validation."""
        others = {number: value for number, value in completed.items() if number != 0}
        return leaders(others, 1)[0] if others else None

    def answer(
        self,
        completed: Mapping[int, float],
        finals: Mapping[tuple[int, int], Mapping[str, float]],
        objective: str,
    ) -> int | None:
        """The trial that is the study's answer: the best by validation.

        Under version 1 it is the finalist whose repeats have the best mean objective.

        Args:
            completed: completed trial -> objective.
            finals: (trial, seed) -> final metrics of the completed repeats.
        Returns:
            None if no trial is complete.
        """
        candidates = leaders(completed, self.top if self.rule == FINALISTS else 1)
        if not candidates:
            return None
        means = _common_means(candidates, finals, f"best/{objective}")
        if not means:
            return candidates[0]
        return max(means, key=lambda number: means[number])


def distinct(
    completed: Mapping[int, float], parameters: Mapping[int, Mapping[str, Any]]
) -> dict[int, float]:
    """Completed trials without those that have the configuration, and so the seed, of an earlier
    one: they are the same result, written down again.

    Args:
        completed: trial -> objective.
        parameters: trial -> parameter -> value.
    """
    kept: dict[int, float] = {}
    known: list[Mapping[str, Any]] = []
    for number in sorted(completed):
        if parameters[number] not in known:
            known.append(parameters[number])
            kept[number] = completed[number]
    return kept


def leaders(completed: Mapping[int, float], top: int) -> list[int]:
    """Return the `top` best completed trials, best first; of equal ones the earlier comes first.

    Except for the best, none that fails to beat the default (trial 0) is included: if most trials
    are stopped early, few are left, and training a poor one again says nothing.

    Args:
        completed: trial -> objective.
    """
    ranked = sorted(completed, key=lambda number: (-completed[number], number))
    default = completed.get(0, -math.inf)
    return [number for number in ranked[:top] if number == ranked[0] or completed[number] > default]


def _common_means(
    numbers: list[int], finals: Mapping[tuple[int, int], Mapping[str, float]], metric: str
) -> dict[int, float]:
    """Repeated trial -> mean of a metric over the seeds that all repeated trials have."""
    scores: dict[int, dict[int, float]] = {}
    for (number, seed), metrics in finals.items():
        if number in numbers and metric in metrics:
            scores.setdefault(number, {})[seed] = metrics[metric]
    if not scores:
        return {}

    common = set.intersection(*(set(of_seeds) for of_seeds in scores.values()))
    if not common:
        return {}
    means = {}
    for number in numbers:
        if number in scores:
            means[number] = sum(scores[number][seed] for seed in common) / len(common)
    return means
