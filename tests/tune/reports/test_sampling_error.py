"""The error of a finite test set, against SciPy, closed forms and simulation."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from tests.studies import finish, manifest
from tests.toy import TOY, Toy, ToyConfig
from trainables.outcomes import ImageOutcomes
from tune.execution.local import search_locally
from tune.reports.sampling_error import (
    MISSING,
    crossed_covariance,
    outcomes_of,
    overlap_is_known,
    sampling_variance,
)
from tune.reports.score_covariance import episode_covariance, iou_covariance, mean_covariance
from tune.reports.statistics import mean_of, paired
from tune.reports.verdict import judge_study
from tune.study.events import EventLog
from tune.study.record import read_record
from tune.study.study import Study
from tune.study.work import Outcome

TOP1 = "test/top1"


def runs(
    right: np.ndarray,  # (n, seeds)
    clusters: np.ndarray | None = None,
    first_seed: int = 0,
    test_set: str = "images",
) -> dict[int, ImageOutcomes]:
    return {
        first_seed + seed: ImageOutcomes(
            test_set=test_set, right={TOP1: answers}, clusters=clusters
        )
        for seed, answers in enumerate(right.T)
    }


def test_one_run_has_the_standard_error_of_a_mean():
    right = np.random.default_rng(0).random((402, 1)) < 0.9
    assert sampling_variance(TOP1, runs(right)) == pytest.approx(stats.sem(right[:, 0]) ** 2)


def test_one_pair_has_the_standard_error_of_paired_differences():
    random = np.random.default_rng(1)
    first = random.random((300, 1)) < 0.9
    second = np.where(random.random((300, 1)) < 0.1, ~first, first)
    expected = stats.sem(first[:, 0].astype(int) - second[:, 0]) ** 2
    assert sampling_variance(TOP1, runs(first), runs(second)) == pytest.approx(expected)


def test_equal_clusters_count_once_each():
    random = np.random.default_rng(2)
    scores = random.random((60, 2))
    clusters = np.repeat(np.arange(12), 5)
    means = scores.reshape(12, 5, 2).mean(axis=1)
    expected = np.cov(means, rowvar=False) / 12
    np.testing.assert_allclose(mean_covariance(scores, clusters), expected)


def test_unequal_clusters_agree_with_the_bootstrap():
    random = np.random.default_rng(3)
    sizes = random.integers(1, 12, 80)
    clusters = np.repeat(np.arange(80), sizes)
    letter = random.random(80)
    scores = (random.random(len(clusters)) < letter[clusters]).astype(float)
    sums = np.bincount(clusters, scores)

    drawn = random.integers(80, size=(20_000, 80))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    found = mean_covariance(scores[:, None], clusters)[0, 0]
    assert found == pytest.approx(means.var(), rel=0.1)
    # images alone would underestimate it by far
    assert found > 2 * mean_covariance(scores[:, None])[0, 0]


def test_spread_of_seeds_and_of_images_add_up_to_that_of_the_mean():
    """Runs of 3 seeds on 60 images, drawn anew 3,000 times. Each image's chance of a right answer
    is random, and so is each seed's answer."""
    random = np.random.default_rng(4)
    seeds, images = 3, 60
    means, of_seeds, of_images = [], [], []
    for _ in range(3000):
        chance = random.beta(2, 1, size=(images, 1))
        right = random.random((images, seeds)) < chance
        means.append(right.mean())
        of_seeds.append(right.mean(axis=0).var(ddof=1) / seeds)
        covariance = mean_covariance(right.astype(float))
        of_images.append(covariance[~np.eye(seeds, dtype=bool)].mean())

    assert np.mean(of_images) == pytest.approx(stats.beta(2, 1).var() / images, rel=0.05)
    assert np.mean(of_seeds) + np.mean(of_images) == pytest.approx(np.var(means), rel=0.08)


