"""Figures of docs/search.md and of its notes, from recorded searches.

    python benchmarks/results.py render

Words such as "ahead" follow from intervals: 95 % on one side of 1, or of 0. Imports no torch.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial

import numpy as np

from benchmarks import search_races_page as races
from benchmarks.figure_text import listed, markdown
from benchmarks.record_file import or_not_recorded
from benchmarks.search_records import (
    BETTER,
    COLD,
    MISLED,
    PRIOR,
    PRIORS,
    REGRET,
    Ratio,
    differences,
    ratios,
    ratios_over_tables,
    read_misled,
)
from benchmarks.search_regret import BUDGETS, OURS, TUNED, Done, compared, read, together
from benchmarks.search_tables import RELATED, REPORTED
from benchmarks.search_words import FEWEST, budgets_where, named_where, table_name

PEERS = {
    "TPE, halving by 3": "Optuna 5, TPE with successive halving by 3",
    "TPE, Hyperband": "Optuna 5, TPE with Hyperband",
    "GP": "Optuna 5, Gaussian process, nothing stopped",
    "ASHA": "Syne Tune 0.16.0, ASHA",
    "BOHB": "Syne Tune 0.16.0, BOHB",
    "ASHA-BORE": "Syne Tune 0.16.0, ASHA-BORE",
    "ASHA-CQR": "Syne Tune 0.16.0, ASHA-CQR",
    "DEHB": "DEHB 0.1.2",
    "SMAC": "SMAC 2.4.1, multi-fidelity",
    "HEBO": "HEBO 0.3.6, nothing stopped",
    "random": "random search, nothing stopped",
    "study at 5d3a9ec": "vistune at commit 5d3a9ec (version 1 of the rungs)",
}
"""Contestant of `search_regret.py` -> its name on the page. Those with too few seeds are left
out."""
BAR = 1.10
"""Ratio above which a warm start costs too much."""


# -- regret against other searches


def _peers() -> dict[str, tuple[list[Ratio], list[Ratio]]]:
    """Return the ratios of each peer with enough seeds, on the tables used for tuning and on the
    others; a group of tables that a peer has not been run on is empty."""
    done = read(REGRET)
    found = {name: (compared(done, name, TUNED), compared(done, name, REPORTED)) for name in PEERS}
    return {
        name: groups for name, groups in found.items() if any(groups) and _seeds(name) >= FEWEST
    }


def _seeds(name: str) -> int:
    """Return the fewest seeds of a contestant on any table of a complete group."""
    done = read(REGRET)
    groups = (together(done, name, group) for group in (TUNED, REPORTED))
    return min(len(rows) for group in groups for rows in group)


def _usual_seeds(names: Iterable[str]) -> int:
    counts = [_seeds(name) for name in names]
    return max(counts, key=counts.count)


def peers_table() -> str:
    header = [
        "peer",
        "three grids that our rungs were chosen on: 4, 8, 16",
        "two grids recorded afterwards: 4, 8, 16",
    ]
    peers = _peers()
    usual = _usual_seeds(peers)
    rows = []
    for name, groups in peers.items():
        seeds = _seeds(name)
        note = "" if seeds == usual else f", {seeds} seeds"
        cells = [", ".join(map(str, group)) or "not run" for group in groups]
        rows.append([PEERS[name] + note, *cells])
    return markdown(header, rows)


def peers_seeds() -> str:
    return f"{_seeds(OURS)} seeds of vistune, {_usual_seeds(_peers())} of each peer"


def peers_told() -> str:
    """Say who is certainly behind or ahead of us, at which budget."""
    peers = _peers()
    said = []
    titles = ("On the grids that rungs were chosen on", "On the grids recorded afterwards")
    for index, title in reversed([*enumerate(titles)]):
        group = {_short(name): groups[index] for name, groups in peers.items() if groups[index]}
        said.append(
            f"**{title}**, certainly behind vistune: {named_where(group, 'is_below')}. "
            f"Certainly ahead of it: {named_where(group, 'is_above')}."
        )
    return "\n\n".join(said)


def _short(name: str) -> str:
    """Shorten a peer's name for a sentence."""
    known = {
        "random": "random search",
        "GP": "Gaussian process",
        "TPE, Hyperband": "Hyperband",
        "study at 5d3a9ec": "its own commit 5d3a9ec",
    }
    return known.get(name, name.replace("TPE, halving", "TPE with halving"))


# -- warm starts


@cache
def _misled() -> dict[tuple[str, str, str], dict[int, tuple[int, int]]]:
    """Return {(start, source, table): {seed: (trials, epochs)}}."""
    found: dict[tuple[str, str, str], dict[int, tuple[int, int]]] = {}
    for start, earlier, table, seed, trials, epochs in read_misled(MISLED):
        runs = found.setdefault((start, earlier, table), {})
        runs[int(seed)] = (int(trials), int(epochs))
    return found


def _runs(start: str, earlier: str, table: str) -> np.ndarray:  # (seeds, 2)
    return np.array([*_misled().get((start, earlier, table), {}).values()], float)


