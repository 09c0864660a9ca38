"""The durable study on real Optuna storage: order of work, kills at every point, rungs, repeats,
refusals."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState

from tests.commands import left_in
from tests.studies import POOR, events, finish, finished, manifest, open_study, reports
from tests.toy import TOY, Toy, ToyConfig
from trainables.errors import UserError
from tune.cli.console import Console
from tune.execution.local import search_locally
from tune.execution.trial import BASELINE_SEEDS
from tune.reports.doubts import doubts
from tune.search.pruner import DurableHalving
from tune.search.rungs import rungs
from tune.study.disk import StorageFailed
from tune.study.events import AppendOnlyFile, EventLog
from tune.study.kept_files import KeptFiles
from tune.study.lock import StudyInUse
from tune.study.record import read_record
from tune.study.rules import CURRENT, FIRST
from tune.study.study import Study
from tune.study.work import Outcome, Work


def test_trials_in_total_and_extension(tmp_path: Path) -> None:
    study = finish(tmp_path, 5)
    assert [t.number for t in study.frozen_trials()] == [0, 1, 2, 3, 4]
    assert all(t.state.is_finished() for t in study.frozen_trials())
    assert len(finish(tmp_path, 5).frozen_trials()) == 5  # the same command: nothing left to do
    assert len(finish(tmp_path, 8).frozen_trials()) == 8


def test_trial_zero_is_the_default_and_runs_to_the_end(tmp_path: Path) -> None:
    study = finish(tmp_path, 8, base={"train.epochs": 6})
    first = study.frozen_trials()[0]
    assert first.params == {"optim.lr": 0.01, "schedule.name": "constant"}
    assert first.state == TrialState.COMPLETE
    assert len(first.intermediate_values) == 6
    assert json.loads((tmp_path / "toy/trials/0000/config.json").read_text())["optim.lr"] == 0.01


def test_stopped_trials_are_pruned_with_their_values_and_rungs_are_in_the_storage(
    tmp_path: Path,
) -> None:
    study = finish(tmp_path, 12, base={"train.epochs": 18})
    pruned = [t for t in study.frozen_trials() if t.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        assert max(trial.intermediate_values) in rungs(18)
        assert sorted(trial.intermediate_values) == list(
            range(1, max(trial.intermediate_values) + 1)
        )
        assert "rung" in trial.user_attrs["reason"]
        assert any(key.startswith("completed_rung_") for key in trial.system_attrs)


def test_one_process_begins_with_the_first_trial_and_several_with_the_baseline(
    tmp_path: Path,
) -> None:
    """A killed study runs its baseline before the interrupted trial."""
    for name, trial_first in (("one", True), ("several", False)):
        study = open_study(tmp_path / name, 2)
        order = [study.next_work(trial_first) for _ in range(3)]
        kinds = [work.kind for work in order if isinstance(work, Work)]
        first = ["trial", "baseline"] if trial_first else ["baseline", "trial"]
        assert kinds == [*first, "trial"]
        study.close()

        again = open_study(tmp_path / name, 2)
        work = again.next_work(trial_first)
        assert isinstance(work, Work)
        assert work.kind == "baseline"
        again.close()


def test_asha_rule_against_the_definition(tmp_path: Path) -> None:
    """With rung values v_1..v_n, trial n continues iff it is among the best max(1, floor(n/4)) (Li
    et al. 2020, algorithm 2)."""
    study = open_study(tmp_path, 30, base={"train.epochs": 18}, rules=CURRENT | {"rungs": 1})
    seen: list[float] = []
    values = [0.5, 0.3, 0.6, 0.55, 0.7, 0.1, 0.65, 0.62, 0.71, 0.4, 0.9, 0.8]
    baseline = study.next_work()
    assert isinstance(baseline, Work)
    study.ended(baseline, Outcome("COMPLETE", metrics={"baseline/val/top1": 0.0}))
    for number, value in enumerate(values):
        work = study.next_work()
        assert isinstance(work, Work)
        study.started(work)
        # below the first rung
        assert all(study.reported(work, epoch, {"val/top1": value}) for epoch in (1, 2))
        went_on = study.reported(work, 3, {"val/top1": value})
        seen.append(value)
        among_best = value >= sorted(seen, reverse=True)[max(1, len(seen) // 4) - 1]
        assert went_on == (among_best or number == 0), (number, value)
        study.ended(work, study.pruned(work))


@pytest.mark.parametrize("die_at", range(1, 40, 3))
def test_killed_at_any_event_goes_on_as_if_never_killed(
    tmp_path: Path, die_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends right after (odd) or right before (even) some event is written. The next
    process must know neither more nor less."""
    whole = finished(tmp_path / "whole", 4, repeats=2)
    append, count = EventLog.append, 0

    def dying_append(self: EventLog, event: str, **fields: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        if count == die_at and die_at % 2 == 0:
            raise SystemExit("killed")
        written = append(self, event, **fields)
        if count == die_at:
            raise SystemExit("killed")
        return written

    study = None
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "append", dying_append)
        try:
            study = open_study(tmp_path / "killed", 4, 2)
            search_locally(study, TOY)
        except SystemExit:
            pass
    if study is not None:
        study.close()
    killed = finish(tmp_path / "killed", 4, repeats=2)
    assert reports(tmp_path / "killed") == reports(tmp_path / "whole")
    assert [(t.state, t.params, t.value) for t in killed.frozen_trials()] == [
        (t.state, t.params, t.value) for t in whole.frozen_trials()
    ]
    ends = [
        (e["trial"], e.get("repeat")) for e in events(tmp_path / "killed") if e["event"] == "end"
    ]
    assert (
        len(ends)
        == len(set(ends))
        == len([e for e in events(tmp_path / "whole") if e["event"] == "end"])
    )