def test_equal_configurations_leave_their_difference_to_the_seeds():
    """Both answer with the same probabilities, so other images would not separate them. All that
    separates the runs is in the spread of their seeds."""
    random = np.random.default_rng(5)
    chance = random.beta(2, 1, size=(2000, 1))
    first, second = (random.random((2000, 6)) < chance for _ in range(2))
    difference = sampling_variance(TOP1, runs(first), runs(second, first_seed=6))
    alone = sampling_variance(TOP1, runs(first))
    assert alone == pytest.approx(stats.beta(2, 1).var() / 2000, rel=0.2)
    assert difference < 0.1 * alone


@pytest.mark.parametrize("first_seed", [0, 6], ids=["same seeds", "other seeds"])
def test_configurations_that_are_good_at_different_images(first_seed: int):
    random = np.random.default_rng(6)
    chances = random.beta(2, 1, size=(2, 4000, 1))
    first, second = (random.random((4000, 6)) < chance for chance in chances)
    found = sampling_variance(TOP1, runs(first), runs(second, first_seed=first_seed))
    assert found == pytest.approx(2 * stats.beta(2, 1).var() / 4000, rel=0.1)


def test_configurations_on_different_images_share_no_luck():
    random = np.random.default_rng(12)
    first, second = (random.random((90, 2)) < random.beta(1, 1, (90, 1)) for _ in range(2))
    apart = sampling_variance(TOP1, runs(first), runs(second, test_set="other images"))
    alone = [sampling_variance(TOP1, runs(right)) for right in (first, second)]
    assert apart == pytest.approx(sum(alone))


def test_searches_with_images_of_their_own_have_their_error_in_their_spread():
    right = np.random.default_rng(13).random((90, 5)) < 0.7
    searches = {
        number: ImageOutcomes(test_set=f"images {number}", right={TOP1: answers})
        for number, answers in enumerate(right.T)
    }
    assert sampling_variance(TOP1, searches) == 0


def carved(
    right: np.ndarray,  # (N,) of the whole pool
    rows: np.ndarray,
    of_cluster: np.ndarray | None = None,  # (N,) int
) -> ImageOutcomes:
    """Return the outcomes on a test set that was carved from a pool."""
    clusters, ids = None, rows
    if of_cluster is not None:
        ids, clusters = np.unique(of_cluster[rows], return_inverse=True)
    return ImageOutcomes(
        test_set=str(sorted(rows.tolist())),
        right={TOP1: right[rows]},
        clusters=clusters,
        pool="pool",
        ids=ids,
    )


def test_test_sets_that_overlap_share_the_error_of_what_they_share():
    """For images alone it is the sum over common images; where two sets are one, all of it."""
    random = np.random.default_rng(15)
    right = random.random((2, 400)) < 0.7
    rows = [np.sort(random.permutation(400)[:240]) for _ in range(2)]
    one, other = (carved(r, of) for r, of in zip(right, rows, strict=True))

    common = np.intersect1d(*rows)
    centred = [right[place] - right[place][rows[place]].mean() for place in (0, 1)]
    expected = (centred[0][common] * centred[1][common]).sum() / 240**2 * 240 / 239
    assert 120 < len(common) < 170
    found = sampling_variance(TOP1, {0: one}, {0: other})
    alone = [sampling_variance(TOP1, {0: run}) for run in (one, other)]
    assert found == pytest.approx(sum(alone) - 2 * expected)
    assert sampling_variance(TOP1, {0: one, 1: other}) == pytest.approx(max(0.0, expected))

    elsewhere = replace(other, pool="another pool")
    assert sampling_variance(TOP1, {0: one}, {0: elsewhere}) == pytest.approx(sum(alone))
    unknown = replace(other, pool="", ids=None)
    assert sampling_variance(TOP1, {0: one, 1: unknown}) == 0
    assert not overlap_is_known([one, unknown])
    assert overlap_is_known([one, other])
    assert overlap_is_known([unknown, unknown])


