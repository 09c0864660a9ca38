"""The labels of a folder: one spelling per class, their order, and the labels that a task needs."""

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from trainables.data.listing import HIDDEN, Entry, shortened
from trainables.errors import UserError

_TRAIN = ("", "train")
_TWINS = 3  # most groups of labels that a warning names
_SEPARATORS = re.compile(r"[\s,;|]+")  # between several labels in one cell


def in_order(names: Iterable[str]) -> list[str]:
    """Sort labels by number, then by letters: 2, 10, a. Equal numbers (1, 01, 001) are sorted by
    spelling."""
    return sorted(names, key=lambda name: (_natural(name), name))


def _natural(label: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts 2 before 10."""
    words = [word for word in re.split(r"(\d+)", label) if word]
    key: list[tuple[int, int, str]] = []
    for word in words:
        key.append((0, int(word), "") if word.isdecimal() else (1, 0, word))
    return tuple(key)


def equal_as_numbers(names: Iterable[str]) -> list[list[str]]:
    """Groups of labels that are the same number, such as 1 and 01."""
    return _groups(names, _natural)


def one_spelling(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """Return the entries with one label per class, and notes about labels that were merged.

    macOS stores accents as separate characters (NFD), Linux and Windows do not (NFC). Both look the
    same, so labels that differ only in this are one class, written as NFC.
    """
    names = {entry.label for entry in entries if entry.label is not None}
    twins = _groups(names, lambda name: unicodedata.normalize("NFC", name))
    composed: dict[str | None, str] = {}
    for group in twins:
        for name in group:
            composed[name] = unicodedata.normalize("NFC", name)
    if not composed:
        return list(entries), []

    joined = [replace(entry, label=composed.get(entry.label, entry.label)) for entry in entries]
    texts = sorted(set(composed.values()))
    note = (
        f"labels written in two forms of Unicode are one class each: {shortened(texts)} "
        "(composed and decomposed accents)"
    )
    return joined, [note]


def doubtful_labels(names: Iterable[str]) -> list[str]:
    """Warnings about labels that look like one class but are several."""
    known = list(names)
    warnings = [
        *_about_twins(equal_as_numbers(known), "are equal as numbers"),
        *_about_twins(
            _groups(known, lambda name: name.strip().casefold()),
            "differ only in capitals or spaces",
        ),
    ]
    several = _combinations(known)
    if several:
        warnings.append(
            f"labels such as {several[0]!r} ({len(several):,} of {len(known):,}) look like several "
            "classes of one image, but each is a class of its own"
        )
    return warnings


def _about_twins(groups: Sequence[Sequence[str]], alike: str) -> list[str]:
    """Warning about labels that could be one class. Only the first groups are named, because there
    may be many, such as all letters in both cases."""
    if not groups:
        return []
    named = [", ".join(map(repr, group)) for group in groups]
    if len(groups) == 1:
        return [f"labels {named[0]} {alike} but are {len(groups[0])} classes"]
    shown = "; ".join(named[:_TWINS])
    more = f" and {len(groups) - _TWINS:,} more" if len(groups) > _TWINS else ""
    count = sum(len(group) for group in groups)
    return [f"labels {shown}{more} {alike} but are {count:,} classes"]


def _combinations(names: Sequence[str]) -> list[str]:
    """Labels that are made up of other labels: "cat|dog" besides "cat" and "dog"."""
    known = set(names)
    found: list[str] = []
    for name in names:
        pieces = [piece for piece in _SEPARATORS.split(name) if piece]
        if len(pieces) > 1 and known.issuperset(pieces):
            found.append(name)
    return found


def _groups(names: Iterable[str], key: Callable[[str], Hashable]) -> list[list[str]]:
    """Sorted groups of names with equal keys; names alone in their group are left out."""
    by_key: dict[Hashable, list[str]] = {}
    for name in sorted(names):
        by_key.setdefault(key(name), []).append(name)
    return [group for group in by_key.values() if len(group) > 1]


# ---------------------------------------------------------------- labels that a task needs


def of_new_classes(entries: Sequence[Entry]) -> list[Entry]:
    """Entries of val and test with classes that train lacks, as in a few-shot set."""
    trained = {entry.label for entry in entries if entry.part in _TRAIN}
    found: list[Entry] = []
    for entry in entries:
        judged = entry.part in ("val", "test")
        if judged and entry.label is not None and entry.label not in trained:
            found.append(entry)
    return found


def about_new_classes(new: Sequence[Entry], kept: Sequence[Entry]) -> list[str]:
    """Warnings that the entries of `of_new_classes` are left out."""
    parts_left = {entry.part for entry in kept}
    warnings: list[str] = []
    for part in ("val", "test"):
        entries = [entry for entry in new if entry.part == part]
        if not entries:
            continue
        names = in_order({str(entry.label) for entry in entries})
        trained = {entry.label for entry in kept if entry.label is not None}
        twins = [twin for name in names if (twin := _twin(name, trained))]
        alike = f"; it has {shortened(twins)}, written differently" if twins else ""
        carved = "" if part in parts_left else f"; {part} is carved from train"
        warnings.append(
            f"{len(entries):,} images of {part} are left out: train lacks their {len(names):,} "
            f"{'class' if len(names) == 1 else 'classes'} ({shortened(names)}){alike}{carved}"
        )
    return warnings


def check_labels(
    root: Path,
    layout: str,
    entries: Sequence[Entry],
    task: str,
    remedy: str,
) -> None:
    """Check that a folder has the labels that `task` needs; a hidden test set needs none.

    Args:
        remedy: end of the error message for a folder without any labels.

    Raises:
        UserError: images have no label; or val or test has classes that train lacks ("classify",
            "pretrain"), or that train has too ("fewshot").
    """
    answered = [entry for entry in entries if entry.part != HIDDEN]
    unlabeled = [entry.path for entry in answered if entry.label is None]
    if len(unlabeled) == len(answered):
        raise UserError(
            f"data folder {root} has no labels ({layout}), classification needs them; {remedy}"
        )
    if unlabeled:
        raise UserError(
            f"{len(unlabeled):,} images in {root} have no label ({layout}): "
            f"{shortened(unlabeled)}; label them or move them away"
        )
    if task == "fewshot":
        _check_new_classes(root, answered)
    else:
        _check_trained_classes(root, answered)


def _check_trained_classes(root: Path, entries: Sequence[Entry]) -> None:
    trained = {entry.label for entry in entries if entry.part in _TRAIN}
    for entry in entries:
        if entry.label not in trained:
            twin = _twin(str(entry.label), [name for name in trained if name is not None])
            remedy = "add training images or remove it"
            if twin:
                remedy = f"train has {twin!r}: write both in the same way, or {remedy}"
            raise UserError(
                f"class {entry.label!r} of {root} occurs in {entry.part} but not in train; {remedy}"
            )


def _twin(name: str, others: Iterable[str]) -> str:
    """Another label that may be the same class: the same number, or equal but for capitals and
    spaces. Empty if there is none."""
    plain = name.strip().casefold()
    for other in sorted(others):
        if other.strip().casefold() == plain or _natural(other) == _natural(name):
            return other
    return ""


def _check_new_classes(root: Path, entries: Sequence[Entry]) -> None:
    part_of_class: dict[str | None, str] = {}
    for entry in entries:
        other = part_of_class.setdefault(entry.label, entry.part)
        if other != entry.part:
            raise UserError(
                f"class {entry.label!r} of {root} occurs in {other} and in {entry.part}: few-shot "
                "classes of val and test must be new; move it to one of them, or give all classes "
                "without train and val, which are then chosen by seed"
            )
