"""Settings that are searched and compared from Python, against the command's table."""

import csv
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
import pytest

import vistune
from tests.studies import write_setting
from tune.cli.option_checks import check_given
from vistune.arguments import SearchArguments, as_options


def train(config: dict[str, Any], run: Any) -> None:
    """A curve of three epochs, which mixup raises."""
    worth = 0.5 + 0.2 * config["mixup"] - 0.1 * abs(config["lr"] - 0.3)
    for epoch in run.epochs(3):
        run.report(accuracy=worth * (epoch + 1) / 3)
    run.test(accuracy=worth - 0.001 * (run.seed % 7))


EXPERIMENT = vistune.function_experiment(
    train,
    objective="accuracy",
    space={"lr": (0.01, 1.0, "log")},
    default={"lr": 0.05, "mixup": 0.0},
    compare={"mix": {"without": {"mixup": 0.0}, "with": {"mixup": 0.5}}},
    name="own",
)


def test_settings_are_searched_and_compared(tmp_path: Path) -> None:
    found = vistune.search_settings(
        EXPERIMENT, compare="mix", searches=2, trials=2, repeats=2, local=True, progress="none"
    )

    assert found.metric == "test/accuracy"
    assert list(found.table.index) == ["without", "with"]
    assert found.table.loc["with", "about"] == "mixup=0.5"
    searches = found.table.loc["with", ["search 1", "search 2"]]
    assert found.table.loc["with", "mean"] == pytest.approx(searches.mean())
    (gain,) = found.differences["mean"]
    assert gain == pytest.approx(
        found.table.loc["with", "mean"] - found.table.loc["without", "mean"]
    )
    assert 0.05 < gain < 0.15
    assert found.differences.loc["with-without", "question"] == "does with beat without"
    assert "5 searches are needed, 2 were asked for" in str(found)

    assert [study.name for study in found.studies["with"]] == ["own-mix-with-r1", "own-mix-with-r2"]
    assert {study.pins["mixup"] for study in found.studies["with"]} == {0.5}
    with (tmp_path / "runs/own-mix/table.csv").open() as file:
        rows = {(row["row"], row["search"]): row["estimate"] for row in csv.DictReader(file)}
    assert float(rows["with", "search 1"]) == pytest.approx(searches["search 1"], abs=1e-4)

    again = vistune.load_settings("own-mix")
    pd.testing.assert_frame_equal(again.table, found.table)
    drawn = vistune.load_settings(tmp_path / "runs/own-mix").plot()
    points = {trace.y[0]: list(trace.x) for trace in drawn.data if len(trace.x) == 2}
    assert points["with"] == pytest.approx(searches.tolist(), abs=1e-4)


def test_one_search_of_each_is_about_configurations(tmp_path: Path) -> None:
    """Use records of a classification in settings A and C."""
    scores = {"A": [0.50, 0.52, 0.51, 0.49], "C": [0.70, 0.71, 0.72, 0.69]}
    for letter, values in scores.items():
        write_setting(tmp_path / f"classify-{letter}", letter, {0: values})
    found = vistune.load_settings("classify", tmp_path)

    assert found.table.loc["A", "mean"] == pytest.approx(np.mean(scores["A"]))
    assert found.differences.loc["C-A", "verdict"] == "C's configuration is better"
    assert [study.name for study in found.studies["C"]] == ["classify-C"]


def test_what_cannot_be_compared_is_refused() -> None:
    for arguments, said in (
        ({"experiment": EXPERIMENT}, "own needs compare=, one of its comparisons: mix"),
        ({"experiment": EXPERIMENT, "compare": "mux"}, "unknown --compare 'mux'; did you mean"),
        ({"experiment": "ssl-dino"}, "ssl-dino needs compare=, one of its comparisons: none"),
    ):
        with pytest.raises(vistune.UserError, match=said):
            vistune.search_settings(**arguments)
    with pytest.raises(vistune.UserError, match=r"compare them with vistune\.search_settings"):
        vistune.search("classify", data="digits")
    with pytest.raises(vistune.UserError, match="no setting of 'nothing'"):
        vistune.load_settings("nothing")


def test_a_study_is_no_comparison(tmp_path: Path) -> None:
    write_setting(tmp_path / "alone", "A", {0: [0.5, 0.6]})
    said = r"'alone' is one study, not a comparison of settings: `.* show alone"
    with pytest.raises(vistune.UserError, match=said):
        vistune.load_settings(tmp_path / "alone")


def test_every_argument_of_a_search_is_one_of_several() -> None:
    of_one = get_type_hints(vistune.search)
    for name in ("experiment", "setting", "enqueue", "return"):
        del of_one[name]
    of_several = get_type_hints(SearchArguments)
    assert of_several.pop("objective") == str | None  # a comparison has one objective
    del of_one["objective"]
    assert of_several == of_one


def test_a_number_of_trials_at_a_time_is_what_the_command_takes() -> None:
    for given, option in ((2, "2"), ("auto", "auto")):
        options = as_options("ssl", concurrent=given)
        assert options.concurrent == option
        check_given(options)
