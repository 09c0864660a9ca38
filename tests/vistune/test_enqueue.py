"""A user's own configurations are tried once each, before any draw, whatever is killed."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

import vistune
from tests.commands import LOCAL_TOY, Call
from tests.studies import events, finished, manifest, open_study
from tests.toy import TOY
from tune.experiments import EXPERIMENTS
from tune.formatting import plain_console
from tune.reports.html_report import write_report
from tune.reports.leaderboard import show_study
from tune.search.own_configuration import check_described, own_configuration
from tune.search.space import as_json, describe
from tune.study.enqueued import enqueue, read_enqueued
from tune.study.study import Study
from tune.tracking.projection import Projection

OWN = {"optim.lr": 0.5, "schedule.name": "warmup_cosine", "schedule.warmup_frac": 0.25}
OTHER = {"optim.lr": 0.25}


def begun(study: Study) -> list[dict[str, Any]]:
    """Begin the next trial, and return its parameters."""
    work = study.next_work()
    while work not in (None, "wait") and work.kind == "baseline":  # type: ignore[union-attr]
        work = study.next_work()
    assert work not in (None, "wait")
    study.started(work)  # type: ignore[arg-type]
    return [trial.params for trial in study.frozen_trials()]


def test_own_configurations_follow_the_default_and_are_marked(tmp_path: Path) -> None:
    study = open_study(tmp_path, 8)
    study.enqueue([OWN, OTHER])
    for _ in range(4):
        params = begun(study)
    study.close()

    assert params[1] == OWN
    # The default has a constant schedule, so nothing else is asked for.
    assert params[2] == {"optim.lr": 0.25, "schedule.name": "constant"}
    started = [e for e in events(tmp_path) if e["event"] == "start"]
    assert [bool(e.get("enqueued")) for e in started] == [False, True, True, False]


def test_none_is_tried_twice(tmp_path: Path) -> None:
    study = open_study(tmp_path, 8)
    study.enqueue([OTHER, dict(OTHER), {"optim.lr": 0.25, "schedule.name": "constant"}])
    study.enqueue([OTHER, {"optim.lr": 0.01}])  # the second is the default
    for _ in range(3):
        params = begun(study)
    study.close()

    again = open_study(tmp_path, 8)
    again.enqueue([OTHER])
    for _ in range(4):  # three were interrupted
        params = begun(again)
    again.close()
    assert [one["optim.lr"] for one in params].count(0.25) == 1
    assert len(params) == 4


def kill_while_beginning(root: str) -> None:
    """Die when the configuration is in Optuna's journal but its trial has not begun."""
    import os

    study = open_study(Path(root), 8)
    study.enqueue([OWN, OTHER])
    begun(study)
    study._database.enqueue_next(OWN, own=True)
    os._exit(9)


def test_a_kill_between_file_and_trial_loses_and_repeats_nothing(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=kill_while_beginning, args=(str(tmp_path),)
    )
    process.start()
    process.join()
    assert process.exitcode == 9

    study = open_study(tmp_path, 8)
    for _ in range(4):  # the default again, the two, and a drawn one
        params = begun(study)
    study.close()
    assert params[1] == OWN
    assert params[2]["optim.lr"] == 0.25
    assert params[3] not in (OWN, params[2])


def test_the_draws_of_a_search_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    """The study is killed after each trial and resumed, with two enqueued configurations."""
    drawn = []
    for kills in (False, True):
        root = tmp_path / str(kills)
        study = open_study(root, 8)
        study.enqueue([OWN, OTHER])
        for count in range(1, 7):
            begun(study)
            if kills:
                study.close()
                study = open_study(root, 8)
                for _ in range(count):
                    begun(study)
        drawn.append([trial.params for trial in study.frozen_trials()])
        study.close()
    assert drawn[0] == drawn[1]


def test_another_process_may_enqueue_while_the_study_runs(tmp_path: Path) -> None:
    study = open_study(tmp_path, 8)
    begun(study)
    begun(study)
    looked_at = vistune.load_study(tmp_path / "toy")
    assert looked_at.enqueue(OTHER)
    assert not looked_at.enqueue(OTHER)
    assert begun(study)[2]["optim.lr"] == 0.25
    study.close()
    assert looked_at.trials["enqueued"].tolist() == [False, False, True]
    assert looked_at.trial(2).enqueued


def test_a_torn_line_is_no_configuration(tmp_path: Path) -> None:
    enqueue(tmp_path, [OWN])
    with (tmp_path / "enqueued.jsonl").open("a") as file:
        file.write('{"t": 1, "par')
    assert read_enqueued(tmp_path) == [OWN]
    assert enqueue(tmp_path, [OWN, OTHER]) == 1
    assert read_enqueued(tmp_path) == [OWN, OTHER]


