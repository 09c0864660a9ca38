"""`--sampler` and `--pruner`: the search methods of a study, which it keeps."""

from collections.abc import Mapping
from typing import Any

from trainables.errors import UserError
from tune.cli.options import Options
from tune.experiments import Experiment
from tune.search.grid import LARGEST, gridded
from tune.search.method_names import (
    COMPLETED_ALONE,
    GRID,
    PRUNERS,
    SAMPLERS,
    SINGLE_OBJECTIVE,
    Rule,
    pruner_name,
    sampler_name,
)
from tune.search.methods import check_pruner, check_sampler
from tune.search.small_space import countable
from tune.study.manifest import Manifest
from tune.study.rules import CURRENT


def method_rules(
    options: Options, name: str, there: Manifest | None, first: Manifest | None
) -> dict[str, Rule]:
    """Return the rules of a new or existing study, including its sampler and pruner.

    Args:
        name: name of the study.
        there: manifest of the study; None if it has not started.
        first: manifest of an earlier search of the same setting.
    Raises:
        UserError: a method is unknown, or differs from the one that the study started with.
    """
    typed = {"sampler": options.sampler, "rungs": options.pruner}
    if options.sampler is not None:
        check_sampler(options.sampler)
    if options.pruner is not None:
        check_pruner(options.pruner)
    if there is not None:
        _check_kept(typed, name, there)
        return there.rules
    if len(options.objective or []) > 1:
        return _rules_of_a_front(options)

    rules: dict[str, Rule] = dict(CURRENT)
    names = {"sampler": sampler_name, "rungs": pruner_name}
    for rule, wanted in typed.items():
        if wanted is None and first is not None and isinstance(first.rules[rule], str):
            rules[rule] = first.rules[rule]
        # The name of the default means its latest version.
        elif wanted is not None and wanted != names[rule](CURRENT[rule]):
            rules[rule] = wanted
    return rules


def _rules_of_a_front(options: Options) -> dict[str, Rule]:
    """Return the rules of a study with several objectives. No trial is pruned, because a trial may
    be behind in one objective and ahead in another."""
    sampler = options.sampler or "tpe"
    if sampler in SINGLE_OBJECTIVE:
        raise UserError(
            f"--sampler {sampler} supports one objective; for several leave it out (tpe), or take "
            "gp, random, sobol or grid"
        )
    if options.pruner not in (None, "none"):
        raise UserError(
            f"--pruner {options.pruner} compares trials by one objective; with several nobody is "
            "stopped: leave it out"
        )
    return {**CURRENT, "sampler": sampler, "rungs": "none"}


def method_notes(rules: Mapping[str, Rule]) -> tuple[str, ...]:
    """Return lines for the start of a study about methods that are not the default."""
    sampler, pruner = sampler_name(rules["sampler"]), pruner_name(rules["rungs"])
    notes = []
    if isinstance(rules["sampler"], str):
        notes.append(f"sampler: {sampler}, {SAMPLERS[sampler]}")
    if isinstance(rules["rungs"], str):
        notes.append(f"pruner: {pruner}, {PRUNERS[pruner]}")
    if sampler in COMPLETED_ALONE and pruner != "none":
        notes.append(
            f"note: {sampler} learns from trials that ran to the end; --pruner none gives it more"
        )
    return tuple(notes)


def check_grid(
    rules: Mapping[str, Rule], experiment: Experiment, preset: str, pins: Mapping[str, Any]
) -> None:
    """Refuse a grid that is too large for any study to finish.

    Raises:
        UserError: the grid has too many configurations.
    """
    if rules["sampler"] != GRID:
        return
    if countable(gridded(experiment.space), preset, pins, LARGEST) is None:
        raise UserError(
            f"--sampler {GRID}: the grid of this space has more than {LARGEST} configurations; "
            "search less (--space KEY=A,B,C with --no-search all), or take --sampler sobol"
        )


def _check_kept(typed: Mapping[str, str | None], name: str, there: Manifest) -> None:
    kept = {
        "sampler": ("--sampler", sampler_name(there.rules["sampler"])),
        "rungs": ("--pruner", pruner_name(there.rules["rungs"])),
    }
    for rule, (option, has) in kept.items():
        wanted = typed[rule]
        if wanted is not None and wanted != has:
            raise UserError(
                f"{option} {wanted}: study {name!r} began with {option} {has} and keeps it; "
                f"leave it out, or give this study its own name: --study {name}-{wanted}"
            )
