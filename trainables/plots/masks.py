"""Pictures of segmentation: masks beside image and truth, IoU by class, and the confusion of
pixels. `draw.py` is the command."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.patches import Patch

from trainables.errors import UserError
from trainables.miou import class_iou, mean_iou
from trainables.plots.style import caption, plt

_UNKNOWN = (0, 0, 0)
_NEEDED = (
    "epoch",
    "positions",
    "confusion",
    "images",
    "truth",
    "predicted",
    "names",
    "colors",
    "accuracies",
)


@dataclass(frozen=True)
class Masks:
    """Checked content of a file."""

    epoch: int
    positions: np.ndarray  # (n,) places of the images in the validation set
    # (C, C + 1) int64, of the whole set: [predicted, true], last column unknown truth
    confusion: np.ndarray
    images: np.ndarray  # (n, 3, h, w) uint8
    truth: np.ndarray  # (n, h, w) uint8
    predicted: np.ndarray  # (n, h, w) uint8
    names: tuple[str, ...]  # C
    colors: np.ndarray  # (C, 3) uint8
    accuracies: np.ndarray  # (n,)


def mask_pictures(npz: Path, out_dir: Path, title: str) -> list[Path]:
    """Write `predicted_<stem>.png`, `iou_<stem>.png` and `confusion_<stem>.png` of a file of
    `Segmentation.snapshot` into `out_dir`.

    Raises:
        UserError: the file is missing, unreadable, or lacks an array.
    """
    data = _read(Path(npz))
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [out_dir / f"{kind}_{npz.stem}.png" for kind in ("predicted", "iou", "confusion")]
    for path, figure in zip(
        paths, (_panels(data, title), _bars(data, title), _confusion(data, title)), strict=True
    ):
        figure.savefig(path, dpi=100)
        plt.close(figure)
    return paths


def coloured(masks: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Class numbers (..., h, w) -> (..., h, w, 3) uint8; what is no class is black."""
    table = np.tile(np.array(_UNKNOWN, np.uint8), (256, 1))
    table[: len(colors)] = colors
    return table[masks]


def _read(npz: Path) -> Masks:
    try:
        with np.load(npz) as file:
            found = {name: file[name] for name in _NEEDED}
    except FileNotFoundError:
        raise UserError(
            f"no masks file {str(npz)!r}; a segmentation trial writes it into its folder"
        ) from None
    except KeyError as error:
        raise UserError(
            f"{str(npz)!r} lacks an array: {error.args[0]}; it needs {', '.join(_NEEDED)}"
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"cannot read masks {str(npz)!r}: {error}; a segmentation trial writes such a file"
        ) from None
    names = tuple(caption(str(name)) for name in found["names"])
    colors = found["colors"].reshape(-1, 3)
    if len(colors) != len(names):  # a data set without colours of its own
        colors = np.round(255 * plt.get_cmap("tab20")(np.arange(len(names)) % 20)[:, :3]).astype(
            np.uint8
        )
    return Masks(**{**found, "epoch": int(found["epoch"]), "names": names, "colors": colors})


def _panels(data: Masks, title: str) -> plt.Figure:
    n = len(data.positions)
    figure, axes = plt.subplots(
        n, 3, figsize=(7.2, 2.2 * n + 1.0), layout="constrained", squeeze=False
    )
    columns = (
        data.images.transpose(0, 2, 3, 1),
        coloured(data.truth, data.colors),
        coloured(data.predicted, data.colors),
    )
    for row in range(n):
        for ax, column, heading in zip(
            axes[row], columns, ("image", "truth", "predicted"), strict=True
        ):
            ax.imshow(column[row], interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            if row == 0:
                ax.set_title(heading, fontsize=9, color="#444444")
        axes[row, 0].set_ylabel(
            f"{data.positions[row]:04d}\npixels right {data.accuracies[row]:.0%}", fontsize=8
        )
    figure.suptitle(
        f"{title}, validation images, epoch {data.epoch}", fontsize=11, fontweight="bold"
    )
    handles = [
        Patch(
            facecolor=(color[0] / 255, color[1] / 255, color[2] / 255),
            edgecolor="#888888",
            label=name,
        )
        for name, color in zip(data.names, data.colors.tolist(), strict=True)
    ]
    if np.any(data.truth >= len(data.names)):
        handles.append(Patch(facecolor=_UNKNOWN, label="unknown"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(4, len(handles)),
        frameon=False,
        fontsize=9,
    )
    return figure


def _bars(data: Masks, title: str) -> plt.Figure:
    confusion = torch.from_numpy(data.confusion)
    ious = class_iou(confusion).numpy()
    figure, ax = plt.subplots(figsize=(6, 0.45 * len(ious) + 1.6), layout="constrained")
    places = np.arange(len(ious))
    ax.barh(
        places, np.nan_to_num(ious), color=data.colors / 255, edgecolor="#666666", linewidth=0.6
    )
    for place, iou in enumerate(ious):
        ax.text(
            float(np.nan_to_num(iou)) + 0.01,
            place,
            "absent" if np.isnan(iou) else f"{iou:.3f}",
            va="center",
            fontsize=9,
        )
    ax.set_yticks(places, data.names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.1)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_xlabel("IoU")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(
        f"{title}, epoch {data.epoch}: mIoU {mean_iou(confusion):.3f}",
        loc="left",
        fontsize=11,
        fontweight="bold",
    )
    return figure


def _confusion(data: Masks, title: str) -> plt.Figure:
    truth = data.confusion.T.astype(float)  # (C + 1, C): a row is a truth
    names = [*data.names, "unknown"] if truth[-1].any() else list(data.names)
    shares = (truth / truth.sum(1, keepdims=True).clip(1))[: len(names)]
    side = 0.62 * len(names) + 2.4
    figure, ax = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    shown = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        ax.text(
            column,
            row,
            f"{share:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share > 0.6 else "#333333",
        )
    ax.set_xticks(range(len(data.names)), data.names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set_xlabel("predicted")
    ax.set_ylabel("truth")
    ax.set_title(
        f"{title}, epoch {data.epoch}\nshare of each class's pixels",
        loc="left",
        fontsize=10,
        fontweight="bold",
    )
    figure.colorbar(shown, shrink=0.7)
    return figure
