"""The whole of `classify` on the command line: the layouts of the course reports, and what is
refused."""

import contextlib
import csv
import io
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from tests import REPO
from tests.commands import BYOL, SMALL, Call
from tests.studies import write_setting
from tests.trainables.data.test_layouts import make, paint, write_csv
from trainables.errors import UserError
from tune.reports.comparison_table import Difference, compare_settings
from tune.reports.config_differences import same_data
from tune.reports.html_comparison import comparison_page
from tune.reports.statistics import Interval, holm
from tune.reports.table_text import as_csv, markdown, notes
from tune.study.events import EventLog
from tune.study.manifest import read_manifest
from tune.study.record import read_record

TINY_FOLDER = ("--data", "data", "--preset", "tiny", *SMALL, "--set", "train.epoch_images=32")
PRETRAINED = (
    "--data",
    "digits",
    "--trials",
    "1",
    "--repeats",
    "0",
    *SMALL,
    "--set",
    "train.epoch_images=96",
)
ALL = (
    "classify",
    "--searches",
    "1",
    "--data",
    "digits",
    *SMALL,
    "--set",
    "train.epoch_images=96",
    "--trials",
    "3",
    "--repeats",
    "2",
)


def ends(study: Path) -> list[dict[str, Any]]:
    return [e for e in EventLog.read(study / "events.jsonl")[0] if e["event"] == "end"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["csv", "prefix train val"])
def test_layouts_of_the_reports_are_searched_unchanged(
    call: Call,
    tmp_path: Path,
    kind: str,
) -> None:
    """The csv files of Office-Home and the file names of the 50 classes, with other images, are
    searched, repeated and judged on the layout's val."""
    make(kind, tmp_path / "data")
    said = call("classify", "--setting", "A", *TINY_FOLDER, "--trials", "2", "--repeats", "2")
    assert said.code == 0, said.err
    assert " 9 test images" in said.out  # all images of val
    found = ends(tmp_path / "runs/classify-A")
    assert Counter(e.get("repeat") is None for e in found)[True] == 2
    repeats = [e for e in found if "repeat" in e]
    assert len(repeats) >= 2
    assert all("test/top1" in e["metrics"] for e in repeats)


def class_in_val_only(folder: Path) -> str:
    make("csv", folder)
    paint(folder / "val/dodo.png")
    lines = (folder / "val.csv").read_text()
    (folder / "val.csv").write_text(lines + "99,dodo.png,dodo\n")
    return "class 'dodo' of"


def prefix_in_val_only(folder: Path) -> str:
    make("prefix train val", folder)
    paint(folder / "val_50/dodo_1.png")
    return "class 'dodo' of"


def unknown_file(folder: Path) -> str:
    make("csv", folder)
    (folder / "train.csv").write_text((folder / "train.csv").read_text() + "99,nowhere.png,ant\n")
    return "train.csv names 1 file that is not in"


def label_missing_in_train(folder: Path) -> str:
    make("csv", folder)
    write_csv(folder / "train.csv", [(0, "ta0.png", "ant"), (1, "tb0.png", "")])
    return "train.csv"


@pytest.mark.parametrize(
    "spoil",
    [class_in_val_only, prefix_in_val_only, unknown_file, label_missing_in_train],
    ids=lambda spoil: spoil.__name__,
)
def test_labels_that_do_not_fit_are_one_line(call: Call, tmp_path: Path, spoil: Any) -> None:
    expected = spoil(tmp_path / "data")
    said = call("classify", "--setting", "A", *TINY_FOLDER)
    assert said.code == 2
    assert expected in said.line
    assert not (tmp_path / "runs").exists()


def test_a_backbone_for_all_settings_is_refused(call: Call, tmp_path: Path) -> None:
    said = call(*ALL, "--backbone", "ssl")
    assert (said.code, said.out) == (2, "")
    assert "--setting" in said.line
    assert not (tmp_path / "runs").exists()


def whole(storage: Path, *words: str, kill_after: int | None = None) -> int:
    """Run the command line in subprocesses."""
    return finished(
        [sys.executable, str(REPO / "tune/run.py"), *words, "--storage", str(storage)],
        storage,
        kill_after,
    )


