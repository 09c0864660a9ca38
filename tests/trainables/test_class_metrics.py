"""Results per class, and the averages that weight all classes equally, against scikit-learn."""

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    precision_recall_fscore_support,
)

from trainables.class_metrics import (
    balanced_accuracy,
    class_results,
    class_rows,
    confusion_counts,
    image_ratios,
    macro_f1,
    read_class_results,
    write_class_results,
)
from trainables.errors import UserError

CLASSES = 7
NAMES = [f"class {number}" for number in range(CLASSES)]


def answers(seed: int, absent: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return truth of very different class frequencies, and predictions that are right in half of
    the images."""
    rng = np.random.default_rng(seed)
    share = 0.5 ** np.arange(CLASSES)
    truth = rng.choice(CLASSES, 300, p=share / share.sum())
    predicted = np.where(rng.random(300) < 0.5, truth, rng.integers(0, CLASSES, 300))
    if absent:  # one class is in neither, one only predicted, one only true
        truth[np.isin(truth, (1, 2))] = 0
        predicted[np.isin(predicted, (1, 3))] = 0
        truth[:3] = 3
        predicted[3:6] = 2
    return truth, predicted


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_averages_are_those_of_scikit_learn(seed: int, absent: bool) -> None:
    truth, predicted = answers(seed, absent)
    counts = confusion_counts(truth, predicted, CLASSES)
    np.testing.assert_array_equal(counts, confusion_matrix(truth, predicted, labels=range(CLASSES)))
    expected = f1_score(truth, predicted, average="macro", zero_division=0)
    assert macro_f1(counts) == pytest.approx(expected, abs=1e-12)
    expected = balanced_accuracy_score(truth, predicted)
    assert balanced_accuracy(counts) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("absent", [False, True])
def test_results_by_class_are_those_of_scikit_learn(absent: bool) -> None:
    truth, predicted = answers(0, absent)
    results = class_results(confusion_counts(truth, predicted, CLASSES), NAMES)
    labels = range(CLASSES)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=labels, zero_division=np.nan
    )
    iou = jaccard_score(truth, predicted, labels=labels, average=None, zero_division=0)
    assert [result.count for result in results] == support.tolist()
    np.testing.assert_allclose([result.precision for result in results], precision)
    np.testing.assert_allclose([result.recall for result in results], recall)
    np.testing.assert_allclose([result.f1 for result in results], f1)
    np.testing.assert_allclose(np.nan_to_num([result.iou for result in results]), iou)
    assert [result.predicted for result in results] == np.bincount(predicted, minlength=7).tolist()


def test_predictions_without_truth_count_as_wrong() -> None:
    counts = np.array([[6, 0], [2, 4]])
    first, second = class_results(counts, ["a", "b"], elsewhere=np.array([4, 0]))
    assert (first.precision, first.recall, first.iou) == (0.5, 1.0, 0.5)
    assert (second.precision, second.recall) == (1.0, pytest.approx(4 / 6))


@pytest.mark.parametrize("absent", [False, True])
def test_the_ratios_of_images_add_up_to_the_averages(absent: bool) -> None:
    truth, predicted = answers(5, absent)
    counts = confusion_counts(truth, predicted, CLASSES)
    expected = {"macro_f1": macro_f1(counts), "balanced_accuracy": balanced_accuracy(counts)}
    for name, ratios in image_ratios(truth, predicted, CLASSES).items():
        above, below = ratios.sum(0, dtype=np.int64).T
        present = below > 0
        assert (above[present] / below[present]).mean() == pytest.approx(expected[name])


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    truth, predicted = answers(1, absent=True)
    names = ["plain", "with, comma", 'with "quotes"', "ä", "五", "", "-"]
    written = class_results(confusion_counts(truth, predicted, CLASSES), names)
    path = tmp_path / "classes.csv"
    write_class_results(path, written)

    read = read_class_results(path)
    assert [result.name for result in read] == names
    assert [result.count for result in read] == [result.count for result in written]
    for one, other in zip(read, written, strict=True):
        assert math.isnan(one.precision) == math.isnan(other.precision)
        np.testing.assert_allclose(one.iou, other.iou, rtol=1e-5)
    assert class_rows(read)[1][2:] == ["-", "-", "-", "-"]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("name,count\na,b\n")
    with pytest.raises(UserError, match="is not a table of results by class"):
        read_class_results(tmp_path / "x.csv")
