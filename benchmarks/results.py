"""Figures in the documents, from records kept in docs/results/.

    python benchmarks/results.py record ssl runs "make run"          # after that command
    python benchmarks/results.py record classify runs "make table"
    python benchmarks/results.py render                              # into README.md and docs/

A record contains the scores of the runs and nothing derived from them. A page asks for a figure
with `<!-- result: NAME -->...<!-- end -->`; tests/project/test_results.py renders all of them
again.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.evidence_page import markdown, without_zeros
from benchmarks.label_free_report import objectives_table
from benchmarks.record_file import RESULTS, machine
from benchmarks.search_regret import peers_table
from search_spaces.settings import sides
from trainables.files import write_atomically
from tune.formatting import DEFAULT
from tune.reports.pooled_row import outcomes_of_searches
from tune.reports.pooled_table import compare_searches, pool_searches
from tune.reports.sampling_error import outcomes_of, sampling_variance
from tune.reports.statistics import Interval, holm, mean_of, paired, significance, welch
from tune.reports.verdict import difference, repeat_scores, test_metric
from tune.study.record import read_record

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
MARKED = re.compile(r"(<!-- result: (\S+) -->)(.*?)(<!-- end -->)", re.DOTALL)

NOT_RECORDED = (
    " Intervals leave out the error of test images that searches share, which was not recorded."
)

Result = dict[str, Any]


# ---------------------------------------------------------------- record


def record(name: str, storage: Path, typed: str, others: Sequence[Path] = ()) -> Result:
    """Return the scores of a study, or of a comparison over searches.

    Args:
        typed: the command that ran it.
        others: storages of further searches of the comparison, as in `report.py table --with`.
    """
    study = (storage / name / "study.json").exists()
    folders = [place / name for place in (storage, *others)]
    found = _study(storage / name) if study else _comparison(folders)
    about = {
        "command": typed,
        "machine": machine(),
        "recorded": datetime.now(UTC).date().isoformat(),
    }
    return about | found


def _study(folder: Path) -> Result:
    record = read_record(folder)
    metric = test_metric(record.objective)
    answer = record.best_number() or 0
    number = answer or record.repeat_rule.challenger(record.completed)
    assert number is not None
    sides = {"trial": number, "default": 0}
    scores = {side: repeat_scores(record, trial, metric) for side, trial in sides.items()}
    outcomes = {side: outcomes_of(record, trial) for side, trial in sides.items()}
    saved, total = record.epochs_saved
    return {
        "commit": record.manifest.commit,
        "metric": metric,
        "seed": record.manifest.seed,
        "trials": len(record.trials),
        "epochs": total - saved,
        "epochs_saved": saved,
        "answer": answer,
        "number": number,
        "validation": record.completed[number],
        "scores": {side: list(found.values()) for side, found in scores.items()},
        "sampling_variance": {
            **{side: sampling_variance(metric, runs) for side, runs in outcomes.items()},
            "gain": sampling_variance(metric, outcomes["trial"], outcomes["default"]),
        },
        "baseline": record.summary.get(f"baseline/{metric}"),
    }


def _comparison(folders: Sequence[Path]) -> Result:
    table = pool_searches(folders) if len(folders) > 1 else compare_searches(folders[0])
    commits = {one.record.manifest.commit for row in table.rows for one in row.searches.values()}
    outcomes = {row.name: outcomes_of_searches(row.searches, table.searches) for row in table.rows}
    return {
        "commit": ", ".join(sorted(commit or "unknown" for commit in commits)),
        "metric": table.metric,
        "wanted": table.wanted,
        "questions": dict(table.questions),
        "sampling_variance": {
            name: sampling_variance(table.metric, *(outcomes[side] for side in sides(name)))
            for name in table.questions
        },
        "level": table.differences[0].level,
        "backbones": {cost.source: [cost.epochs, cost.minutes] for cost in table.sources},
        "settings": {
            row.name: {
                "about": row.about,
                "accuracies": list(row.accuracies.values()),
                "images": row.images,
                "shared": row.shared,
                "epochs": row.epochs,
                "minutes": row.minutes,
                "configurations": [one.configuration for one in row.searches.values()],
            }
            for row in table.rows
        },
    }


# ---------------------------------------------------------------- render


def short(value: float) -> str:
    """Format with three digits and no leading zero: `.905`."""
    return without_zeros(f"{value:.3f}")


def interval(estimate: Interval) -> str:
    return f"{short(estimate.mean)} [{short(estimate.low)}, {short(estimate.high)}]"


def study_estimates(result: Result) -> dict[str, Interval]:
    """Return the mean of the trial, the mean of the default, and their difference."""
    variance = {key: value or 0.0 for key, value in result["sampling_variance"].items()}
    trial, default = (dict(enumerate(result["scores"][side])) for side in ("trial", "default"))
    return {
        "trial": mean_of(list(trial.values()), variance["trial"]).clipped_to_unit(),
        "default": mean_of(list(default.values()), variance["default"]).clipped_to_unit(),
        "gain": difference(trial, default, variance["gain"]),
    }


def study_cell(result: Result) -> str:
    """Return the cell of README's table: `default → best [interval]`."""
    found = study_estimates(result)
    if result["answer"] == 0:
        return f"the default: {interval(found['default'])}"
    return f"{short(found['default'].mean)} → {interval(found['trial'])}"


