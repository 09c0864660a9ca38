"""Report which measure without labels ranks configurations of `ssl` as labels would.

    python benchmarks/label_free_report.py              # of benchmarks/data/label_free.jsonl
    python benchmarks/label_free_report.py record/runs.jsonl

For each measure: its rank correlation (Spearman) with kNN and with the linear probe over networks,
with bootstrap intervals, and the regret of choosing by it. Then the gains of other weights, and of
BatchNorm as training leaves it. `label_free.py` records the runs; the default file contains their
last epochs.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import spearmanr

from benchmarks.figure_text import markdown, without_zeros

RECORD = Path(__file__).parent / "data/label_free.jsonl"
RESAMPLES = 1000
Run = dict[str, Any]


def _feature(name: str, sign: float = 1.0) -> Callable[[Run], float]:
    return lambda last: sign * last["features"][name]


MEASURES: dict[str, Callable[[Run], float]] = {
    "RankMe": lambda last: last["raw"]["rankme"],
    "RankMe, calibrated": _feature("rankme"),
    "LiDAR": _feature("lidar"),
    "alpha-ReQ": lambda last: -abs(last["features"]["alpha"] - 1),
    "alignment": _feature("alignment", -1),
    "uniformity": _feature("uniformity", -1),
    "alignment + uniformity": lambda last: (
        -last["features"]["alignment"] - last["features"]["uniformity"]
    ),
    "cluster agreement": _feature("clusters"),
    "mutual nearest": _feature("mutual.b"),
    "mutual nearest, turned": _feature("mutual.a"),
    "mutual nearest, milder": _feature("mutual.mild"),
    "nearest across, turned": _feature("cross.a"),
    "reciprocal rank": _feature("rank.b"),
    "reciprocal rank, turned": _feature("rank.a"),
    "reciprocal rank, milder": _feature("rank.mild"),
    "softmax, turned": _feature("contrast.a"),
    "logarithm of ranks, turned, with the plain image": _feature("view_rank"),
}
"""Name -> score of a network at its last epoch, larger is better. vistune selects by the last one;
earlier versions selected by the reciprocal rank under views turned as the data admits."""
_LATER = "view_rank"
"""A measure that some records lack."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", nargs="?", type=Path, default=RECORD)
    options = parser.parse_args()

    lines = options.record.read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    for name in dict.fromkeys(run["data"] for run in runs):
        some = [run for run in runs if run["data"] == name]
        print(f"{name}: {len(some)} networks")
        _print_truth(some)
        _print_measures(some)
        _print_weights(some)
        print()


def truth(run: Run, kind: str) -> float:
    """Return the top-1 of "knn" or "probe", averaged over val and test to halve its noise."""
    found = run["last"]["truth"]
    mean: float = (found[f"val.{kind}"] + found[f"test.{kind}"]) / 2
    return mean


def _print_truth(runs: Sequence[Run]) -> None:
    for kind in ("knn", "probe"):
        low, middle, high = np.quantile([truth(run, kind) for run in runs], [0, 0.5, 1])
        print(f"  {kind}: {low:.3f} to {high:.3f}, median {middle:.3f}")


def _print_measures(runs: Sequence[Run]) -> None:
    knn = np.array([truth(run, "knn") for run in runs])
    probe = np.array([truth(run, "probe") for run in runs])
    print(f"  probe against kNN: {_interval(correlation(probe, knn))}")
    print("  measure: Spearman with kNN; with probe; kNN given away by its choice")
    whole = all(_LATER in run["last"]["features"] for run in runs)
    for name, measure in MEASURES.items():
        if name == list(MEASURES)[-1] and not whole:
            continue
        scores = np.array([measure(run["last"]) for run in runs])
        regret = knn.max() - knn[scores.argmax()]
        print(
            f"    {name}: {_interval(correlation(scores, knn))}; "
            f"{_interval(correlation(scores, probe))}; {regret:.3f}"
        )


NETWORKS = {
    "earth-long": "earth, {} random configurations, 15 epochs",
    "earth": "earth, {} others, 5 epochs",
    "photos": "photographs, {}",
    "digits": "digits, {}",
    "glyphs, studies": "letters, {} of two earlier default studies (8 configurations)",
}
"""Data -> its networks in docs/ssl.md; {} is their number."""
SELECTING = tuple(MEASURES)[-1], "reciprocal rank, turned", "RankMe"
"""`val/view_rank`, `val/view_retrieval`, and the measure before them."""
GOOD_ORDER = 0.6
"""The rank correlation with kNN that was aimed at (docs/notes/label_free.md)."""