@pytest.mark.parametrize("call", ["report", "tell", "create_new_trial", "set_trial_param"])
def test_killed_between_log_and_storage(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished(tmp_path / "whole", 4)
    target: Any = {"report": optuna.trial.Trial, "tell": optuna.Study}.get(
        call, optuna.storages.JournalStorage
    )
    original, count = getattr(target, call), 0

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise SystemExit("killed")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, call, dying)
        study = open_study(tmp_path / "killed", 4)
        with pytest.raises(SystemExit):
            search_locally(study, TOY)
    study.close()
    killed = finish(tmp_path / "killed", 4)
    assert reports(tmp_path / "killed") == reports(tmp_path / "whole")
    assert [(t.state, t.params, t.value) for t in killed.frozen_trials()] == [
        (t.state, t.params, t.value) for t in whole.frozen_trials()
    ]


def begun_together(root: Path) -> tuple[Study, list[Work]]:
    """Open a study and begin two trials, each with a checkpoint."""
    study = open_study(root, 3)
    works = [work for work in (study.next_work(True) for _ in range(3)) if isinstance(work, Work)]
    trials = [work for work in works if work.kind == "trial"]
    for work in trials:
        study.started(work)
        Path(work.directory, "last.pt").touch()
    return study, trials


def report_together(study: Study, trials: list[Work]) -> None:
    with study.together():
        for number, work in enumerate(trials):
            assert study.reported(work, 1, {"val/top1": 0.5 + number / 10})


def end_together(study: Study, trials: list[Work]) -> None:
    with study.together():
        for work in trials:
            study.ended(work, Outcome("PRUNED", 0.5))


def checkpoints(root: Path) -> int:
    return len(list((root / "toy/trials").rglob("last.pt")))


