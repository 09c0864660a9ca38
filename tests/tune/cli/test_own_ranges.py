"""`--space` and `--no-search`: what they change, what is refused before any trial, and what a study
keeps. `--plan` prints what `--space` reads."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.commands import LOCAL_TOY, Call, left_in, to_resolve
from trainables.errors import UserError
from tune.cli.default_config import resolve
from tune.cli.own_ranges import check_drawn, typed_ranges, with_ranges
from tune.cli.plan import space_as_typed
from tune.experiments import EXPERIMENTS
from tune.search.ranges import parse_range
from tune.search.space import as_json, describe
from tune.study.journal import read_trials

WRONG = {
    "optim.lr": "--space optim.lr: it must be KEY=RANGE",
    "optim.lrr=0..1": "unknown config key 'optim.lrr'; did you mean 'optim.lr'?",
    "optim.lr=0..1": "--space optim.lr=0..1: optim.lr=0 is not valid: must be greater than 0",
    "optim.lr=a,b": "optim.lr='a' is not valid: must be a valid number",
    "optim.name=sgd,sdg": (
        "--space optim.name=sgd,sdg: optim.name='sdg' is not valid: must be 'sgd', 'adamw', "
    ),
    "optim.name=1..3": "optim.name='1' is not valid",
    "train.batch_size=16..64.5": "train.batch_size=64.5 is not valid: must be a valid integer",
    "optim.lr=0.1..1:log": (
        "--space optim.lr=0.1..1.0:log leaves out the default, 0.01. Include it, or give another "
        "default within: --set optim.lr=VALUE"
    ),
    "schedule.name=cosine,step": "leaves out the default, constant",
    "optim.lr=0.001..1 when schedule.name=cosin": "schedule.name='cosin' is not valid",
    "optim.lr=0.001..1 when dropout=0.2": "dropout has no choices in this space",
    "seed=1,2": "--space seed: it is not part of a search",
    "data.seed=1,2": "--space data.seed: it is not part of a search",
    "none.yaml": "--space none.yaml cannot be read: No such file or directory",
}


@pytest.mark.parametrize("typed", WRONG)
def test_wrong_ranges_are_one_line_before_any_trial(call: Call, tmp_path: Path, typed: str) -> None:
    said = call(*LOCAL_TOY, "1", "--space", typed)
    assert WRONG[typed] in said.line
    assert (said.code, said.out) == (2, "")
    assert left_in(tmp_path) == {}


def test_wrong_no_search_is_one_line(call: Call) -> None:
    said = call(*LOCAL_TOY, "1", "--no-search", "schedule.nam")
    assert said.line == (
        "--no-search schedule.nam: it is not searched; did you mean 'schedule.name'?"
    )
    said = call(*LOCAL_TOY, "1", "--no-search", "optim.lr", "--space", "optim.lr=0.001..0.1")
    assert said.line == "--no-search optim.lr: --space gives it a range; leave one of them out"


OWN = ("--space", "optim.lr=0.2..0.5", "--set", "optim.lr=0.3", "--space", "dropout=0.1,0.2")
REST = ("--no-search", "all")


def test_a_study_searches_the_ranges_and_keeps_them(call: Call, tmp_path: Path) -> None:
    assert call(*LOCAL_TOY, "2", *OWN, *REST).code == 0
    folder = tmp_path / "runs" / "toy"
    kept = json.loads((folder / "study.json").read_text())
    assert kept["ranges"] == {"optim.lr": ["0.2..0.5"], "dropout": ["0.1,0.2"]}
    assert kept["unsearched"] == ["schedule.name", "schedule.warmup_frac"]
    assert kept["pins"] == {"schedule.name": "constant", "schedule.warmup_frac": 0.1}
    trials = read_trials(folder / "study.journal", "toy")
    assert trials[0].params == {"optim.lr": 0.3, "dropout": 0.2}
    assert all(0.2 <= trial.params["optim.lr"] <= 0.5 for trial in trials)
    assert all(trial.params["dropout"] in (0.1, 0.2) for trial in trials)

    before = left_in(folder)
    other = call(*LOCAL_TOY, "5", "--space", "optim.lr=0.2..0.6", *OWN[2:], *REST)
    assert other.code == 2
    assert 'space of optim.lr was ["0.2 to 0.5"], is ["0.2 to 0.6"]' in other.line
    assert "--space 'optim.lr=0.2..0.5' --space 'dropout=0.1,0.2'" in other.line
    assert "space of dropout was" in call(*LOCAL_TOY, "5").line
    assert left_in(folder) == before
    assert call(*LOCAL_TOY, "2", *OWN, *REST).code == 0


def resolved(*typed: str, sets: Any = (), fixed: Any = None, name: str = "ssl") -> Any:
    options = to_resolve(list(sets), "tiny")
    options.space = list(typed)
    options.setting = "D"
    return resolve(options, EXPERIMENTS[name], fixed or {}, {}, {})


def test_set_beside_space_moves_the_default_and_leaves_the_key_searched() -> None:
    _, base, pins, _ = resolved("optim.lr=1e-2..1e-1:log", sets=["optim.lr=0.05"])
    assert base["optim.lr"] == 0.05
    assert "optim.lr" not in pins


def test_ranges_that_a_new_choice_leaves_open_are_asked_for() -> None:
    """The tiny preset of `ssl` has no ranges for Adam; `full` does."""
    with pytest.raises(UserError, match=r"--space optim.name=adam is new here, and optim.lr and "):
        resolved("optim.name=adamw,adam")
    resolved("optim.name=adamw,adam", "optim.lr=1e-4..1e-2", "optim.weight_decay=1e-5..1e-1")


def test_combinations_that_are_no_config_are_refused() -> None:
    preset, base, pins, _ = resolved("aug.scale_min=0.5..1", name="segment")
    experiment = with_ranges(
        EXPERIMENTS["segment"],
        preset,
        {"aug.scale_min": (parse_range("0.9..1.5"),), "aug.scale_max": (parse_range("1.0..1.1"),)},
    )
    with pytest.raises(UserError, match="--space has combinations that are not valid: "):
        check_drawn(experiment, preset, base, pins)


def test_a_setting_is_not_searched() -> None:
    fixed = {"freeze.policy": "all"}
    with pytest.raises(UserError, match=r"--space freeze.policy: setting D is freeze.policy=all"):
        resolved("freeze.policy=all,none", fixed=fixed, name="classify")


def test_a_range_that_no_trial_asks_for_is_a_note(call: Call) -> None:
    warmup = ("--space", "schedule.warmup_frac=0.1..0.3", "--set", "schedule.name=constant")
    said = call(*LOCAL_TOY, "1", *warmup)
    assert "note: --space schedule.warmup_frac: no trial uses it" in said.out


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_plan_prints_what_space_reads(tmp_path: Path, name: str) -> None:
    """Everything but a pinned key comes back."""
    experiment: Any = EXPERIMENTS[name]
    manifest: Any = SimpleNamespace(
        preset="tiny", pins={"optim.weight_decay": 0.01}, unsearched=["optim.weight_decay"]
    )
    printed = space_as_typed(experiment, manifest)
    path = tmp_path / "space.yaml"
    path.write_text(printed.partition("\n")[2])

    options = to_resolve(["optim.weight_decay=0.01"], "tiny")
    options.space = [str(path)]
    read = typed_ranges(options, experiment)
    again = with_ranges(experiment, "tiny", read)
    expected = as_json(describe(experiment.space, "tiny", manifest.pins))
    assert as_json(describe(again.space, "tiny", manifest.pins)) == expected
    assert space_as_typed(again, manifest) == printed
    assert "optim.weight_decay" not in read