@pytest.mark.parametrize(("share", "by_spread_alone"), [(0.55, 0.85), (0.2, 0.93)])
def test_searches_that_carve_one_pool_cover_the_truth_over_other_images(
    share: float, by_spread_alone: float
):
    """Five searches carve their test sets from a pool of letters in several fonts. The interval of
    their mean contains the true accuracy in 95 % of 1,000 pools; by their spread alone in far
    fewer, because they share letters, and the more so the more they overlap."""
    random = np.random.default_rng(16)
    letters, each, searches = 50, 8, 5
    of_letter = np.repeat(np.arange(letters), each)
    covered = covered_by_spread = 0
    for _ in range(1000):
        chance = 0.65 + random.normal(0, 0.15, letters)[of_letter]
        found, means = {}, []
        for number in range(searches):
            right = random.random(len(of_letter)) < chance + random.normal(0, 0.01)
            rows = np.sort(random.permutation(len(of_letter))[: int(share * len(of_letter))])
            found[number] = carved(right, rows, of_letter)
            means.append(right[rows].mean())
        interval = mean_of(means, sampling_variance(TOP1, found))
        by_spread = mean_of(means)
        covered += interval.low <= 0.65 <= interval.high
        covered_by_spread += by_spread.low <= 0.65 <= by_spread.high
    assert covered / 1000 == pytest.approx(0.95, abs=0.03)
    assert covered_by_spread / 1000 < by_spread_alone


def test_iou_on_test_sets_that_overlap_agrees_with_the_jackknife():
    """Leaving out each image of the pool in turn moves both scores; the sum of the products is
    their covariance."""
    random = np.random.default_rng(17)
    union = random.integers(1, 60, (300, 4))
    overlaps = np.stack([random.binomial(union, 0.7), union], axis=2)  # (300, C, 2)
    rows = [np.arange(200), np.arange(100, 300)]

    def score(chosen: np.ndarray) -> float:
        sums = overlaps[chosen].sum(axis=0)
        return (sums[:, 0] / sums[:, 1]).mean()

    moved = [
        np.array([score(of[of != image]) - score(of) for image in range(100, 200)]) for of in rows
    ]
    runs = {
        number: ImageOutcomes(
            test_set=str(number), overlaps={"test/miou": overlaps[of]}, pool="pool", ids=of
        )
        for number, of in enumerate(rows)
    }
    expected = (moved[0] * moved[1]).sum()
    assert sampling_variance("test/miou", runs) == pytest.approx(expected, rel=0.05)


def test_episodes_with_common_classes_share_their_error():
    """Two searches draw 30 of 40 classes each. Over 400 draws of the classes' effects their mean
    accuracies have the covariance that is estimated."""
    random = np.random.default_rng(18)
    classes = [np.arange(30), np.arange(10, 40)]
    means, found = [], []
    for _ in range(400):
        effect = random.normal(0, 0.03, 40)
        runs = {}
        for number, of in enumerate(classes):
            members = np.stack([random.permutation(30)[:5] for _ in range(200)])
            accuracy = 0.7 + effect[of][members].sum(axis=1) + random.normal(0, 0.05, 200)
            right = np.rint(accuracy * 10_000).astype(np.int64)
            runs[number] = ImageOutcomes(
                test_set=f"{number} {len(means)}",
                right={"test/episode_top1": right},
                answers=10_000,
                members=members,
                pool="pool",
                ids=of,
            )
        means.append([run.right["test/episode_top1"].mean() / 10_000 for run in runs.values()])
        found.append(sampling_variance("test/episode_top1", runs))
    covariance = np.cov(np.array(means).T)[0, 1]
    assert np.mean(found) == pytest.approx(covariance, rel=0.2)
    assert covariance == pytest.approx(25 * 0.03**2 * 20 / 30**2, rel=0.2)


