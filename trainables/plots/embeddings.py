"""Pictures of embeddings: t-SNE and PCA. `draw.py` is the command."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from trainables.errors import UserError, first_line
from trainables.plots.snapshots import coloured_classes, shown_rows
from trainables.plots.style import COLOURS, GREY, INK, caption, heading, plt, quiet_frame

_MIN_POINTS = 4
_PARTS = {"train": "training images", "val": "validation images"}


@dataclass(frozen=True)
class Embeddings:
    """Checked content of a file, at most `MAX_POINTS` rows of it."""

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
        npz: `features` (n, d) float, n >= 4; `labels` (n,) int, negative or an empty array where
            there are none; `epoch` int; and, optional, `names` (C,) str, the classes' names, and
            `part`, "train" or "val".
        title: first line of the picture, such as the trial's name.

    Returns:
        The two paths. Equal input gives equal pictures.

    Raises:
        UserError: the file is missing, unreadable, or its content is not as above.
    """
    data = load_embeddings(Path(npz))
    out_dir.mkdir(parents=True, exist_ok=True)
    tsne, pca = out_dir / f"tsne_{npz.stem}.png", out_dir / f"pca_{npz.stem}.png"
    mapped, method = _tsne(data.features)
    _draw(data, mapped, title, method, tsne)
    projection, share, method = _pca(data.features)
    axes = (f"component 1 ({share[0]:.0%} of the variance)", f"component 2 ({share[1]:.0%})")
    _draw(data, projection, title, method, pca, axes)
    return [tsne, pca]


def load_embeddings(npz: Path) -> Embeddings:
    """Read and check an embeddings file, choose the classes to colour (the most frequent) and the
    rows to show (seeded)."""
    features, labels, epoch, names, what = _read(npz)
    if features.ndim != 2 or len(features) < _MIN_POINTS or features.shape[1] < 2:
        raise UserError(
            f"{str(npz)!r}: features of shape {features.shape} are not a table (n >= {_MIN_POINTS}, d >= 2); write one row an image"
        )
    if not np.isfinite(features).all():
        raise UserError(
            f"{str(npz)!r}: features hold NaN or infinity: that training diverged, there is nothing to draw"
        )
    if labels.size == 0:
        labels = np.full(len(features), -1)
    if labels.shape != (len(features),) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{str(npz)!r}: labels {labels.dtype} {labels.shape} do not fit {len(features)} features; write one integer an image"
        )
    coloured, rows = coloured_classes(labels), shown_rows(labels)
    shown = features[rows].astype(np.float64)
    shown /= np.linalg.norm(shown, axis=1, keepdims=True).clip(1e-12)
    captions = tuple(caption(str(names[c])) if c < len(names) else f"class {c}" for c in coloured)
    return Embeddings(
        shown, labels[rows], tuple(int(c) for c in coloured), captions, epoch, len(features), what
    )


def _read(npz: Path) -> tuple[np.ndarray, np.ndarray, int, Sequence[str], str]:
    try:
        with np.load(npz) as file:
            names = file["names"] if "names" in file.files else ()
            what = _PARTS[str(file["part"])] if "part" in file.files else "images"
            return file["features"], file["labels"], int(file["epoch"]), names, what
    except FileNotFoundError:
        raise UserError(
            f"no embeddings file {str(npz)!r}; a trial writes it into its folder"
        ) from None
    except KeyError as error:
        raise UserError(
            f"{str(npz)!r} lacks an array: {error.args[0]}; it needs features, labels and epoch"
        ) from None
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = first_line(error)
        raise UserError(
            f"cannot read embeddings {str(npz)!r}: {reason}; write it with numpy.savez(features=, labels=, epoch=)"
        ) from None


def _tsne(features: np.ndarray) -> tuple[np.ndarray, str]:
    """t-SNE (van der Maaten & Hinton 2008) to (n, 2), and its caption."""
    if _collapsed(features):  # scikit-learn would divide by 0 and crash the process
        return np.zeros((len(features), 2)), "t-SNE, collapsed to one point"
    perplexity = min(30.0, (len(features) - 1) / 3)
    # beside training, OpenMP threads that wait for a core make this 5 times slower
    with threadpool_limits(1):
        # Half of scikit-learn's iterations: in about half the time the divergence is within 1 % of
        # what all of them reach.
        mapped = TSNE(
            perplexity=perplexity, init="pca", random_state=0, max_iter=500
        ).fit_transform(features)
    return mapped, f"t-SNE, perplexity {perplexity:.0f}"


def _pca(features: np.ndarray) -> tuple[np.ndarray, tuple[float, float], str]:
    """First two principal components (n, 2), the shares of the variance that they explain, and the
    caption."""
    if _collapsed(features):
        return np.zeros((len(features), 2)), (0.0, 0.0), "PCA, collapsed to one point"
    model = PCA(2, svd_solver="full")
    projection = model.fit_transform(features)
    first, second = (float(share) for share in model.explained_variance_ratio_)
    return projection, (first, second), f"PCA, explained variance {first + second:.0%}"


def _collapsed(features: np.ndarray) -> bool:
    return bool(np.ptp(features, axis=0).max() < 1e-6)  # unit vectors that came from float32


def _draw(
    data: Embeddings,
    points: np.ndarray,  # (n, 2)
    title: str,
    method: str,
    path: Path,
    axes: tuple[str, str] | None = None,
) -> None:
    figure, ax = plt.subplots(figsize=(8, 6), layout="constrained")
    grey = ~np.isin(data.labels, data.coloured)
    all_grey = not data.coloured
    ax.scatter(
        points[grey, 0],
        points[grey, 1],
        s=14,
        color="#4c72b0" if all_grey else GREY,
        alpha=0.8 if all_grey else 0.7,
        linewidths=0,
        zorder=1,
    )
    for i, (label, name) in enumerate(zip(data.coloured, data.names, strict=True)):
        some = points[data.labels == label]
        ax.scatter(
            some[:, 0],
            some[:, 1],
            s=30,
            color=COLOURS[i],
            marker="osD^"[i % 4],
            label=name,
            edgecolors="white",
            linewidths=0.4,
            zorder=2,
        )
    _frame(ax, axes)
    heading(ax, title, f"epoch {data.epoch} · {method} · {_what(data)}")
    if data.coloured:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, handletextpad=0.2)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _frame(ax: plt.Axes, axes: tuple[str, str] | None) -> None:
    ax.set_aspect("equal", adjustable="datalim")
    quiet_frame(ax)
    if axes:
        ax.set_xlabel(axes[0], fontsize=9, color=INK)
        ax.set_ylabel(axes[1], fontsize=9, color=INK)


def _what(data: Embeddings) -> str:
    n = len(data.features)
    images = f"{n} {data.what}" if n == data.total else f"{n} of {data.total} {data.what}"
    if not data.coloured:
        return f"{images}, no labels"
    others = len(np.unique(data.labels[(data.labels >= 0) & ~np.isin(data.labels, data.coloured)]))
    return f"{images}, {len(data.coloured)} classes" + (
        f" in colour, {others} others grey" if others else ""
    )