def test_what_is_recorded_together_is_written_once_and_seen_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    append = AppendOnlyFile.append_lines

    def noted(self: AppendOnlyFile, lines: bytes) -> None:
        append(self, lines)
        done.append(self.path.name)

    study, trials = begun_together(tmp_path)
    study.observers.append(lambda event: done.append(event["event"]))
    with monkeypatch.context() as patch:
        patch.setattr(AppendOnlyFile, "append_lines", noted)
        report_together(study, trials)
        assert done == ["events.jsonl", "report", "report", "study.journal"]
        done.clear()
        end_together(study, trials)
        assert done == ["events.jsonl", "end", "end", "study.journal"]
    assert checkpoints(tmp_path) == 0
    study.close()

    again = open_study(tmp_path, 3)
    assert again.notes == []
    ended = [trial.state for trial in again.frozen_trials() if trial.state.is_finished()]
    assert ended == [TrialState.PRUNED] * 2
    again.close()


@pytest.mark.parametrize("killed", ["reports", "ends"])
def test_killed_between_the_two_writes_of_a_block(
    tmp_path: Path, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = AppendOnlyFile.append_lines

    def dying(self: AppendOnlyFile, lines: bytes) -> None:
        if self.path.name == "study.journal":
            raise SystemExit("killed")
        append(self, lines)

    study, trials = begun_together(tmp_path)
    if killed == "ends":
        report_together(study, trials)
    with monkeypatch.context() as patch:
        patch.setattr(AppendOnlyFile, "append_lines", dying)
        with pytest.raises(SystemExit):
            (report_together if killed == "reports" else end_together)(study, trials)
    study.close()

    again = open_study(tmp_path, 3)
    assert again.notes == []  # nothing is damaged
    ended = [trial.state for trial in again.frozen_trials() if trial.state.is_finished()]
    assert ended == ([] if killed == "reports" else [TrialState.PRUNED] * 2)
    again.close()
    for work in trials:  # they were no checkpoints
        Path(work.directory, "last.pt").unlink(missing_ok=True)
    finish(tmp_path, 3)
    assert set(reports(tmp_path)) >= {(0, None, 1), (1, None, 1)}  # `reports` refuses doubles


def test_killed_before_the_checkpoints_of_ended_trials_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*args: Any) -> None:
        raise SystemExit("killed")

    study, trials = begun_together(tmp_path)
    report_together(study, trials)
    with monkeypatch.context() as patch:
        patch.setattr(KeptFiles, "ended", dying)
        with pytest.raises(SystemExit):
            end_together(study, trials)
    study.close()
    assert checkpoints(tmp_path) == 2
    open_study(tmp_path, 3).close()
    assert checkpoints(tmp_path) == 0


def test_a_log_that_cannot_be_written_leaves_nothing_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: EventLog, lines: bytes) -> None:
        raise StorageFailed("no space left")

    study, trials = begun_together(tmp_path)
    files = [tmp_path / "toy" / name for name in ("events.jsonl", "study.journal")]
    before = [file.read_bytes() for file in files]
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "append_lines", full)
        with pytest.raises(StorageFailed):
            report_together(study, trials)
    study.close()
    assert [file.read_bytes() for file in files] == before


def test_a_torn_journal_line_is_cut_off(tmp_path: Path) -> None:
    finished(tmp_path, 2)
    with (tmp_path / "toy" / "study.journal").open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    assert len(finish(tmp_path, 4).frozen_trials()) == 4


def test_suggestions_depend_on_seed_and_number_alone(tmp_path: Path) -> None:
    straight = finished(tmp_path / "straight", 6)
    for trials in range(1, 7):  # restart before every trial
        stepwise = finish(tmp_path / "stepwise", trials)
    assert [t.params for t in straight.frozen_trials()] == [
        t.params for t in stepwise.frozen_trials()
    ]
    assert len({t.params["optim.lr"] for t in straight.frozen_trials()}) == 6
    other = finish(tmp_path / "other", 6, seed=1)
    assert other.frozen_trials()[3].params != straight.frozen_trials()[3].params


