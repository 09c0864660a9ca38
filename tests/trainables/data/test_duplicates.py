"""Groups of near-duplicates equal the connected components of the rule applied to all pairs: for
noise, re-encoded pictures and nearly equal frames, wherever blocks and crowds begin."""

import io
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.sparse.csgraph import connected_components

from trainables.data import duplicates, likeness, sketches
from trainables.data.components import Components
from trainables.data.duplicates import field_means, luminance, near_duplicates
from trainables.data.likeness import Pictures
from trainables.data.sketches import Sketches


def brute_force(images: np.ndarray) -> np.ndarray:
    """Return the components of the graph of all pairs, directly from the rule's definition, in
    float64."""
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    luminance = (torch.from_numpy(images) * weights).sum(1)
    thumbnails = F.adaptive_avg_pool2d(luminance, 8).flatten(1).double().numpy()
    pixels = images.reshape(len(images), -1).astype(np.float64)
    pixels -= pixels.mean(1, keepdims=True)
    lengths = np.linalg.norm(pixels, axis=1)

    edges = np.zeros((len(images), len(images)), bool)
    for a in range(len(images)):
        for b in range(a):
            difference = np.sqrt(((thumbnails[a] - thumbnails[b]) ** 2).mean())
            product = lengths[a] * lengths[b]
            alike = product > 0 and pixels[a] @ pixels[b] / product >= 0.98
            same = (images[a] == images[b]).all()
            edges[a, b] = same or (difference <= 2 and alike)
    return connected_components(edges, directed=False)[1]


