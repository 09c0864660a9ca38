"""Settings of an experiment, and comparisons of settings: studies that differ only in the subject
of a question."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

QUESTIONS = 2
"""Version of the declared questions. A comparison keeps that with which it began, because one
question more would change the corrected p-values of its others."""


class Setting(Protocol):
    """One setting of a comparison."""

    @property
    def about(self) -> str:
        """Description for tables."""

    @property
    def values(self) -> dict[str, Any]:
        """Config values that define the setting; never searched."""


@dataclass(frozen=True)
class Fixed:
    """A setting that fixes a few config values and leaves the rest of the space unchanged."""

    about: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A setting that is an experiment of its own, with its own default and search space."""

    about: str
    experiment: str
    """Name of the experiment in the registry."""

    @property
    def values(self) -> dict[str, Any]:
        """Empty: the experiment defines everything."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Settings that are searched with the same budget, and the differences between them that answer
    questions."""

    title: str
    settings: Mapping[str, Setting]
    questions: Mapping[str, str]
    """"B-A" -> the question that the difference between settings B and A answers."""
    since: Mapping[str, int] = field(default_factory=dict)
    """Question -> version in which it was added; default: 1."""
    references: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Setting -> reference results to show beside its own, in percent."""
    reference_title: str = ""
    reference_note: str = ""
    controls: frozenset[str] = frozenset()
    """Settings that run only on request."""

    def without(self, names: Collection[str]) -> "Comparison":
        """Return the comparison without some of its settings and the questions about them."""
        settings = {name: setting for name, setting in self.settings.items() if name not in names}
        questions = {
            difference: question
            for difference, question in self.questions.items()
            if not {*sides(difference)} & {*names}
        }
        return replace(self, settings=settings, questions=questions)

    def as_of(self, version: int) -> "Comparison":
        """Return the comparison with the questions of a version."""
        questions = {
            difference: question
            for difference, question in self.questions.items()
            if self.since.get(difference, 1) <= version
        }
        return replace(self, questions=questions)


def sides(difference: str) -> tuple[str, str]:
    """Split the name of a difference into its two settings: "C-A-long" -> ("C", "A-long")."""
    first, _, second = difference.partition("-")
    return first, second
