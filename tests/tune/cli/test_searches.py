"""Comparisons with several searches of each setting. One search is one observation."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from scipy import stats

from tests import REPO
from tests.commands import SMALL, Call
from tests.studies import write_setting
from trainables.errors import UserError
from trainables.outcomes import ImageOutcomes
from tune.cli.options import Options
from tune.cli.searches import members_of
from tune.experiments import EXPERIMENTS
from tune.reports.backbone_part import backbone_part
from tune.reports.html_comparison import pooled_page
from tune.reports.pooled_table import compare_searches, pool_searches
from tune.reports.pooled_text import pooled_csv, pooled_markdown, pooled_notes
from tune.reports.sampling_error import OVERLAP_UNKNOWN, crossed_covariance, sampling_variance
from tune.reports.statistics import holm, mean_of, significance
from tune.reports.table_files import publish
from tune.study.events import EventLog
from tune.study.group import Group, search_numbers
from tune.study.manifest import read_manifest
from tune.study.record import read_record

MEANS = {
    "A": [0.50, 0.52, 0.57, 0.49, 0.51],
    "B": [0.80, 0.71, 0.90, 0.82, 0.79],
    "C": [0.60, 0.64, 0.65, 0.61, 0.66],
    "D": [0.70, 0.72, 0.69, 0.71, 0.70],
    "E": [0.69, 0.73, 0.70, 0.70, 0.72],
}


def write_searches(storage: Path, searches: int = 5, wanted: int = 5, seed: int = 0) -> Path:
    """Write a group `classify` whose searches found configurations of these accuracies.

    Args:
        seed: of the first search; each following one has the next seed.
    """
    group = Group.open(storage / "classify", "classify", "val/top1", [])
    group.ask_for(wanted)
    for name, means in MEANS.items():
        for number, mean in enumerate(means[:searches], start=1):
            write_setting(
                storage / f"classify-{name}-r{number}",
                name,
                {0: [mean]},
                images=str(seed + number),
                seed=seed + number - 1,
            )
    return storage / "classify"


def test_differences_are_paired_by_search(tmp_path: Path) -> None:
    found = compare_searches(write_searches(tmp_path))
    p_values = []
    for difference in found.differences:
        first, second = difference.name.split("-")
        expected = stats.ttest_rel(MEANS[first], MEANS[second])
        interval = expected.confidence_interval()
        p_values.append(expected.pvalue)
        gain = difference.gain
        assert [gain.low, gain.high, gain.p] == pytest.approx(
            [interval.low, interval.high, expected.pvalue]
        )
    assert [d.name for d in found.differences] == ["C-A", "C-B", "E-D", "B-A"]
    assert [d.p_holm for d in found.differences] == pytest.approx(holm(p_values))
    verdicts = {d.name: d.verdict for d in found.differences}
    assert verdicts["C-A"] == "C is better"
    assert verdicts["E-D"] == "not decided"
    assert found.missing == []

    row = found.rows[0]
    low, high = stats.t.interval(0.95, 4, np.mean(MEANS["A"]), stats.sem(MEANS["A"]))
    assert row.accuracy is not None
    assert [row.accuracy.low, row.accuracy.high] == pytest.approx([low, high])
    assert "| A: scratch, all trains | 0.500 | 0.520 | 0.570 | 0.490 | 0.510 | 0.518 |" in (
        pooled_markdown(found)
    )
    assert "C-A,all,0.114" in pooled_csv(found)


def test_two_tables_become_one_under_two_seeds(tmp_path: Path) -> None:
    """All searches count, at the level of a third look, because each table has had one."""
    folders = [write_searches(tmp_path / f"runs{seed}", seed=10 * seed) for seed in (0, 1)]
    found = pool_searches(folders)
    assert found.searches == [f"runs{seed}/r{place}" for seed in (0, 1) for place in range(1, 6)]
    for difference in found.differences:
        first, second = difference.name.split("-")
        expected = stats.ttest_rel(2 * MEANS[first], 2 * MEANS[second])
        interval = expected.confidence_interval()
        gain = difference.gain
        assert [gain.low, gain.high, gain.p] == pytest.approx(
            [interval.low, interval.high, expected.pvalue]
        )
        assert difference.level == significance(3)


def test_tables_under_the_same_seed_are_one(tmp_path: Path) -> None:
    folders = [write_searches(tmp_path / name) for name in ("runs0", "runs1")]
    with pytest.raises(UserError, match="same seed, 0: they are one search"):
        pool_searches(folders)


def test_a_table_that_lacks_a_search_is_not_pooled(tmp_path: Path) -> None:
    folders = [write_searches(tmp_path / f"runs{seed}", seed=10 * seed) for seed in (0, 1)]
    shutil.rmtree(tmp_path / "runs1" / "classify-C-r5")
    with pytest.raises(UserError, match="without repeats so far: C"):
        pool_searches(folders)


def test_the_cost_of_backbones_stands_beside_the_table(tmp_path: Path) -> None:
    folder = write_searches(tmp_path)
    for number in (1, 2):
        write_setting(tmp_path / f"classify-ssl-r{number}", "ssl", {0: [], 1: []})
    found = compare_searches(folder)
    [cost] = found.sources
    assert (cost.source, cost.epochs, cost.minutes) == ("ssl", 4, 2.0)
    assert "ssl 4 epochs, 2.0 minutes, chosen by val/top1" in " ".join(pooled_notes(found))
    assert [row.name for row in found.rows] == list(MEANS)


def test_fewer_than_five_searches_give_no_verdict(tmp_path: Path) -> None:
    found = compare_searches(write_searches(tmp_path, searches=3, wanted=3))
    assert {d.verdict for d in found.differences} == {
        "no verdict: 5 searches are needed, 3 were asked for"
    }


def test_a_comparison_that_has_not_ended_gives_no_verdict(tmp_path: Path) -> None:
    """Even a clear difference gives no verdict, because it would be looked at again."""
    found = compare_searches(write_searches(tmp_path, searches=5, wanted=8))
    assert {d.verdict for d in found.differences} == {"no verdict yet: 5 of 8 searches"}


def test_a_search_without_a_test_accuracy_is_named(tmp_path: Path) -> None:
    folder = write_searches(tmp_path, searches=4)
    write_setting(tmp_path / "classify-A-r5", "A", {0: []}, images="5")
    found = compare_searches(folder)
    assert found.missing == [f"{name} of search 5" for name in "ABCDE"]
    assert {d.verdict for d in found.differences} == {"no verdict yet: 4 of 5 searches"}
    assert any("Without a test accuracy so far: A of search 5" in n for n in pooled_notes(found))
    assert len(found.rows[0].accuracies) == 4


def test_searches_on_other_images_are_no_pair(tmp_path: Path) -> None:
    folder = write_searches(tmp_path, searches=4)
    for name in MEANS:
        write_setting(tmp_path / f"classify-{name}-r5", name, {0: [0.5]}, images=f"of {name}")
    found = compare_searches(folder)
    assert {d.verdict for d in found.differences} == {"no verdict yet: 4 of 5 searches"}


def test_searches_on_the_same_test_images_share_their_luck(tmp_path: Path) -> None:
    """Their common error adds to that of the searches. Here all runs of a setting are right on the
    same images, so it has McNemar's variance of a difference of two proportions."""
    group = Group.open(tmp_path / "classify", "classify", "val/top1", [])
    group.ask_for(5)
    rng = np.random.default_rng(0)
    right = {
        name: (rng.random(400) < share).astype(np.uint8) for name, share in (("A", 0.5), ("C", 0.6))
    }
    scores = {}
    for name, answers in right.items():
        scores[name] = [float(answers.mean()) + luck for luck in (-0.02, -0.01, 0, 0.01, 0.02)]
        outcomes = ImageOutcomes(test_set="same", right={"test/top1": answers}).to_record()
        for number, score in enumerate(scores[name], start=1):
            folder = tmp_path / f"classify-{name}-r{number}"
            shift = 0.001 * number * (name == "C")  # otherwise there would be no spread
            write_setting(folder, name, {0: [score + shift]}, images="same", tested=outcomes)
    found = compare_searches(tmp_path / "classify")
    [difference] = found.differences

    differences = right["C"].astype(float) - right["A"]
    images = differences.var(ddof=1) / 400
    shifts = 0.001 * np.arange(1, 6)
    t_part = stats.t.ppf(0.975, 4) * stats.sem(shifts)
    z_part = stats.norm.ppf(0.975) * np.sqrt(images)
    half = (difference.gain.high - difference.gain.low) / 2
    assert half == pytest.approx(np.hypot(t_part, z_part), rel=1e-6)

    row = found.rows[0]
    assert row.images == pytest.approx(np.sqrt(right["A"].var(ddof=1) / 400))
    assert row.spread == pytest.approx(np.std([-0.02, -0.01, 0, 0.01, 0.02], ddof=1))


