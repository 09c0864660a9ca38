"""Image stores against an earlier commit, in turns on one machine.

Compared are near-duplicates, building and opening. Two further measurements are possible in this
tree only: 20,000 similar frames, and rows of a store that is not in memory.

    python benchmarks/stores.py                        # against 5d3a9ec
    python benchmarks/stores.py --against COMMIT --runs 5 --only unlike build

A ratio is this tree's time over the earlier one's, in wall time and in CPU time; below 1, this tree
is faster. On a machine that others use too, trust the CPU time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.earlier_tree import earlier_tree

REPO = Path(__file__).resolve().parents[1]
WORKER = '''
import json, os, resource, sys, time
from pathlib import Path
import numpy as np

task, folder = sys.argv[1], Path(sys.argv[2])

def alike(count):
    """Frames of one fixed camera: a picture and sensor noise."""
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(60, 200, (3, 8, 8)), np.ones((4, 4)))
    frames = np.empty((count, 3, 32, 32), np.uint8)
    for start in range(0, count, 1000):
        some = base + rng.normal(0, 3, (min(1000, count - start), 3, 32, 32))
        frames[start : start + 1000] = np.clip(some, 0, 255)
    return frames

def unlike(count):
    """Smooth pictures, no two of them near; a tenth is saved twice with a little noise."""
    rng = np.random.default_rng(0)
    coarse = np.clip(rng.normal(128, 60, (count, 3, 8, 8)), 0, 255)
    pictures = np.kron(coarse, np.ones((4, 4))).astype(np.uint8)
    again = rng.choice(count, count // 10, replace=False)
    noise = rng.integers(-2, 3, (len(again), 3, 32, 32))
    copies = np.clip(pictures[again].astype(int) + noise, 0, 255).astype(np.uint8)
    return np.concatenate([pictures, copies])

def dark(count):
    """Frames of a camera at night: near thumbnails, pixels of noise alone."""
    return np.random.default_rng(0).integers(0, 6, (count, 3, 32, 32), dtype=np.uint8)

def still(count):
    """Frames of a still scene at night: they correlate by .89 with each other."""
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(20, 50, (3, 8, 8)), np.ones((4, 4)))
    frames = np.empty((count, 3, 32, 32), np.uint8)
    for start in range(0, count, 1000):
        noise = rng.normal(0, 3, (min(1000, count - start), 3, 32, 32))
        frames[start : start + 1000] = np.clip(np.round(scene + noise), 0, 255)
    return frames

def load(images, cache, size=64):
    from trainables.data import DataConfig, load_dataset
    load_dataset(DataConfig(name=str(images), image_size=size), "pretrain", cache_dir=cache)

kind, _, count = task.partition(" ")
if kind in ("alike", "unlike", "dark", "still"):
    try:
        from trainables.data.duplicates import near_duplicates
    except ImportError:  # of an earlier commit
        from trainables.data.splits import near_duplicates
    makers = {"alike": alike, "unlike": unlike, "dark": dark, "still": still}
    images = makers[kind](int(count))
    begun, begun_cpu = time.perf_counter(), time.process_time()
    groups = len(np.unique(near_duplicates(images)))
elif kind == "build":
    import scipy.spatial  # both trees need it, one of them imports it while it builds
    import trainables.data
    begun, begun_cpu = time.perf_counter(), time.process_time()
    load(folder / "images", folder / f"cache-{os.getpid()}")
    groups = 0
elif kind == "open":
    from trainables.data.store import open_store
    begun, begun_cpu = time.perf_counter(), time.process_time()
    open_store("many", "f" * 32, 8, None, folder / "many")
    groups = 0
seconds = time.perf_counter() - begun
cpu = time.process_time() - begun_cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "groups": groups}))
'''
"""A script that runs in either tree."""

PHOTOGRAPHS = 1500
COLD_READER = """
import os, sys, time
import numpy as np
from trainables.data import paging
from trainables.data.splits import Split

path, advised = sys.argv[1], sys.argv[2] == "advised"
if advised:
    paging.memory_bytes = lambda: 0  # every store is larger than that
images = np.load(path, mmap_mode="r")
paging.read_rows_alone(images)
with open(path) as file:
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
split = Split(images, None, np.arange(len(images)))
order = np.random.default_rng(0).permutation(len(images))[:1280].reshape(20, 64)
begun = time.perf_counter()
for positions in order:
    split.batch(positions)
