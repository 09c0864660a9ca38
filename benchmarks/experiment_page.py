"""Render the figures of studies and comparisons from their records in docs/results/.

`results.py` writes the records and fills the pages. A page asks for a part of a record
(`ssl.cell`), for a part of several (`segment+segment-seed1.together`), or for one of FIGURES.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.evidence_page import every, records
from benchmarks.figure_text import block, decimal
from benchmarks.label_free_report import objectives_sentence
from search_spaces.settings import sides
from tune.formatting import DEFAULT
from tune.reports.statistics import Interval, holm, mean_of, paired, significance, welch
from tune.reports.verdict import difference

RECORDINGS = Path(__file__).resolve().parents[1] / "docs/recordings"
Result = dict[str, Any]
NOT_RECORDED = (
    " Intervals leave out the error of test images that searches share, which was not recorded."
)


def short(value: float) -> str:
    """Format with three digits and no leading zero: `.905`."""
    return decimal(value, 3)


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


def half_widths(results: list[Result]) -> str:
    """Return the range of the half widths of the gains' intervals: leads that could be told."""
    gains = [study_estimates(result)["gain"] for result in results]
    widths = sorted((gain.high - gain.low) / 2 for gain in gains)
    return f"{short(widths[0])} to {short(widths[-1])}"


def comparison_settings(result: Result) -> str:
    """Return the table of settings over searches."""
    first = next(iter(result["settings"].values()))
    count = len(first["accuracies"])
    header = ["setting", *(f"search {n + 1}" for n in range(count)), "mean", "sd", "of images"]
    rows = []
    for name, setting in result["settings"].items():
        accuracies = setting["accuracies"]
        estimate = _mean(setting)
        spread = (sum((a - estimate.mean) ** 2 for a in accuracies) / (count - 1)) ** 0.5
        images = "-" if setting["images"] is None else short(setting["images"])
        cells = [short(accuracy) for accuracy in accuracies]
        rows.append(
            [f"{name}: {setting['about']}", *cells, interval(estimate), short(spread), images]
        )
    return block(header, rows)


def comparison_differences(result: Result) -> str:
    """Return the table of questions."""
    rows = []
    for name, (gain, p_holm, verdict) in _answers(result).items():
        question = f"{' - '.join(sides(name))}: {result['questions'][name]}"
        rows.append([question, interval(gain), f"{p_holm:.2g}", verdict])
    return block(["difference", "estimate", "p (Holm)", "verdict"], rows)


def _answers(result: Result) -> dict[str, tuple[Interval, float, str]]:
    """Return the difference, Holm's p-value and the verdict of each question."""
    gains = {}
    of_images = result.get("sampling_variance", {})
    for name in result["questions"]:
        first, second = [result["settings"][side]["accuracies"] for side in sides(name)]
        gains[name] = paired(first, second, of_images.get(name) or 0.0)
    adjusted = holm([gain.p for gain in gains.values()], len(result["questions"]))
    found = {}
    for (name, gain), p_holm in zip(gains.items(), adjusted, strict=True):
        better = sides(name)[0 if gain.mean > 0 else 1]
        verdict = f"{better} is better" if p_holm < result["level"] else "not decided"
        found[name] = gain, p_holm, verdict
    return found


def answers_of_tables(results: list[Result]) -> str:
    """Return each question with its answer in each of several tables."""
    questions = {name: about for one in results for name, about in one["questions"].items()}
    answers = [_answers(one) for one in results]
    rows = []
    for name, about in questions.items():
        cells = [
            f"{interval(found[name][0])}: {found[name][2]}" if name in found else "not asked"
            for found in answers
        ]
        rows.append([f"{' - '.join(sides(name))}: {about}", *cells])
    return block(["difference", *(f"`{one['command']}`" for one in results)], rows)


def means_of_tables(results: list[Result]) -> str:
    """Return the mean of each setting in each of several tables."""
    settings = {name: row["about"] for one in results for name, row in one["settings"].items()}
    rows = []
    for name, about in settings.items():
        found = [one["settings"].get(name) for one in results]
        cells = ["-" if row is None else interval(_mean(row)) for row in found]
        rows.append([f"{name}: {about}", *cells])
    return block(["setting", *(f"`{one['command']}`" for one in results)], rows)


def _mean(setting: Result) -> Interval:
    """Return a setting's mean over searches, with the error of the images that they share."""
    return mean_of(setting["accuracies"], setting.get("shared") or 0.0).clipped_to_unit()


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


def comparison_cost(result: Result) -> str:
    """Return the minutes of training of the settings and their backbones."""
    minutes = sum(setting["minutes"] for setting in result["settings"].values())
    minutes += sum(cost[1] for cost in result["backbones"].values())
    return f"{minutes:.0f} minutes of training"


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
    return block(header, rows)


PARTS: dict[str, Callable[[Result], str]] = {
    "cell": study_cell,
    "sentence": study_sentence,
    "settings": comparison_settings,
    "differences": comparison_differences,
    "source": comparison_source,
    "kept": comparison_kept,
    "cost": comparison_cost,
    "builds": choices_of_two_builds,
}

TOGETHER: dict[str, Callable[[list[Result]], str]] = {
    "together": studies_together,
    "told": half_widths,
    "answers": answers_of_tables,
    "means": means_of_tables,
}
"""Parts of several records: `NAME+NAME.together`."""


def falls() -> str:
    """Say how far selected maxima fell, in recorded searches and in the study of the README."""
    largest = max(row["fall"][0] for row in every("search_luck", "searches"))
    shown = (RECORDINGS / "show.txt").read_text()
    of_ssl = re.search(r"repeats average \S+, (\S+) lower", shown)
    assert of_ssl is not None
    return (
        f"fell by up to {short(largest)} on average over recorded searches "
        f"([notes](notes/evidence.md)), by {short(float(of_ssl[1]))} in the default study of `ssl`"
    )


def shared_draws() -> str:
    """Return how the best of four trials of two settings correlates under shared draws."""
    rows = records("shared_draws")["rows"]
    of_four = next(row["correlation"] for row in rows if row["trials"] == 4)
    return decimal(of_four)


FIGURES: dict[str, Callable[[], str]] = {
    "evidence.falls": falls,
    "evidence.shared_draws": shared_draws,
    "label_free.sentence": objectives_sentence,
}
"""Figures by name."""
