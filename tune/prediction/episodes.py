"""Few-shot learning: predict the class of every query in the episodes of a csv, and write a csv.

    val_testcase.csv     episode_id, class0_support0, class1_support0, ..., query0, query1, ...
    val.csv beside it    id, filename [, label]: the images of those ids
    the answer           episode_id, query0, query1, ...: the number of the class of each query

The class of a support image is the number in its column's name. If the column names have no
numbers, labels are numbered in the order of the columns.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainables.data.listing import part_of, shortened
from trainables.data.tables import columns_of, is_of_episodes
from trainables.errors import UserError
from trainables.metrics import mean_interval
from tune.prediction.batches import Reader
from tune.prediction.inputs import Table, images_of_table, read_table
from tune.prediction.output import check_file, write_table
from tune.prediction.request import Request
from tune.prediction.trained import Trained

_CLASS = re.compile(r"class[ _-]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class EpisodeTable:
    """A csv of episodes, with its columns by purpose."""

    table: Table
    support: tuple[str, ...]
    query: tuple[str, ...]
    others: tuple[str, ...]
    """Columns such as episode_id, which are copied to the answer."""


@dataclass(frozen=True)
class Catalog:
    """The csv that maps ids to images."""

    table: Table
    line: dict[str, int]
    """Id -> index among the table's lines."""

    def labels(self, ids: Sequence[str]) -> list[str]:
        """Return the label of each image; "" if the csv has none."""
        column = self.table.columns.label
        return [self.table.rows[self.line[number]].get(column, "").strip() for number in ids]


@dataclass(frozen=True)
class Episode:
    """One episode, i.e. one line of the csv."""

    support: list[str]  # ids
    classes: list[int]  # class number of each support image, as used in the answer
    query: list[str]  # ids


def predict_episodes(trained: Trained, reader: Reader, request: Request) -> list[str]:
    """Write the answers to the episodes of a csv, or of the only csv of episodes in a folder.
    Return lines for the user.

    Raises:
        UserError: there is no such csv, no csv beside it knows the ids, files are missing or
            unreadable, or `out` already exists.
    """
    out = request.out
    check_file(out, request.overwrite, "answers.csv")
    if reader.skip_corrupt:
        raise UserError("--skip-corrupt: an episode needs all of its images; leave the option out")
    episodes = _read_episodes(_episode_file(request.source))
    catalog = _find_catalog(episodes)
    features = _features(episodes, catalog, reader)

    rows: list[list[object]] = []
    accuracies: list[float] = []
    for number in range(len(episodes.table.rows)):
        episode = _episode(episodes, catalog, number)
        answers = _answer(episode, features, trained)
        cells = episodes.table.rows[number]
        rows.append([*(cells[name] for name in episodes.others), *answers])
        truth = _truth(episode, catalog)
        if truth is not None:
            accuracies.append(float(np.mean(np.array(answers) == truth)))

    write_table(
        out,
        [*episodes.others, *episodes.query],
        rows,
        episodes.table.columns.separator,
    )
    told = [f"{len(rows):,} episodes of {len(episodes.query)} queries -> {out}"]
    if accuracies:
        told.append(_score(accuracies, trained))
    return told


def _answer(episode: Episode, features: Mapping[str, np.ndarray], trained: Trained) -> list[int]:
    """Return the class of each query, as numbered in `episode.classes`."""
    names = sorted(set(episode.classes))
    numbers = np.array([names.index(name) for name in episode.classes])
    examples = np.stack([features[number] for number in episode.support])
    queries = np.stack([features[number] for number in episode.query])
    probabilities = trained.served.compare_features(examples, numbers, queries)
    return [names[position] for position in probabilities.argmax(1).tolist()]


def _truth(episode: Episode, catalog: Catalog) -> np.ndarray | None:
    """Return the true class of each query, from the labels of the catalog; None if some are
    missing."""
    labels = catalog.labels(episode.support)
    class_of_label = dict(zip(labels, episode.classes, strict=True))
    queried = catalog.labels(episode.query)
    if "" in labels or not set(queried) <= set(labels):
        return None
    return np.array([class_of_label[label] for label in queried])


def _score(accuracies: Sequence[float], trained: Trained) -> str:
    mean, low, high = mean_interval(accuracies)
    half = f" +- {(high - low) / 2:.4f}" if len(accuracies) > 1 else ""
    record = trained.on_record("test/episode_top1")
    return f"{len(accuracies):,} episodes have labels: accuracy {mean:.4f}{half}; {record}"


