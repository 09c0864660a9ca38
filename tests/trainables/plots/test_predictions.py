"""Pictures of predictions and learning curves: what is drawn, against scikit-learn and NumPy, and
what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import PowerNorm
from matplotlib.image import imread
from PIL import Image
from sklearn.metrics import confusion_matrix

from trainables.errors import UserError
from trainables.plots import predictions as prediction_plots
from trainables.plots import share_matrix
from trainables.plots.canvas import DPI, Canvas
from trainables.plots.class_colours import COLOURS, blues
from trainables.plots.curves import bands, draw_curves
from trainables.plots.draw import draw
from trainables.plots.snapshots import MISTAKES, confident_mistakes, write_arrays


def write_predictions(
    path: Path, classes: int = 5, n: int = 120, accuracy: float = 0.7, **more: Any
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    predicted = np.where(rng.random(n) < accuracy, labels, rng.integers(classes, size=n))
    confidence = rng.random(n).astype(np.float32)
    mistakes = confident_mistakes(labels, predicted, confidence)
    arrays: dict[str, Any] = {
        "labels": labels,
        "predicted": predicted,
        "confidence": confidence,
        "names": np.array([f"class {c}" for c in range(classes)]),
        "epoch": 4,
        "mistakes": mistakes,
        "images": np.zeros((len(mistakes), 3, 8, 8), np.uint8),
    }
    write_arrays(path, **arrays | more)
    return arrays | more


def row_names(canvas: Canvas, count: int) -> list[str]:
    """Return the names of the matrix's rows, which follow title and subtitle."""
    return canvas.texts[2 : 2 + count]


