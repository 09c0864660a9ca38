"""Every page names the chosen trial in the same words, with the result of its repeats."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests import REPO
from tests.studies import POOR, events, finished
from tune.reports.html_report import write_report
from tune.reports.leaderboard import show_study
from tune.reports.selection import LARGEST_FALL, repeats_label, selection
from tune.study.record import read_record
from tune.tracking.projection import Projection

RESULTS = REPO / "docs/results"


def test_repeats_are_compared_with_the_value() -> None:
    assert repeats_label(0.25, ()) == ""
    assert repeats_label(0.25, (0.15,)) == "its repeat is 0.1500, 0.1000 lower"
    assert repeats_label(0.25, (0.2, 0.30001)) == "its 2 repeats average 0.2500, the same"
    assert repeats_label(0.25, (0.2, 0.4)) == "its 2 repeats average 0.3000, 0.0500 higher"


def test_the_chosen_trial_is_the_best_of_the_search(tmp_path: Path) -> None:
    finished(tmp_path, 4, repeats=2, base=POOR)
    record = read_record(tmp_path / "toy")
    chosen = selection(record, len(record.trials))
    assert chosen is not None
    assert chosen.number == record.best_number()
    assert chosen.value == max(record.completed.values())
    assert chosen.place == 1
    assert len(chosen.repeats) == 2
    assert chosen.label.startswith("the best of 4 single runs; its 2 repeats average ")


def test_a_maximum_without_repeats_is_said_to_fall(tmp_path: Path) -> None:
    """By as much as recorded ones did, which docs/evidence.md lists."""
    finished(tmp_path, 3, repeats=0, base=POOR)
    chosen = selection(read_record(tmp_path / "toy"), 3)
    assert chosen is not None
    assert chosen.label == (
        "the best of 3 single runs, not repeated yet: such maxima fell by up to 0.04 "
        "(docs/evidence.md)"
    )

    luck = [json.loads(file.read_text()) for file in RESULTS.glob("search_luck_*.json")]
    means = [search["fall"][0] for record in luck for search in record["searches"]]
    recording = (REPO / "docs/recordings/show.txt").read_text()
    of_ssl = re.search(r"repeats average \S+, (\S+) lower", recording)
    assert of_ssl is not None
    page = " ".join((REPO / "docs/evidence.md").read_text().split())
    assert f"fell by up to {max(means):.3f} on average".replace("0.", ".") in page
    assert f"by {float(of_ssl[1]):.3f} in the default study of `ssl`".replace("0.", ".") in page
    assert max(*means, float(of_ssl[1])) <= LARGEST_FALL


def test_a_choice_by_repeats_is_explained(tmp_path: Path) -> None:
    finished(tmp_path, 2, repeats=2)
    record = read_record(tmp_path / "toy")
    chosen = selection(record, 2)
    assert chosen is not None
    second = replace(chosen, place=2)
    assert second.label.startswith("number 2 of 2 single runs, but first by its repeats; its ")


@pytest.fixture
def shown(tmp_path: Path) -> tuple[Path, str]:
    """A study's folder, and the sentence about its chosen trial."""
    finished(tmp_path, 3, repeats=2, base=POOR)
    record = read_record(tmp_path / "toy")
    chosen = selection(record, 3)
    assert chosen is not None
    return tmp_path / "toy", chosen.sentence


def test_show_and_page_mark_it(shown: tuple[Path, str]) -> None:
    folder, sentence = shown
    number = read_record(folder).best_number()
    out = io.StringIO()
    show_study(folder, Console(file=out, width=200))
    assert f"* {sentence}" in out.getvalue()
    assert f"* {number} " in out.getvalue()

    page = write_report(folder).read_text()
    assert sentence.removeprefix("chosen: ") in page
    assert f'<td class="num">* {number}</td>' in page


def test_mlflow_has_the_tag_on_one_trial(tmp_path: Path) -> None:
    finished(tmp_path, 2, repeats=0)
    projection = Projection()
    for event in events(tmp_path):
        projection.feed(event)
    projection.take()
    for trial in (0, 1):
        metrics = {"chosen/trial": float(trial)}
        tags = {"chosen": f"chosen: trial {trial}"}
        projection.feed({"event": "summary", "t": 1, "metrics": metrics, "tags": tags})
    changes = projection.take()
    assert changes["trial/1"].tags["chosen"] == "chosen: trial 1"
    assert changes["trial/0"].tags["chosen"] == "earlier"
    assert changes["study"].tags["chosen"] == "chosen: trial 1"
