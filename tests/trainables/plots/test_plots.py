"""Pictures of embeddings: what is drawn, against NumPy and scikit-learn, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from trainables.errors import UserError
from trainables.plots import embeddings as plots
from trainables.plots.class_colours import COLOURS
from trainables.plots.draw import KINDS, main
from trainables.plots.embeddings import embedding_pictures, load_embeddings
from trainables.plots.snapshots import MAX_POINTS


def write_embeddings(path, features, labels, epoch=3, **more):
    np.savez(path, features=np.asarray(features, np.float32), labels=labels, epoch=epoch, **more)
    return path


def write_small_embeddings(path, n=30, classes=3, **more):
    rng = np.random.default_rng(0)
    return write_embeddings(path, rng.normal(size=(n, 8)), rng.integers(classes, size=n), **more)


def record_drawings(monkeypatch):
    """Record what is drawn on the canvas, and draw it."""
    drawn, draw = [], plots._draw

    def record(data, points, title, method, path, axes=None):
        drawn.append((data, points, title, method, axes))
        draw(data, points, title, method, path, axes)

    monkeypatch.setattr(plots, "_draw", record)
    return drawn


def test_pca_equals_numpy_and_tsne_keeps_neighbours(tmp_path, monkeypatch):
    images, labels = load_digits(return_X_y=True)
    npz = write_embeddings(tmp_path / "embeddings-0003.npz", images[:500], labels[:500])
    drawn = record_drawings(monkeypatch)
    paths = embedding_pictures(npz, tmp_path / "plots", "trial 7")
    assert [p.name for p in paths] == ["tsne_embeddings-0003.png", "pca_embeddings-0003.png"]
    for path in paths:
        height, width, _ = imread(path).shape
        assert (width, height) == (960, 720)

    (data, mapped, title, tsne, _), (_, projected, _, pca, axes) = drawn
    unit = images[:500] / np.linalg.norm(images[:500], axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    _, sigma, directions = np.linalg.svd(centred, full_matrices=False)
    share = sigma**2 / (sigma**2).sum()
    np.testing.assert_allclose(np.abs(projected), np.abs(centred @ directions[:2].T), atol=1e-5)
    assert pca == f"PCA, explained variance {share[:2].sum():.0%}"
    assert axes == (
        f"component 1 ({share[0]:.0%} of the variance)",
        f"component 2 ({share[1]:.0%})",
    )

    assert (title, data.epoch, tsne) == ("trial 7", 3, "t-SNE, perplexity 30")
    np.testing.assert_array_equal(data.labels, labels[:500])
    even = np.arange(500) % 2 == 0
    in_plane = (
        KNeighborsClassifier(5)
        .fit(mapped[even], data.labels[even])
        .score(mapped[~even], data.labels[~even])
    )
    in_space = (
        KNeighborsClassifier(5)
        .fit(unit[even], data.labels[even])
        .score(unit[~even], data.labels[~even])
    )
    assert in_plane > in_space - 0.05


def test_equal_input_gives_equal_pictures(tmp_path):
    npz = write_small_embeddings(tmp_path / "a.npz")
    first, second = (embedding_pictures(npz, tmp_path / name, "t") for name in ("one", "two"))
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_most_frequent_classes_are_coloured_and_rows_are_capped(tmp_path):
    # 1,580 rows; classes 28 to 39 are the largest
    labels = np.repeat(np.arange(40), [20 + i for i in range(40)])
    features = np.random.default_rng(0).normal(size=(len(labels), 4))
    features[:, 0] = labels  # identifies the row by its features
    data = load_embeddings(write_embeddings(tmp_path / "a.npz", features, labels))
    assert data.coloured == tuple(range(28, 40))
    assert len(data.features) == len(data.labels) == MAX_POINTS
    assert data.total == 1580
    assert np.isin(data.labels, data.coloured).sum() == MAX_POINTS * 2 // 3
    assert np.linalg.norm(data.features, axis=1) == pytest.approx(1)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row, label in zip(data.features[::50], data.labels[::50], strict=True):
        assert label in labels[np.abs(unit - row).max(1) < 1e-6]
    assert plots._what(data) == "600 of 1580 images, 12 classes in colour, 28 others grey"


def test_few_classes_are_all_coloured(tmp_path):
    labels = np.arange(900) % 3
    data = load_embeddings(
        write_embeddings(tmp_path / "a.npz", np.random.default_rng(0).normal(size=(900, 4)), labels)
    )
    assert (data.coloured, len(data.features)) == ((0, 1, 2), MAX_POINTS)
    assert plots._what(data) == "600 of 900 images, 3 classes"


def test_classes_without_names_are_numbered(tmp_path):
    assert load_embeddings(write_small_embeddings(tmp_path / "a.npz")).names == (
        "class 0",
        "class 1",
        "class 2",
    )
    assert load_embeddings(
        write_small_embeddings(tmp_path / "b.npz", names=np.array(["Ж", "Ա", "ა"]))
    ).names == (
        "Ж",
        "Ա",
        "ა",
    )


def test_key_lists_class_names_unchanged(tmp_path, canvases):
    embedding_pictures(
        write_small_embeddings(tmp_path / "a.npz", names=np.array(["_noise_", "a$b$c^", "c"])),
        tmp_path,
        "t",
    )
    assert len(canvases) == 2
    for canvas in canvases:
        assert canvas.texts[2:5] == ["_noise_", "a$b$c^", "c"]


def test_points_lie_in_the_frame_with_one_scale_for_both_axes():
    frame = plots._Frame(left=1, top=1, right=7, bottom=4)
    points = np.random.default_rng(0).normal(size=(50, 2)) * [20, 3] + 100
    placed = plots._placed(points, frame)
    assert (placed > [1, 1]).all()
    assert (placed < [7, 4]).all()
    across = np.ptp(placed, axis=0) / np.ptp(points, axis=0)
    assert across[0] == pytest.approx(across[1])
    assert np.corrcoef(points[:, 1], placed[:, 1])[0, 1] == pytest.approx(-1)  # y points down


def test_every_point_is_drawn_in_the_colour_of_its_class(tmp_path):
    """The points lie on a circle, so that none covers another."""
    labels = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    angles = np.random.default_rng(0).permutation(len(labels)) * 2 * np.pi / len(labels)
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    _, pca = embedding_pictures(
        write_embeddings(tmp_path / "a.npz", features, labels), tmp_path, "t"
    )
    picture = np.round(255 * imread(pca)[..., :3])
    is_frame = (picture == 0xCC).all(-1)
    right = np.flatnonzero(is_frame.sum(0) > 300)[-1]
    for number, count in enumerate(range(1, 7)):
        rgb = np.round(255 * np.array(to_rgb(COLOURS[number])))
        is_colour = (picture == rgb).all(-1)
        in_key = is_colour[:, right:].sum()
        assert in_key > 20
        assert is_colour[:, :right].sum() / in_key == pytest.approx(count, rel=0.25)


def test_subtitle_names_the_split(tmp_path):
    named = [
        plots._what(load_embeddings(write_small_embeddings(tmp_path / "a.npz", part=part)))
        for part in ("train", "val")
    ]
    assert named == ["30 training images, 3 classes", "30 validation images, 3 classes"]


@pytest.mark.parametrize("labels", [np.full(30, -1), np.zeros(0, np.int64)])
def test_images_without_labels_are_drawn(tmp_path, labels):
    npz = write_embeddings(
        tmp_path / "a.npz", np.random.default_rng(0).normal(size=(30, 8)), labels
    )
    assert plots._what(load_embeddings(npz)) == "30 images, no labels"
    assert all(path.stat().st_size for path in embedding_pictures(npz, tmp_path, "t"))


def test_collapsed_embeddings_and_four_points_are_drawn(tmp_path, monkeypatch):
    drawn = record_drawings(monkeypatch)
    embedding_pictures(
        write_embeddings(
            tmp_path / "a.npz", np.ones((30, 8)) * np.arange(1, 31)[:, None], np.arange(30) % 3
        ),
        tmp_path,
        "t",
    )
    assert [method for _, _, _, method, _ in drawn] == [
        "t-SNE, collapsed to one point",
        "PCA, collapsed to one point",
    ]
    embedding_pictures(write_small_embeddings(tmp_path / "b.npz", n=4), tmp_path, "t")
    assert np.isfinite(drawn[2][1]).all()


def test_bad_files_are_refused_by_name(tmp_path):
    good = np.random.default_rng(0).normal(size=(10, 4))
    bad = good.copy()
    bad[3, 1] = np.nan
    ten = np.arange(10)
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    np.savez(tmp_path / "lacking.npz", features=good, epoch=1)
    np.savez(tmp_path / "pickled.npz", features=good, labels=np.array([None] * 10), epoch=1)
    np.save(tmp_path / "array.npy", good)
    write_embeddings(tmp_path / "nan.npz", bad, ten)
    write_embeddings(tmp_path / "few.npz", good[:3], ten[:3])
    write_embeddings(tmp_path / "flat.npz", good[:, 0], ten)
    write_embeddings(tmp_path / "short.npz", good, ten[:9])
    write_embeddings(tmp_path / "float.npz", good, ten / 2)
    (tmp_path / "torn.npz").write_bytes((tmp_path / "short.npz").read_bytes()[:300])
    names = [
        "text",
        "empty",
        "lacking",
        "pickled",
        "nan",
        "few",
        "flat",
        "short",
        "float",
        "torn",
        "missing",
    ]
    for file in [*(f"{name}.npz" for name in names), "array.npy"]:
        with pytest.raises(UserError) as caught:
            embedding_pictures(tmp_path / file, tmp_path / "plots", "t")
        assert file in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "plots").exists()


def test_command_draws_what_it_can_and_reports_what_it_refuses(tmp_path, capsys):
    one = write_small_embeddings(tmp_path / "embeddings-1.npz")
    (tmp_path / "other").mkdir()
    twin = write_small_embeddings(tmp_path / "other" / "embeddings-1.npz")
    strange = write_small_embeddings(tmp_path / "features-1.npz")
    status = main(
        [
            str(tmp_path / "embeddings-missing.npz"),
            str(one),
            str(twin),
            str(strange),
            str(tmp_path / "plots"),
        ]
    )
    output = capsys.readouterr()
    assert status == 2
    assert output.out.split() == [
        str(tmp_path / "plots" / f"{kind}_embeddings-1.png") for kind in ("tsne", "pca")
    ]
    refused = output.err.splitlines()
    assert len(refused) == 3
    assert "embeddings-missing.npz" in refused[0]
    assert "would overwrite" in refused[1]
    assert "features-1.npz" in refused[2]
    assert "embeddings" in refused[2]


@pytest.mark.heavy
def test_command_runs_as_a_module(tmp_path):
    npz = write_small_embeddings(tmp_path / "embeddings-2.npz")
    command = [sys.executable, "-m", "trainables.plots.draw", str(npz), str(tmp_path / "plots")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == [
        "pca_embeddings-2.png",
        "tsne_embeddings-2.png",
    ]
    assert done.stderr == ""


def test_drawing_imports_nothing_that_takes_longer_than_drawing():
    """Checked in a new interpreter, since this one has imported all of them."""
    kinds = ", ".join(f"{kind!r}" for kind in KINDS)
    code = f"""
import sys
from trainables.plots.draw import KINDS
for kind in ({kinds},):
    KINDS[kind]()
slow = ("torch", "sklearn", "scipy", "pandas", "torchvision", "plotly", "matplotlib")
print([name for name in slow if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
