"""`--warm-start shipped`: the shipped priors are valid today, and begin a study as an earlier study
would."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.priors import PRIORS, choose, make
from search_spaces.classify import SETTINGS
from tests.commands import LOCAL_TOY, SMALL, Call
from tests.studies import POOR, finish
from tests.toy import TOY
from trainables.config import build, flatten
from trainables.errors import UserError
from tune.backbones.resolve import in_setting
from tune.cli.orientation import facing
from tune.experiments import EXPERIMENTS, Experiment
from tune.search.space import asked_for, within
from tune.study.manifest import read_manifest
from tune.study.record import read_record
from tune.study.shipped import Prior, read_priors
from tune.study.warm_start import POINTS, warm_start

FOUND = Prior(
    experiment="toy",
    preset="tiny",
    where={},
    sources={"blobs": {"command": "a test"}, "dots": {"command": "a test"}},
    points=[
        {"config": {"optim.lr": 0.3, "schedule.name": "constant"}, "values": {"dots": 0.9}},
        {"config": {"optim.lr": 0.03, "schedule.name": "constant"}, "values": {"dots": 0.8}},
    ],
)


def ships(monkeypatch: pytest.MonkeyPatch, *priors: Prior) -> None:
    monkeypatch.setattr("tune.study.shipped.read_priors", lambda: list(priors))


def begun(storage: Path, name: str = "new", experiment: Experiment = TOY, **pins: Any) -> Any:
    base = flatten(build(TOY.config, TOY.presets["tiny"] | POOR)) | pins
    return warm_start("shipped", storage, storage / name, experiment, "tiny", base, pins)


# -- the file


def searched_by(prior: Prior) -> tuple[Experiment, dict[str, Any]]:
    """The experiment that a prior is for, with its space, and the default in it."""
    experiment = EXPERIMENTS[prior.experiment]
    for setting in SETTINGS.values():
        if experiment.name == "classify" and prior.where.items() <= setting.values.items():
            experiment = in_setting(experiment, setting)
            break
    base = flatten(build(experiment.config, experiment.presets[prior.preset] | dict(prior.where)))
    if any("aug.vflip" in point["config"] for point in prior.points):
        base["data.up"] = "all"  # found on images from above
    return facing(experiment, base), base


def misfits(prior: Prior, experiment: Experiment, base: Mapping[str, Any]) -> list[str]:
    """Values that the space could not have drawn."""
    found = []
    for point in prior.points:
        config = {**base, **point["config"]}
        build(experiment.config, config)
        asked = asked_for(experiment.space, prior.preset, config, {})
        for key, value in point["config"].items():
            if key not in asked or not within(asked[key], value):
                found.append(f"{key}={value}")
    return found


@pytest.mark.parametrize("prior", read_priors(), ids=lambda prior: prior.about)
def test_what_ships_lies_in_todays_space(prior: Prior) -> None:
    experiment, base = searched_by(prior)
    assert 1 <= len(prior.points) <= POINTS
    assert not misfits(prior, experiment, base)
    for point in prior.points:
        assert point["values"].keys() <= prior.sources.keys()
    for source in prior.sources.values():
        assert source["command"].startswith("python ")
        assert len(source["commit"]) >= 7

    def narrower(trial: Any, preset: str) -> None:
        trial.suggest_categorical("optim.name", ["none of them"])

    assert misfits(prior, replace(experiment, space=narrower), base)


@pytest.mark.heavy
def test_the_file_is_what_its_script_makes() -> None:
    found = json.loads(PRIORS.read_text())["priors"]
    made = json.loads(json.dumps(make()))
    for prior in [*found, *made]:
        for source in prior["sources"].values():
            source.pop("commit")  # a copy without Git history cannot know it
    assert found == made


def test_configurations_are_chosen_by_all_data_sets_and_are_apart() -> None:
    near = {"name": "sgd", "lr": 0.1, "kind": "a"}
    far = {"name": "adam", "lr": 0.01, "kind": "a"}
    one = [(near, 1.0), ({**near, "lr": 0.15}, 0.9), (far, 0.5), ({"name": "x"}, 0.0)]
    other = [(near, 0.2), ({**near, "lr": 0.15}, 0.3), (far, 0.25), ({"kind": "y"}, 0.1)]
    chosen = choose({"one": one, "other": other})
    # .15 and .1 are similar, and .15 has the higher mean over both data sets
    assert [point["config"] for point in chosen[:2]] == [{**near, "lr": 0.15}, far]
    assert chosen[0]["values"] == {"one": 0.9, "other": 0.3}
    # then those of a single data set, one data set after the other
    assert [point["config"] for point in chosen[2:]] == [{"kind": "y"}]


# -- a study that begins with it


def test_points_come_in_turn_as_those_of_a_study(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(TOY, presets={"tiny": TOY.presets["tiny"] | POOR})
    monkeypatch.setitem(EXPERIMENTS, "toy", changed)
    ships(monkeypatch, FOUND)
    typed = (*LOCAL_TOY, "2", "--warm-start", "shipped")

    plan = call(*typed, "--plan")
    said = call(*typed)
    for shown in (plan, said):
        assert shown.code == 0
        assert "trials 1, 3 are priors that ship, learnt on blobs, dots, while" in shown.out
        assert "the priors were learnt on blobs too: what they gain here" in shown.out
    assert "Warm start from shipped: val/top1 of trial 1 (in training 0.9000 on dots)" in said.out

    # If another version ships other points, the study keeps those that it began with.
    ships(monkeypatch, replace(FOUND, points=FOUND.points[::-1]))
    assert call(*LOCAL_TOY, "5", "--warm-start", "shipped").code == 0
    start = read_manifest(tmp_path / "runs/toy/study.json").warm_start
    assert start is not None
    assert start["sources"] == FOUND.sources
    assert [point["values"] for point in start["points"]] == [{"dots": 0.9}, {"dots": 0.8}]
    trials = read_record(tmp_path / "runs/toy").frozen_trials()
    assert trials[1].params == FOUND.points[0]["config"]
    assert trials[2].params not in [point["config"] for point in FOUND.points]

    refused = call(*LOCAL_TOY, "5")
    assert (refused.code, "warm start was shipped, is absent" in refused.line) == (2, True)


def test_a_study_killed_between_the_points_resumes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ships(monkeypatch, FOUND)
    whole = finish(tmp_path / "whole", 6, base=POOR, warm_start=begun(tmp_path))
    for trials in (1, 3, 6):
        killed = finish(
            tmp_path / "killed", trials, base=POOR, warm_start=begun(tmp_path / "killed", "toy")
        )
        ships(monkeypatch)  # nothing ships any more
    assert [trial.params for trial in killed.frozen_trials()] == [
        trial.params for trial in whole.frozen_trials()
    ]


def test_other_data_are_independent_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ships(monkeypatch, replace(FOUND, sources={"dots": {}}))
    assert begun(tmp_path)["notes"] == []


def test_without_a_prior_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ships(monkeypatch, replace(FOUND, where={"fault": "nan"}))
    with pytest.raises(UserError, match=r"no prior ships for this study of toy in preset tiny; "):
        begun(tmp_path)
    ships(monkeypatch, FOUND)
    with pytest.raises(UserError, match=r"knows optim.lr, schedule.name, and this study searches"):
        begun(tmp_path, **{"optim.lr": 0.1, "schedule.name": "constant"})
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped/study.json").write_text("{}")
    with pytest.raises(UserError, match="has a study of that name; rename it"):
        begun(tmp_path)


def test_another_range_clips_a_prior_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrower(trial: Any, preset: str) -> None:
        trial.suggest_float("optim.lr", 0.001, 0.1)

    ships(monkeypatch, FOUND)
    found = begun(tmp_path, experiment=replace(TOY, space=narrower))
    assert [point["params"] for point in found["points"]] == [{"optim.lr": 0.1}, {"optim.lr": 0.03}]
    assert "prior 1: optim.lr=0.3 is clipped to 0.001 to 0.1" in found["notes"]


@pytest.mark.heavy
def test_on_the_command_line(call: Call, tmp_path: Path) -> None:
    typed = ("classify", "--setting", "A", "--data", "digits", "--trials", "2", "--repeats", "0")
    said = call(*typed, *SMALL, "--set", "train.epoch_images=64", "--warm-start", "shipped")
    assert said.code == 0
    trials = read_record(tmp_path / "runs/classify-A").frozen_trials()
    prior = next(p for p in read_priors() if p.where == {"init.source": "scratch"})
    assert prior.points[0]["config"].items() <= trials[1].params.items()
    sides = ("fewshot", "--compare", "distance", "--searches", "1", "--preset", "tiny")
    plan = call(*sides, *SMALL, "--warm-start", "shipped", "--plan")
    assert plan.out.count("are priors that ship, learnt on glyphs") == 3
    refused = call("pretrain", *SMALL, "--warm-start", "shipped")
    assert "no prior ships for this study of pretrain in preset tiny" in refused.line
