"""Draws pictures from the snapshots that trials write (`snapshots.py`), outside training, in a
separate process.

    python -m trainables.plots.draw SNAPSHOT.npz... OUT_DIR
    python -m trainables.plots.draw --serve      # one request per line: the arguments, as JSON
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from trainables.errors import UserError

Draw = Callable[[Path, Path, str], list[Path]]
"""(file, folder of the pictures, title) -> the pictures' paths."""


def _data() -> Draw:
    from trainables.plots.data_grid import data_pictures

    return data_pictures


def _embeddings() -> Draw:
    from trainables.plots.embeddings import embedding_pictures

    return embedding_pictures


def _masks() -> Draw:
    from trainables.plots.masks import mask_pictures

    return mask_pictures


def _predictions() -> Draw:
    from trainables.plots.predictions import prediction_pictures

    return prediction_pictures


KINDS: dict[str, Callable[[], Draw]] = {
    "data": _data,
    "embeddings": _embeddings,
    "masks": _masks,
    "predictions": _predictions,
}
"""Kind, which is the start of a file's name up to the first "-" -> function that imports and
returns the drawing function. So no kind waits for imports that only another one needs."""


def draw(npz: Path, out_dir: Path, title: str) -> list[Path]:
    """Draw the pictures of one file by its kind, and return their paths.

    Raises:
        UserError: the kind is unknown, or the file is missing, unreadable, or lacks an array that
            its kind needs.
    """
    kind = npz.stem.partition("-")[0]
    if kind not in KINDS:
        raise UserError(
            f"{str(npz)!r} is of no kind that can be drawn; "
            f"its name must begin with one of: {', '.join(KINDS)}"
        )
    return KINDS[kind]()(npz, out_dir, title)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 0, or 2 if a file was refused (the others are drawn)."""
    words = sys.argv[1:] if argv is None else argv
    if list(words) == ["--serve"]:
        serve(sys.stdin, sys.stdout)
        return 0
    return _draw_all(words)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end. A request is a line with a command's arguments as a JSON
    list; the answer is a line with its exit code. Slow imports are thus done only once."""
    for request in requests:
        with contextlib.redirect_stdout(sys.stderr):
            status = _draw_all(json.loads(request))
        print(status, file=answers, flush=True)


def _draw_all(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    status = 0
    drawn: dict[str, Path] = {}
    for npz in arguments.npz:
        title = arguments.title or npz.resolve().parent.name
        try:
            if npz.stem in drawn:
                raise UserError(
                    f"{str(npz)!r} would overwrite the pictures of {str(drawn[npz.stem])!r}; "
                    "give each file a name of its own"
                )
            drawn[npz.stem] = npz
            for path in draw(npz, arguments.out_dir, title):
                print(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables.plots.draw",
        description="Draw the pictures of the snapshots that trials leave behind.",
    )
    parser.add_argument(
        "npz", nargs="+", type=Path, help=f"files named after their kind: {', '.join(KINDS)}"
    )
    parser.add_argument("out_dir", type=Path, help="folder of the pictures; made if need be")
    parser.add_argument("--title", help="default: the name of each file's folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