def study_sentence(result: Result) -> str:
    """Return the verdict, the cost, and their source."""
    found = study_estimates(result)
    gain = found["gain"]
    decided = gain.p < significance(1)
    seeds = len(result["scores"]["trial"])
    total = result["epochs"] + result["epochs_saved"]
    verdict = "decided" if decided else "not decided"
    rank = "the maximum of the search"
    if result["answer"] == 0:
        rank = "the most beside the default, which validation prefers"
    return (
        f"`{result['command']}` (commit {result['commit'][:7]}, {result['machine']}, "
        f"{result['recorded']}): {result['trials']} trials; trial {result['number']} has "
        f"{short(result['validation'])} on validation, {rank}, and "
        f"{interval(found['trial'])} on the test split over {seeds} fresh seeds; "
        f"the default {interval(found['default'])}, "
        f"the untrained network {short(result['baseline'])}. The "
        f"gain is {interval(gain)}, {verdict} (p = {gain.p:.2g}). Intervals cover training seeds "
        f"and the draw of test images. Pruning saved {result['epochs_saved'] / total:.0%} of the "
        "epochs."
    )


def studies_together(results: list[Result]) -> str:
    """Mean gain over studies that differ in their seed, each of which is one observation; how many
    decide alone, and with Holm over all."""
    gains = [study_estimates(result)["gain"] for result in results]
    level = significance(1)
    alone = sum(gain.p < level for gain in gains)
    adjusted = sum(p < level for p in holm([gain.p for gain in gains], len(gains)))
    # they have the same test images, whose error does not fall with the number of studies
    of_images = [result["sampling_variance"]["gain"] or 0.0 for result in results]
    mean = interval(mean_of([gain.mean for gain in gains], sum(of_images) / len(of_images)))
    return (
        f"mean gain of {len(gains)} studies {mean} (t({len(gains) - 1}) over studies, and the draw "
        f"of test images, which they share); {alone} of them "
        f"{'decides' if alone == 1 else 'decide'} alone, {adjusted} with Holm over all"
    )


def comparison_settings(result: Result) -> str:
    """Return the table of settings over searches."""
    first = next(iter(result["settings"].values()))
    count = len(first["accuracies"])
    header = ["setting", *(f"search {n + 1}" for n in range(count)), "mean", "sd", "of images"]
    rows = []
    for name, setting in result["settings"].items():
        accuracies = setting["accuracies"]
        estimate = mean_of(accuracies, setting.get("shared") or 0.0).clipped_to_unit()
        spread = (sum((a - estimate.mean) ** 2 for a in accuracies) / (count - 1)) ** 0.5
        images = "-" if setting["images"] is None else short(setting["images"])
        cells = [short(accuracy) for accuracy in accuracies]
        rows.append(
            [f"{name}: {setting['about']}", *cells, interval(estimate), short(spread), images]
        )
    return _table(header, rows)


