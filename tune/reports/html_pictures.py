"""Pictures of a trial, embedded in the study's report."""

import base64
import io
import os
import re
from pathlib import Path

from markupsafe import Markup

from tune.object_store import s3
from tune.reports.html_page import render
from tune.study.record import Record

_MAX_SIZE = (1000, 4000)  # width and height in pixels
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_NAME = re.compile(r"(?P<kind>.+?)(?:-(?P<epoch>\d{4}))?\.png")


def pictures(record: Record, number: int) -> Markup:
    """Render the pictures of a trial; empty if it has none.

    t-SNE plots are shown for the first and last epoch, predictions for the first, middle and last,
    other pictures for the last.
    """
    folder = record.folder / "trials" / f"{number:04d}" / "plots"
    chosen = _chosen(_by_kind(folder))
    if not chosen:
        return Markup()
    return render("pictures.html", pictures=[_picture(path) for path in chosen])


def picture_of(path: Path, caption: str) -> Markup:
    """Render one picture by its path; empty if it is missing or still being written."""
    path = s3.present(path)
    if not path.exists() or not _is_complete(path):
        return Markup()
    picture = _picture(path) | {"caption": caption}
    return render("pictures.html", pictures=[picture])


def _picture(path: Path) -> dict[str, str]:
    """Return the values for the template."""
    return {
        "name": path.stem,
        "caption": path.stem.replace("_", ", ", 1),
        "uri": _small_webp(path),
    }


def data_uri(content: bytes, kind: str) -> str:
    """Encode a picture as a data URI."""
    encoded = base64.b64encode(content).decode()
    return f"data:image/{kind};base64,{encoded}"


def _by_kind(folder: Path) -> dict[str, list[Path]]:
    """Return kind of picture -> its files by epoch; t-SNE plots and predictions come first."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(s3.present_in(folder).glob("*.png")):
        match = _NAME.fullmatch(path.name)
        if match and _is_complete(path):
            kinds.setdefault(match["kind"], []).append(path)

    def order(kind: str) -> tuple[bool, str]:
        comes_first = kind.startswith(("tsne", "predicted"))
        return not comes_first, kind

    return {kind: kinds[kind] for kind in sorted(kinds, key=order)}


def _chosen(kinds: dict[str, list[Path]]) -> list[Path]:
    chosen: list[Path] = []
    for kind, paths in kinds.items():
        first = paths[0]
        middle = paths[len(paths) // 2]
        last = paths[-1]
        if kind.startswith("tsne"):
            chosen += dict.fromkeys((first, last))
        elif kind.startswith("predicted"):
            chosen += dict.fromkeys((first, middle, last))
        elif not kind.startswith("pca"):
            chosen.append(last)
    return chosen


def _is_complete(path: Path) -> bool:
    """False if another process is still writing the file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_PNG_END)))
        return file.read() == _PNG_END


def _small_webp(path: Path) -> str:
    from PIL import Image

    image = Image.open(path).convert("RGB")
    image.thumbnail(_MAX_SIZE)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=85)
    return data_uri(content.getvalue(), "webp")