def test_repeats_use_fresh_seeds_and_are_no_trials(tmp_path: Path) -> None:
    study = finished(tmp_path, 5, repeats=2)
    assert len(study.frozen_trials()) == 5
    assert all("test/top1" in metrics for metrics in study.finals().values())
    assert study.seed not in study.repeat_seeds()
    for event in events(tmp_path):  # the search never reads the test split
        if event["event"] in ("report", "end") and "repeat" not in event:
            assert not any(name.startswith("test/") for name in event["metrics"])


def test_the_best_few_are_repeated_and_the_best_on_average_is_the_answer(tmp_path: Path) -> None:
    three = replace(TOY, top=3)
    first_rules = manifest(base=POOR, rules=FIRST)
    study = Study.open(tmp_path / "toy", three, first_rules, trials=10, repeats=2)
    search_locally(study, three)
    study.close()
    record = read_record(tmp_path / "toy")
    assert record.completed == study.completed
    first = sorted(record.completed, key=lambda n: (-record.completed[n], n))[:3]
    assert (
        set(study.finals())
        == {(number, seed) for number in {0, *first} for seed in study.repeat_seeds()}
        == set(record.repeats)
    )
    means = {
        n: np.mean([study.finals()[n, seed]["best/val/top1"] for seed in study.repeat_seeds()])
        for n in first
    }
    assert study.best_number() == max(first, key=lambda n: means[n])


@pytest.mark.parametrize(
    ("fault", "state", "reason"),
    [
        ("nan", "PRUNED", "nan"),
        ("collapse", "PRUNED", "collapse"),
        ("oom", "FAIL", "oom"),
        ("raise", "FAIL", "ZeroDivisionError"),
    ],
)
def test_failed_trials_are_on_record_and_cost_only_themselves(
    tmp_path: Path, fault: str, state: str, reason: str
) -> None:
    # the first rung comes after the fault
    study = finish(tmp_path, 2, base={"fault": fault, "train.epochs": 13})
    assert [t.state.name for t in study.frozen_trials()] == [state] * 2
    ends = [e for e in events(tmp_path) if e["event"] == "end"]
    assert [e["reason"] for e in ends] == [reason] * 2
    if fault == "raise":
        assert "a bug in the model" in ends[0]["error"]


def test_a_baseline_that_fails_costs_itself_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Uncalibrated(Toy):
        def calibrate(self) -> None:
            raise ZeroDivisionError("no statistics")

    experiment = replace(TOY, model=lambda: (Uncalibrated, ToyConfig))
    study = Study.open(
        tmp_path / "toy",
        experiment,
        manifest(),
        trials=1,
        repeats=0,
        observers=[Console("val/top1", 4, 1).on_event],
    )
    search_locally(study, experiment)
    study.close()
    assert study.best_number() == 0
    [said] = [e for e in events(tmp_path) if e["event"] == "summary"]
    assert said["tags"]["baseline.reason"] == "ZeroDivisionError"
    assert "no statistics" in said["tags"]["baseline.error"]
    said_on_console = capsys.readouterr().out
    assert "no untrained baseline (ZeroDivisionError: no statistics" in said_on_console
    assert "the study continues without it" in said_on_console
    assert any(
        "the untrained network could not be measured" in doubt for doubt in doubts(study, tmp_path)
    )


def test_a_metric_that_one_untrained_network_lacks_is_averaged_over_the_others(
    tmp_path: Path,
) -> None:
    """An example is the IoU of a class that no mask contains and only some random networks
    predict."""

    class Lacking(Toy):
        def validate(self) -> dict[str, float]:
            seed = self.config.seed
            own = {f"val/only_{seed}": 0.5} if seed else {"val/even": 0.25}
            return {**super().validate(), "val/seed": float(seed), **own}

    experiment = replace(TOY, model=lambda: (Lacking, ToyConfig))
    study = Study.open(tmp_path / "toy", experiment, manifest(), trials=1, repeats=0)
    search_locally(study, experiment)
    study.close()
    found = study.summary
    seeds = np.arange(BASELINE_SEEDS)
    assert found["baseline/val/seed"] == seeds.mean()
    assert found["baseline_std/val/seed"] == pytest.approx(seeds.std(ddof=1))
    assert found["baseline/val/only_1"] == 0.5
    assert found["baseline/val/even"] == 0.25
    assert "baseline_std/val/only_1" not in found  # a single value has none


