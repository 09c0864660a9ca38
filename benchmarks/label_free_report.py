"""Tells which measure without labels ranks configurations of `ssl` as labels would.

    python benchmarks/label_free_report.py              # of benchmarks/data/label_free.jsonl
    python benchmarks/label_free_report.py record/runs.jsonl

Rank correlation (Spearman) of each measure with kNN and linear probe on the test split over
configurations, with bootstrap intervals, and the regret of choosing by it. Then what other weights
and calibrated BatchNorm give. `label_free.py` makes the record.
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

RECORD = Path(__file__).parent / "data/label_free.jsonl"
RESAMPLES = 1000
Epoch = dict[str, Any]


def _feature(name: str, sign: float = 1.0) -> Callable[[Epoch, Epoch], float]:
    return lambda epoch, untrained: sign * epoch["features"][name]


def _projection(name: str) -> Callable[[Epoch, Epoch], float]:
    return lambda epoch, untrained: epoch["projections"][name]


MEASURES: dict[str, Callable[[Epoch, Epoch], float]] = {
    "RankMe": lambda epoch, untrained: epoch["raw"]["rankme"],
    "RankMe, calibrated": _feature("rankme"),
    "RankMe, of projections": _projection("rankme"),
    "RankMe / untrained": lambda epoch, untrained: (
        epoch["features"]["rankme"] / untrained["features"]["rankme"]
    ),
    "LiDAR": _feature("lidar"),
    "LiDAR, of projections": _projection("lidar"),
    "alpha-ReQ": lambda epoch, untrained: -abs(epoch["features"]["alpha"] - 1),
    "alignment": _feature("alignment", -1),
    "uniformity": _feature("uniformity", -1),
    "alignment + uniformity": lambda epoch, untrained: (
        -epoch["features"]["alignment"] - epoch["features"]["uniformity"]
    ),
    "cluster agreement": _feature("clusters"),
    "retrieval, mutual": _feature("mutual.b"),
    "retrieval, mutual, turned": _feature("mutual.a"),
    "retrieval, mutual, milder": _feature("mutual.mild"),
    "retrieval, one way": _feature("nearest.b"),
    "retrieval, across": _feature("cross.b"),
    "retrieval, across, turned": _feature("cross.a"),
    "retrieval, across, milder": _feature("cross.mild"),
    "retrieval, reciprocal rank": _feature("rank.b"),
    "retrieval, reciprocal rank, turned": _feature("rank.a"),
    "retrieval, reciprocal rank, milder": _feature("rank.mild"),
    "retrieval, softmax": _feature("contrast.b"),
    "retrieval, softmax, milder": _feature("contrast.mild"),
    "retrieval, across, of projections": _projection("cross.b"),
    "retrieval, reciprocal rank, of projections": _projection("rank.b"),
}
"""Name -> score of an epoch, larger is better, by it and by the untrained network."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", nargs="?", type=Path, default=RECORD)
    options = parser.parse_args()

    lines = options.record.read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    names = sorted({run["data"] for run in runs})
    of_data = {name: [run for run in runs if run["data"] == name] for name in names}
    for name, some in of_data.items():
        seconds = sum(run["cpu_s"] for run in some)
        print(f"{name}: {len(some)} configurations, {seconds / 60:.0f} CPU-minutes")
        _print_truth(some)
        _print_measures(some)
        print()
    _print_means(of_data)
    _print_weights(of_data)


def _print_truth(runs: Sequence[dict[str, Any]]) -> None:
    for metric in ("val.knn", "test.knn", "test.probe"):
        untrained = np.mean([run["epochs"][0]["truth"][metric] for run in runs])
        last = np.array([run["epochs"][-1]["truth"][metric] for run in runs])
        low, middle, high = np.quantile(last, [0, 0.5, 1])
        print(f"  {metric}: untrained {untrained:.3f}; trained {low:.3f}, {middle:.3f}, {high:.3f}")


def _print_measures(runs: Sequence[dict[str, Any]]) -> None:
    print("  measure | kNN at the end | probe at the end | kNN, all epochs | regret: end, all")
    for name in MEASURES:
        found = judged(runs, MEASURES[name])
        print(
            f"  {name} | {_interval(found['knn'])} | {_interval(found['probe'])} | "
            f"{_interval(found['all'])} | {found['regret']:.3f}, {found['regret_all']:.3f}"
        )