print(time.perf_counter() - begun)
"""


def measure(tree: Path, task: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-c", WORKER, task, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{task} in {tree} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def compare(before: Path, task: str, folder: Path, runs: int) -> None:
    """Run both trees in turns and print the ratio of their times."""
    ours = []
    theirs = []
    for run in range(runs):
        for tree, found in ((REPO, ours), (before, theirs))[:: 1 if run % 2 else -1]:
            found.append(measure(tree, task, folder))
    if ours[0]["groups"] != theirs[0]["groups"]:
        sys.exit(f"{task}: {ours[0]['groups']} groups, {theirs[0]['groups']} before")

    for measure_of in ("seconds", "cpu"):
        pairs = zip(ours, theirs, strict=True)
        ratios = [mine[measure_of] / other[measure_of] for mine, other in pairs]
        medians = [statistics.median(one[measure_of] for one in found) for found in (ours, theirs)]
        print(
            f"{task}, {measure_of}: {medians[0]:.3g} and {medians[1]:.3g}; ratio "
            f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}] of {runs}",
            flush=True,
        )
    print(f"{task}: peak {ours[0]['peak']:.2f} and {theirs[0]['peak']:.2f} GB", flush=True)


def alone(task: str, folder: Path) -> None:
    found = measure(REPO, task, folder)
    print(
        f"{task}: {found['seconds']:.3g} s, {found['cpu']:.3g} s of CPU, {found['peak']:.2f} GB",
        flush=True,
    )


def write_photographs(folder: Path) -> None:
    """Write smooth JPEG pictures of 320 x 240 in ten classes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(PHOTOGRAPHS):
        target = folder / "images" / f"class{number % 10}"
        target.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(target / f"{number}.jpg")


def write_store(folder: Path, count: int) -> None:
    """Write a store of many images, in the layout of `store.py`."""
    import numpy as np

    cache = folder / "many"
    store = cache / f"many-{'f' * 16}-8px-v1"
    store.mkdir(parents=True)
    rng = np.random.default_rng(0)
    np.save(store / "images.npy", np.zeros((count, 3, 8, 8), np.uint8))
    np.save(store / "labels.npy", np.zeros(count, np.int64))
    np.save(store / "groups.npy", np.arange(count))  # where earlier commits look for them
    meta = {"version": 1, "count": count, "size": 8, "skipped": [], "extra": {}, "masks": False}
    (store / "meta.json").write_text(json.dumps(meta))
    digests = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    contents = cache / f"many-{'f' * 16}-contents-v1.npz"
    np.savez(contents, digests=digests, groups=np.arange(count))


def read_cold(folder: Path, runs: int) -> None:
    """Read batches of 64 random rows of 224 px from a file that is not in memory."""
    import numpy as np

    path = folder / "cold.npy"
    rows = 6000  # .9 GB
    file = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 3, 224, 224))
    rng = np.random.default_rng(0)
    for row in range(rows):
        file[row] = rng.integers(0, 256, file.shape[1:], dtype=np.uint8)
    file.flush()
    os.sync()

    ratios = []
    for _ in range(runs):
        seconds = {}
        for mode in ("plain", "advised"):
            command = [sys.executable, "-c", COLD_READER, str(path), mode]
            environment = os.environ | {"PYTHONPATH": str(REPO)}
            seconds[mode] = float(subprocess.check_output(command, env=environment, text=True))
        ratios.append(seconds["advised"] / seconds["plain"])
    print(
        f"cold rows: {1280 * 150528 / seconds['advised'] / 1e6:.0f} MB/s with advice, "
        f"{1280 * 150528 / seconds['plain'] / 1e6:.0f} without; seconds, with over without "
        f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}] of {runs}",
        flush=True,
    )


PARTS = ("alike", "unlike", "build", "open", "large", "dark", "still", "cold")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", default="5d3a9ec")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=PARTS, choices=PARTS)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="stores-") as name,
        earlier_tree(options.against) as before,
    ):
        folder = Path(name)
        if "alike" in options.only:
            compare(before, "alike 1000", folder, 1)
        if "unlike" in options.only:
            compare(before, "unlike 20000", folder, options.runs)
        if "build" in options.only:
            write_photographs(folder)
            compare(before, "build", folder, options.runs)
        if "open" in options.only:
            write_store(folder, 40_000)
            compare(before, "open", folder, options.runs)
        if "large" in options.only:
            alone("alike 20000", folder)
        if "dark" in options.only:
            alone("dark 20000", folder)
        if "still" in options.only:
            alone("still 20000", folder)
        if "cold" in options.only:
            read_cold(folder, options.runs)


if __name__ == "__main__":
    main()