@cache
def _warm(start: str, earlier: str, table: str) -> Ratio | None:
    """Return the trials of a warm start over those of a cold one; None if it was not run."""
    warm = _runs(start, earlier, table)
    return ratios([warm], [_runs(COLD, "", table)])[0] if len(warm) else None


def _pair(earlier: str, table: str) -> str:
    return f"{table_name(earlier)} → {table_name(table)}"


def misled_told() -> str:
    """Say what a warm start saves on related pairs, on the best and on the worst one."""
    found = {pair: ratio for pair in RELATED if (ratio := _warm("2", *pair))}
    best, worst = min(found, key=found.__getitem__), max(found, key=found.__getitem__)
    mean = ratios([_runs("2", *pair) for pair in found], [_runs(COLD, "", b) for _, b in found])
    helped = sum(ratio.is_below for ratio in found.values())
    hurt = sum(ratio.is_above for ratio in found.values())
    over = sum(ratio.value > BAR for ratio in found.values())
    seeds = [len(_runs("2", *pair)) for pair in found]
    return (
        f"On {len(found)} pairs of related tables a study that began so needed {mean[0]} of the "
        f"trials of a cold start to reach 99 % of the best value (geometric mean; 95 % over "
        f"{min(seeds)} to {max(seeds)} seeds of each pair): {found[best]} on the best pair "
        f"({_pair(*best)}), {found[worst]} on the worst ({_pair(*worst)}). It needed certainly "
        f"fewer on {helped} pairs, certainly more on {hurt}; the estimate is above {BAR:.2f} on "
        f"{over}"
    )


def misled_pairs() -> str:
    """Return trials of versions 1 and 2 of the warm start, for every recorded pair."""
    pairs = dict.fromkeys((earlier, table) for _, earlier, table in _misled() if earlier)
    rows = []
    for pair in pairs:
        cold = _runs(COLD, "", pair[1])[:, 0].mean()
        cells = [str(_warm(start, *pair) or "") for start in ("1", "2")]
        rows.append([_pair(*pair), f"{cold:.1f}", *cells, _second_over_first(*pair)])
    return markdown(["from → to", "cold", "version 1", "version 2", "2 / 1, paired by seeds"], rows)


def _second_over_first(earlier: str, table: str) -> str:
    first, second = (_misled().get((start, earlier, table), {}) for start in ("1", "2"))
    both = sorted(first.keys() & second.keys())
    if not both:
        return ""
    sides = [np.array([runs[seed] for seed in both], float) for runs in (second, first)]
    return str(ratios([sides[0]], [sides[1]], paired=True)[0])


# -- priors


@cache
def _priors() -> Done:
    return read(PRIORS)


def _better_default() -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """Return the tables searched from a better default, and regrets without and with a prior."""
    without, with_ = (f"{side}, {BETTER}" for side in (COLD, PRIOR))
    names = list(dict.fromkeys(table for who, table, _ in _priors() if who == with_))
    sides = [[together(_priors(), who, [name])[0] for name in names] for who in (without, with_)]
    return names, *sides


def priors_told() -> str:
    """Say what a prior of other data sets gives from a better default, and where for certain."""
    names, cold, warm = _better_default()
    found = ratios_over_tables(warm, cold)
    helped, hurt = [], []
    for name, without, with_ in zip(names, cold, warm, strict=True):
        low, high = differences(with_, without)
        for bucket, holds in ((helped, high < 0), (hurt, low > 0)):
            if where := budgets_where(holds):
                bucket.append(f"{table_name(name)} ({where})")
    seeds = min(map(len, [*cold, *warm]))
    return (
        f"mean regret after {listed(BUDGETS)} full trainings is {listed(found)} of that without a "
        f"prior, over {len(names)} tables (95 % over tables and {seeds} seeds). It is certainly "
        f"less on: {'; '.join(helped) or 'none'}. Certainly more on: {'; '.join(hurt) or 'none'}"
    )


def _apart(make: Callable[[], str]) -> str:
    """Set a text apart from its markers."""
    return f"\n{make()}\n"


FIGURES: dict[str, Callable[[], str]] = {
    "search_regret.peers": partial(_apart, peers_table),
    "search_regret.seeds": peers_seeds,
    "search_regret.told": partial(_apart, peers_told),
    "search_rungs.errors": or_not_recorded(races.rungs_errors),
    "search_rungs.page": partial(_apart, or_not_recorded(races.rungs_page)),
    "search_rungs.notes": partial(_apart, or_not_recorded(races.rungs_notes)),
    "search_efficiency.page": partial(_apart, or_not_recorded(races.efficiency_page)),
    "search_efficiency.notes": partial(_apart, or_not_recorded(races.efficiency_notes)),
    "search_misled.told": misled_told,
    "search_misled.pairs": partial(_apart, misled_pairs),
    "search_priors.told": priors_told,
}
"""Name -> text, for `results.py`."""
