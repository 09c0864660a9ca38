"""Valid files that Pillow refuses, images above its size limit, and values of more than 8 bits."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from trainables.data import DataConfig, DataSet, load_dataset
from trainables.data.decoding import without_texts
from trainables.data.images import CorruptImage, decode, open_picture, read_rgb
from trainables.data.levels import DeepImages, Found, Levels
from trainables.errors import UserError

SIDE = 16


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def load(root: Path, **settings: Any) -> DataSet:
    config = DataConfig(name=str(root), image_size=SIDE, **settings)
    return load_dataset(config, cache_dir=root.parent / "cache")


# ---------------------------------------------------------------- metadata


def with_text(path: Path, image: Image.Image) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "y" * (3 << 20), zip=True)
    image.save(path, pnginfo=text)


def with_international_text(path: Path, image: Image.Image) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("prompt", "ü" * (2 << 20), zip=True)
    image.save(path, pnginfo=text)


def with_many_texts(path: Path, image: Image.Image) -> None:
    text = PngImagePlugin.PngInfo()
    for number in range(70):
        text.add_text(f"k{number}", "z" * (1 << 20))
    image.save(path, pnginfo=text)


def with_profile(path: Path, image: Image.Image) -> None:
    image.save(path, icc_profile=b"\1" * (4 << 20))


def with_text_after_the_pixels(path: Path, image: Image.Image) -> None:
    with_text(path, image)
    content = path.read_bytes()
    start = content.index(b"zTXt") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    tail = content.index(b"IEND") - 4
    path.write_bytes(content[:start] + content[end:tail] + content[start:end] + content[tail:])


HEAVY = (
    with_text,
    with_international_text,
    with_many_texts,
    with_profile,
    with_text_after_the_pixels,
)


@pytest.mark.parametrize("write", HEAVY)
def test_heavy_metadata_is_passed_over(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.png", Image.fromarray(pixels()))
    found = decode(tmp_path / "a.png", SIDE)
    np.testing.assert_array_equal(found.transpose(1, 2, 0), pixels())


def test_orientation_survives_heavy_metadata(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "y" * (3 << 20), zip=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels()).save(tmp_path / "a.png", pnginfo=text, exif=exif)
    found = decode(tmp_path / "a.png", SIDE).transpose(1, 2, 0)
    np.testing.assert_array_equal(found, pixels()[::-1, ::-1])


def test_a_truncated_file_with_heavy_metadata_is_still_damaged(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with_text(tmp_path / "a.png", Image.fromarray(noise))
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2 + 2000])
    with pytest.raises(CorruptImage, match="truncated"):
        decode(tmp_path / "a.png", 16)


def test_without_texts_keeps_every_other_chunk() -> None:
    plain, heavy = io.BytesIO(), io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b")
    Image.fromarray(pixels()).save(plain, "PNG")
    Image.fromarray(pixels()).save(heavy, "PNG", pnginfo=text)
    assert without_texts(heavy.getvalue()) == plain.getvalue()


# ---------------------------------------------------------------- size


def test_the_limit_of_pixels_is_the_users(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for number in range(12):
        Image.fromarray(pixels(number)).save(root / f"{number}.png")
    Image.new("L", (1300, 1000), 200).save(root / "wide.png")

    with pytest.raises(UserError, match=r"1300x1000 pixels, more than 1 megapixels") as refused:
        load(root, max_megapixels=1)
    assert "--set data.max_megapixels=2" in str(refused.value)
    data = load(root, max_megapixels=2)
    assert not data.skipped
    usual = load(root)
    assert usual.fingerprint not in (data.fingerprint, "")
    assert load(root, max_megapixels=1, skip_corrupt=True).skipped[0][0] == "wide.png"


def test_pillows_own_limit_stays_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many threads read images larger than Pillow's limit, which is in place again afterwards."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    threads = [threading.Thread(target=read_rgb, args=(tmp_path / "a.png",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Image.MAX_IMAGE_PIXELS == 100
    assert read_rgb(tmp_path / "a.png").size == (SIDE, SIDE)


# ---------------------------------------------------------------- more than 8 bits


def deep_set(root: Path, top: int, count: int = 12) -> list[np.ndarray]:
    """Write images in 16-bit files whose brightest value is `top`."""
    root.mkdir()
    written = []
    for number in range(count):
        values = np.random.default_rng(number).integers(0, top + 1, (SIDE, SIDE)).astype(np.uint16)
        values[0, 0] = top if number == 3 else 0
        Image.fromarray(values).save(root / f"{number:02d}.png")
        written.append(values)
    return written


@pytest.mark.parametrize(
    ("top", "full"),
    [(255, 255), (900, 1023), (4095, 4095), (3000, 4095), (9000, 16383), (65535, 65535)],
)
def test_the_range_is_that_of_the_bits_in_the_set(tmp_path: Path, top: int, full: int) -> None:
    written = deep_set(tmp_path / "set", top)
    data = load(tmp_path / "set")
    for stored, values in zip(data.train.images, written, strict=True):
        np.testing.assert_array_equal(stored[0], np.round(values * (255 / full)))
    assert data.levels == Levels(0, full)

    (meta,) = (tmp_path / "cache").glob("*/meta.json")
    deep = json.loads(meta.read_text())["deep"]
    assert deep == {"images": 12, "lowest": 0, "highest": top, "floating": False}
    assert data.summary.found is not None
    assert sum(data.summary.found.modes.values()) == 12


def test_a_second_store_and_a_lone_image_have_the_sets_range(tmp_path: Path) -> None:
    written = deep_set(tmp_path / "set", 4095)
    load(tmp_path / "set")
    config = DataConfig(name=str(tmp_path / "set"), image_size=8)
    data = load_dataset(config, cache_dir=tmp_path / "cache")
    assert data.levels == Levels(0, 4095)
    assert data.train.images.mean() > 100
    alone = np.asarray(read_rgb(tmp_path / "set/05.png", levels=data.levels))[..., 0]
    np.testing.assert_array_equal(alone, np.round(written[5] * (255 / 4095)))


def test_floating_point_images_share_the_range_found(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    written = []
    for number in range(12):
        values = np.random.default_rng(number).uniform(-2, 3 + number, (SIDE, SIDE))
        values = values.astype(np.float32)
        values[1, 1] = np.nan
        Image.fromarray(values).save(root / f"{number:02d}.tif")
        written.append(values)
    data = load(root)
    low = min(np.nanmin(values) for values in written)
    high = max(np.nanmax(values) for values in written)
    for stored, values in zip(data.train.images, written, strict=True):
        known = np.nan_to_num(values.astype(np.float64), nan=low)
        expected = np.round((known - low) / (high - low) * 255)
        assert np.abs(stored[0] - expected).max() <= 1
    assert data.levels == Levels(float(low), float(high))


def test_images_of_8_bits_have_no_range(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for number in range(12):
        Image.fromarray(pixels(number)).save(root / f"{number}.png")
    assert load(root).levels is None


def test_range_in_words(tmp_path: Path) -> None:
    deep_set(tmp_path / "set", 4000)
    notes = load(tmp_path / "set").summary.notes
    said = (
        "0 to 4,095 becomes 0 to 255 in 12 images of more than 8 bits, the range found in all of "
        "them"
    )
    assert said in notes
    one = DeepImages.of([Found(-0.5, 2, True)])
    assert one is not None
    assert one.describe().startswith("-0.5 to 2 becomes 0 to 255 in 1 image of")
    assert DeepImages.of([]) is None


def test_a_picture_tells_what_the_file_held(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.uint16).reshape(4, 5) * 100
    Image.fromarray(values).save(tmp_path / "a.png")
    found = open_picture(tmp_path / "a.png")
    assert (found.width, found.height, found.levels) == (5, 4, (0.0, 1900.0))
    assert found.mode.startswith("I")
