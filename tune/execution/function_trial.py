"""One piece of work of an experiment whose code is a function."""

import torch

from trainables.base import Runtime
from trainables.errors import TrialFailed
from trainables.outcomes import Record
from tune.execution.function_run import NO_REPORT, FunctionRun, TrialStopped
from tune.execution.silence import call_until_silent
from tune.function import Function
from tune.function_space import plain
from tune.object_store import s3
from tune.study.work import Outcome, Work


def run_function(function: Function, work: Work, runtime: Runtime) -> Outcome:
    """Call the function and return how it ended. Its exceptions are not caught.

    Raises:
        TrialFailed: `nan` (the objective is not a number), `no report`, `hung` (with
            `--hung-after`).
    """
    torch.set_num_threads(int(work.config["train.threads"]))
    run = FunctionRun(function, work, runtime)
    if s3.address(runtime.directory) is not None:
        run.report_again()

    stopped = False
    try:
        call_until_silent(lambda: _call(function, work, run), run.silence, runtime.directory)
    except TrialStopped:
        stopped = True
    finally:
        run.remove_stage()

    best = run.best
    if best is None:
        name = function.given_name
        raise TrialFailed(NO_REPORT, f"the function ended without run.report({name}=...)")
    return _outcome(function, run, stopped)


def _call(function: Function, work: Work, run: FunctionRun) -> None:
    try:
        function.call(plain(work.config), run)
    except SystemExit as error:
        # Tune ends a stopped trial with SystemExit, from within a report.
        if run.is_reporting:
            raise
        raise RuntimeError(f"the function called sys.exit({error.code})") from error


def _outcome(function: Function, run: FunctionRun, stopped: bool) -> Outcome:
    best = run.best
    assert best is not None
    value = best.metrics[function.objective]
    metrics = {f"best/{function.objective}": value, "best/epoch": float(best.epoch)}
    tested: Record = {}
    if not stopped:
        metrics |= run.tested
        if run.outcomes is not None:
            tested = run.outcomes.to_record()
    return Outcome("PRUNED" if stopped else "COMPLETE", value=value, metrics=metrics, tested=tested)