@pytest.mark.parametrize("line", ["no JSON", "[]", "{}"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    enqueue(tmp_path, [OWN])
    with (tmp_path / "enqueued.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(vistune.UserError, match=r"enqueued\.jsonl is damaged .*: delete the line"):
        read_enqueued(tmp_path)


def test_bounds_may_have_more_digits_than_their_words() -> None:
    bounds = (0.12345649, 9.8765449)

    def space(trial: Any, preset: str) -> None:
        trial.suggest_float("lr", *bounds)

    words = as_json(describe(space, "tiny", {}))
    assert words == {"lr": ["0.123456 to 9.87654"]}
    for bound in bounds:
        check_described(words, {}, {}, {"lr": bound})


REFUSED = [
    ({}, "the configuration is empty"),
    ({"optim.lr": 2.0}, "optim.lr=2.0 is outside of the search, which is 0.001 to 1"),
    ({"lr": 0.1}, "lr is not searched; did you mean 'optim.lr'?"),
    ({"schedule.name": "step"}, "schedule.name=step is outside of the search, which is one of"),
    (
        {"schedule.warmup_frac": 0.1, "schedule.name": "constant"},
        "schedule.warmup_frac does not apply beside schedule.name=constant",
    ),
    ({"schedule.warmup_frac": 0.1}, "schedule.warmup_frac does not apply beside the values of"),
]


@pytest.mark.parametrize(("values", "said"), REFUSED)
def test_what_is_not_in_the_space_is_refused_at_once(
    values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    open_study(tmp_path, 8).close()
    study = vistune.load_study(tmp_path / "toy")
    with pytest.raises(vistune.UserError) as refused:
        study.enqueue(values)
    assert str(refused.value).startswith(said)
    assert read_enqueued(tmp_path / "toy") == []


def test_what_only_the_space_itself_can_refuse_is_on_record(tmp_path: Path) -> None:
    study = open_study(tmp_path, 8)
    enqueue(study.directory, [{"optim.lr": 7.0}, OTHER])
    begun(study)
    assert begun(study)[1]["optim.lr"] == 0.25
    assert study.waiting() == 0
    study.close()
    (tag,) = [e["tags"] for e in events(tmp_path) if e["event"] == "summary"]
    assert tag["enqueued.refused"].startswith("optim.lr=7.0 is outside of the search")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_words_and_space_refuse_the_same(name: str) -> None:
    """For every experiment, each end of each range and each choice is accepted, and what lies
    beyond is refused, both by a manifest's description and by the space."""
    experiment = EXPERIMENTS[name]
    preset = "tiny"
    from trainables.config import build, flatten

    base = flatten(build(experiment.config, experiment.presets[preset]))
    space = describe(experiment.space, preset, {})
    words = as_json(space)
    checked = 0
    for key, ranges in space.items():
        for condition, distribution in ranges:
            given = dict([condition.split("|")[0].split("=")]) if "=" in condition else {}
            if condition and not given:
                continue
            inside, outside = ends(distribution)
            for value in inside:
                check_described(words, base, {}, {**given, key: value})
                own_configuration(experiment.space, preset, base, {}, {**given, key: value})
                checked += 1
            for value in outside:
                for check in (
                    lambda values: check_described(words, base, {}, values),
                    lambda values: own_configuration(experiment.space, preset, base, {}, values),
                ):
                    with pytest.raises(vistune.UserError, match="outside of the search"):
                        check({**given, key: value})
    assert checked > 20


def ends(distribution: Any) -> tuple[list[Any], list[Any]]:
    """Values inside a distribution, and values outside it."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices), ["no such choice"]
    low, high = distribution.low, distribution.high
    return [low, high], [low - 1 - abs(low), high + 1 + abs(high)]


@pytest.mark.heavy
def test_the_command_tries_what_it_is_given(call: Call, tmp_path: Path) -> None:
    own = "optim.lr=0.5,schedule.name=warmup_cosine,schedule.warmup_frac=0.25"
    words = (*LOCAL_TOY, "3", "--try", own, "--try", "optim.lr=0.25")
    said = call(*words)

    assert said.code == 0, said.err
    assert "trial 1 starts (enqueued)" in said.out
    study = vistune.load_study("toy")
    assert study.trial(1).params == OWN
    assert study.trial(2).params["optim.lr"] == 0.25

    waits = call(*words, "--try", "optim.lr=0.125")
    assert "1 enqueued configurations are waiting: all trials have begun" in waits.out
    extended = call(*LOCAL_TOY, "4")
    assert extended.code == 0
    assert study.trial(3).params["optim.lr"] == 0.125
    assert study.trial(3).enqueued


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("optim.lr", "--try 'optim.lr' must be KEY=VALUE,KEY=VALUE"),
        ("optim.lr=fast", "--try optim.lr=fast: optim.lr='fast' is not valid"),
        ("optim.lrr=1", "--try optim.lrr=1: unknown config key 'optim.lrr'; did you mean"),
        ("train.epochs=3", "--try train.epochs=3: train.epochs is not searched"),
        ("optim.lr=2", "--try optim.lr=2: optim.lr=2.0 is outside of the search"),
    ],
)
def test_a_wrong_try_is_one_line(call: Call, tmp_path: Path, words: str, said: str) -> None:
    refused = call(*LOCAL_TOY, "3", "--try", words)
    assert refused.code == 2
    assert refused.line.startswith(said)
    assert not (tmp_path / "runs").exists()


def test_a_comparison_is_not_given_one(call: Call) -> None:
    refused = call("classify", "--local", "--try", "optim.lr=0.1")
    assert refused.line == (
        "--try optim.lr=0.1: classify is several studies; choose one with --setting"
    )


def test_pages_mark_what_was_enqueued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vistune.search(
        TOY,
        trials=2,
        repeats=0,
        local=True,
        storage=tmp_path,
        enqueue=[OTHER],
        progress="none",
    )
    show_study(tmp_path / "toy", plain_console())
    assert "enqueued: optim.lr=0.25" in capsys.readouterr().out
    assert "enqueued: optim.lr=0.25" in write_report(tmp_path / "toy").read_text()

    projection = Projection()
    for event in events(tmp_path):
        projection.feed(event)
    tags = {run: changes.tags for run, changes in projection.take().items()}
    assert tags["trial/1"]["trial.enqueued"] == "true"
    assert "trial.enqueued" not in tags["trial/0"]


def test_studies_from_before_have_no_such_file(tmp_path: Path) -> None:
    finished(tmp_path, 3)
    assert not (tmp_path / "toy" / "enqueued.jsonl").exists()
    assert json.loads((tmp_path / "toy" / "study.json").read_text())["space"] == manifest().space
