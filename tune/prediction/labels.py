"""Classification: predict the class of every image, and write a csv."""

from collections.abc import Sequence
from pathlib import Path

from trainables.data.listing import shortened
from trainables.data.tables import Columns
from trainables.errors import UserError
from tune.prediction.batches import Reader
from tune.prediction.inputs import (
    FILENAME,
    LABEL,
    Images,
    Table,
    images_of_folder,
    images_of_table,
    read_table,
)
from tune.prediction.output import check_file, write_table
from tune.prediction.request import Request
from tune.prediction.scores import score_labels
from tune.prediction.trained import Trained

PROBABILITY = "p_"
"""Prefix of probability columns."""


def predict_labels(trained: Trained, reader: Reader, request: Request) -> list[str]:
    """Write `filename,label` for a folder, or fill in the given csv, keeping the order of its lines
    and its other columns. Return lines for the user.

    Raises:
        UserError: there are no images, files are missing or unreadable, or `out` already exists.
    """
    out = request.out
    check_file(out, request.overwrite, "labels.csv")
    table, images = _given(request.source)
    classes = trained.served.classes
    added = _added_columns(table, classes) if request.probabilities else []

    labels: dict[int, str] = {}  # index of an image -> its class
    scores: dict[int, list[str]] = {}
    for number, answer in reader.answers(images.files):
        labels[number] = classes[int(answer.argmax())]
        if request.probabilities:
            scores[number] = [f"{score:.6g}" for score in answer.tolist()]

    columns = list(table.columns.names)
    answered = table.columns.label or LABEL
    if answered not in columns:
        columns.append(answered)
    rows = []
    for number, label in labels.items():
        cells = {**table.rows[number], answered: label}
        row = [cells.get(name, "") for name in columns]
        rows.append([*row, *scores.get(number, [])])
    write_table(out, [*columns, *added], rows, table.columns.separator)

    told = [f"{len(rows):,} images -> {out}", *images.notes, *reader.said()]
    truth = _truth(table, images, request.source, classes)
    true = [truth[number] for number in labels]
    if set(true) <= set(classes):
        told += score_labels(true, list(labels.values()), classes, trained)
    elif any(true):
        told.append(_not_compared(true, classes))
    return told


def _added_columns(table: Table, classes: Sequence[str]) -> list[str]:
    """Return the probability columns, one per class."""
    added = [f"{PROBABILITY}{name}" for name in classes]
    taken = sorted(set(table.columns.names) & set(added))
    if taken:
        raise UserError(f"{table.path} has a column {taken[0]} already: leave out --probabilities")
    return added


def _given(source: Path) -> tuple[Table, Images]:
    """Return the csv to fill in and the images of its lines. For a folder, create a csv with only
    the column `filename` filled."""
    if source.is_dir():
        images = images_of_folder(source)
        rows = tuple({FILENAME: name} for name in images.names)
        columns = Columns((FILENAME, LABEL), file=FILENAME, label=LABEL)
        return Table(source, columns, rows), images
    table = read_table(source)
    return table, images_of_table(table)


def _truth(table: Table, images: Images, source: Path, classes: Sequence[str]) -> list[str]:
    """Return the label of each image: from the csv, or from its path in a folder; "" if there is
    none."""
    if source.is_dir():
        known = set(classes)
        return [_folder_label(name, known) for name in images.names]
    return table.cells(table.columns.label)


def _not_compared(true: Sequence[str], classes: Sequence[str]) -> str:
    """Say why the given labels are not compared with the predictions."""
    known = set(classes)
    without = sum(not label for label in true)
    strange = sorted({label for label in true if label and label not in known})
    reasons: list[str] = []
    if without:
        reasons.append(f"{without:,} of {len(true):,} images have none")
    if strange:
        reasons.append(
            f"{shortened(strange)} {'is' if len(strange) == 1 else 'are'} no class of the model"
        )
    return f"labels are not compared with the answers: {'; '.join(reasons)}"


def _folder_label(name: str, known: set[str]) -> str:
    """Return the class named by an image's path: the innermost matching folder, or pair of folders
    (`Greek/character01`), or else `<label>_<n>.png`; "" if there is none."""
    *folders, file = name.split("/")
    for depth in range(len(folders), 0, -1):
        for label in (folders[depth - 1], "/".join(folders[max(0, depth - 2) : depth])):
            if label in known:
                return label
    prefix, _, number = Path(file).stem.rpartition("_")
    if number.isdecimal() and prefix in known:
        return prefix
    return ""
