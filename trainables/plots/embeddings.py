"""Pictures of embeddings: t-SNE and PCA. `draw.py` is the command."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from trainables.errors import UserError
from trainables.plots.snapshots import coloured_classes, read_arrays, shown_rows
from trainables.plots.style import COLOURS, GREY, INK, caption, heading, plt, quiet_frame

_MIN_POINTS = 4
_PARTS = {"train": "training images", "val": "validation images"}
_BLUE = "#4c72b0"
_MARKERS = "osD^"


@dataclass(frozen=True)
class Embeddings:
    """Checked content of a file, at most `MAX_POINTS` of its rows."""

    features: np.ndarray  # (n, d) float64, L2-normalised
    labels: np.ndarray  # (n,) int; -1 = unlabelled
    coloured: tuple[int, ...]  # classes with a colour
    names: tuple[str, ...]  # their names
    epoch: int
    total: int  # rows of the file
    what: str  # "training images"


def embedding_pictures(npz: Path, out_dir: Path, title: str) -> list[Path]:
    """Write `tsne_<stem>.png` and `pca_<stem>.png` of an embeddings file into `out_dir`, which is
    made if need be.

    Args:
        npz: `features` (n, d) float, n >= 4; `labels` (n,) int, negative or an empty array if there
            are none; `epoch` int; and, optional, `names` (C,) str, the classes' names, and `part`,
            "train" or "val".
        title: first line of the picture, such as the trial's name.

    Returns:
        The two paths. Equal input gives equal pictures.

    Raises:
        UserError: the file is missing, unreadable, or its content is not as above.
    """
    data = load_embeddings(Path(npz))
    out_dir.mkdir(parents=True, exist_ok=True)

    tsne_path = out_dir / f"tsne_{npz.stem}.png"
    points, method = _tsne(data.features)
    _draw(data, points, title, method, tsne_path)

    pca_path = out_dir / f"pca_{npz.stem}.png"
    points, (first, second), method = _pca(data.features)
    axes = (f"component 1 ({first:.0%} of the variance)", f"component 2 ({second:.0%})")
    _draw(data, points, title, method, pca_path, axes)
    return [tsne_path, pca_path]


def load_embeddings(npz: Path) -> Embeddings:
    """Read and check an embeddings file, choose the classes to colour (the most frequent) and the
    rows to show (by a fixed seed)."""
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
        name = caption(str(names[c])) if known else f"class {c}"
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
    """The labels, or -1 for each image where there are none.

    Raises:
        UserError: they do not fit the features.
    """
    if labels.size == 0:
        return np.full(count, -1)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{str(npz)!r}: labels {labels.dtype} {labels.shape} do not fit {count} features; "
            "write one integer an image"
        )
    return labels


def _tsne(features: np.ndarray) -> tuple[np.ndarray, str]:
    """t-SNE (van der Maaten & Hinton 2008) to (n, 2), and its caption."""
    if _collapsed(features):  # scikit-learn would divide by 0 and crash the process
        return np.zeros((len(features), 2)), "t-SNE, collapsed to one point"

    perplexity = min(30.0, (len(features) - 1) / 3)
    # A third of scikit-learn's iterations and coarser cells: a third of the time, and the same part
    # of the nearest neighbours is kept (trustworthiness .988 on 600 digits).
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=350, angle=0.8)
    # Beside training, OpenMP threads that wait for a core make this 5 times slower.
    with threadpool_limits(1):
        points = tsne.fit_transform(features)
    return points, f"t-SNE, perplexity {perplexity:.0f}"


def _pca(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float], str]:
    """First two principal components (n, 2), the parts of the variance that they explain, and the
    caption."""
    if _collapsed(features):
        return np.zeros((len(features), 2)), (0.0, 0.0), "PCA, collapsed to one point"

    model = PCA(2, svd_solver="full")
    points = model.fit_transform(features)
    first, second = (float(ratio) for ratio in model.explained_variance_ratio_)
    return points, (first, second), f"PCA, explained variance {first + second:.0%}"


def _collapsed(features: np.ndarray) -> bool:
    # Unit vectors that came from float32.
    return bool(np.ptp(features, axis=0).max() < 1e-6)


def _draw(
    data: Embeddings,
    points: np.ndarray,  # (n, 2)
    title: str,
    method: str,
    path: Path,
    axes: tuple[str, str] | None = None,
) -> None:
    """Scatter the images, each class in a colour and marker of its own.

    Args:
        method: for the second line of the heading.
        axes: names of the axes, if they mean something.
    """
    figure, ax = plt.subplots(figsize=(8, 6), layout="constrained")
    _scatter_others(ax, data, points)
    for number, (label, name) in enumerate(zip(data.coloured, data.names, strict=True)):
        members = points[data.labels == label]
        ax.scatter(
            members[:, 0],
            members[:, 1],
            s=30,
            color=COLOURS[number],
            marker=_MARKERS[number % len(_MARKERS)],
            label=name,
            edgecolors="white",
            linewidths=0.4,
            zorder=2,
        )

    _frame(ax, axes)
    details = f"epoch {data.epoch} · {method} · {_what(data)}"
    heading(ax, title, details)
    if data.coloured:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, handletextpad=0.2)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _scatter_others(ax: Axes, data: Embeddings, points: np.ndarray) -> None:
    """Draw the points of classes without a colour: grey, or blue if no class has one."""
    others = points[~np.isin(data.labels, data.coloured)]
    ax.scatter(
        others[:, 0],
        others[:, 1],
        s=14,
        color=GREY if data.coloured else _BLUE,
        alpha=0.7 if data.coloured else 0.8,
        linewidths=0,
        zorder=1,
    )


def _frame(ax: Axes, axes: tuple[str, str] | None) -> None:
    """Give both axes one scale, and names if they mean something."""
    ax.set_aspect("equal", adjustable="datalim")
    quiet_frame(ax)
    if axes:
        horizontal, vertical = axes
        ax.set_xlabel(horizontal, fontsize=9, color=INK)
        ax.set_ylabel(vertical, fontsize=9, color=INK)


def _what(data: Embeddings) -> str:
    """Name what is shown: "600 of 900 images, 3 classes"."""
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