def test_the_table_says_where_its_spread_comes_from(tmp_path: Path) -> None:
    group = Group.open(tmp_path / "classify", "classify", "val/top1", [])
    group.ask_for(5)
    answers = (np.arange(400) < 240).astype(np.uint8)
    tested = ImageOutcomes(test_set="same", right={"test/top1": answers}).to_record()
    means = [0.5, 0.6, 0.7, 0.6, 0.6]
    for name in ("A", "C"):
        for number, mean in enumerate(means, start=1):
            folder = tmp_path / f"classify-{name}-r{number}"
            scores = {0: [mean - 0.01, mean, mean + 0.01]}
            write_setting(folder, name, scores, images="same", tested=tested)
    found = compare_searches(tmp_path / "classify")

    training = 0.01 / np.sqrt(3)
    images = np.sqrt(answers.var(ddof=1) / 400)
    search = np.sqrt(np.var(means, ddof=1) - training**2)  # all searches share their images
    parts = found.rows[0].parts
    assert parts == pytest.approx({"search": search, "training": training, "images": images})
    cells = f"{search:.3f} | {training:.3f} | {images:.3f} |"
    assert f"| A: scratch, all trains | {cells}" in pooled_markdown(found)
    assert f"A,sd of search,{parts['search']}" in pooled_csv(found)
    page = pooled_page(found, b"")
    assert "Where the spread over searches comes from" in page
    assert "further searches, or longer ones, would help most" in page


