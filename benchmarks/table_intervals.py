"""Whether the intervals of a table over searches keep what they promise, on made-up searches whose
truth is known.

    python benchmarks/table_intervals.py    # docs/results/table_intervals.json, a CPU minute

- Test sets that overlap: searches carve their test images from one pool of letters in several
  fonts, and the interval of their mean should contain the accuracy on all letters.
- The backbone's part of the spread over searches: how often its interval holds the true part, and
  how often it can be told from none.
- Bands of tuning curves: ours against those of Kolmogorov and Smirnov.

`evidence_page.py` puts the results into docs/notes/evidence.md.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kstwo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.record_file import write_results
from trainables.outcomes import ImageOutcomes
from tune.reports.backbone_part import backbone_part
from tune.reports.sampling_error import sampling_variance
from tune.reports.statistics import mean_of
from tune.reports.tuning_curve import tuning_curve

TOP1 = "test/top1"
LETTERS, FONTS = 209, 13
TABLES = 1000
SEARCHES = (5, 8, 11, 20)
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Share of the backbone in the variance that settings on different backbones do not have in
common."""
SPREAD = 0.02
"""Standard deviation of that variance."""
DRAWS = (16, 60, 250)
"""Numbers of trials whose bands are compared."""


def overlapping(random: np.random.Generator, share: float, searches: int) -> dict[str, Any]:
    """Simulate searches that each test on a share of every letter's fonts, drawn anew."""
    held = alone = 0
    normal = random.normal(0.6, np.hypot(0.15, 0.3), 1_000_000)
    truth = float(np.clip(normal, 0, 1).mean())
    of_letter = np.repeat(np.arange(LETTERS), FONTS)
    each = round(share * FONTS)
    for _ in range(TABLES):
        hardness = random.normal(0, 0.15, LETTERS)[of_letter] + random.normal(
            0, 0.3, len(of_letter)
        )
        chance = np.clip(0.6 + hardness, 0, 1)
        found, means = {}, []
        for number in range(searches):
            ranks = random.random((LETTERS, FONTS)).argsort(axis=1).argsort(axis=1)
            rows = np.flatnonzero(ranks.ravel() < each)
            right = random.random(len(rows)) < chance[rows] + random.normal(0, 0.01)
            ids, clusters = np.unique(of_letter[rows], return_inverse=True)
            found[number] = ImageOutcomes(
                test_set=f"{number}", right={TOP1: right}, clusters=clusters, pool="p", ids=ids
            )
            means.append(right.mean())
        interval, spread = mean_of(means, sampling_variance(TOP1, found)), mean_of(means)
        held += interval.low <= truth <= interval.high
        alone += spread.low <= truth <= spread.high
    return {
        "share": share,
        "searches": searches,
        "held": held / TABLES,
        "held_by_spread_alone": alone / TABLES,
    }


def backbones(random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Simulate settings B to E whose backbones make a share of what they do not have in common."""
    for searches in SEARCHES:
        for share in SHARES:
            variance = share * SPREAD**2
            held = told = 0
            parts = []
            for _ in range(TABLES):
                kinds = random.normal(0, variance**0.5, (2, searches))
                own = random.normal(0, (SPREAD**2 - variance) ** 0.5, (4, searches))
                accuracies = {
                    name: 0.5 + kinds[place % 2] + own[place] for place, name in enumerate("BCDE")
                }
                found = backbone_part(accuracies)
                assert found is not None
                parts.append(found.high)
                held += found.low <= variance <= found.high
                told += found.told
            yield {
                "searches": searches,
                "share": share,
                "held": held / TABLES,
                "told": told / TABLES,
                "upper": float(np.median(parts)) / SPREAD**2,
            }


def bands(random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Compare bands of tuning curves, for draws from a uniform distribution."""
    tuning_curve([0.5], 1)  # imports take a second
    for draws in DRAWS:
        begun = time.process_time()
        tuning_curve(random.random(draws).tolist(), draws)
        seconds = time.process_time() - begun

        levels = 0.5 ** (1 / np.arange(1, draws + 1))
        distance = float(kstwo.ppf(0.95, draws))
        held, widths, of_ks, bounded, by_ks = 0, [], [], [], []
        for _ in range(TABLES):
            values = np.sort(random.random(draws))
            curve = tuning_curve(values.tolist(), draws)
            low, high = np.array(curve.low), np.array(curve.high)
            held += bool(((low <= levels) & (levels <= high)).all())
            widths.append((high - low).mean())
            bounded.append((high < 1).sum())
            of_ks.append(
                (
                    _quantiles(values, levels + distance) - _quantiles(values, levels - distance)
                ).mean()
            )
            by_ks.append((levels + distance <= 1).sum())
        yield {
            "draws": draws,
            "held": held / TABLES,
            "width": float(np.mean(widths)),
            "width_ks": float(np.mean(of_ks)),
            "bounded": float(np.mean(bounded)),
            "bounded_ks": float(np.mean(by_ks)),
            "cpu_seconds": seconds,
        }


def _quantiles(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the smallest values at or above shares of the sample; 0 and 1 beyond it."""
    padded = np.concatenate([[0.0], values, [1.0]])
    ranks = np.ceil(levels * len(values) - 1e-9).clip(0, len(values) + 1)
    found: np.ndarray = padded[ranks.astype(int)]
    return found


def main() -> None:
    random = np.random.default_rng(16)
    overlap = [overlapping(random, share, 5) for share in (0.58, 0.2)]
    found = {
        "overlap": overlap,
        "backbone": list(backbones(random)),
        "bands": list(bands(random)),
    }
    write_results("table_intervals", found)


if __name__ == "__main__":
    main()
