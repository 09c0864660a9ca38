"""Layouts whose labels stand in a label file."""

from collections.abc import Mapping
from pathlib import Path

from trainables.data.csv_layout import Labelled, other_tables, read_label_tables
from trainables.data.layout_base import Contents, Folder, Match
from trainables.data.tables import columns_of


class CsvLayout:
    """Label files train.csv, val.csv, test.csv (`csv_layout.py`)."""

    name = "csv"
    expects = "train.csv (filename, label)"

    def matches(self, folder: Folder) -> Match:
        if not folder.tables:
            return Match("no train.csv")
        return Match(why=_described(folder.tables))

    def read(self, folder: Folder) -> Contents:
        return _contents(
            read_label_tables(
                folder.root, folder.tables, folder.files, need_labels=folder.need_labels
            )
        )


class OtherCsv:
    """Label files under other names: train_labels.csv with test.tsv, or one for all images."""

    name = "label file"
    expects = "train_labels.csv, or one csv of all images (filename, label)"

    def matches(self, folder: Folder) -> Match:
        tables = other_tables(folder.root)
        if not tables:
            return Match("no single csv with columns for file and label")
        return Match(why=_described(tables))

    def read(self, folder: Folder) -> Contents:
        tables = other_tables(folder.root)
        return _contents(
            read_label_tables(folder.root, tables, folder.files, need_labels=folder.need_labels)
        )


def _contents(read: Labelled) -> Contents:
    return Contents(read.entries, read.notes, hidden=read.hidden, outside=read.outside)


def _described(tables: Mapping[str, Path]) -> str:
    """Names of the label files, and the columns where they are unusual."""
    texts: list[str] = []
    for path in tables.values():
        columns = columns_of(path)
        usual = columns.file == "filename" and columns.label == "label"
        texts.append(path.name if usual else f"{path.name} ({columns.described()})")
    return " and ".join(texts)