def write_carved(storage: Path) -> dict[str, np.ndarray]:
    """Write five searches of A to E. Each has its own half of a pool of 300 images as its test set.

    Returns:
        Setting -> (5,) test accuracies.
    """
    group = Group.open(storage / "classify", "classify", "val/top1", [])
    group.ask_for(5)
    random = np.random.default_rng(3)
    hardness = random.random(300)
    accuracies: dict[str, list[float]] = {}
    for number in range(1, 6):
        rows = np.sort(random.permutation(300)[:150])
        for name, share in zip("ABCDE", (0.4, 0.7, 0.5, 0.6, 0.3), strict=True):
            right = 0.7 * hardness + 0.3 * random.random(300) < share
            outcomes = ImageOutcomes(
                test_set=f"half {number}", right={"test/top1": right[rows]}, pool="pool", ids=rows
            )
            accuracy = float(right[rows].mean())
            folder = storage / f"classify-{name}-r{number}"
            images = f"half {number}"
            tested = outcomes.to_record()
            write_setting(folder, name, {0: [accuracy] * 2}, images=images, tested=tested)
            accuracies.setdefault(name, []).append(accuracy)
    return {name: np.array(values) for name, values in accuracies.items()}


def test_searches_whose_test_images_overlap_share_a_part_of_their_error(tmp_path: Path) -> None:
    accuracies = write_carved(tmp_path)
    found = compare_searches(tmp_path / "classify")
    row = found.rows[1]
    outcomes = {
        place: next(iter(one.outcomes.values())) for place, one in enumerate(row.searches.values())
    }
    shared = sampling_variance("test/top1", outcomes)
    assert shared is not None
    assert 0 < shared < row.images**2  # type: ignore[operator]
    assert row.shared == shared
    expected = mean_of(accuracies["B"], shared)
    assert row.accuracy == expected
    assert row.accuracy.high - row.accuracy.low > np.ptp(
        stats.t.interval(0.95, 4, expected.mean, stats.sem(accuracies["B"]))
    )
    assert not [note for note in pooled_notes(found) if note == OVERLAP_UNKNOWN]


