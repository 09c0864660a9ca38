"""Several objectives: their values, the front against Optuna's, draws, kills, repeats and verdicts
of named points, and what the pages print."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

import vistune
from tests.commands import Call, use_mlflow
from tests.made_up import EPOCHS, check_kills, open_made_up, play
from tests.mlflow_store import store
from tests.studies import events
from tests.toy import TOY
from trainables.errors import UserError
from tune.cli.function_options import refuse_about_images
from tune.cli.options import Options
from tune.execution.local import search_locally
from tune.formatting import plain_console
from tune.function_experiment import function_experiment
from tune.reports.front import front_conclusions, judge_points
from tune.reports.html_report import write_report
from tune.reports.leaderboard import show_study
from tune.reports.statistics import significance
from tune.reports.verdict import judge_study
from tune.search.methods import make_sampler
from tune.search.repeatable import GAINS
from tune.study.disk import StudyEnds
from tune.study.log_state import Run
from tune.study.objectives import (
    Objective,
    front_of,
    named_points,
    parse_objective,
    parse_objectives,
    with_objectives,
)
from tune.study.objectives import measured as measured_at_the_end
from tune.study.record import read_record
from tune.study.work import Outcome

TOP1 = Objective("val/top1")
TIME = Objective("time/epoch_s", minimized=True)


def space(trial: Any, preset: str) -> None:
    trial.suggest_float("optim.lr", 1e-3, 1.0, log=True)
    trial.suggest_float("dropout", 0.0, 0.5)
    trial.suggest_int("train.batch_size", 10, 40)


QUICK = replace(TOY, space=space)
SEVERAL: dict[str, Any] = {
    "objectives": ["val/top1", "-time/epoch_s"],
    "rules": {"sampler": "tpe", "rungs": "none"},
}


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: None)


def test_objectives_are_read_as_they_are_typed() -> None:
    assert parse_objective("top1") == TOP1
    assert parse_objective("-time/epoch_s") == TIME
    assert str(parse_objective("-parameters")) == "-model/parameters"
    assert parse_objectives(["top1", "-hours"], "val/top1") == ["val/top1", "-time/hours"]
    assert parse_objectives(["top1"], "val/top1") is None
    # a function's loss is maximized with its sign changed
    assert parse_objectives(["-loss", "-seconds"], "val/-loss") == ["val/-loss", "-val/seconds"]
    assert parse_objective("-latency") == Objective("model/latency_ms", minimized=True)
    assert measured_at_the_end([TOP1, TIME]) == []
    assert measured_at_the_end([TOP1, parse_objective("-latency")]) == ["model/latency_ms"]
    # metrics that a function reports under these names, because nothing is known of its network
    own = parse_objectives(["top1", "-latency", "-hours"], "val/top1", function=True)
    assert own == ["val/top1", "-val/latency", "-time/hours"]
    with pytest.raises(UserError, match="the first objective chooses the epoch of a trial"):
        parse_objectives(["-hours", "top1"], "val/top1")
    with pytest.raises(UserError, match="--objective time/hours is given twice"):
        parse_objectives(["top1", "-hours", "time/hours"], "val/top1")


def test_a_function_takes_several_objectives_and_no_other_single_one() -> None:
    """Its own objective is set in its file."""
    several = Options(experiment="mine.py", objective=["accuracy", "-seconds"])
    mine = function_experiment(
        lambda config, run: None, objective="accuracy", space={"lr": (0.1, 1.0)}, name="mine"
    )
    refuse_about_images(several, mine)
    with pytest.raises(UserError, match="--objective: mine is a function of its own"):
        refuse_about_images(replace(several, objective=["f1"]), mine)


def measured(metric: str, outcome: Outcome) -> Outcome:
    run = Run(
        config={"train.threads": 2},
        epochs=[1, 2, 3],
        history=[
            {"val/top1": value, "val/f1": value / 2, "time/epoch_s": seconds}
            for value, seconds in ((0.1, 6.0), (0.9, 3.0), (0.5, 3.0))
        ],
        occupied_ms=36_000,
    )
    return with_objectives(run, outcome, [TOP1, Objective(metric)])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("time/epoch_s", 4.0),  # the mean over epochs
        ("val/f1", 0.45),  # at the best epoch
        ("model/parameters", 7.0),
        ("time/hours", 12 / 3600),
        ("time/cpu_hours", 2 * 36 / 3600),
    ],
)
def test_the_value_of_an_objective(metric: str, expected: float) -> None:
    final = {"best/val/top1": 0.9, "best/epoch": 2.0, "model/parameters": 7.0}
    outcome = measured(metric, Outcome("COMPLETE", 0.9, metrics=final))
    assert outcome.metrics == final | {f"best/{metric}": pytest.approx(expected)}
    failed = Outcome("FAIL", reason="oom")
    assert measured(metric, failed) == failed


def test_an_objective_that_is_no_metric_ends_the_run_at_the_first_report(tmp_path: Path) -> None:
    """Otherwise every trial would train to its end and fail there."""
    wrong = SEVERAL | {"objectives": ["val/top1", "-time/epoc_s"]}
    study = open_made_up(tmp_path, QUICK, 2, **wrong)
    with pytest.raises(StudyEnds, match=r"another --study name; did you mean 'time/epoch_s'\?$"):
        search_locally(study, QUICK)
    study.close()
    assert [e["event"] for e in events(tmp_path) if e.get("trial") is not None] == ["start"]


def test_a_trial_without_the_metric_fails_and_says_so() -> None:
    outcome = measured("val/f2", Outcome("COMPLETE", 0.9, metrics={"best/epoch": 2.0}))
    assert (outcome.state, outcome.reason) == ("FAIL", "no metric val/f2")


@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_optunas(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 6, (30, 3)).astype(float)
    study = optuna.create_study(directions=["maximize", "minimize", "maximize"])
    for row in values:
        study.tell(study.ask(), list(row))
    objectives = [Objective("a"), Objective("b", minimized=True), Objective("c")]
    points = {number: dict(zip("abc", row, strict=True)) for number, row in enumerate(values)}
    expected = {tuple(trial.values) for trial in study.best_trials}
    front = front_of(points, objectives)
    assert {tuple(values[number]) for number in front} == expected
    assert len(front) == len(expected)  # equal points count once
    assert [points[n]["a"] for n in front] == sorted((points[n]["a"] for n in front), reverse=True)


def test_points_with_a_name() -> None:
    places = [(1.0, 10.0), (0.9, 2.0), (0.1, 1.0), (0.8, 9.0)]
    points = {n: {TOP1.metric: a, TIME.metric: b} for n, (a, b) in enumerate(places)}
    assert front_of(points, [TOP1, TIME]) == [0, 1, 2]
    assert named_points(points, [TOP1, TIME]) == {0: "best val/top1", 1: "balanced"}
    assert named_points({0: points[0]}, [TOP1, TIME]) == {0: "best val/top1"}
    assert named_points({}, [TOP1, TIME]) == {}


def test_draws_of_several_objectives_are_optunas() -> None:
    """The study's storage has only the first objective. Optuna's own study has both."""
    unit = FloatDistribution(0.0, 1.0)
    ours = optuna.create_study(direction="maximize")
    theirs = optuna.create_study(directions=["maximize", "maximize"])
    for number, (x, y) in enumerate(np.random.default_rng(0).random((25, 2))):
        values = [1 - abs(x - 0.3), 1 - abs(x - y)]
        params = {"x": float(x), "y": float(y)}
        about: Any = {"params": params, "distributions": dict.fromkeys(params, unit)}
        ours.add_trial(
            optuna.trial.create_trial(value=values[0], user_attrs={GAINS: values}, **about)
        )
        theirs.add_trial(optuna.trial.create_trial(values=values, **about))
        assert len(ours.trials) == number + 1

    sampler: Any = make_sampler("tpe", 5, ["x", "y"], objectives=2)
    trial = optuna.trial.create_trial(state=TrialState.RUNNING)
    trial.number = 25
    for name in ("x", "y"):
        drawn = sampler.sample_independent(ours, trial, name, unit)
        original = sampler._sampler(25, name)
        assert drawn == original.sample_independent(theirs, trial, name, unit)


def test_a_study_of_several_objectives_equals_the_one_that_is_never_killed(tmp_path: Path) -> None:
    trials = check_kills(tmp_path, QUICK, 13, play, range(5, 40, 7), **SEVERAL)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    for trial in trials:
        cost = 1 / trial.params["train.batch_size"]
        assert trial.user_attrs[GAINS] == pytest.approx([trial.value, -cost])
        assert len(trial.intermediate_values) == EPOCHS


def test_the_balanced_point_is_nearest_to_the_best_of_all_objectives() -> None:
    """The distance is Euclidean. The sum of what each objective gives up would choose point 3."""
    values = {0: (1.0, 10.0), 1: (0.0, 0.0), 2: (0.5, 5.0), 3: (0.1, 0.3), 4: (0.85, 8.0)}
    points = {
        number: {TOP1.metric: top1, TIME.metric: seconds}
        for number, (top1, seconds) in values.items()
    }
    distances = {
        number: np.hypot(1 - top1, seconds / 10) for number, (top1, seconds) in values.items()
    }
    assert min(distances, key=lambda number: distances[number]) == 2
    assert named_points(points, [TOP1, TIME]) == {0: "best val/top1", 2: "balanced"}


def test_named_points_are_repeated_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = open_made_up(tmp_path, QUICK, 13, repeats=4, **SEVERAL)
    play(study)
    study.close()
    record = read_record(tmp_path / "toy")
    assert record.points == study.points
    names = named_points(record.points, record.objectives)
    assert list(names.values()) == ["best val/top1", "balanced"]
    best, balanced = names
    assert record.best_number() == study.best_number() == best
    assert {number for number, _ in record.repeats} == {0, best, balanced}

    found = judge_points(record)
    against_default = judge_study(record)
    assert found is not None
    assert against_default is not None
    values = {number: record.trials[number].value or 0.0 for number in names}
    assert found.gain.mean == pytest.approx(values[balanced] - values[best], abs=0.06)
    two_claims = significance(record.look) / 2
    assert against_default.level == found.level == two_claims
    text, verdict = front_conclusions(record)
    assert text.startswith("The front of val/top1 and -time/epoch_s has ")
    assert f"trial {balanced} (balanced): val/top1" in text
    assert verdict.startswith(f"Trial {balanced} (balanced) is worse than trial {best}: test/top1")

    page = write_report(tmp_path / "toy").read_text()
    assert "Front of the objectives" in page
    assert verdict.split(":")[0] in page

    shown = vistune.load_study(tmp_path / "toy")
    assert shown.verdict.front == (text, verdict)
    assert verdict in str(shown.verdict)
    line = next(trace for trace in shown.plot_front().data if trace.name == "front")
    assert sorted(line.customdata) == sorted(trial.number for trial in shown.front)
    show_study(tmp_path / "toy", plain_console(width=200))
    _, _, table = capsys.readouterr().out.partition("\nfront")
    assert re.search(rf"^ *{best} +best val/top1 ", table, re.MULTILINE)
    assert re.search(rf"^ *{balanced} +balanced ", table, re.MULTILINE)


def test_a_study_of_one_objective_shows_what_accuracy_costs(tmp_path: Path) -> None:
    study = open_made_up(tmp_path, QUICK, 6, rules={"rungs": "none"})
    play(study)
    study.close()
    assert front_conclusions(study) == []
    assert {number for number, _ in study.repeats} == set()
    page = write_report(tmp_path / "toy").read_text()
    assert "val/top1 against training time" in page
    assert "training time (s)" in page


@pytest.mark.slow
def test_a_front_on_the_command_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mlflow(monkeypatch)
    several = ("--objective", "top1", "--objective", "-time/epoch_s")
    local = ("toy", "--local", "--repeats", "0", "--trials")
    said = call(*local, "2", *several)
    assert said.code == 0, said.err
    assert "The front of val/top1 and -time/epoch_s has" in said.out
    assert "pruner: none" in said.out
    assert (tmp_path / "runs/toy/plots/front.png").stat().st_size > 1000

    runs = store(tmp_path / "runs")
    assert runs["toy"]["tags"]["front"].startswith("The front of val/top1 and -time/epoch_s has")
    costs = dict(row[:2] for row in runs["trial-000"]["metrics"])
    assert "best/time/epoch_s" in costs
    (picture,) = (tmp_path / "runs/mlartifacts").rglob("plots/front.png")
    assert picture.read_bytes() == (tmp_path / "runs/toy/plots/front.png").read_bytes()

    other = call(*local, "2", "--objective", "top1", "--objective", "-hours")
    assert 'objectives was ["val/top1", "-time/epoch_s"], is' in other.line