def equal_groups(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return True if both are the same partition, whatever the labels of its parts."""
    pairs = set(zip(found.tolist(), expected.tolist(), strict=True))
    return len(pairs) == len(set(found.tolist())) == len(set(expected.tolist()))


def clipped(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def scene(rng: np.random.Generator, contrast: float = 50.0) -> np.ndarray:  # (3, 16, 16)
    coarse = rng.normal(0, contrast, (3, 4, 4))
    smooth: np.ndarray = np.kron(coarse, np.ones((4, 4))) + 128
    return smooth


def noise(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)


def frames(rng: np.random.Generator) -> np.ndarray:
    """Return few scenes with much sensor noise: pairs on both sides of both thresholds."""
    images = []
    for contrast in (8.0, 14.0, 20.0, 40.0):
        base = scene(rng, contrast)
        images += [base + rng.normal(0, 4, base.shape) + rng.normal(0, 2) for _ in range(20)]
    return clipped(np.stack(images))


def chains(rng: np.random.Generator) -> np.ndarray:
    """Return slow fades from one scene to another: neighbours are alike, the two ends are not."""
    images = []
    for _ in range(3):
        first, last = scene(rng), scene(rng)
        images += [first + (last - first) * part for part in np.linspace(0, 1, 30)]
    return clipped(np.stack(images))


def dark(rng: np.random.Generator) -> np.ndarray:
    """Return night images: all thumbnails are close, pixels are noise, and some images are
    black."""
    images = rng.integers(0, 4, (50, 3, 16, 16), dtype=np.uint8)
    images[::10] = 0
    images[5::20] = 3
    return images


def copies(rng: np.random.Generator) -> np.ndarray:
    """Return pictures saved again as JPEG at several qualities, with exact copies among them."""
    images = []
    for _ in range(15):
        base = clipped(scene(rng))
        images += [base, base]
        for quality in (80, 95):
            file = io.BytesIO()
            picture = Image.fromarray(base.transpose(1, 2, 0))
            picture.save(file, "JPEG", quality=quality, subsampling=0)
            images.append(np.asarray(Image.open(file)).transpose(2, 0, 1))
    return np.stack(images)


SETS = [noise, frames, chains, dark, copies]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", SETS, ids=lambda make: make.__name__)
def test_groups_are_the_components_of_the_rule(
    make: object, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng([seed, SETS.index(make)])  # type: ignore[arg-type]
    images = make(rng)  # type: ignore[operator]
    images = images[rng.permutation(len(images))]
    expected = brute_force(images)
    assert equal_groups(near_duplicates(images), expected)

    # Small limits, so that a set of this size has several blocks, crowds, lists and probes.
    for probes, crowd, many, block in ((1, 1, 1, 16), (4, 2, 3, 16), (8, 9, 8, 20), (1, 2, 99, 16)):
        monkeypatch.setattr(duplicates, "_PROBES", probes)
        monkeypatch.setattr(duplicates, "_CROWD", crowd)
        monkeypatch.setattr(duplicates, "_MANY", many)
        monkeypatch.setattr(duplicates, "_QUERIES", block)
        monkeypatch.setattr(likeness, "_MOST_IN_BLOCK", block)
        monkeypatch.setattr(duplicates, "_SKETCHED", many)
        assert equal_groups(near_duplicates(images), expected)


def test_the_sets_lie_on_both_sides_of_the_rule() -> None:
    """Otherwise the test above would show little."""
    groups = {make.__name__: brute_force(make(np.random.default_rng(0))) for make in SETS}
    count = {name: len(np.unique(found)) for name, found in groups.items()}
    assert count["noise"] == 60
    assert 4 < count["frames"] < 80
    assert 2 <= count["chains"] < 60
    assert 40 <= count["dark"] < 50
    assert 15 <= count["copies"] < 30


def night(rng: np.random.Generator) -> np.ndarray:
    """Return a still scene in the dark with sensor noise: most pairs correlate, few are copies."""
    base = scene(rng, 3.0) - 110
    images = [clipped(base + rng.normal(0, 2, base.shape)) for _ in range(60)]
    return np.stack(images + [np.clip(image.astype(int) + 1, 0, 255) for image in images[:20]])


@pytest.mark.parametrize("make", [night, noise], ids=lambda make: make.__name__)
def test_a_sketch_loses_no_pair_that_correlates(make: object) -> None:
    images = make(np.random.default_rng(0)).astype(np.uint8)  # type: ignore[operator]
    every = np.arange(len(images))
    pictures = Pictures(images, every, np.zeros((len(images), 64)), Components(len(images)))
    exact = np.corrcoef(images.reshape(len(images), -1).astype(np.float64))
    for steps in ((4,), (4, 40), (128, 512)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sketches, "_STEPS", steps)
            found = Sketches(pictures.vectors, len(images), block=7)
        for least in (0.3, 0.5, 0.98):
            every_pair = np.ones(exact.shape, bool)
            kept = found.without_unlike(every_pair, every, every, least)
            assert kept[exact >= least].all()
    assert kept.sum() < len(images) + 100  # with all axes: the copies, and each image with itself


def test_frames_at_night_are_told_apart_by_their_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of them are compared pixel by pixel."""
    images = np.random.default_rng(0).integers(0, 6, (400, 3, 32, 32), dtype=np.uint8)
    images[-1] = np.minimum(images[0] + 1, 6)
    monkeypatch.setattr(duplicates, "_SKETCHED", 300)
    monkeypatch.setattr(likeness, "_MOST_IN_BLOCK", 50)
    monkeypatch.setattr(sketches, "_SAMPLE", 200)
    compared = []
    vectors = Pictures.vectors
    monkeypatch.setattr(
        Pictures, "vectors", lambda self, rows: compared.append(len(rows)) or vectors(self, rows)
    )
    assert len(np.unique(near_duplicates(images))) == 399
    assert sum(compared) < 5 * len(images)  # probes, sample and sketches; otherwise 36 blocks


@pytest.mark.parametrize("side", [4, 8, 16, 20, 24, 28, 32, 64, 128])
def test_thumbnails_are_to_the_bit_those_of_torch(side: int) -> None:
    """torch computed the first ones, so existing studies have groups based on them."""
    images = np.random.default_rng(side).integers(0, 256, (5, 3, side, side), dtype=np.uint8)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    gray = (torch.from_numpy(images) * weights).sum(1)
    assert np.array_equal(luminance(images), gray.numpy())
    assert np.array_equal(field_means(gray.numpy()), F.adaptive_avg_pool2d(gray, 8).numpy())


def test_groups_are_numbered_by_their_first_hash_whatever_the_order_of_rows() -> None:
    """Version 1 of the split rules takes groups in the order of their numbers."""
    images = copies(np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(len(images))
    assert (near_duplicates(images)[order] == near_duplicates(images[order])).all()


def test_alike_frames_take_memory_in_proportion_to_their_number() -> None:
    rng = np.random.default_rng(0)
    base = np.kron(scene(rng), np.ones((2, 2)))
    peaks = []
    for count in (1500, 6000):
        frames = clipped(base + rng.normal(0, 3, (count, 3, 32, 32)))
        tracemalloc.start()
        assert len(np.unique(near_duplicates(frames))) == 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]  # blocks; all pairs would take 16 times as much


def test_components_against_scipy() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 200, (2, 150))
    components = Components(200)
    for start in range(0, 150, 7):
        components.add_edges(left[start : start + 7], right[start : start + 7])
    edges = np.zeros((200, 200), bool)
    edges[left, right] = True
    expected = connected_components(edges, directed=False)[1]
    assert (components.numbered() == expected).all()
    assert (components.sizes() == np.bincount(expected)[expected]).all()
