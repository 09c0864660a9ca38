"""`--objective` and `--balance`: what a study optimizes, and what a later start keeps of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from trainables.errors import UserError
from tune.cli.options import Options
from tune.cli.prepare import Prepared, prepare
from tune.experiment_file import find_experiment


def prepared(storage: Path, **typed: object) -> Prepared:
    options = Options(experiment="pretrain", data="digits", storage=str(storage), **typed)  # type: ignore[arg-type]
    return prepare(options, find_experiment("pretrain"), storage)


def begun(storage: Path, **typed: object) -> Prepared:
    """A study whose manifest is written."""
    study = prepared(storage, **typed)
    study.directory.mkdir(parents=True)
    study.manifest.reconcile_with(study.directory / "study.json")
    return study


def test_the_objective_is_the_experiments_own_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    assert prepared(tmp_path).manifest.objective == "val/top1"
    asked = prepared(tmp_path, objective=["macro_f1"])
    assert asked.manifest.objective == "val/macro_f1"
    assert asked.manifest.base["train.objective"] == "val/macro_f1"


def test_a_later_start_keeps_the_objective(tmp_path: Path) -> None:
    begun(tmp_path, objective=["val/balanced_accuracy"])
    again = prepared(tmp_path)
    assert again.manifest.objective == "val/balanced_accuracy"
    path = again.directory / "study.json"
    assert again.manifest.reconcile_with(path).objective == "val/balanced_accuracy"


def test_another_objective_is_another_study(tmp_path: Path) -> None:
    begun(tmp_path)
    other = prepared(tmp_path, objective=["macro_f1"])
    with pytest.raises(UserError, match=r"train\.objective was not set, is val/macro_f1"):
        other.manifest.reconcile_with(other.directory / "study.json")


def test_balance_is_searched_when_asked_for_alone(tmp_path: Path) -> None:
    without = prepared(tmp_path).manifest
    asked = prepared(tmp_path, balance=True).manifest
    assert asked.space.keys() - without.space.keys() == {"balance.by", "balance.beta"}
    assert asked.base == without.base  # trial 0 weights all images equally
    pinned = prepared(tmp_path, set=["balance.by=inverse"]).manifest
    assert pinned.pins == {"balance.by": "inverse"}
    assert pinned.space == without.space


def test_a_study_of_before_continues(tmp_path: Path) -> None:
    study = begun(tmp_path)
    earlier = {
        key: value
        for key, value in study.manifest.base.items()
        if key != "train.objective" and not key.startswith("balance.")
    }
    path = study.directory / "study.json"
    path.unlink()
    replace(
        study.manifest, base=earlier, data={**study.manifest.data, "summary": None}
    ).reconcile_with(path)
    again = prepared(tmp_path).manifest.reconcile_with(path)
    assert again.objective == "val/top1"
    assert again.data_summary is None
