"""List config differences between the studies of a table, other than those being compared."""

from search_spaces.settings import Comparison, Method
from tune.formatting import format_value
from tune.study.manifest import PATH_KEYS
from tune.study.record import Record

_BACKBONE = {"init.file", "init.sha256", "init.origin", "normalize"}
"""Config values that are determined by the setting."""
_SHOWN_OTHERWISE = {"data.up", "data.judged", "data.split"}
"""Config values whose effect other values show: the flips, and the images of the test split."""
_EMBEDDED = ("digits", "earth", "glyphs")
"""Data sets that versions 2 and 3 of the rules split identically."""
_OF_A_METHOD = ("head.", "optim.", "schedule.")
"""Prefixes of config keys whose defaults belong to a training method."""


def same_data(one: Record, other: Record) -> bool:
    """True if both studies were evaluated on the same images. Scores on different images cannot be
    subtracted. Two functions share their images if they name the same data, or if they have the
    same source or come from the same file."""
    if one.manifest.function and other.manifest.function:
        named = one.manifest.data["fingerprint"]
        is_named = bool(named) and named == other.manifest.data["fingerprint"]
        code = _code_of(one)
        return is_named or (code is not None and code == _code_of(other))
    return _judged_on(one) == _judged_on(other)


def _code_of(record: Record) -> str | None:
    """Hash of the file that defines a study's function, or else of the function; None if neither is
    known."""
    code = record.manifest.code or record.manifest.source
    return None if code is None else str(code["sha256"])


def _judged_on(record: Record) -> tuple[object, ...]:
    """Return everything that determines the test images: the data, and how it is split."""
    manifest = record.manifest
    version = manifest.base.get("data.split")
    if version == 3 and manifest.base.get("data.name") in _EMBEDDED:
        version = 2
    seed = manifest.base.get("data.seed")
    return manifest.data["fingerprint"], version, seed, _shape_judged(record)


def _shape_judged(record: Record) -> object:
    """Return the shape of the images used for evaluation: whole rectangles or squares. The tiles of
    `earth` are always squares."""
    manifest = record.manifest
    if manifest.experiment != "segment" or manifest.data["name"] == "earth":
        return None
    return manifest.base.get("data.judged")


def config_differences(one: Record, other: Record, comparison: Comparison) -> list[str]:
    """List what two settings should have in common but do not, such as `trials 16 and 40`."""
    shown = []
    if not same_data(one, other):
        shown.append(_data_difference(one, other))

    trials = len(one.trials)
    other_trials = len(other.trials)
    if trials != other_trials:
        shown.append(_difference("trials", trials, other_trials))

    ignored = _ignored_keys(comparison) | _methods_own(one, other, comparison)
    if one.manifest.control or other.manifest.control:
        ignored.add("train.epochs")
    for key, value in one.manifest.base.items():
        if key in ignored:
            continue
        other_value = other.manifest.base.get(key)
        if value != other_value:
            shown.append(_difference(key, value, other_value))
    return shown


def _ignored_keys(comparison: Comparison) -> set[str]:
    """Return the config keys that are paths or that define the settings."""
    keys = {*PATH_KEYS, *_BACKBONE, *_SHOWN_OTHERWISE}
    for setting in comparison.settings.values():
        keys.update(setting.values)
    return keys


def _methods_own(one: Record, other: Record, comparison: Comparison) -> set[str]:
    """Return the config keys whose defaults define a method, and those that both methods search,
    each with a default of its own."""
    if not any(isinstance(setting, Method) for setting in comparison.settings.values()):
        return set()
    searched = one.manifest.space.keys() & other.manifest.space.keys()
    return {key for key in one.manifest.base if key.startswith(_OF_A_METHOD)} | searched


def _difference(name: str, value: object, other: object) -> str:
    return f"{name} {format_value(value)} and {format_value(other)}"


def _data_difference(one: Record, other: Record) -> str:
    name = one.manifest.data["name"]
    other_name = other.manifest.data["name"]
    if name != other_name:
        return f"images of {name} and {other_name}"
    if one.manifest.data["fingerprint"] == other.manifest.data["fingerprint"]:
        return f"another split of {name}"
    return f"other images of {name}"