def test_the_test_images_part_of_a_crossed_covariance():
    """Against draws of the test images of five searches, whose answers stay what they are."""
    random = np.random.default_rng(19)
    searches, images = 5, 300
    kinds = random.normal(0, 0.3, (images, 4)) @ np.array(
        [[1, 0, 1, 0], [0, 1, 0, 1], [0.3, 0.3, 0, 0], [0, 0, 0.3, 0.3]]
    )
    right = random.random((searches, images, 4)) < 0.5 + kinds
    four = [
        {
            number: ImageOutcomes(test_set=f"set {number}", right={TOP1: right[number, :, place]})
            for number in range(searches)
        }
        for place in range(4)
    ]
    b, c, d, e = right.astype(float).transpose(2, 0, 1)
    drawn = random.integers(images, size=(4000, images))
    expected = np.mean(
        [
            np.cov(first[drawn].mean(axis=1), second[drawn].mean(axis=1))[0, 1]
            for first, second in zip(b - c, d - e, strict=True)
        ]
    )
    assert crossed_covariance(TOP1, four) == pytest.approx(expected, rel=0.1)

    # on one test set the searches share all of it, so none is in their spread
    one = [{number: replace(run, test_set="one") for number, run in of.items()} for of in four]
    same = [dict.fromkeys(range(searches), of[0]) for of in one]
    assert crossed_covariance(TOP1, same) == pytest.approx(0, abs=1e-12)
    assert crossed_covariance("test/other", four) is None


def test_intervals_cover_the_truth_over_other_images_and_seeds():
    """In 95 % of 1,500 comparisons, each with its own letters, images and seeds, the interval
    contains the true difference of .05. With the seeds alone it does so in far fewer."""
    random = np.random.default_rng(14)
    letters, each, seeds = 60, 4, 6
    clusters = np.repeat(np.arange(letters), each)
    covered = covered_by_seeds = 0
    for _ in range(1500):
        of_letter = random.normal(0, 0.15, (2, letters, 1))[:, clusters]
        of_seed = random.normal(0, 0.02, (2, 1, seeds))
        chance = np.array([0.65, 0.6])[:, None, None] + of_letter + of_seed
        first, second = random.random((2, len(clusters), seeds)) < chance
        variance = sampling_variance(TOP1, runs(first, clusters), runs(second, clusters))
        scores = [first.mean(axis=0), second.mean(axis=0)]
        interval = paired(*scores, variance)
        by_seeds = paired(*scores)
        covered += interval.low <= 0.05 <= interval.high
        covered_by_seeds += by_seeds.low <= 0.05 <= by_seeds.high
    assert covered / 1500 == pytest.approx(0.95, abs=0.02)
    assert covered_by_seeds / 1500 < 0.85


def test_missing_outcomes_give_no_number():
    right = np.random.default_rng(7).random((50, 2)) < 0.5
    known = runs(right)
    assert sampling_variance(TOP1, {}) is None
    assert sampling_variance(TOP1, known, {}) is None
    assert sampling_variance("test/other", known) is None
    assert sampling_variance(TOP1, runs(right, clusters=np.zeros(50, int))) is None


# -- mIoU


def test_iou_of_equal_unions_is_a_mean_over_images():
    random = np.random.default_rng(8)
    union = np.full((2, 50, 3, 1), 40)
    overlaps = np.concatenate([random.integers(0, 41, (2, 50, 3, 1)), union], axis=3)
    images = overlaps[..., 0].mean(axis=2) / 40  # (2, 50)
    expected = mean_covariance(images.T)
    found = iou_covariance(overlaps)
    np.testing.assert_allclose(np.diag(found), np.diag(expected), rtol=0.12)
    assert abs(found - expected).max() < 0.12 * expected.max()


def test_iou_agrees_with_the_jackknife_over_clusters():
    random = np.random.default_rng(9)
    union = random.integers(1, 60, (1, 200, 4))
    overlaps = np.stack([random.binomial(union, 0.7), union], axis=3)
    clusters = np.repeat(np.arange(100), 2)

    left_out = []
    for cluster in range(100):
        sums = overlaps[0, clusters != cluster].sum(axis=0)  # (C, 2)
        left_out.append((sums[:, 0] / sums[:, 1]).mean())
    jackknife = np.var(left_out) * 99
    assert iou_covariance(overlaps, clusters) == pytest.approx(jackknife, rel=0.12)


