"""Output files of a command: refused if they already exist, and written completely or not at
all."""

import csv
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainables.data.listing import shortened
from trainables.errors import UserError
from trainables.files import scratch_folder, write_result

_OVERWRITE = "give another --out, or --overwrite"


def check_file(out: Path, overwrite: bool, ending: str) -> None:
    """Check, before anything is predicted, that a file can be written.

    Raises:
        UserError: `out` is a folder, or it already exists and `overwrite` is off.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; name a file in it, such as {out / ending}")
    if out.exists() and not overwrite:
        raise UserError(f"--out {out} already exists; {_OVERWRITE}")


def write_table(
    out: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], separator: str = ","
) -> None:
    """Write a csv. After a kill `out` contains either the old file or the complete new one."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    # file names need not be UTF-8
    write_result(out, text.getvalue().encode("utf-8", "surrogateescape"))


@contextmanager
def folder_of_files(out: Path, names: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """Yield a folder into which to write the files `names`. They are moved to `out` if the block
    ends without an error.

    Raises:
        UserError: `out` is a file, or some of the files exist and `overwrite` is off.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; masks need a folder")
    there = [name for name in names if (out / name).exists()]
    if there and not overwrite:
        count = len(there)
        raise UserError(f"{count:,} files are in {out} already ({shortened(there)}); {_OVERWRITE}")

    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out) as scratch:
        yield scratch
        _move(scratch, out)


def _move(written: Path, out: Path) -> None:
    for path in sorted(written.rglob("*")):
        if path.is_dir():
            continue
        final = out / path.relative_to(written)
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, final)
