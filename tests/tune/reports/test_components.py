"""The variance components over searches, against data whose components are known."""

import numpy as np
import pytest

from tune.reports.components import Components, advice, components

SEARCH, TRAINING, IMAGES = 0.03, 0.02, 0.01  # standard deviations
TRAININGS = 3


def drawn(rng: np.random.Generator, searches: int) -> list[list[float]]:
    """Accuracies of final trainings, with variation from search, images and training."""
    of_search = rng.normal(0, SEARCH, searches)
    of_images = rng.normal(0, IMAGES, searches)
    of_training = rng.normal(0, TRAINING, (searches, TRAININGS))
    accuracies = 0.7 + (of_search + of_images)[:, None] + of_training
    return [list(row) for row in accuracies]


def test_the_parts_of_many_searches_are_the_true_ones() -> None:
    found = components(drawn(np.random.default_rng(0), 20_000), IMAGES**2)
    assert found is not None
    assert found.search == pytest.approx(SEARCH**2, rel=0.05)
    assert found.training == pytest.approx(TRAINING**2 / TRAININGS, rel=0.05)
    assert found.images == IMAGES**2
    whole = SEARCH**2 + TRAINING**2 / TRAININGS + IMAGES**2
    assert found.shares["search"] == pytest.approx(SEARCH**2 / whole, rel=0.05)


def test_an_error_that_all_searches_share_is_not_in_their_spread() -> None:
    """Half of the images are those of every search. The searches' part stays the true one, and the
    shares are those of the variance of the mean over R searches, which R does not divide."""
    random = np.random.default_rng(1)
    shared = IMAGES**2 / 2
    searches = 20_000
    of_search = random.normal(0, SEARCH, searches) + random.normal(0, shared**0.5, searches)
    scores = 0.7 + of_search[:, None] + random.normal(0, TRAINING, (searches, TRAININGS))
    found = components([list(row) for row in scores], IMAGES**2, shared)
    assert found is not None
    assert found.search == pytest.approx(SEARCH**2, rel=0.05)
    assert (found.shared, found.searches) == (shared, searches)

    five = Components(SEARCH**2, TRAINING**2 / TRAININGS, IMAGES**2, shared, searches=5)
    of_mean = (SEARCH**2 + TRAINING**2 / TRAININGS + shared) / 5 + shared
    assert five.shares["images"] == pytest.approx((shared / 5 + shared) / of_mean)
    assert sum(five.shares.values()) == pytest.approx(1)


def test_parts_add_up_to_the_variance_over_searches() -> None:
    scores = [[0.5, 0.6], [0.8, 0.7], [0.61, 0.65]]
    found = components(scores, 1e-5)
    assert found is not None
    means = [np.mean(runs) for runs in scores]
    total = found.search + found.training + found.images
    assert total == pytest.approx(np.var(means, ddof=1))


def test_a_search_part_is_never_negative() -> None:
    found = components([[0.4, 0.6], [0.6, 0.4]], 0.0)
    assert found is not None
    assert found.search == 0
    assert found.training == pytest.approx(0.01)


def test_one_final_training_each_counts_as_the_searchs() -> None:
    scores = [[0.5], [0.6], [0.58]]
    found = components(scores, 1e-4)
    assert found is not None
    assert found.search == pytest.approx(np.var([0.5, 0.6, 0.58], ddof=1) - 1e-4)
    assert list(found.deviations) == ["search", "images"]
    said = advice([found])
    assert "comes from the search and its final training, 4% from the test images" in said


@pytest.mark.parametrize("scores", [[[0.5, 0.6]], [[0.5]], []])
def test_too_little_to_tell_parts_apart(scores: list[list[float]]) -> None:
    assert components(scores, 0.0) is None


def test_advice_names_the_largest_part() -> None:
    said = advice([Components(1e-4, 2e-4, 7e-4), Components(0.0, 3e-4, 7e-4)])
    assert "5% of the variance of the mean comes from the search, 25% from the final" in said
    assert "more test images would help most" in said
    assert advice([Components(0.0, 0.0, 0.0)]) == ""
