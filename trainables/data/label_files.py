"""Layouts with labels in a label file."""

from collections.abc import Mapping
from pathlib import Path

from trainables.data.csv_layout import (
    other_tables,
    read_label_tables,
    tables_without_labels,
)
from trainables.data.layout_base import Contents, Folder, Match
from trainables.data.tables import columns_of


class CsvLayout:
    """Label files train.csv, val.csv, test.csv (`csv_layout.py`)."""

    name = "csv"
    expects = "train.csv (filename, label)"

    def matches(self, folder: Folder) -> Match:
        if not folder.tables:
            return Match("no train.csv")
        if "train" not in folder.tables and other_tables(folder.root):
            return Match("train.csv has another name")
        return Match(why=_described(folder.tables))

    def read(self, folder: Folder) -> Contents:
        return _read(folder, folder.tables)


class OtherCsv:
    """Label files with other names: train_labels.csv with test.tsv, or one file for all images."""

    name = "label file"
    expects = "train_labels.csv, or one csv of all images (filename, label)"

    def matches(self, folder: Folder) -> Match:
        tables = other_tables(folder.root)
        if not tables:
            lacking = tables_without_labels(folder.root)
            return Match("; ".join(lacking) or "no single csv with columns for file and label")
        return Match(why=_described(tables))

    def read(self, folder: Folder) -> Contents:
        return _read(folder, other_tables(folder.root))


def _read(folder: Folder, tables: Mapping[str, Path]) -> Contents:
    found = read_label_tables(folder.root, tables, folder.files, need_labels=folder.need_labels)
    return Contents(
        entries=found.entries,
        hidden=found.hidden,
        outside=found.outside,
        tables=tables,
    )


def _described(tables: Mapping[str, Path]) -> str:
    """Names of the label files, with their columns if these are unusual."""
    texts: list[str] = []
    for path in tables.values():
        columns = columns_of(path)
        usual = columns.file == "filename" and columns.label == "label"
        texts.append(path.name if usual else f"{path.name} ({columns.described()})")
    return " and ".join(texts)