def test_a_class_that_a_draw_lacks_does_not_count():
    overlaps = np.zeros((1, 4, 2, 2), int)
    overlaps[0, :, 0] = [[5, 10], [5, 10], [5, 10], [5, 10]]
    assert iou_covariance(overlaps) == pytest.approx(0)


# -- episodes


def test_episodes_have_the_error_of_their_classes():
    """Another 40 classes and 150 episodes are drawn, 400 times. The estimate equals the variance of
    the mean; episodes alone would give a fraction of it."""
    random = np.random.default_rng(10)
    classes, way, episodes = 40, 5, 150
    means, found, alone = [], [], []
    for _ in range(400):
        effect = random.normal(0, 0.02, classes)
        members = np.stack([random.permutation(classes)[:way] for _ in range(episodes)])
        noise = random.normal(0, 0.08, episodes)
        accuracy = 0.7 + effect[members].sum(axis=1) + noise
        means.append(accuracy.mean())
        found.append(episode_covariance(accuracy[:, None], members)[0, 0])
        alone.append(stats.sem(accuracy) ** 2)

    assert np.mean(found) == pytest.approx(np.var(means), rel=0.2)
    assert np.mean(alone) < 0.5 * np.var(means)


def test_episodes_of_the_same_classes_have_the_error_of_episodes_alone():
    accuracy = np.random.default_rng(11).random(100)
    members = np.tile([0, 1], (100, 1))
    found = episode_covariance(accuracy[:, None], members)
    assert found == pytest.approx(stats.sem(accuracy) ** 2)


# -- studies


class Recording(Toy):
    """The toy with the outcome of every point."""

    def test_outcomes(self) -> ImageOutcomes:
        points = torch.from_numpy(self.data.train)
        with torch.no_grad():
            right = self.net(points).argmax(1) == (points.sum(1) > 0)
        return ImageOutcomes(test_set="points", right={TOP1: right.numpy()})


RECORDING = replace(TOY, model=lambda: (Recording, ToyConfig))


def recorded(folder: Path) -> None:
    study = Study.open(folder, RECORDING, manifest(), trials=2, repeats=2)
    search_locally(study, RECORDING)
    study.close()


def test_outcomes_of_repeats_are_in_their_end_events(tmp_path: Path) -> None:
    """One line holds the end of a run and its outcomes, so no kill separates them."""
    recorded(tmp_path / "toy")
    events, _ = EventLog.read(tmp_path / "toy" / "events.jsonl")
    ends = [event for event in events if event["event"] == "end"]
    assert [("tested" in end) for end in ends] == [("repeat" in end) for end in ends]

    record = read_record(tmp_path / "toy")
    for (trial, seed), metrics in record.finals().items():
        outcomes = outcomes_of(record, trial)[seed]
        assert outcomes.right[TOP1].mean() == pytest.approx(metrics[TOP1])
    assert sampling_variance(TOP1, outcomes_of(record, 0)) is not None


def test_the_verdict_covers_test_images_where_it_can(tmp_path: Path) -> None:
    recorded(tmp_path / "toy")
    record = read_record(tmp_path / "toy")
    verdict = judge_study(record)
    assert verdict is not None
    assert verdict.covers_images
    assert "and the draw of test images" in verdict.sentence

    for run in record.repeats.values():
        assert run.outcome is not None
        run.outcome.tested.clear()
    narrower = judge_study(record)
    assert narrower is not None
    assert MISSING in narrower.sentence
    assert narrower.trial.mean == verdict.trial.mean
    assert narrower.trial.high - narrower.trial.low < verdict.trial.high - verdict.trial.low


def test_an_outcome_travels_between_processes() -> None:
    outcome = Outcome("COMPLETE", 0.5, metrics={TOP1: 0.5}, tested={"test_set": "points"})
    assert Outcome.from_dict(json.loads(json.dumps(asdict(outcome)))) == outcome


def test_a_trainable_without_outcomes_still_makes_a_study(tmp_path: Path) -> None:
    study = finish(tmp_path, trials=2, repeats=2)
    assert study.finals()
    assert not any(run.outcome.tested for run in study.repeats.values())
    assert outcomes_of(study, 0) == {}
