"""A study keeps the default and the rules that it began with, even if presets change later."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import to_resolve
from trainables.errors import UserError
from tune.cli.default_config import resolve
from tune.cli.options import Options
from tune.cli.orientation import facing
from tune.cli.prepare import Prepared, prepare
from tune.experiment_file import find_experiment
from tune.experiments import EXPERIMENTS, Experiment


def with_rate(rate: float) -> Experiment:
    """`pretrain`, whose untuned default has this learning rate."""
    experiment = find_experiment("pretrain")
    tiny = experiment.presets["tiny"] | {"optim.lr": rate}
    return replace(experiment, presets={**experiment.presets, "tiny": tiny})


def prepared(
    storage: Path,
    experiment: Experiment,
    *typed: str,
    first: Path | None = None,
    **options: Any,
) -> Prepared:
    asked = Options(
        experiment="pretrain", data="digits", storage=str(storage), set=list(typed), **options
    )
    return prepare(asked, experiment, storage, first=first)


def begun(storage: Path, *typed: str) -> Path:
    """Path of the manifest of a study that began when the learning rate was .003."""
    study = prepared(storage, with_rate(3e-3), *typed)
    study.directory.mkdir(parents=True)
    path = study.directory / "study.json"
    study.manifest.reconcile_with(path)
    return path


def test_a_later_start_keeps_the_default_of_the_first(tmp_path: Path) -> None:
    path = begun(tmp_path)
    again = prepared(tmp_path, with_rate(5e-3)).manifest
    assert again.base["optim.lr"] == 3e-3
    assert again.reconcile_with(path).base == again.base


def test_a_further_search_of_a_comparison_has_the_default_of_the_first(tmp_path: Path) -> None:
    path = begun(tmp_path)
    further = prepared(tmp_path, with_rate(5e-3), "data.seed=7", first=path, study="r2", seed=9)
    assert further.manifest.base["optim.lr"] == 3e-3
    assert (further.manifest.base["data.seed"], further.manifest.base["seed"]) == (7, 9)


def test_a_pin_that_is_left_out_later_is_another_study(tmp_path: Path) -> None:
    path = begun(tmp_path, "train.batch_size=32")
    other = prepared(tmp_path, with_rate(3e-3)).manifest
    with pytest.raises(UserError, match=r"train\.batch_size was 32, is 64"):
        other.reconcile_with(path)


def test_an_option_that_is_left_out_later_is_another_study(tmp_path: Path) -> None:
    path = begun(tmp_path)
    other = prepared(tmp_path, with_rate(3e-3), seed=7).manifest
    with pytest.raises(UserError, match="seed was 0, is 7"):
        other.reconcile_with(path)


def test_a_study_from_before_there_were_rules_of_training_has_the_first(tmp_path: Path) -> None:
    path = begun(tmp_path)
    assert json.loads(path.read_text())["base"]["train.rules"] == 3

    there = json.loads(path.read_text())
    del there["base"]["train.rules"]
    path.write_text(json.dumps(there))
    again = prepared(tmp_path, with_rate(5e-3)).manifest
    assert again.base["train.rules"] == 1
    again.reconcile_with(path)


@pytest.mark.parametrize("rules", [1, 2, 3])
def test_a_space_is_told_the_rules_of_its_study(rules: int) -> None:
    seen = []

    def space(trial: Any, preset: str, rules: int = 2) -> None:
        seen.append(rules)

    experiment = replace(EXPERIMENTS["fewshot"], space=space)
    begun = {"train.rules": rules}
    _, base, _, _ = resolve(to_resolve([], "tiny"), experiment, {}, {}, begun)
    facing(experiment, base).space(None, "tiny")
    assert set(seen) == {rules}


def test_a_study_of_before_there_was_a_choice_computes_as_it_did(tmp_path: Path) -> None:
    def full() -> Prepared:
        typed = ("backbone.name=tiny", "data.image_size=16")
        return prepared(tmp_path, find_experiment("pretrain"), *typed, preset="full")

    first = full()
    assert first.manifest.base["train.numerics"] == "auto"
    first.directory.mkdir(parents=True)
    path = first.directory / "study.json"
    first.manifest.reconcile_with(path)
    written = json.loads(path.read_text())
    for key in ("train.numerics", "train.device", "data.on_device"):
        del written["base"][key]
    path.write_text(json.dumps(written))

    again = full().manifest
    assert again.base["train.numerics"] == "as_set"
    assert again.reconcile_with(path).base == again.base


@pytest.mark.parametrize("options", [{}, {"local": True}, {"plan": True}])
def test_a_device_that_this_machine_lacks_is_refused_before_there_is_a_study(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"train.device=cuda, .* use train.device=auto"):
        prepared(tmp_path, with_rate(3e-3), "train.device=cuda", **options)


def test_workers_of_a_cluster_may_have_a_device_that_this_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    prepared(tmp_path, with_rate(3e-3), "train.device=cuda")