def judged(
    runs: Sequence[dict[str, Any]], measure: Callable[[Epoch, Epoch], float]
) -> dict[str, Any]:
    """Correlations as (estimate, low, high), and regrets, of one measure on one data set.

    `regret`: test kNN given away at the last epoch by taking the configuration that the measure
    puts first, against the best of them. `regret_all`: by taking the epoch of a configuration that
    it puts first, as a search does.
    """
    scores = np.array([[measure(e, run["epochs"][0]) for e in run["epochs"][1:]] for run in runs])
    knn = _truths(runs, "test.knn")
    probe = np.array([run["epochs"][-1]["truth"]["test.probe"] for run in runs])
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    chosen = int(scores[:, -1].argmax())
    return {
        "knn": correlation(scores[:, -1:], knn[:, -1:]),
        "probe": correlation(scores[:, -1:], probe[:, None]),
        "all": correlation(scores, knn),
        "regret": knn[:, -1].max() - knn[chosen, -1],
        "regret_all": knn.max() - knn.ravel()[scores.ravel().argmax()],
    }


def _truths(runs: Sequence[dict[str, Any]], metric: str) -> np.ndarray:  # (runs, epochs)
    return np.array([[e["truth"][metric] for e in run["epochs"][1:]] for run in runs])


def correlation(
    scores: np.ndarray,  # (runs, epochs)
    truth: np.ndarray,  # (runs, epochs)
) -> tuple[float, float, float]:
    """Spearman's coefficient over all entries, and a 95 % bootstrap interval over runs."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(scores), len(scores)) for _ in range(RESAMPLES)]
    values = [_spearman(scores[rows], truth[rows]) for rows in draws]
    low, high = np.nanquantile(values, [0.025, 0.975])
    return _spearman(scores, truth), float(low), float(high)


def _spearman(scores: np.ndarray, truth: np.ndarray) -> float:
    if len(np.unique(scores)) == 1 or len(np.unique(truth)) == 1:
        return 0.0
    return float(spearmanr(scores.ravel(), truth.ravel()).statistic)


def _interval(found: tuple[float, float, float]) -> str:
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*found)


def _print_means(of_data: dict[str, list[dict[str, Any]]]) -> None:
    """Every measure over all data sets: correlation with kNN and probe at the end and with kNN over
    all epochs, its lowest, and regret in shares of RankMe's."""
    print("measure | mean kNN, probe, all | lowest kNN | regret / RankMe's, end and all")
    reference = [judged(runs, MEASURES["RankMe"]) for runs in of_data.values()]
    for name, measure in MEASURES.items():
        found = [judged(runs, measure) for runs in of_data.values()]
        means = [np.mean([f[key][0] for f in found]) for key in ("knn", "probe", "all")]
        lowest = min(f["knn"][0] for f in found)
        regrets = [
            " ".join(f"{_ratio(f[key], r[key]):.2f}" for f, r in zip(found, reference, strict=True))
            for key in ("regret", "regret_all")
        ]
        print(
            f"{name} | {means[0]:+.2f} {means[1]:+.2f} {means[2]:+.2f} | {lowest:+.2f} | "
            f"{regrets[0]} | {regrets[1]}"
        )


def _ratio(value: float, of: float) -> float:
    if of == 0:
        return float("nan") if value == 0 else float("inf")
    return value / of


def _print_weights(of_data: dict[str, list[dict[str, Any]]]) -> None:
    """Test kNN of other weights, less that of the online network as training leaves it: mean over
    configurations, with its standard error."""
    print("\nweights, less the online network's without calibration: test kNN (val kNN)")
    for data, runs in of_data.items():
        print(f"  {data}:")
        for name in runs[0]["weights"]:
            pairs = []
            for metric in ("test.knn", "val.knn"):
                gains = np.array(
                    [r["weights"][name][metric] - r["weights"]["online.raw"][metric] for r in runs]
                )
                error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.nan
                pairs.append(f"{gains.mean():+.4f} +- {error:.4f}")
            print(f"    {name}: {pairs[0]} ({pairs[1]})")


if __name__ == "__main__":
    main()
