"""Texts, markers and files of pictures against matplotlib's and Pillow's."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from trainables.plots.canvas import Canvas, width_of
from trainables.plots.png import write_png

WIDTH, HEIGHT, DPI = 4.0, 1.0, 120
TEXT = "epoch 12 · 97% → Ящик"


def matplotlibs_figure() -> Figure:
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def ink_of_figure(figure: Figure) -> np.ndarray:
    """Return how dark each pixel is, from 0 to 1."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    return 1 - pixels[..., :3].mean(-1) / 255


def ink_of_canvas(canvas: Canvas, folder: Path) -> np.ndarray:
    canvas.save(folder / "a.png")
    with Image.open(folder / "a.png") as picture:
        return 1 - np.asarray(picture).mean(-1) / 255


def inked_box(ink: np.ndarray) -> list[int]:
    """Return left, top, right and bottom of what is drawn."""
    rows, columns = np.nonzero(ink > 0.2)
    return [columns.min(), rows.min(), columns.max(), rows.max()]


@pytest.mark.parametrize("va", ["baseline", "center_baseline", "center", "top", "bottom"])
@pytest.mark.parametrize("ha", ["left", "center", "right"])
def test_a_text_lies_where_matplotlib_puts_it(tmp_path: Path, ha: str, va: str) -> None:
    figure = matplotlibs_figure()
    figure.text(0.5, 0.5, TEXT, fontsize=9, color="black", ha=ha, va=va)
    expected = ink_of_figure(figure)
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.write(WIDTH / 2, HEIGHT / 2, TEXT, color="black", ha=ha, va=va)  # type: ignore[arg-type]
    found = ink_of_canvas(canvas, tmp_path)
    np.testing.assert_allclose(inked_box(found), inked_box(expected), atol=2)
    assert found.sum() == pytest.approx(expected.sum(), rel=0.05)


@pytest.mark.parametrize("va", ["center", "top", "bottom"])
def test_a_text_that_is_read_upwards_lies_where_matplotlib_puts_it(tmp_path: Path, va: str) -> None:
    figure = matplotlibs_figure()
    figure.text(0.5, 0.5, "digit 7", fontsize=9, color="black", ha="center", va=va, rotation=90)
    canvas = Canvas(WIDTH, HEIGHT)
    look = {"color": "black", "ha": "center", "va": va, "rotated": True}
    canvas.write(WIDTH / 2, HEIGHT / 2, "digit 7", **look)  # type: ignore[arg-type]
    found, expected = ink_of_canvas(canvas, tmp_path), ink_of_figure(figure)
    np.testing.assert_allclose(inked_box(found), inked_box(expected), atol=2)


def test_the_second_line_of_a_text_lies_below_the_first(tmp_path: Path) -> None:
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.write(1, 0.8, "one\ntwo", va="bottom", ha="center")
    rows = np.flatnonzero(ink_of_canvas(canvas, tmp_path).sum(1))
    gaps = np.flatnonzero(np.diff(rows) > 1)
    assert len(gaps) == 1
    assert 0.7 * DPI < rows.max() < 0.8 * DPI


def test_the_width_of_a_text_is_that_of_its_pixels(tmp_path: Path) -> None:
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.write(0, 0.5, "width")
    left, _, right, _ = inked_box(ink_of_canvas(canvas, tmp_path))
    assert 0 <= width_of(["w", "width"]) * DPI - (right - left) <= 5  # space around the letters


@pytest.mark.parametrize("shape", ["o", "s", "D", "^"])
def test_markers_are_matplotlibs(tmp_path: Path, shape: str) -> None:
    """matplotlib draws them in the middle of a pixel."""
    pixels = np.array([[60, 36], [180, 61], [330, 72]])
    figure = matplotlibs_figure()
    ax = figure.add_axes((0, 0, 1, 1))
    ax.axis("off")
    ax.set_xlim(0, WIDTH)
    ax.set_ylim(HEIGHT, 0)
    ax.scatter(
        *pixels.T / DPI,
        s=60,
        c="black",
        marker=shape,
        edgecolors="white",
        linewidths=0.4,
        snap=False,
    )
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.scatter((pixels + 0.5) / DPI, 60, shape, ["black"] * 3, edge=0.4)
    found, expected = ink_of_canvas(canvas, tmp_path), ink_of_figure(figure)
    assert found.sum() == pytest.approx(expected.sum(), rel=0.03)
    np.testing.assert_allclose(found, expected, atol=0.2)


def test_a_transparent_marker_lets_the_background_through(tmp_path: Path) -> None:
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.scatter(np.array([[1.0, 0.5]]), 100, "s", ["black"], opacity=0.7)
    assert ink_of_canvas(canvas, tmp_path).max() == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("photos", [False, True])
def test_a_file_holds_its_pixels_and_their_size(tmp_path: Path, photos: bool) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(7, 5, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels, dpi=120, photos=photos)
    with Image.open(tmp_path / "a.png") as picture:
        picture.verify()
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)
        assert picture.info["dpi"] == pytest.approx((120, 120), abs=0.1)


@pytest.mark.parametrize("shift", [0.1, 0.4, 0.9])
def test_a_marker_lies_within_an_eighth_of_a_pixel_of_its_place(
    tmp_path: Path, shift: float
) -> None:
    at = np.array([60 + shift, 40 - shift])
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.scatter(at[None] / DPI, 60, "o", ["black"])
    ink = ink_of_canvas(canvas, tmp_path)
    rows, columns = np.indices(ink.shape) + 0.5
    middle = [(ink * columns).sum() / ink.sum(), (ink * rows).sum() / ink.sum()]
    np.testing.assert_allclose(middle, at, atol=0.14)
