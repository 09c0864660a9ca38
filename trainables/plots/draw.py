"""Pictures of what trials leave behind (`snapshots.py`), made off the training path in a process of
their own.

python -m trainables.plots.draw SNAPSHOT.npz... OUT_DIR
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainables.errors import UserError
from trainables.plots.embeddings import embedding_pictures
from trainables.plots.masks import mask_pictures
from trainables.plots.predictions import prediction_pictures

KINDS: dict[str, Callable[[Path, Path, str], list[Path]]] = {
    "embeddings": embedding_pictures,
    "masks": mask_pictures,
    "predictions": prediction_pictures,
}
"""What a file's name begins with, up to the first "-" -> (file, folder of the pictures, title) ->
the pictures' paths."""


def draw(npz: Path, out_dir: Path, title: str) -> list[Path]:
    """The pictures of one file, in the way of its kind.

    Raises:
        UserError: unknown kind, or the file is missing, unreadable, or its content is not as its
            kind wants it.
    """
    kind = npz.stem.partition("-")[0]
    if kind not in KINDS:
        raise UserError(
            f"{str(npz)!r} is of no kind that can be drawn; its name must begin with one of: {', '.join(KINDS)}"
        )
    return KINDS[kind](npz, out_dir, title)


def main(argv: Sequence[str] | None = None) -> int:
    """Command form. Returns 0, or 2 where a file was refused (the others are drawn)."""
    parser = argparse.ArgumentParser(
        prog="python -m trainables.plots.draw", description="Pictures of what trials leave behind."
    )
    parser.add_argument(
        "npz", nargs="+", type=Path, help=f"files named after what they hold: {', '.join(KINDS)}"
    )
    parser.add_argument("out_dir", type=Path, help="folder of the pictures; made if need be")
    parser.add_argument("--title", help="default: the name of each file's folder")
    arguments = parser.parse_args(argv)
    status = 0
    drawn: dict[str, Path] = {}
    for npz in arguments.npz:
        try:
            if npz.stem in drawn:
                raise UserError(
                    f"{str(npz)!r} would overwrite the pictures of {str(drawn[npz.stem])!r}; give each file a name of its own"
                )
            drawn[npz.stem] = npz
            for path in draw(npz, arguments.out_dir, arguments.title or npz.resolve().parent.name):
                print(path)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
