"""Pictures of predicted masks: what is written, and where the bars end."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

from trainables.plots.canvas import Canvas
from trainables.plots.draw import draw
from trainables.plots.snapshots import write_arrays

NAMES = ("ground", "square", "disc")
COLOURS = np.array([[80, 120, 60], [200, 50, 50], [60, 60, 200]], np.uint8)
CAPTIONS = ("0000 (first)", "0007 (worst)")


@pytest.fixture
def masks(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """Return a file, and the truth and prediction of each pixel in it."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=(2, 8, 8)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, 0).astype(np.uint8)
    confusion = np.zeros((3, 4), np.int64)
    confusion[:, :3] = confusion_matrix(truth.ravel(), predicted.ravel()).T
    write_arrays(
        tmp_path / "masks-0003.npz",
        epoch=3,
        confusion=confusion,
        images=np.full((2, 3, 8, 8), 90, np.uint8),
        truth=truth,
        predicted=predicted,
        names=np.array(NAMES),
        colors=COLOURS,
        accuracies=np.array([0.9, 0.5]),
        captions=np.array(CAPTIONS),
    )
    return tmp_path / "masks-0003.npz", truth, predicted


def test_panels_show_every_pixel_in_the_colour_of_its_class(
    masks: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, canvases: list[Canvas]
) -> None:
    npz, truth, predicted = masks
    path = draw(npz, tmp_path / "plots", "toy trial 0")[0]
    texts = canvases[0].texts
    assert texts[:5] == [
        "toy trial 0",
        "epoch 3 · validation images",
        "image",
        "truth",
        "predicted",
    ]
    assert set(CAPTIONS) <= set(texts)
    assert texts[-3:] == list(NAMES)

    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    shown = [(pixels == colour).all(-1).sum() for colour in COLOURS]
    expected = np.bincount(np.concatenate([truth.ravel(), predicted.ravel()]))
    np.testing.assert_allclose(np.array(shown) / sum(shown), expected / expected.sum(), atol=0.01)


def test_bars_are_as_long_as_scikit_learns_iou(
    masks: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, canvases: list[Canvas]
) -> None:
    npz, truth, predicted = masks
    path = draw(npz, tmp_path / "plots", "toy trial 0")[1]
    ious = jaccard_score(truth.ravel(), predicted.ravel(), average=None)
    texts = canvases[1].texts
    assert texts[1] == f"epoch 3 · mIoU {ious.mean():.3f}"
    for name, iou in zip(NAMES, ious, strict=True):
        assert texts[texts.index(name) + 1] == f"{iou:.3f}"

    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    lengths = [(pixels == colour).all(-1).sum(1).max() for colour in COLOURS]
    np.testing.assert_allclose(np.array(lengths) / lengths[0], ious / ious[0], atol=0.02)


def test_confusion_has_a_row_for_pixels_without_class(
    masks: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, canvases: list[Canvas]
) -> None:
    npz, _, _ = masks
    with np.load(npz) as file:
        arrays = dict(file)
    arrays["confusion"][0, 3] = 5
    write_arrays(npz, **arrays)
    draw(npz, tmp_path / "plots", "toy trial 0")
    texts = canvases[2].texts
    assert texts[2:6] == [*NAMES, "unknown"]
    assert texts[6:9] == list(NAMES)
