"""Segmentation is evaluated on whole rectangles: compared with NumPy at the shape of each image,
and with the output of the served model."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.shapes import shapes_config
from trainables.augment.image_ops import mean_std
from trainables.config import flatten
from trainables.data import IGNORE, DataConfig, DataSet, load_dataset
from trainables.segmentation import Segmentation, SegmentationConfig
from trainables.served import Served

S = 32
SHAPES = [(32, 48), (40, 60), (64, 32), (32, 32), (90, 61)]  # height, width of files
CLASSES = ("ground", "object")


def folder(root: Path, count: int = 24) -> Path:
    """Write images of five shapes. Class 1 is in the margins that a centred square would cut
    off."""
    for number in range(count):
        height, width = SHAPES[number % len(SHAPES)]
        rng = np.random.default_rng(number)
        mask = (rng.random((height // 4 + 1, width // 4 + 1)) < 0.3).astype(np.uint8)
        mask = mask.repeat(4, 0).repeat(4, 1)[:height, :width]
        image = rng.integers(0, 90, (height, width, 3)) + 120 * mask[..., None]
        mask[0, : 3 + number % 5] = IGNORE
        for kind, pixels in (("images", image.astype(np.uint8)), ("masks", mask)):
            path = root / kind / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (root / "classes.txt").write_text("ground\nobject\n")
    return root


def config_of(root: Path, **changes: Any) -> SegmentationConfig:
    return shapes_config(data=DataConfig(name=str(root), image_size=S, **changes))


def dataset(root: Path, **changes: Any) -> DataSet:
    return load_dataset(config_of(root, **changes).data, "segment", root.parent / "cache")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Segmentation:
    root = folder(tmp_path_factory.mktemp("whole") / "set")
    torch.manual_seed(0)
    made = Segmentation(config_of(root), dataset(root))
    made.calibrate()
    return made


def resized(path: Path, values: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return image and mask with a shorter side of S, by Pillow alone."""
    image, mask = Image.open(path), Image.open(values)
    factor = S / min(image.size)
    size = (round(image.width * factor), round(image.height * factor))
    return (
        np.asarray(image.resize(size, Image.Resampling.BICUBIC)),
        np.asarray(mask.resize(size, Image.Resampling.NEAREST)),
    )


def answers(model: Segmentation, images: list[np.ndarray]) -> list[np.ndarray]:
    """Return the network's class of every pixel, one image at a time."""
    mean, std = mean_std("imagenet", torch.device("cpu"))
    model.eval()
    found = []
    with torch.no_grad():
        for image in images:
            pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
            logits = model.net((pixels - mean) / std)[0]
            found.append(logits.argmax(1)[0].numpy())
    return found


def rows_of(model: Segmentation, split: str) -> list[str]:
    names = sorted(path.name for path in (Path(model.config.data.name) / "images").iterdir())
    return [names[row] for row in getattr(model.data, split).indices]


@pytest.mark.parametrize("split", ["val", "test"])
def test_metrics_are_numpys_at_the_shape_of_each_image(model: Segmentation, split: str) -> None:
    root = Path(model.config.data.name)
    pairs = [resized(root / "images" / n, root / "masks" / n) for n in rows_of(model, split)]
    predicted = answers(model, [image for image, _ in pairs])
    hits = np.zeros(2)
    union = np.zeros(2)
    right = known = 0
    for guess, (_, truth) in zip(predicted, pairs, strict=True):
        assert guess.shape == truth.shape
        for number in range(2):
            hits[number] += ((guess == number) & (truth == number)).sum()
            union[number] += ((guess == number) | (truth == number)).sum()
        right += (guess == truth).sum()
        known += (truth != IGNORE).sum()

    metrics = model.validate() if split == "val" else model.test()
    np.testing.assert_allclose(metrics[f"{split}/miou"], (hits / union).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics[f"{split}/pixel_accuracy"], right / known, rtol=1e-6)

    outcomes = model.test_outcomes()
    if split == "test":
        assert outcomes is not None
        sums = outcomes.overlaps["test/miou"].sum(0)
        np.testing.assert_array_equal(sums, np.stack([hits, union], 1))
        for unit, guess, (_, truth) in zip(
            outcomes.overlaps["test/miou"], predicted, pairs, strict=True
        ):
            assert unit[1, 0] == ((guess == 1) & (truth == 1)).sum()  # every image is in its place


def test_the_served_model_answers_what_is_judged(model: Segmentation, tmp_path: Path) -> None:
    model.export(tmp_path / "weights.pt", {})
    about = {
        "kind": "Segmentation",
        "config": flatten(model.config),
        "classes": list(CLASSES),
        "colors": [[0, 0, 0], [255, 0, 0]],
        "labelled": False,
    }
    served = Served.of_trial(about, tmp_path / "weights.pt")
    whole = model.data.val.whole
    assert whole is not None
    images = [whole.image(row).transpose(1, 2, 0) for row in model.data.val.indices]
    for image, expected in zip(images, answers(model, images), strict=True):
        np.testing.assert_array_equal(served.predict(image[None])[0], expected)

    large = np.asarray(Image.open(Path(model.config.data.name) / "images/04.png"))
    assert served.predict(large[None]).shape == (1, 90, 61)
    old = {key: value for key, value in flatten(model.config).items() if key != "data.judged"}
    squeezed = Served.of_trial({**about, "config": old}, tmp_path / "weights.pt")
    assert (squeezed.predict(large[None]) != served.predict(large[None])).any()


def test_squares_are_judged_where_the_study_began_with_them(model: Segmentation) -> None:
    root = Path(model.config.data.name)
    data = dataset(root, judged="square")
    assert data.val.whole is None
    assert data.val.masks(np.arange(2)).shape == (2, S, S)
    whole = model.data.val
    np.testing.assert_array_equal(data.val.indices, whole.indices)
    assert data.fingerprint == model.data.fingerprint


def test_a_folder_of_squares_keeps_nothing_twice(tmp_path: Path) -> None:
    for number in range(12):
        rng = np.random.default_rng(number)
        for kind, top in (("images", 256), ("masks", 2)):
            path = tmp_path / "set" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, top, (S, S)).astype(np.uint8)).save(path)
    (tmp_path / "set/classes.txt").write_text("a\nb\n")
    assert dataset(tmp_path / "set").val.whole is None
    assert not list((tmp_path / "cache").glob("*whole*"))


def test_pictures_show_whole_images(model: Segmentation, tmp_path: Path) -> None:
    model.validate()
    model.snapshot(tmp_path, 1)
    with np.load(tmp_path / "masks-0001.npz") as arrays:
        panel = arrays["images"].shape[2:]
        truth = arrays["truth"]
        rows = arrays["rows"]
    whole = model.data.val.whole
    assert whole is not None
    shapes = [whole.shape(row) for row in rows]
    assert panel == (max(h for h, _ in shapes), max(w for _, w in shapes))
    for mask, (height, width) in zip(truth, shapes, strict=True):
        assert (mask[height:] == 254).all()
        assert (mask[:, width:] == 254).all()
        assert (mask[:height, :width] != 254).all()


def test_outcomes_of_squares_are_not_compared_with_those_of_whole_images(
    model: Segmentation,
) -> None:
    model.test()
    whole = model.test_outcomes()
    assert whole is not None
    kept = model.data
    model.data = replace(kept, test=replace(kept.test, whole=None))
    model.test()
    square = model.test_outcomes()
    model.data = kept
    assert square is not None
    assert square.test_set != whole.test_set
    assert set(asdict(square)) == set(asdict(whole))
