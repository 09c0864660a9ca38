"""Whether studies that stand beside each other in a table were searched alike: in what they differ
beyond what the comparison is about."""

from search_spaces.settings import Comparison
from tune.formatting import format_value
from tune.study.manifest import PATH_KEYS
from tune.study.record import Record

_BACKBONE = {"init.file", "init.sha256", "init.origin", "normalize"}
"""Follow from the setting."""


def same_data(one: Record, other: Record) -> bool:
    """Whether they saw the same images: scores on others cannot be subtracted."""
    return one.manifest.data["fingerprint"] == other.manifest.data["fingerprint"]


def config_differences(one: Record, other: Record, comparison: Comparison) -> list[str]:
    """`trials 16 and 40`, for everything that two of its settings should have had in common."""
    free = {
        *PATH_KEYS,
        *_BACKBONE,
        *(key for setting in comparison.settings.values() for key in setting.values),
    }
    mine, theirs = (
        {key: value for key, value in record.manifest.base.items() if key not in free}
        for record in (one, other)
    )
    pairs = [
        ("trials", len(one.trials), len(other.trials)),
        *((key, value, theirs.get(key)) for key, value in mine.items()),
    ]
    shown = [
        f"{name} {format_value(first)} and {format_value(second)}"
        for name, first, second in pairs
        if first != second
    ]
    if not same_data(one, other):
        names = one.manifest.data["name"], other.manifest.data["name"]
        shown.insert(
            0,
            f"images of {names[0]} and {names[1]}"
            if names[0] != names[1]
            else f"other images of {names[0]}",
        )
    return shown