def test_a_table_whose_searches_did_not_record_their_images_says_so(tmp_path: Path) -> None:
    found = compare_searches(write_searches(tmp_path))
    assert OVERLAP_UNKNOWN in pooled_notes(found)
    assert found.rows[0].shared is None


def test_the_table_says_what_the_backbones_make_of_its_spread(tmp_path: Path) -> None:
    accuracies = write_carved(tmp_path)
    folder = tmp_path / "classify"
    found = compare_searches(folder)
    part = found.backbone
    assert part is not None
    assert part.settings == ("B", "C", "D", "E")
    four = [
        {
            place: next(iter(one.outcomes.values()))
            for place, one in enumerate(found.rows[index].searches.values())
        }
        for index in range(1, 5)
    ]
    of_images = crossed_covariance("test/top1", four)
    assert of_images is not None
    assert part == backbone_part({name: accuracies[name] for name in "BCDE"}, of_images)

    label = part.label
    page = pooled_page(found, b"")
    for shown in (pooled_markdown(found), page):
        assert "of it another backbone [95 %]" in shown
        assert shown.count(label) == 5  # four settings and a note
        assert "too few searches to tell it from none" in shown
    sd, low, high = part.deviations
    assert f'"B, C, D, E",sd of backbone,{sd},{low},{high}' in pooled_csv(found)

    publish(Group.at(folder), shown=False)
    events, _ = EventLog.read(folder / "events.jsonl")
    metrics = [event["metrics"] for event in events if event["event"] == "summary"][-1]
    assert metrics["sd_of_backbone"] == sd
    assert (metrics["sd_of_backbone_low"], metrics["sd_of_backbone_high"]) == (low, high)


def test_more_searches_are_another_look(tmp_path: Path) -> None:
    folder = write_searches(tmp_path)
    group = Group.at(folder)
    assert (group.searches, group.look) == (5, 1)
    for _ in range(2):  # state the same table twice
        group.emit("finish", state="FINISHED")
        assert group.look == 1
    group.ask_for(5)
    assert group.look == 1
    group.ask_for(8)
    assert (group.searches, group.look) == (8, 2)
    assert compare_searches(folder).differences[0].level == pytest.approx(0.002)


