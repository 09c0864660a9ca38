"""Decoding against torchvision, NumPy and the values that were written."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from trainables.data.images import CorruptImage, decode


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a smooth random RGB picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("width", "height", "size"), [(120, 80, 40), (80, 120, 40), (64, 64, 28), (20, 20, 50)]
)
def test_resize_equals_torchvision_resize_then_center_crop(
    tmp_path: Path, width: int, height: int, size: int
) -> None:
    image = picture(width, height)
    expected = TF.center_crop(
        TF.resize(image, [size], InterpolationMode.BICUBIC, antialias=True), [size, size]
    )
    found = decode(saved(image, tmp_path / "a.png"), size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.transpose(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize(("width", "height"), [(101, 67), (67, 101), (500, 1)])
def test_odd_shapes_crop_the_centre(tmp_path: Path, width: int, height: int) -> None:
    image = picture(width, height)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    expected = image.crop((left, top, left + side, top + side)).resize(
        (32, 32), Image.Resampling.BICUBIC
    )
    found = decode(saved(image, tmp_path / "a.png"), 32).transpose(1, 2, 0).astype(int)
    # an odd margin shifts by half a pixel
    assert np.abs(found - np.asarray(expected))[4:-4, 4:-4].mean() < 4


ORIENTATIONS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    image = picture(24, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(
        image,
        tmp_path / f"a.{suffix}",
        exif=exif,
        **({"lossless": True} if suffix == "webp" else {}),
    )
    np.testing.assert_array_equal(
        decode(path, 24).transpose(1, 2, 0), ORIENTATIONS[orientation](np.asarray(image))
    )


def test_exif_orientation_of_jpeg(tmp_path: Path) -> None:
    image = picture(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = (
        decode(saved(image, tmp_path / "a.jpg", exif=exif, quality=95), 32)
        .transpose(1, 2, 0)
        .astype(int)
    )
    assert np.abs(found - np.rot90(np.asarray(image), -1)).mean() < 3


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_are_exact(tmp_path: Path, suffix: str) -> None:
    image = picture(16, 16)
    path = saved(
        image, tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {})
    )
    np.testing.assert_array_equal(decode(path, 16).transpose(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray_is_repeated_over_the_channels(tmp_path: Path, mode: str) -> None:
    gray = np.tile(np.array([0, 255], np.uint8), (8, 4))
    found = decode(saved(Image.fromarray(gray).convert(mode), tmp_path / "a.png"), 8)
    np.testing.assert_array_equal(found, np.broadcast_to(gray, (3, 8, 8)))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    gray = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    found = decode(saved(Image.fromarray(gray), tmp_path / f"a.{suffix}"), 8)
    np.testing.assert_array_equal(found[0], np.round(gray * (255 / 65535)))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    """The reference is R = 255 (1 - C)(1 - K), and the same for the other channels."""
    for ink, colour in {
        (0, 255, 255, 0): (255, 0, 0),
        (255, 0, 255, 0): (0, 255, 0),
        (0, 0, 0, 128): (127, 127, 127),
    }.items():
        found = decode(saved(Image.new("CMYK", (16, 16), ink), tmp_path / f"a.{suffix}"), 16)
        assert np.abs(found.reshape(3, -1).mean(1) - colour).max() < 4


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    red_half_clear = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    np.testing.assert_allclose(
        decode(saved(red_half_clear, tmp_path / "a.png"), 8)[:, 0, 0], [255, 127, 127], atol=1
    )
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((0, 0), 1)
    np.testing.assert_array_equal(
        decode(saved(palette, tmp_path / "b.png"), 8)[:, 0, :2].T, [[200, 100, 50], [10, 20, 30]]
    )
    np.testing.assert_array_equal(
        decode(saved(palette, tmp_path / "c.png", transparency=0), 8)[:, 0, :2].T,
        [[200, 100, 50], [255] * 3],
    )
    np.testing.assert_array_equal(
        decode(saved(palette, tmp_path / "d.gif", transparency=0), 8)[:, 0, :2].T,
        [[200, 100, 50], [255] * 3],
    )


def huge_png(side: int) -> bytes:
    """Return a PNG that claims side x side pixels and contains none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def damaged(kind: str, path: Path) -> Path:
    """Write a file with this kind of damage."""
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "not an image":
        path.write_text("<html>404 Not Found</html>")
    elif kind.startswith("truncated"):
        whole = saved(picture(64, 64), path.with_suffix("." + kind.split()[1])).read_bytes()
        path.with_suffix("." + kind.split()[1]).unlink()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "no number":
        empty = Image.new("F", (8, 8), float("nan"))
        saved(empty, path.with_suffix(".tif")).rename(path)
    else:
        path.write_bytes(huge_png(int(kind.split()[1])))
    return path


REASONS = {
    "zero bytes": "zero bytes",
    "not an image": "not an image",
    "truncated jpg": "(?i)truncated",
    "truncated png": "truncated",
    "truncated webp": "damaged",
    "no number": "no finite value",
    "bomb 12000": "decompression bomb",
    "bomb 60000": "decompression bomb",
}


@pytest.mark.parametrize("kind", REASONS)
def test_damaged_files_have_a_reason(tmp_path: Path, kind: str) -> None:
    with pytest.raises(CorruptImage, match=REASONS[kind]) as raised:
        decode(damaged(kind, tmp_path / "a.jpg"), 16)
    assert "\n" not in str(raised.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptImage, match="No such file"):
        decode(tmp_path / "a.jpg", 16)
