"""Figures in the documents, from records kept in docs/results/.

    python benchmarks/results.py record ssl runs "make run"          # after that command
    python benchmarks/results.py record classify runs "make table"
    python benchmarks/results.py render                              # into README.md and docs/

A record contains the scores of the runs and nothing derived from them. A page asks for a figure
with `<!-- result: NAME -->...<!-- end -->`, within a line or with each mark alone on its line: text
behind a comment that begins a line is not Markdown. tests/project/test_results.py renders all of
them again. The words and tables are made in `experiment_page.py` and the reports of benchmarks.
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

from benchmarks import experiment_page, search_page, speed_page
from benchmarks.experiment_page import PARTS, TOGETHER
from benchmarks.label_free_report import objectives_table
from benchmarks.record_file import RESULTS, machine
from search_spaces.settings import sides
from trainables.files import write_atomically
from tune.reports.pooled_row import outcomes_of_searches
from tune.reports.pooled_table import compare_searches, pool_searches
from tune.reports.sampling_error import outcomes_of, sampling_variance
from tune.reports.verdict import repeat_scores, test_metric
from tune.study.record import read_record

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
MARKED = re.compile(r"(<!-- result: (\S+) -->)(.*?)(<!-- end -->)", re.DOTALL)

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


OF_BENCHMARKS: dict[str, Callable[[], str]] = {
    "label_free.objectives": lambda: f"\n{objectives_table()}\n",
    **experiment_page.FIGURES,
    **search_page.FIGURES,
    **speed_page.FIGURES,
}
"""Figures that are no part of one record of a study or comparison."""


def rendered(text: str) -> str:
    """Return the text of a page with every figure computed again. A mark alone on its line keeps
    its line."""

    def shown(match: re.Match[str]) -> str:
        figure = _figure(match[2])
        if match[3].startswith("\n"):
            figure = f"\n{figure.strip()}\n"
        return f"{match[1]}{figure}{match[4]}"

    return MARKED.sub(shown, text)


def _figure(name: str) -> str:
    if name in OF_BENCHMARKS:
        return OF_BENCHMARKS[name]()
    names, _, part = name.rpartition(".")
    results = [json.loads((RESULTS / f"{name}.json").read_text()) for name in names.split("+")]
    return TOGETHER[part](results) if part in TOGETHER else PARTS[part](*results)


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
