"""Priors that ship with vistune, for `--warm-start shipped`: configurations that searches on
embedded data have found.

`search_spaces/priors.json` contains them; `benchmarks/priors.py` makes it from recorded trainings.
A prior is for one experiment and preset. If parts of the config decide what is searched, it is also
for certain values of them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from trainables.errors import UserError

SHIPPED = "shipped"
"""Value of `--warm-start` that means these priors, in place of a study's name."""


@dataclass(frozen=True)
class Prior:
    """Good configurations of one search space, best first."""

    experiment: str
    preset: str
    where: Mapping[str, Any]
    """Config values that a study must have."""
    sources: Mapping[str, Mapping[str, Any]]
    """Data set -> command, commit, metric and number of the trainings."""
    points: Sequence[Mapping[str, Any]]
    """`config`: searched parameter -> value; `values`: data set -> objective that it reached."""

    @property
    def about(self) -> str:
        """Name what the prior is for, as a user would."""
        values = "".join(f" with {key}={value}" for key, value in self.where.items())
        return f"{self.experiment}{values}"


def read_priors() -> list[Prior]:
    """All priors that ship."""
    text = (files("search_spaces") / "priors.json").read_text()
    return [Prior(**prior) for prior in json.loads(text)["priors"]]


def shipped_prior(
    experiment: str, preset: str, base: Mapping[str, Any], searched: Iterable[str], storage: Path
) -> Prior:
    """Return the prior that fits a study.

    Args:
        base: flat default of the study.
        searched: parameters that the study searches.
    Raises:
        UserError: no prior ships for the study, the study searches none of its parameters, or a
            study is named `shipped`.
    """
    if (storage / SHIPPED / "study.json").exists():
        raise UserError(
            f"--warm-start {SHIPPED} means the priors that ship with vistune, and {storage} has a "
            "study of that name; rename it (`report.py rename`), or leave the option out"
        )

    priors = read_priors()
    for prior in priors:
        if (prior.experiment, prior.preset) == (experiment, preset) and all(
            base.get(key) == value for key, value in prior.where.items()
        ):
            break
    else:
        known = ", ".join(one.about for one in priors)
        raise UserError(
            f"--warm-start {SHIPPED}: no prior ships for this study of {experiment} in preset "
            f"{preset}; there are some for {known} in preset tiny; leave the option out"
        )

    known_keys = {key for point in prior.points for key in point["config"]}
    if not known_keys.intersection(searched):
        raise UserError(
            f"--warm-start {SHIPPED}: the prior knows {', '.join(sorted(known_keys))}, and this "
            "study searches none of them; leave the option out"
        )
    return prior
