"""Check that tables of several storages are searches of the same study and differ only in their
seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.data.embedded import EMBEDDED
from trainables.errors import UserError
from tune.reports.comparison_table import ComparisonTable, TableRow
from tune.study.manifest import PATH_KEYS, Manifest

# Config values that may differ between searches: the seed, values drawn from it, and the backbones
# trained under it.
_OF_A_SEARCH = {"seed", "data.seed", "init.file", "init.sha256", "init.origin", *PATH_KEYS}
_SHOWN_DIFFERENCES = 4


def check_complete(folders: Sequence[Path], tables: list[ComparisonTable]) -> None:
    """Refuse searches that lack a test accuracy for any setting.

    Raises:
        UserError: a test accuracy is missing; the message has the command that resumes the search.
    """
    for folder, table in zip(folders, tables, strict=True):
        scored = {row.name for row in table.rows if row.scores}
        names = [name for name in table.comparison.settings if name not in scored]
        if names:
            missing = ", ".join(names)
            raise UserError(
                f"{folder}: without repeats so far: {missing}; `{table.command}` resumes them"
            )


def check_same_study(
    folders: Sequence[Path], tables: list[ComparisonTable], seeds: list[int]
) -> None:
    """Refuse searches with the same seed, and searches that differ in more than the seed.

    Raises:
        UserError: such searches are among the tables.
    """
    for place, (folder, table) in enumerate(zip(folders, tables, strict=True)):
        seed = seeds[place]
        earlier = seeds[:place]
        if seed in earlier:
            other = folders[earlier.index(seed)]
            raise UserError(
                f"{folder} and {other} have the same seed, {seed}: they are one search; "
                "begin another with --seed"
            )

        for row, first_row in zip(table.rows, tables[0].rows, strict=True):
            differing = _differing(row, first_row)
            if differing:
                shown = ", ".join(differing[:_SHOWN_DIFFERENCES])
                raise UserError(
                    f"{folder} and {folders[0]} are not the same study: "
                    f"setting {row.name} differs in {shown}"
                )


def _differing(row: TableRow, other: TableRow) -> list[str]:
    """List the names of values, other than the seed, in which two studies of one setting differ."""
    mine, theirs = _identity(row), _identity(other)
    return [name for name in mine | theirs if mine.get(name) != theirs.get(name)]


def _identity(row: TableRow) -> dict[str, Any]:
    """Return display name -> value of everything that two searches must have in common."""
    manifest: Manifest = row.record.manifest
    data_name = manifest.data["name"]
    # Embedded images are drawn from the seed, so their fingerprints differ.
    data = data_name if data_name in EMBEDDED else manifest.data["fingerprint"]

    identity = {
        "experiment": manifest.experiment,
        "preset": manifest.preset,
        "objective": manifest.objective,
        "data": data,
        "warm start": bool(manifest.warm_start),
        "rules": manifest.rules,
        "the number of trials": len(row.record.trials),
        "the number of repeats": row.seeds,
    }
    for name, value in manifest.pins.items():
        if name not in _OF_A_SEARCH:
            identity[f"--set {name}"] = value
    for name, value in manifest.base.items():
        if name not in _OF_A_SEARCH:
            identity[name] = value
    for name, ranges in manifest.space.items():
        identity[f"range of {name}"] = ranges
    return identity
