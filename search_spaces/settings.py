"""Settings of an experiment, and ready comparisons of them: studies that differ in what a question
is about and in nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Setting(Protocol):
    """One side of a comparison."""

    @property
    def about(self) -> str:
        """What it is, for tables."""

    @property
    def values(self) -> dict[str, Any]:
        """Config values that make the setting; never searched."""


@dataclass(frozen=True)
class Fixed:
    """A setting that is a few config values and leaves the rest of the space as it is."""

    about: str
    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Settings that are searched with the same budget, and the differences that answer its
    questions."""

    title: str
    settings: Mapping[str, Setting]
    questions: Mapping[str, str]
    """"B-A" -> what the difference of setting B and setting A tells."""
    references: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Setting -> figures of others, to be shown beside, in percent."""
    reference_title: str = ""
    reference_note: str = ""