def test_a_repeat_that_collapses_is_judged_by_its_best_epoch(tmp_path: Path) -> None:
    study = finish(tmp_path, 2, repeats=2, base={"fault": "collapse repeat"})
    assert len(study.finals()) == 4
    ends = [e for e in events(tmp_path) if e["event"] == "end" and "repeat" in e]
    assert {(e["state"], e["reason"]) for e in ends} == {("COMPLETE", "collapse")}
    assert all(e["metrics"]["best/epoch"] <= 2 and "test/top1" in e["metrics"] for e in ends)


def test_two_processes_on_one_study(tmp_path: Path) -> None:
    study = open_study(tmp_path, 3)
    with pytest.raises(UserError, match="being run by another process"):
        open_study(tmp_path, 3)
    study.close()


def test_the_second_of_two_starts_writes_nothing_and_is_told_of_the_first(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    first = os.fork()
    if not first:
        try:
            study = open_study(tmp_path, 3)
            os.write(writing, b"open")
            time.sleep(100)
            study.close()
        finally:
            os._exit(0)

    try:
        assert os.read(reading, 4) == b"open"
        before = left_in(tmp_path)
        with pytest.raises(StudyInUse, match=rf"another process \({first} on .+ since .+: .+\);"):
            open_study(tmp_path, 3, base={"train.epochs": 5})
        assert left_in(tmp_path) == before
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    with pytest.raises(UserError, match="another configuration"):
        open_study(tmp_path, 3, base={"train.epochs": 5})
    open_study(tmp_path, 3).close()


def test_a_changed_study_under_an_old_name(tmp_path: Path) -> None:
    finished(tmp_path, 1)
    with pytest.raises(UserError, match=r"train.epochs was 4, is 9.*--study toy-2"):
        open_study(tmp_path, 1, base={"train.epochs": 9})
    with pytest.raises(UserError, match=r"data was f, is g"):
        open_study(tmp_path, 1, data={**manifest().data, "fingerprint": "g"})
    with pytest.raises(UserError, match=r"space of optim.lr"):
        open_study(tmp_path, 1, space={"schedule.name": ["one of a, b"]})
    none, some = (
        replace(manifest(), base={**manifest().base, "aug.blur": blur}) for blur in (None, 0.5)
    )
    none.reconcile_with(tmp_path / "none.json")
    # None counts as a value
    with pytest.raises(UserError, match=r"aug.blur was none, is 0.5"):
        some.reconcile_with(tmp_path / "none.json")
    assert replace(manifest(), commit="elsewhere") != manifest()
    open_study(tmp_path, 1, commit="elsewhere").close()  # code may change; its commit is on record


def test_finished_trials_leave_no_resume_state(tmp_path: Path) -> None:
    study = finish(tmp_path, 8, base={"train.epochs": 18})
    for trial in study.frozen_trials():
        folder = tmp_path / "toy" / "trials" / f"{trial.number:04d}"
        assert not (folder / "last.pt").exists()
        assert (folder / "best.pt").exists() == (trial.state == TrialState.COMPLETE)


@pytest.mark.parametrize("die_at", [1, 2, 3])  # trial 0, which completes; trial 1; a repeat
def test_killed_before_the_resume_state_of_an_ended_run_is_gone(
    tmp_path: Path, die_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, count = KeptFiles.ended, 0

    def dying(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == die_at:
            raise SystemExit("killed")
        clean(*args)

    study = open_study(tmp_path, 2, repeats=2)
    with monkeypatch.context() as patch:
        patch.setattr(KeptFiles, "ended", dying)
        with pytest.raises(SystemExit):
            search_locally(study, TOY)
    study.close()
    assert len(list((tmp_path / "toy/trials").rglob("last.pt"))) == 1
    open_study(tmp_path, 2, repeats=2).close()
    assert list((tmp_path / "toy/trials").rglob("last.pt")) == []


def test_stops_equal_those_of_optunas_successive_halving() -> None:
    """The values come in the same interleaved order. Rungs 1 and 2 of 4 epochs each have their own
    peer, whose next rung is out of reach."""
    rng = np.random.default_rng(0)
    ours = optuna.create_study(direction="maximize", pruner=DurableHalving(4, 1))
    peers = {
        rung: optuna.create_study(
            direction="maximize",
            pruner=SuccessiveHalvingPruner(min_resource=rung, reduction_factor=factor),
        )
        for rung, factor in {1: 4, 2: 2}.items()
    }
    stops = dict.fromkeys(range(1, 5), 0)
    for _ in range(10):  # ten trials at a time, epoch by epoch
        running = [
            (ours.ask(), {rung: peer.ask() for rung, peer in peers.items()}) for _ in range(10)
        ]
        for epoch in range(1, 5):
            for one, others in list(running):
                value = float(rng.integers(20))  # with ties
                for trial in (one, *others.values()):
                    trial.report(value, epoch)
                stop = one.should_prune()
                assert stop == (epoch in others and others[epoch].should_prune())
                if stop:
                    stops[epoch] += 1
                    running.remove((one, others))
    assert stops[1] > 30
    assert stops[2] > 3
    assert stops[3] == stops[4] == 0


def test_a_stop_is_a_stop_and_a_pass_a_pass_when_asked_again() -> None:
    study = optuna.create_study(direction="maximize", pruner=DurableHalving(5, 1))
    first, worse, better = (study.ask() for _ in range(3))
    for trial, value in ((first, 0.5), (worse, 0.4), (better, 0.9)):
        trial.report(value, 1)
    answers = [trial.should_prune() for trial in (first, worse, better)]
    assert answers == [False, True, False]
    assert [trial.should_prune() for trial in (first, worse, better)] == answers


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 6, 9, 12, 18, 100])
def test_the_last_epoch_is_no_rung(epochs: int) -> None:
    study = optuna.create_study(direction="maximize", pruner=DurableHalving(epochs))
    for value in (0.9, 0.1):
        trial = study.ask()
        for epoch in range(1, epochs + 1):
            trial.report(value if epoch == epochs else 1.0, epoch)
            assert not trial.should_prune()


def test_a_study_that_was_moved_goes_on_there(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", 6)
    finished(tmp_path / "laptop", 3)
    shutil.copytree(tmp_path / "laptop", tmp_path / "cluster")
    moved = finish(tmp_path / "cluster", trials=6)
    assert moved.completed == whole.completed
    assert reports(tmp_path / "cluster") == reports(tmp_path / "whole")


def test_where_data_and_backbone_are_is_no_part_of_what_a_study_is(tmp_path: Path) -> None:
    there = {"name": "p", "fingerprint": "f", "path": "/laptop/p", "images": 1}
    one = manifest(data=there, base={"data.name": "/laptop/p"})
    path = tmp_path / "study.json"
    one.reconcile_with(path)
    moved = manifest(data=there | {"path": "/cluster/p"}, base={"data.name": "/cluster/p"})
    assert moved.reconcile_with(path).base["data.name"] == "/cluster/p"
    with pytest.raises(
        UserError, match=r"data\.name was /laptop/p, is /cluster/q; data was f, is g"
    ):
        manifest(
            data=there | {"fingerprint": "g"}, base={"data.name": "/cluster/q"}
        ).reconcile_with(path)