def finished(command: list[str], storage: Path, kill_after: int | None) -> int:
    """Run the command and return its exit code. Kill all its processes once it has recorded this
    many more epochs, if it has not ended by then."""
    before = epochs_on_record(storage)
    with (storage.parent / "out.txt").open("w") as out:
        process = subprocess.Popen(
            command, cwd=REPO, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        if kill_after is None:
            return process.wait()
        while process.poll() is None and epochs_on_record(storage) < before + kill_after:
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def epochs_on_record(storage: Path) -> int:
    return sum(
        path.read_bytes().count(b'"event":"report"') for path in storage.glob("*/events.jsonl")
    )


def estimates(storage: Path) -> list[list[str]]:
    """The table without what depends on the clock."""
    rows = list(csv.DictReader((storage / "classify/table.csv").open()))
    return [[value for name, value in row.items() if name != "minutes"] for row in rows]


_KINDS = """
    SELECT kind.value, count(*) FROM tags kind JOIN tags study ON kind.run_uuid = study.run_uuid
    WHERE kind.key = 'kind' AND study.key = 'study' AND study.value LIKE 'classify%'
    GROUP BY kind.value
"""
_BELOW = "SELECT count(*) FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_all_settings_killed_and_gone_on_with_end_with_the_same_table(tmp_path: Path) -> None:
    whole(tmp_path / "straight", "ssl", *PRETRAINED, *BYOL)
    whole(tmp_path / "straight", "pretrain", *PRETRAINED)
    shutil.copytree(tmp_path / "straight", tmp_path / "killed")
    assert whole(tmp_path / "straight", *ALL) == 0, (tmp_path / "out.txt").read_text()
    rng = random.Random(1)
    for _ in range(4):
        assert whole(tmp_path / "killed", *ALL, kill_after=rng.randint(1, 8)) == -9, (
            tmp_path / "out.txt"
        ).read_text()
    assert whole(tmp_path / "killed", *ALL) == 0, (tmp_path / "out.txt").read_text()
    assert estimates(tmp_path / "killed") == estimates(tmp_path / "straight")
    for storage in (tmp_path / "straight", tmp_path / "killed"):
        with sqlite3.connect(storage / "mlflow.db") as database:
            kinds = dict(database.execute(_KINDS))
            parent = database.execute(
                "SELECT run_uuid FROM runs WHERE name = 'classify'"
            ).fetchall()
            below = database.execute(_BELOW, parent[0]).fetchone()
        assert (len(parent), below[0], kinds["study"], kinds["trial"], kinds["group"]) == (
            1,
            5,
            5,
            15,
            1,
        )


SOURCES = [f"--set {source}:train.epoch_images=96" for source in ("ssl", "pretrain")]


def make_table(storage: Path, kill_after: int | None = None) -> int:
    """Run `make table` on small digits."""
    options = " ".join(
        ("--data digits --trials 2 --set train.epoch_images=96", *SOURCES, *SMALL[1:])
    )
    installed = f"{sys.prefix}/installed"
    command = [
        "make",
        "-o",
        installed,
        "table",
        "JOBS=2",
        "SEARCHES=2",
        f"VENV={sys.prefix}",
        f"STORAGE={storage}",
        f"OPTIONS={options}",
    ]
    return finished(command, storage, kill_after)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_make_table_killed_at_random_moments_ends_with_the_same_table(tmp_path: Path) -> None:
    assert make_table(tmp_path / "straight") == 0, (tmp_path / "out.txt").read_text()
    rng = random.Random(2)
    for _ in range(4):
        assert make_table(tmp_path / "killed", kill_after=rng.randint(1, 8)) == -9, (
            tmp_path / "out.txt"
        ).read_text()
    assert make_table(tmp_path / "killed") == 0, (tmp_path / "out.txt").read_text()
    assert any(
        e["attempt"] > 1
        for log in tmp_path.glob("killed/*/events.jsonl")
        for e in EventLog.read(log)[0]
        if e["event"] == "start"
    )
    assert estimates(tmp_path / "killed") == estimates(tmp_path / "straight")


def test_the_table_says_what_the_repeats_say(tmp_path: Path) -> None:
    a, c = {0: [0.50, 0.52, 0.48]}, {0: [0.60, 0.63, 0.57]}
    write_setting(tmp_path / "classify-A", "A", a)
    write_setting(tmp_path / "classify-C", "C", c)
    found = compare_settings(tmp_path / "classify")
    expected = stats.ttest_rel(c[0], a[0])
    [comparison] = found.differences
    interval = expected.confidence_interval()
    # one search: the verdict is about the configuration it found, not about the setting
    assert comparison.name == "C-A"
    assert comparison.p_holm == pytest.approx(4 * expected.pvalue)  # Holm over four questions
    assert comparison.verdict == "C's configuration is better"
    assert [comparison.gain.low, comparison.gain.high, comparison.gain.p] == pytest.approx(
        [interval.low, interval.high, expected.pvalue]
    )
    assert found.missing == ["B", "D", "E"]
    [row, _] = found.rows
    assert row.accuracy is not None
    assert row.accuracy.mean == pytest.approx(0.5)
    assert (len(row.record.trials), row.record.epochs, row.minutes) == (1, 1, 2.0)
    text, page = markdown(found), comparison_page(found, b"png")
    assert "| A: scratch, all trains | 0.500 | 0.450 to 0.550 |" in text
    assert "C's configuration is better" in text
    assert "C&#39;s configuration is better" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_verdict_holds_for_all_differences_at_once() -> None:
    """Three differences each have an interval that excludes 0. Corrected for multiple comparisons,
    two of them are undecided."""
    found = [
        Difference(name, Interval(0.02, 0.001, 0.039, p=p), p_holm)
        for name, p, p_holm in zip(
            ("B-A", "C-A", "C-B"), (0.01, 0.03, 0.04), holm([0.01, 0.03, 0.04]), strict=True
        )
    ]
    assert all(d.gain.decided for d in found)
    assert [d.verdict for d in found] == ["B is better", "not decided", "not decided"]
    assert Difference("B-A", Interval(-0.02, -0.039, -0.001, p=0.01), 0.01).verdict == "A is better"


def test_not_decided_and_the_best_on_average(tmp_path: Path) -> None:
    write_setting(tmp_path / "classify-A", "A", {0: [0.50, 0.52, 0.48], 1: [0.60, 0.40, 0.5]})
    write_setting(
        tmp_path / "classify-C",
        "C",
        {0: [0.50, 0.53, 0.48], 1: [0.2, 0.3, 0.1], 2: [0.3, 0.2, 0.1], 3: [0.9, 0.9, 0.9]},
    )
    found = compare_settings(tmp_path / "classify")
    # validation chooses; trial 3 does not lead, however good its test accuracy
    assert [row.number for row in found.rows] == [0, 0]
    [comparison] = found.differences
    assert comparison.verdict == "not decided"
    lines = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [line["row"] for line in lines] == ["A", "C", "C-A"]
    assert float(lines[2]["estimate"]) == pytest.approx(1 / 300)


def test_settings_that_were_not_searched_alike(tmp_path: Path) -> None:
    """The table says in what they differ. If the images differ, no difference is computed. What
    defines the setting does not count as different."""
    a, c = {0: [0.50, 0.52, 0.48]}, {0: [0.60, 0.63, 0.57]}
    write_setting(tmp_path / "classify-A", "A", a)
    write_setting(
        tmp_path / "classify-B",
        "B",
        c,
        {"init.source": "supervised", "init.sha256": "1", "normalize": "half"},
    )
    write_setting(
        tmp_path / "classify-C",
        "C",
        c | {1: [0.5, 0.5, 0.5]},
        {"init.source": "ssl", "train.epochs": 5, "optim.clip_grad_norm": 1.0},
    )
    write_setting(
        tmp_path / "classify-E", "E", c, {"init.source": "ssl", "freeze.policy": "all"}, images="g"
    )
    write_setting(
        tmp_path / "classify-D", "D", c, {"init.source": "supervised", "freeze.policy": "all"}
    )
    found = compare_settings(tmp_path / "classify")
    assert [d.name for d in found.differences] == ["C-A", "C-B", "B-A"]  # without E-D
    said = [note for note in notes(found) if "in the same way" in note]
    assert said == [
        "A and C were not searched in the same way: trials 1 and 2, optim.clip_grad_norm 0 and 1, "
        "train.epochs 12 and 5.",
        "A and E were not searched in the same way: other images of glyphs, so their difference "
        "would mean nothing and is left out.",
    ]


def test_the_rules_of_the_split_decide_which_images_judge(tmp_path: Path) -> None:
    """The rule does not apply to letters, digits and tiles, which have no near-duplicate files."""
    runs = {0: [0.50, 0.52, 0.48]}
    named = {"data.name": "pets"}
    for setting, config in (("A", {"data.split": 2}), ("C", {"data.split": 3})):
        write_setting(tmp_path / f"pets-{setting}", setting, runs, config | named)
        write_setting(tmp_path / f"glyphs-{setting}", setting, runs, config)
    pets, glyphs = (
        [read_record(tmp_path / f"{name}-{setting}") for setting in "AC"]
        for name in ("pets", "glyphs")
    )
    assert not same_data(*pets)
    assert same_data(*glyphs)


def test_a_table_before_any_repeat_counts_no_seeds(tmp_path: Path) -> None:
    write_setting(tmp_path / "classify-A", "A", {0: [0.50, 0.52, 0.48]})
    write_setting(tmp_path / "classify-C", "C", {0: []})
    found = compare_settings(tmp_path / "classify")
    assert found.missing == ["B", "C", "D", "E"]
    assert notes(found)[0].startswith("Test accuracy: mean over 3 fresh seeds of")


def test_an_accuracy_has_no_interval_above_1(tmp_path: Path) -> None:
    write_setting(tmp_path / "classify-A", "A", {0: [0.9, 1.0, 0.98]})
    [row] = compare_settings(tmp_path / "classify").rows
    assert row.accuracy is not None
    assert row.default is not None
    assert (row.accuracy.high, row.default.high) == (1, 1)


def test_a_group_without_studies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no setting of 'nothing' in"):
        compare_settings(tmp_path / "nothing")


FEWSHOT = (
    "fewshot",
    "--searches",
    "1",
    "--data",
    "digits",
    *SMALL,
    "--set",
    "train.epoch_images=96",
    "--set",
    "episode.way=5",
    "--set",
    "val.way=2",
    "--set",
    "episode.query=2",
    "--set",
    "train.batch_size=60",
    "--trials",
    "2",
    "--repeats",
    "2",
)


@pytest.mark.parametrize(
    ("compare", "names", "differing"),
    [
        pytest.param(
            "shots", ["K1", "K5", "K10"], ("val.shot", [1, 5, 10]), marks=pytest.mark.slow
        ),
        pytest.param(
            "distance",
            ["euclidean", "cosine", "parametric"],
            ("head.distance", ["euclidean", "cosine", "parametric"]),
            marks=pytest.mark.heavy,
        ),
    ],
)
def test_ready_comparisons_of_fewshot(
    call: Call,
    tmp_path: Path,
    compare: str,
    names: list[str],
    differing: Any,
) -> None:
    """One command makes studies that differ in one value, which none of them searches, with at
    least 600 episodes, and a table."""
    said = call(*FEWSHOT, "--compare", compare)
    assert said.code == 0, said.err
    group = tmp_path / f"runs/fewshot-{compare}"
    studies = [read_manifest(group.parent / f"{group.name}-{name}/study.json") for name in names]
    key, values = differing
    assert [study.base[key] for study in studies] == values
    assert all(key not in study.space and study.base["val.episodes"] == 600 for study in studies)
    changed = {k for study in studies for k, v in study.base.items() if v != studies[0].base[k]}
    assert changed == {key}
    found = compare_settings(group)
    assert [row.name for row in found.rows] == names
    assert all(row.accuracy is not None for row in found.rows)
    assert {d.name for d in found.differences} == found.comparison.questions.keys()
    assert (group / "table.html").exists()
    assert "reports" not in markdown(found)
    one = call(*FEWSHOT, "--setting", names[0])  # the study exists, so nothing is left to do
    assert (one.code, "trial 0 complete" in one.out) == (0, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fewshot --compare shot", "unknown --compare 'shot'; did you mean 'shots'?"),
        (
            "pretrain --compare shots",
            "unknown --compare 'shots'; pretrain has none that needs a name",
        ),
        (
            "fewshot --compare shots --setting K1",
            "--compare shots with --setting K1, which is one of its sides",
        ),
        (
            "fewshot --setting K2",
            "unknown --setting 'K2'; valid: K1, K10, K5, cosine, euclidean, parametric",
        ),
        (
            "fewshot --setting K5 --set val.shot=3",
            "--set val.shot: setting K5 is val.shot=5; leave it out",
        ),
        ("pretrain --setting A", "pretrain has no settings"),
    ],
)
def test_comparisons_that_cannot_be(call: Call, tmp_path: Path, words: str, message: str) -> None:
    said = call(*words.split())
    assert (said.code, said.out) == (2, "")
    assert message in said.line
    assert not (tmp_path / "runs").exists()