def test_every_search_has_its_own_seed_split_and_backbones() -> None:
    options = Options(
        experiment="classify",
        trials=4,
        set=["train.epochs=2", "data.image_size=8", "ssl:train.epochs=1"],
    )
    experiment = EXPERIMENTS["classify"]
    comparison = experiment.comparisons[""].without({"A-long"})
    first, second = (
        list(members_of(options, experiment, comparison, "mine", number)) for number in (1, 2)
    )
    names = [member.options.study for member in first]
    letters = [f"mine-{letter}-r1" for letter in "ABCDE"]
    assert names == ["mine-pretrain-r1", "mine-ssl-r1", *letters]
    assert [member.options.study for member in second][-1] == "mine-E-r2"

    assert len({member.options.seed for member in first}) == 1
    assert first[0].options.seed != second[0].options.seed
    for member in (*first, *second):
        assert f"data.seed={member.search - 1}" in (member.options.set or [])

    other = replace(options, seed=1)
    [again, *_] = members_of(other, experiment, comparison, "mine", 1)
    assert "data.seed=1000" in (again.options.set or [])
    assert again.options.seed not in {first[0].options.seed, second[0].options.seed}

    settings = {member.options.setting: member.options for member in first[2:]}
    assert settings["A"].backbone is None
    assert settings["B"].backbone == settings["D"].backbone == "mine-pretrain-r1"
    assert settings["C"].backbone == settings["E"].backbone == "mine-ssl-r1"
    # a source gets what its backbone must share, and the options that are addressed to it
    assert first[1].options.set == ["data.image_size=8", "data.seed=0", "train.epochs=1"]
    assert first[0].options.set == ["data.image_size=8", "data.seed=0"]
    assert settings["C"].set == ["train.epochs=2", "data.image_size=8", "data.seed=0"]
    assert [member.finals for member in first] == [0, 0, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--repeats", "0"), "--repeats 0: each search needs a training of its choice"),
        (("--search", "6"), "--search 6: there are 5; give more with --searches"),
        (("--set", "ssll:train.epochs=2"), "'ssll' is not a source of backbones"),
        (("--set", "train.epoch=2"), "train.epoch"),
        (("--set", "freeze.policy=none"), "setting D is freeze.policy=all"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(
    call: Call, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    answer = call("classify", "--data", "digits", *SMALL, *words)
    assert answer.code == 2
    assert said in answer.line
    assert not (tmp_path / "runs").exists()


def test_single_searches_stay_single(call: Call, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    write_setting(tmp_path / "runs" / "classify-A", "A", {0: [0.5, 0.6]})
    answer = call("classify", "--data", "digits", *SMALL, "--searches", "5")
    assert answer.code == 2
    assert "'classify' has one search of each setting" in answer.line


FEWSHOT = (
    "fewshot",
    "--compare",
    "distance",
    "--data",
    "digits",
    *SMALL,
    *("--set", "train.epoch_images=96"),
    *("--set", "episode.way=5"),
    *("--set", "val.way=2"),
    *("--set", "episode.query=2"),
    *("--set", "train.batch_size=60"),
    *("--set", "train.epochs=1"),
    *("--trials", "1"),
    *("--repeats", "1"),
)


@pytest.mark.heavy
def test_a_comparison_is_run_interrupted_resumed_and_extended(call: Call, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    first = call(*FEWSHOT, "--searches", "2", "--search", "1")
    assert first.code == 0, first.err
    assert not (storage / "fewshot-distance/table.md").exists()
    # the number of searches asked for is on record
    both = call(*FEWSHOT)
    assert both.code == 0, both.err
    assert search_numbers(storage / "fewshot-distance") == [1, 2]
    table = (storage / "fewshot-distance/table.md").read_text()
    assert "over 2 searches" in table
    again = call(*FEWSHOT)
    assert (again.code, "trial 0 complete" in again.out) == (0, False)
    assert (storage / "fewshot-distance/table.md").read_text() == table

    more = call(*FEWSHOT, "--searches", "3")
    assert more.code == 0, more.err
    folders = [
        storage / f"fewshot-distance-{name}-r{number}"
        for name in ("euclidean", "cosine", "parametric")
        for number in (1, 2, 3)
    ]
    for folder in folders:
        record = read_record(folder)
        manifest = read_manifest(folder / "study.json")
        assert manifest.rules["repeats"] == "winner"
        assert list(record.repeats) == [(0, next(iter(record.repeats))[1])]
        [begun] = [e for e in EventLog.read(folder / "events.jsonl")[0] if e["event"] == "study"]
        assert begun["group"]["name"] == "fewshot-distance"
        assert begun["tags"]["search"] == str(manifest.search)
    seeds = {next(iter(read_record(folder).repeats))[1] for folder in folders}
    assert len(seeds) == len(folders)
    # no verdict has been given, so no look has been spent
    assert Group.at(storage / "fewshot-distance").look == 1


@pytest.mark.slow
def test_processes_share_the_studies_of_a_comparison(tmp_path: Path) -> None:
    """If another process has a study open, this one leaves it alone, waits for it, and takes it
    over."""
    storage = tmp_path / "runs"
    command = [sys.executable, str(REPO / "tune/run.py"), *FEWSHOT]
    command += ["--searches", "2", "--storage", str(storage)]
    names = ("euclidean", "cosine", "parametric")
    held = storage / "fewshot-distance-cosine-r1"
    held.mkdir(parents=True)
    others = [
        storage / f"fewshot-distance-{name}-r{number}"
        for number in (1, 2)
        for name in names
        if (name, number) != ("cosine", 1)
    ]

    with FileLock(held / ".lock"):
        processes = [subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE) for _ in range(2)]
        deadline = time.monotonic() + 200
        while not all(_has_finished(folder) for folder in others):
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes)
            time.sleep(0.2)
        assert not (held / "study.json").exists()

    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    for folder in (held, *others):
        events, _ = EventLog.read(folder / "events.jsonl")
        started = [event["trial"] for event in events if event["event"] == "start"]
        assert started.count(0) == 2  # one trial and its final training
    assert "over 2 searches" in (storage / "fewshot-distance/table.md").read_text()


def _has_finished(folder: Path) -> bool:
    return (folder / "study.json").exists() and read_record(folder).finished