def objectives_table() -> str:
    """Return the table of docs/ssl.md as Markdown."""
    runs = [json.loads(line) for line in RECORD.read_text().splitlines()]
    rows = []
    for data, about in NETWORKS.items():
        some = [run for run in runs if run["data"] == data]
        cells = [cell for name in SELECTING for cell in _cells(some, name)]
        rows.append([about.format(len(some)), *cells])
    header = ["networks", "Spearman with kNN [95 %], with probe", "loss"]
    for name in ("`val/view_retrieval`", "RankMe"):
        header += [f"{name}: Spearman", "loss"]
    return markdown(header, rows)


def objectives_sentence() -> str:
    """Say how often `val/view_rank` chooses and orders networks well enough."""
    runs = [json.loads(line) for line in RECORD.read_text().splitlines()]
    worse = []
    halved = 0
    for data, about in NETWORKS.items():
        some = [run for run in runs if run["data"] == data]
        halved += _loss(some, SELECTING[0]) < _loss(some, SELECTING[-1]) / 2
        knn = np.array([truth(run, "knn") for run in some])
        scores = np.array([MEASURES[SELECTING[0]](run["last"]) for run in some])
        if _spearman(scores, knn) < GOOD_ORDER:
            worse.append((about.format(len(some)), some))
    count = len(NETWORKS)
    rows = "every row" if halved == count else f"{halved} of the {count} rows"
    text = (
        f"In {rows} `val/view_rank` loses less than half of what RankMe loses, and in "
        f"{count - len(worse)} of {count} its order agrees with that of kNN by at least "
        f"{GOOD_ORDER}."
    )
    for about, some in worse:
        halves = [[run["last"]["truth"][f"{part}.knn"] for run in some] for part in ("val", "test")]
        agreement = _spearman(*map(np.array, halves))
        reliability = 2 * agreement / (1 + agreement)  # of the mean of both (Spearman and Brown)
        text += (
            f" The exception is {about}: there kNN itself orders the networks differently on "
            f"validation and on test ({agreement:.2f}), so a perfect measure could hardly exceed "
            f"{reliability**0.5:.2f}."
        )
    return without_zeros(text)


def _cells(runs: Sequence[Run], name: str) -> list[str]:
    """Return a measure's rank correlations, and the kNN accuracy that its choice loses."""
    knn, probe = (np.array([truth(run, kind) for run in runs]) for kind in ("knn", "probe"))
    scores = np.array([MEASURES[name](run["last"]) for run in runs])
    middle, low, high = correlation(scores, knn)
    with_knn = f"{middle:.2f} [{low:.2f}, {high:.2f}]" if name == SELECTING[0] else f"{middle:.2f}"
    cells = [f"{with_knn}, {_spearman(scores, probe):.2f}", f"{_loss(runs, name):.3f}"]
    return [without_zeros(cell) for cell in cells]


def _loss(runs: Sequence[Run], name: str) -> float:
    """Return the kNN accuracy that is lost when a measure chooses the network."""
    knn = np.array([truth(run, "knn") for run in runs])
    scores = np.array([MEASURES[name](run["last"]) for run in runs])
    return float(knn.max() - knn[scores.argmax()])


def correlation(
    scores: np.ndarray,  # (n,)
    values: np.ndarray,  # (n,)
) -> tuple[float, float, float]:
    """Return Spearman's coefficient and a 95 % bootstrap interval over networks."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(scores), len(scores)) for _ in range(RESAMPLES)]
    resampled = [_spearman(scores[rows], values[rows]) for rows in draws]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return _spearman(scores, values), float(low), float(high)


def _spearman(scores: np.ndarray, values: np.ndarray) -> float:
    if len(np.unique(scores)) == 1 or len(np.unique(values)) == 1:
        return 0.0
    return float(spearmanr(scores, values).statistic)


def _interval(found: tuple[float, float, float]) -> str:
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*found)


def _print_weights(runs: Sequence[Run]) -> None:
    """Print kNN on val and test with other weights, minus that of the online network with
    calibrated BatchNorm."""
    print("  kNN, less that of the online network with calibrated BatchNorm")
    for name in runs[0]["weights"]:
        found = [run["weights"][name] for run in runs]
        values = np.array([(each["val.knn"] + each["test.knn"]) / 2 for each in found])
        gains = values - [truth(run, "knn") for run in runs]
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        print(f"    {name}: {gains.mean():+.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