def comparison_differences(result: Result) -> str:
    """Return the table of questions."""
    gains = {}
    of_images = result.get("sampling_variance", {})
    for name in result["questions"]:
        first, second = [result["settings"][side]["accuracies"] for side in sides(name)]
        gains[name] = paired(first, second, of_images.get(name) or 0.0)
    adjusted = holm([gain.p for gain in gains.values()], len(result["questions"]))
    rows = []
    for (name, gain), p_holm in zip(gains.items(), adjusted, strict=True):
        better = sides(name)[0 if gain.mean > 0 else 1]
        verdict = f"{better} is better" if p_holm < result["level"] else "not decided"
        question = f"{' - '.join(sides(name))}: {result['questions'][name]}"
        rows.append([question, interval(gain), f"{p_holm:.2g}", verdict])
    return _table(["difference", "estimate", "p (Holm)", "verdict"], rows)


def comparison_source(result: Result) -> str:
    """Return the source and the cost of the figures."""
    epochs = sum(setting["epochs"] for setting in result["settings"].values())
    minutes = sum(setting["minutes"] for setting in result["settings"].values())
    backbones = [
        f"`{name}` {cost[0]:,} epochs in {cost[1]:.0f} minutes"
        for name, cost in result["backbones"].items()
    ]
    known = all(setting.get("shared") is not None for setting in result["settings"].values())
    left_out = "" if known else NOT_RECORDED
    return (
        f"`{result['command']}` (commit {result['commit'][:7]}, {result['machine']}, "
        f"{result['recorded']}). Training took {epochs:,} epochs in {minutes:.0f} minutes for the "
        f"settings, and for their backbones {', '.join(backbones)}.{left_out}"
    )


def comparison_kept(result: Result) -> str:
    """Return how many searches chose their default."""
    chosen = [one for setting in result["settings"].values() for one in setting["configurations"]]
    return f"{chosen.count(DEFAULT)} of {len(chosen)}"


def choices_of_two_builds(result: Result) -> str:
    """Return the table of `earlier_winners.py`. The sides share no seeds, only test images."""
    header = ["setting", "today's choice", "chosen by the earlier build", "difference"]
    rows = []
    for name, setting in result["settings"].items():
        sides = zip(setting["scores"], setting["images"], strict=True)
        cells = [interval(mean_of(*side)) for side in sides]
        gap = interval(welch(*setting["scores"], setting["common_images"]))
        rows.append([f"{name}: {setting['about']}", *cells, gap])
    return _table(header, rows)


PARTS: dict[str, Callable[[Result], str]] = {
    "cell": study_cell,
    "sentence": study_sentence,
    "settings": comparison_settings,
    "differences": comparison_differences,
    "source": comparison_source,
    "kept": comparison_kept,
    "builds": choices_of_two_builds,
}

TOGETHER = {"together": studies_together}
"""Parts of several records: `NAME+NAME.together`."""


OF_BENCHMARKS: dict[str, Callable[[], str]] = {
    "label_free.objectives": lambda: f"\n{objectives_table()}\n",
    "search_regret.peers": lambda: f"\n{peers_table()}\n",
}
"""Figures from the records in benchmarks/data."""


def _table(header: list[str], rows: list[list[str]]) -> str:
    return f"\n{markdown(header, rows)}\n"


def rendered(text: str) -> str:
    """Return the text of a page with every figure computed again."""

    def figure(match: re.Match[str]) -> str:
        if match[2] in OF_BENCHMARKS:
            return f"{match[1]}{OF_BENCHMARKS[match[2]]()}{match[4]}"
        names, _, part = match[2].rpartition(".")
        results = [json.loads((RESULTS / f"{name}.json").read_text()) for name in names.split("+")]
        text = TOGETHER[part](results) if part in TOGETHER else PARTS[part](*results)
        return f"{match[1]}{text}{match[4]}"

    return MARKED.sub(figure, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("record")
    one.add_argument("name", help="study or comparison")
    one.add_argument("storage", type=Path)
    one.add_argument("command", help="as it was typed")
    one.add_argument("--as", dest="file", help="name of the record; default: that of the study")
    one.add_argument("--with", dest="others", type=Path, nargs="*", default=[])
    commands.add_parser("render")
    options = parser.parse_args()

    if options.what == "record":
        result = record(options.name, options.storage, options.command, options.others)
        path = RESULTS / f"{options.file or options.name}.json"
        write_atomically(path, json.dumps(result, indent=1) + "\n")
        return

    for page in PAGES:
        text = page.read_text()
        renewed = rendered(text)  # the tables of searches take seconds
        if renewed != text:
            write_atomically(page, renewed)
            print(f"{page.relative_to(REPO)}: figures renewed")


if __name__ == "__main__":
    main()
