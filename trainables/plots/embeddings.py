"""Pictures of embeddings: t-SNE and PCA. `draw.py` is the command."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.errors import UserError
from trainables.plots.canvas import HEADING, MARGIN, Canvas, width_of
from trainables.plots.class_colours import COLOURS, GREY
from trainables.plots.lettering import shortened
from trainables.plots.snapshots import coloured_classes, read_arrays, shown_rows
from trainables.plots.tsne import principal_components, tsne

_MIN_POINTS = 4
_PARTS = {"train": "training images", "val": "validation images"}
_BLUE = "#4c72b0"
_MARKERS = "osD^"
_SIZE = (8.0, 6.0)  # inches
_AXIS_NAME = 0.2  # height of its line, in inches
_POINTS_MARGIN = 0.05  # around the points, as a share of the frame
# For the class names and markers beside the frame, in inches.
_KEY_TOP, _KEY_LINE = 0.17, 0.19
_KEY_MARKER, _KEY_TEXT = 0.2, 0.36


@dataclass(frozen=True)
class Embeddings:
    """Checked content of a file, with at most `MAX_POINTS` of its rows."""

    features: np.ndarray  # (n, d) float64, L2-normalised
    labels: np.ndarray  # (n,) int; -1 = unlabelled
    coloured: tuple[int, ...]  # classes with a colour
    names: tuple[str, ...]  # their names
    epoch: int
    total: int  # number of rows in the file
    what: str  # "training images"


def embedding_pictures(npz: Path, out_dir: Path, title: str) -> list[Path]:
    """Write `tsne_<stem>.png` and `pca_<stem>.png` of an embeddings file into `out_dir`, which is
    created if needed.

    Args:
        npz: `features` (n, d) float, n >= 4; `labels` (n,) int, negative or an empty array if there
            are none; `epoch` int; optionally `names` (C,) str, the class names, and `part`, "train"
            or "val".
        title: first line of the picture, such as the trial's name.

    Returns:
        The two paths. Equal input gives equal pictures.

    Raises:
        UserError: the file is missing or unreadable, or has other content.
    """
    data = load_embeddings(Path(npz))
    out_dir.mkdir(parents=True, exist_ok=True)

    projected, (first, second), pca_method = _pca(data.features)
    tsne_path = out_dir / f"tsne_{npz.stem}.png"
    points, method = _tsne(data.features, projected)
    _draw(data, points, title, method, tsne_path)

    pca_path = out_dir / f"pca_{npz.stem}.png"
    axes = (f"component 1 ({first:.0%} of the variance)", f"component 2 ({second:.0%})")
    _draw(data, projected, title, pca_method, pca_path, axes)
    return [tsne_path, pca_path]


def load_embeddings(npz: Path) -> Embeddings:
    """Read and check an embeddings file, and choose the classes to colour (the most frequent) and
    the rows to show (by a fixed seed)."""
    needed = ("features", "labels", "epoch")
    arrays = read_arrays(npz, "embeddings", needed, optional=("names", "part"))
    features = arrays["features"]
    _check_features(npz, features)
    labels = _checked_labels(npz, arrays["labels"], len(features))

    rows = shown_rows(labels)
    shown = features[rows].astype(np.float64)
    shown /= np.linalg.norm(shown, axis=1, keepdims=True).clip(1e-12)

    coloured = tuple(int(c) for c in coloured_classes(labels))
    names = arrays.get("names", np.array([], dtype=str))
    captions = []
    for c in coloured:
        known = c < len(names)
        name = shortened(str(names[c])) if known else f"class {c}"
        captions.append(name)
    part = str(arrays.get("part", ""))
    return Embeddings(
        features=shown,
        labels=labels[rows],
        coloured=coloured,
        names=tuple(captions),
        epoch=int(arrays["epoch"]),
        total=len(features),
        what=_PARTS.get(part, "images"),
    )


def _check_features(npz: Path, features: np.ndarray) -> None:
    """Raise UserError unless the features are a table of finite numbers with enough rows."""
    if features.ndim != 2 or len(features) < _MIN_POINTS or features.shape[1] < 2:
        raise UserError(
            f"{str(npz)!r}: features of shape {features.shape} are not a table "
            f"(n >= {_MIN_POINTS}, d >= 2); write one row an image"
        )
    if not np.isfinite(features).all():
        raise UserError(
            f"{str(npz)!r}: features hold NaN or infinity: "
            "that training diverged, there is nothing to draw"
        )


def _checked_labels(npz: Path, labels: np.ndarray, count: int) -> np.ndarray:
    """Return the labels, or -1 for every image if there are none.

    Raises:
        UserError: the labels do not fit the features.
    """
    if labels.size == 0:
        return np.full(count, -1)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{str(npz)!r}: labels {labels.dtype} {labels.shape} do not fit {count} features; "
            "write one integer an image"
        )
    return labels


def _tsne(
    features: np.ndarray,
    projected: np.ndarray,  # (n, 2), by PCA
) -> tuple[np.ndarray, str]:
    """t-SNE to (n, 2), and its caption."""
    if _collapsed(features):
        return np.zeros((len(features), 2)), "t-SNE, collapsed to one point"

    perplexity = min(30.0, (len(features) - 1) / 3)
    return tsne(features, projected, perplexity), f"t-SNE, perplexity {perplexity:.0f}"


def _pca(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float], str]:
    """First two principal components (n, 2), the shares of variance that they explain, and the
    caption."""
    if _collapsed(features):
        return np.zeros((len(features), 2)), (0.0, 0.0), "PCA, collapsed to one point"

    points, (first, second) = principal_components(features)
    return points, (first, second), f"PCA, explained variance {first + second:.0%}"


def _collapsed(features: np.ndarray) -> bool:
    # The features are unit vectors, computed in float32.
    return bool(np.ptp(features, axis=0).max() < 1e-6)


def _draw(
    data: Embeddings,
    points: np.ndarray,  # (n, 2)
    title: str,
    method: str,
    path: Path,
    axes: tuple[str, str] | None = None,
) -> None:
    """Draw a scatter plot of the images, with a colour and marker for each class.

    Args:
        method: for the second line of the heading.
        axes: names of the axes, if they have a meaning.
    """
    canvas = Canvas(*_SIZE)
    canvas.heading(title, f"epoch {data.epoch} · {method} · {_what(data)}")
    frame = _frame(canvas, data, axes)
    placed = _placed(points, frame)
    _scatter_others(canvas, data, placed)
    _scatter_classes(canvas, data, placed, frame)
    canvas.save(path)


@dataclass(frozen=True)
class _Frame:
    """The part of the figure that contains the points, in inches."""

    left: float
    top: float
    right: float
    bottom: float


def _frame(canvas: Canvas, data: Embeddings, axes: tuple[str, str] | None) -> _Frame:
    """Draw the frame of the points, the class names to its right, and the names of the axes if they
    have a meaning."""
    name = _AXIS_NAME if axes else 0.0
    frame = _Frame(
        left=MARGIN + name,
        top=HEADING,
        right=canvas.width - MARGIN - _key(canvas, data.names),
        bottom=canvas.height - MARGIN - name,
    )
    canvas.rectangle(frame.left, frame.top, frame.right, frame.bottom)
    if axes:
        horizontal, vertical = axes
        middle = (frame.left + frame.right) / 2
        canvas.write(middle, canvas.height - MARGIN, horizontal, ha="center")
        beside = (frame.top + frame.bottom) / 2
        canvas.write(MARGIN, beside, vertical, va="center", rotated=True)
    return frame


def _key(canvas: Canvas, names: tuple[str, ...]) -> float:
    """Write the class names at the right edge, and return the width of their column including
    markers, in inches."""
    if not names:
        return 0.0
    width = width_of(names)
    for name, y in zip(names, _key_lines(len(names)), strict=True):
        canvas.write(canvas.width - MARGIN - width, y, name, va="center_baseline")
    return _KEY_TEXT + width


def _key_lines(count: int) -> np.ndarray:  # (count,)
    """Vertical middle of each name, in inches."""
    return _KEY_TOP + _KEY_LINE * np.arange(count)


def _placed(
    points: np.ndarray,  # (n, 2)
    frame: _Frame,
) -> np.ndarray:  # (n, 2), inches
    """Centre the points in the frame, with the same scale on both axes."""
    low = points.min(0)
    high = points.max(0)
    size = np.array([frame.right - frame.left, frame.bottom - frame.top])
    room = size * (1 - 2 * _POINTS_MARGIN)
    scale = (room / (high - low).clip(1e-12)).min()
    middle = np.array([frame.left + frame.right, frame.top + frame.bottom]) / 2
    upwards = np.array([1, -1])
    inches: np.ndarray = middle + upwards * scale * (points - (low + high) / 2)
    return inches


def _scatter_others(canvas: Canvas, data: Embeddings, placed: np.ndarray) -> None:
    """Draw the points of classes without a colour: grey, or blue if no class has one."""
    others = placed[~np.isin(data.labels, data.coloured)]
    if not len(others):
        return
    colour, opacity = (GREY, 0.7) if data.coloured else (_BLUE, 0.8)
    canvas.scatter(others, 14, "o", [colour] * len(others), opacity=opacity)


def _scatter_classes(canvas: Canvas, data: Embeddings, placed: np.ndarray, frame: _Frame) -> None:
    """Draw the points of each class, and its marker in the legend."""
    count = len(data.coloured)
    beside = np.full(count, frame.right + _KEY_MARKER)
    key = np.stack([beside, _key_lines(count)], 1)

    for first, marker in enumerate(_MARKERS[:count]):
        places: list[np.ndarray] = []
        colours: list[str] = []
        for number in range(first, count, len(_MARKERS)):
            members = placed[data.labels == data.coloured[number]]
            places += [members, key[number, None]]
            colours += [COLOURS[number]] * (len(members) + 1)
        canvas.scatter(np.concatenate(places), 30, marker, colours, edge=0.4)


def _what(data: Embeddings) -> str:
    """Describe the content of the picture: "600 of 900 images, 3 classes"."""
    count = len(data.features)
    images = f"{count} of {data.total} {data.what}"
    if count == data.total:
        images = f"{count} {data.what}"
    if not data.coloured:
        return f"{images}, no labels"

    classes = f"{len(data.coloured)} classes"
    is_labelled = data.labels >= 0
    is_coloured = np.isin(data.labels, data.coloured)
    is_other = is_labelled & ~is_coloured
    others = len(np.unique(data.labels[is_other]))
    if others:
        classes = f"{classes} in colour, {others} others grey"
    return f"{images}, {classes}"