def test_confusion_matrix_equals_scikit_learns_and_its_largest_pairs_are_listed(
    tmp_path: Path, canvases: list[Canvas], monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured: list[np.ndarray] = []

    def kept(shares: np.ndarray) -> np.ndarray:
        coloured.append(shares)
        return blues(shares)

    monkeypatch.setattr(share_matrix, "blues", kept)
    data = write_predictions(tmp_path / "predictions-val.npz")
    paths = draw(tmp_path / "predictions-val.npz", tmp_path / "plots", "trial 7")
    assert [path.name for path in paths] == [
        "confusion_predictions-val.png",
        "mistakes_predictions-val.png",
    ]
    assert all(imread(path).ndim == 3 for path in paths)
    counts = confusion_matrix(data["labels"], data["predicted"])
    np.testing.assert_allclose(coloured[0], counts / counts.sum(1, keepdims=True))

    texts = canvases[0].texts
    assert row_names(canvases[0], 5) == list(data["names"])
    off = counts - np.diag(np.diag(counts))
    a, b = np.unravel_index(off.argmax(), off.shape)
    listed = texts[texts.index("most often confused") :]
    assert listed[1:3] == [f"class {a} → class {b}", f"{off.max()} of {counts[a].sum()}"]
    accuracy = (data["labels"] == data["predicted"]).mean()
    assert f"epoch 4 · 120 validation images, 5 classes, {accuracy:.1%} right" in texts


def test_shares_have_the_colours_of_matplotlibs_blues() -> None:
    shares = np.linspace(0, 1, 50).reshape(10, 5)
    expected = plt.get_cmap("Blues")(PowerNorm(0.5, 0, 1)(shares))[..., :3]
    np.testing.assert_allclose(blues(shares), 255 * expected, atol=1.5)


def test_long_names_are_cut_and_special_characters_kept(
    tmp_path: Path, canvases: list[Canvas]
) -> None:
    """Some are longer than their space and have no blank to break at; some contain dollars, which
    are no formula."""
    names = np.array(["golden_retriever_dog", "US$_1$_bill^", "_background_", "d", "e"])
    write_predictions(tmp_path / "predictions-val.npz", names=names)
    draw(tmp_path / "predictions-val.npz", tmp_path / "plots", "trial 7")
    captions = row_names(canvases[0], 5)
    assert captions == ["golden_retriever_…", "US$_1$_bill^", "_background_", "d", "e"]


def test_the_most_confident_mistakes_come_first(tmp_path: Path, canvases: list[Canvas]) -> None:
    data = write_predictions(tmp_path / "predictions-val.npz", n=300)
    wrong = [i for i in range(300) if data["labels"][i] != data["predicted"][i]]
    expected = sorted(wrong, key=lambda i: -data["confidence"][i])[:MISTAKES]
    assert data["mistakes"].tolist() == expected
    draw(tmp_path / "predictions-val.npz", tmp_path, "t")
    captions = canvases[1].texts[2:]
    assert len(captions) == MISTAKES
    for caption, row in zip(captions, expected, strict=True):
        assert float(caption.split()[-1]) == pytest.approx(data["confidence"][row], abs=0.005)


def test_the_pixels_of_a_mistake_are_in_the_picture(tmp_path: Path) -> None:
    levels = np.arange(10, 250, 10, dtype=np.uint8)[:MISTAKES]
    images = levels[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    write_predictions(tmp_path / "predictions-val.npz", n=300, images=images)
    _, path = draw(tmp_path / "predictions-val.npz", tmp_path, "t")
    picture = np.asarray(Image.open(path))
    is_grey = (picture[..., :1] == picture).all(-1)
    shown = np.bincount(picture[is_grey][:, 0], minlength=256)
    side = round(prediction_plots._IMAGE * DPI)
    assert (shown[levels] >= side**2).all()


def test_without_mistakes_only_the_matrix_is_drawn(tmp_path: Path) -> None:
    write_predictions(tmp_path / "predictions-val.npz", accuracy=1.0)
    assert [path.name for path in draw(tmp_path / "predictions-val.npz", tmp_path, "t")] == [
        "confusion_predictions-val.png"
    ]


def test_only_the_most_confused_of_very_many_classes_are_shown(
    tmp_path: Path, canvases: list[Canvas]
) -> None:
    labels, predicted = np.arange(1000), np.arange(1000)
    predicted[600:640] = np.roll(predicted[600:640], 1)
    names = np.array([str(c) for c in range(1000)])
    write_predictions(
        tmp_path / "predictions-val.npz",
        labels=labels,
        predicted=predicted,
        confidence=np.ones(1000),
        names=names,
    )
    draw(tmp_path / "predictions-val.npz", tmp_path, "t")
    shown = [int(name) for name in row_names(canvases[0], 70)]
    assert len(set(shown)) == 70
    assert set(range(600, 640)) <= set(shown)


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "predictions-torn.npz").write_bytes(b"PK")
    np.savez(tmp_path / "predictions-lacking.npz", labels=np.zeros(3, int))
    write_predictions(tmp_path / "predictions-outside.npz", predicted=np.full(120, 5))
    for name in ("torn", "lacking", "outside", "missing"):
        with pytest.raises(UserError, match=f"predictions-{name}.npz") as caught:
            draw(tmp_path / f"predictions-{name}.npz", tmp_path / "plots", "t")
        assert "\n" not in str(caught.value)


# -- learning curves


def test_bands_equal_numpys_over_epochs_that_all_runs_have() -> None:
    mean, low, high = bands([[0.1, 0.4, 0.9], [0.3, 0.2], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(mean, [0.2, 0.3])
    np.testing.assert_allclose(low, [0.1, 0.2])
    np.testing.assert_allclose(high, [0.3, 0.4])


@pytest.fixture
def ax() -> Iterator[plt.Axes]:
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_every_label_has_its_own_line_and_name(ax: plt.Axes) -> None:
    curves = {
        label: [[0.1, 0.2 + i / 100], [0.2, 0.3 + i / 100]] for i, label in enumerate("ABCDE")
    }
    draw_curves(ax, curves, "val/top1", dict(zip(curves, COLOURS, strict=False)), chance=0.05)
    lines = [
        line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"
    ]
    for line, runs in zip(lines, curves.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.mean(runs, 0))
    names = {
        text.get_text(): text.xy[1]
        for text in ax.texts
        if text.get_text()[:1] in curves and "  " in text.get_text()
    }
    assert sorted(names) == [f"{label}  {np.mean(curves[label], 0)[-1]:.3f}" for label in "ABCDE"]
    low, high = ax.get_ylim()
    assert min(np.diff(sorted(names.values()))) > 0.03 * (high - low)
    assert low <= min(names.values())
    assert max(names.values()) <= high


@pytest.mark.parametrize("curves", [{}, {"A": []}, {"A": [[0.1], []]}])
def test_a_label_without_a_run_is_refused(
    curves: dict[str, list[list[float]]], ax: plt.Axes
) -> None:
    with pytest.raises(ValueError, match="every label needs runs"):
        draw_curves(ax, curves, "val/top1", {"A": "C0"})