# ---------------------------------------------------------------- the csv of episodes


def _episode_file(source: Path) -> Path:
    """Return the csv itself, or the only csv of a folder whose columns name support and query
    images."""
    if not source.is_dir():
        return source
    found = [path for path in sorted(source.glob("*.csv")) if _names_episodes(path)]
    if len(found) != 1:
        named = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"few-shot learning answers the episodes of a csv, and {source} has {named} whose "
            "columns name support and query images; give one csv"
        )
    return found[0]


def _names_episodes(path: Path) -> bool:
    return is_of_episodes(columns_of(path).names)


def _read_episodes(path: Path) -> EpisodeTable:
    table = read_table(path, names_files=False)
    support = tuple(name for name in table.columns.names if "support" in name.lower())
    query = tuple(name for name in table.columns.names if "query" in name.lower())
    if not support or not query:
        found = ", ".join(table.columns.names[:6])
        raise UserError(
            f"{path} names no episodes (columns: {found}); few-shot learning needs columns such as "
            "episode_id, class0_support0, class1_support0, query0"
        )
    others = tuple(name for name in table.columns.names if name not in support + query)
    return EpisodeTable(table, support, query, others)


def _episode(episodes: EpisodeTable, catalog: Catalog, number: int) -> Episode:
    """Read one episode.

    Raises:
        UserError: the classes of the support images are unknown.
    """
    cells = episodes.table.rows[number]
    support = [cells[name].strip() for name in episodes.support]
    query = [cells[name].strip() for name in episodes.query]

    named = [_CLASS.search(name) for name in episodes.support]
    classes = [int(match[1]) for match in named if match is not None]
    if len(classes) < len(support):
        labels = catalog.labels(support)
        if "" in labels:
            raise UserError(
                f"nothing says the classes of the support images of {episodes.table.path}: name "
                "its columns class0_support0, class1_support0, ..., or give labels in "
                f"{catalog.table.path}"
            )
        order = list(dict.fromkeys(labels))
        classes = [order.index(label) for label in labels]
    return Episode(support, classes, query)


# ---------------------------------------------------------------- images


def _find_catalog(episodes: EpisodeTable) -> Catalog:
    """Return the csv beside the episodes that explains their ids: val.csv for val_testcase.csv, or
    else the first other csv that has all of them.

    Raises:
        UserError: there is no such csv.
    """
    path = episodes.table.path
    wanted = _ids(episodes)
    part = part_of(re.split(r"[_.-]", path.stem)[0])
    own = path.with_name(f"{part}.csv")
    others = [other for other in sorted(path.parent.glob("*.csv")) if other not in (path, own)]

    lacking: list[str] = []
    for candidate in [own, *others]:
        if not candidate.is_file() or _names_episodes(candidate):
            continue
        table = read_table(candidate, names_files=False)
        columns = table.columns
        if not columns.id or not columns.file:
            lacking.append(f"{candidate.name} has no columns id, filename")
            continue
        line = {number: position for position, number in enumerate(table.cells(columns.id))}
        unknown = [number for number in wanted if number not in line]
        if not unknown:
            return Catalog(table, line)
        lacking.append(f"{candidate.name} lacks {len(unknown):,} ids ({shortened(unknown)})")
    why = "; ".join(lacking) or "there is no other csv"
    raise UserError(
        f"no csv beside {path} says which images the ids of its episodes are ({why}); "
        f"add {part or 'val'}.csv with columns id,filename"
    )


def _ids(episodes: EpisodeTable) -> list[str]:
    """Return the ids that occur in the episodes, without duplicates."""
    found: dict[str, None] = {}
    for cells in episodes.table.rows:
        for name in (*episodes.support, *episodes.query):
            found[cells[name].strip()] = None
    return list(found)


def _features(
    episodes: EpisodeTable, catalog: Catalog, reader: Reader
) -> dict[str, np.ndarray]:  # id -> (D,)
    """Compute the features of the images that occur in the episodes, once each."""
    ids = _ids(episodes)
    rows = tuple(catalog.table.rows[catalog.line[number]] for number in ids)
    images = images_of_table(replace(catalog.table, rows=rows))
    return {ids[number]: answer for number, answer in reader.answers(images.files)}
