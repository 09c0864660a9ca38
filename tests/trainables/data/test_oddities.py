"""Folders as people have them (`odd_folders.py`): each is understood, and everything that is said is
compared word by word, or it is refused by a line that names what is unclear."""

from pathlib import Path

import numpy as np
import pytest

from tests.trainables.data.odd_folders import ODDITIES, Odd
from trainables.data.listing import Listing
from trainables.errors import UserError


def described(listing: Listing) -> str:
    """Everything that a listing says, a fact a line."""
    unlabeled = int(np.sum(listing.labels < 0))
    more = f", {unlabeled} unlabeled" if unlabeled else ""
    said = [f"{listing.layout}: {' '.join(listing.classes)}{more}"]
    for use in listing.folders:
        reason = f" ({use.reason})" if use.reason else ""
        said.append(f"{use.folder} {use.became} {use.images}{reason}")
    said += [f"- {out.files} {out.reason}, {out.example}" for out in listing.left_out]
    said += [f"note: {note}" for note in listing.notes]
    said += [f"warning: {warning}" for warning in listing.warnings]
    return "\n".join(said)


@pytest.mark.parametrize("odd", ODDITIES, ids=lambda odd: odd.name)
def test_folder_is_understood_or_refused_by_name(odd: Odd, tmp_path: Path) -> None:
    root = tmp_path / "SET"
    root.mkdir()
    odd.build(root)
    try:
        said = described(odd.read(root))
    except UserError as refusal:
        said = f"refused: {refusal}".replace(str(root), "SET")
    assert said == odd.expected


def test_there_are_enough_oddities() -> None:
    names = [odd.name for odd in ODDITIES]
    assert len(set(names)) == len(names) >= 40
