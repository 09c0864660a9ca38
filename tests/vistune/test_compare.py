"""Studies side by side, against SciPy's paired t test."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

import vistune
from tests.studies import write_setting

A = [0.50, 0.52, 0.51, 0.49]
B = [0.70, 0.71, 0.72, 0.69]
C = [0.51, 0.50, 0.53, 0.50]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for letter, scores in (("a", A), ("b", B), ("c", C)):
        write_setting(tmp_path / letter, letter, {0: scores})
    return tmp_path


def test_differences_are_those_of_a_paired_t_test(root: Path) -> None:
    found = vistune.compare(["a", "b", "c"], root)

    assert found.metric == "test/top1"
    assert list(found.differences.index) == ["b - a", "c - a"]
    p_values = [ttest_rel(B, A).pvalue, ttest_rel(C, A).pvalue]
    assert found.differences.loc["b - a", "mean"] == pytest.approx(np.mean(B) - np.mean(A))
    # Holm: the smaller p-value is multiplied by two questions, the larger one by one.
    assert found.differences.loc["b - a", "p"] == pytest.approx(2 * p_values[0])
    assert found.differences.loc["c - a", "p"] == pytest.approx(p_values[1])
    assert list(found.differences["verdict"]) == [
        "the configuration of b is better",
        "not decided",
    ]
    assert str(found).startswith("b - a: the configuration of b is better: test/top1 0.2000 [")


def test_the_table_has_a_line_a_study(root: Path) -> None:
    studies = [vistune.load_study(root / name) for name in "abc"]
    table = vistune.compare(studies).table
    assert list(table.index) == ["a", "b", "c"]
    assert table["mean"].tolist() == pytest.approx([np.mean(A), np.mean(B), np.mean(C)])
    assert table["seeds"].tolist() == [4, 4, 4]
    assert (table["low"] < table["mean"]).all()


def test_figures_have_a_point_a_seed(root: Path) -> None:
    drawn = vistune.compare(["a", "b"], root).plot()
    points = {trace.y[0]: list(trace.x) for trace in drawn.data if len(trace.x) > 1}
    assert points == {"a": A, "b": B}


def test_what_cannot_be_compared_is_refused(root: Path) -> None:
    write_setting(root / "other", "A", {0: A}, images="g")
    for names, said in (
        (["a"], "two or more different studies can be compared, not \\['a'\\]"),
        (["a", "a"], "two or more different studies"),
        (["a", "other"], "studies a and other were judged on different images"),
    ):
        with pytest.raises(vistune.UserError, match=said):
            vistune.compare(names, root)


def test_without_repeats_nothing_is_claimed(root: Path) -> None:
    write_setting(root / "bare", "A", {0: []})
    found = vistune.compare(["bare", "b"], root)
    assert len(found.differences) == 0
    assert np.isnan(found.table.loc["bare", "mean"])
    assert str(found) == "no study has two repeats, so test/top1 is not compared"
