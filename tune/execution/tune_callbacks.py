"""Callbacks of Ray Tune: they ask the study for work, and bring it the messages of trials.

If the study cannot write, `StorageGuard` keeps the error and ends the run.
"""

import json
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

import ray.tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from trainables.errors import UserError
from tune.execution.left_out import LeftOut
from tune.execution.placement import WITHOUT
from tune.execution.ray_session import keep_logs
from tune.study.disk import StorageFailed
from tune.study.study import Study
from tune.study.work import Outcome, Work, WorkId

LOST_PROCESSES = 3
"""A trial whose process dies resumes in another one, but at most this often without a new epoch. So
it ends even on machines that are taken away again and again."""


class _Unpickled:
    """Pickled without content. Tune pickles what it is given, for a restore that is not used; a
    study lives in this process only."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StorageGuard:
    """Surrounds every call to the study. Otherwise Tune would blame a trial for a disk that cannot
    be written, and continue. The first such error is kept and stops the study."""

    def __init__(self, study: Study):
        self.study = study
        self.error: UserError | OSError | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, UserError | OSError):
            return False
        self.stop(error)
        return True

    def stop(self, error: UserError | OSError) -> None:
        """Stop the study. Only the first reason is kept."""
        self.error = self.error or error
        self.study.stopping = True


class StudySearcher(_Unpickled, Searcher):
    """Hands the study's work to Tune, up to `limit()` pieces of work at a time."""

    def __init__(
        self,
        study: Study,
        guard: StorageGuard,
        limit: Callable[[], int],
        left_out: LeftOut,
        trial_first: bool = False,
    ):
        super().__init__(metric=None, mode=None)
        self.study = study
        self.guard = guard
        self.limit = limit
        self.left_out = left_out
        self.trial_first = trial_first
        self._handed_out: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """Return the next work as a Tune config; None: ask again later."""
        if len(self._handed_out) >= self.limit() and not self.study.stopping:
            return None
        work = None
        with self.guard:
            work = self.study.next_work(self.trial_first)
        if work == "wait":
            return None
        if work is None:
            return Searcher.FINISHED
        self._handed_out.add(trial_id)
        return {"work": work.to_json(), WITHOUT: list(self.left_out.ids)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Free a place; the scheduler has told the study already."""
        self._handed_out.discard(trial_id)

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the study is its own storage."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is resumed by opening it again")


class StudyScheduler(_Unpickled, FIFOScheduler):
    """Passes messages of trials to the study, and its decision back to them."""

    def __init__(self, study: Study, guard: StorageGuard):
        super().__init__()  # type: ignore[no-untyped-call]
        self.study = study
        self.guard = guard
        self._chosen: set[str] = set()
        self._never_begun: Counter[WorkId] = Counter()

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if self.study.stopping or "message" not in result:
            return TrialScheduler.STOP
        with self.guard:
            message = json.loads(result["message"])
            # with several workers: the machines that the message is about
            nodes = message.pop("nodes", [str(result.get("node_ip"))])
            return self._on_message(trial, message, nodes)
        return TrialScheduler.STOP  # the guard has kept an error

    def _on_message(self, trial: Trial, message: dict[str, Any], nodes: list[str]) -> str:
        work = _work_of(trial)
        kind = message.pop("kind")
        node = nodes[0] if nodes else None
        if kind == "storage failed":
            self.study.requeue_after_failure(
                work, StorageFailed(message["error"], message["code"]), node
            )
            return TrialScheduler.STOP
        if kind == "start":
            self.study.started(work)
        elif kind == "end":
            self.study.ended(work, Outcome.from_dict(message), node)
            return TrialScheduler.STOP
        else:
            if self.study.is_new_epoch(work, message["epoch"]):
                self._forget_losses(trial)
            if self.study.reported(work, message["epoch"], message["metrics"], *nodes):
                return TrialScheduler.CONTINUE
            self.study.ended(work, self.study.pruned(work))
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def _forget_losses(self, trial: Trial) -> None:
        """Reset the count of lost processes, because the trial makes progress."""
        trial.run_metadata.num_failures = 0
        self._never_begun.pop(_work_of(trial).id, None)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the first live trial that waits and has not been chosen yet.

        Tune's own rule looks at all trials that there have ever been. A process is starting for a
        trial that has been chosen: choosing it again would cancel that start whenever a short trial
        frees another process.
        """
        waiting: list[Trial] = [
            trial
            for trial in tune_controller.get_live_trials()
            if trial.status == Trial.PENDING and trial.trial_id not in self._chosen
        ]
        if not waiting:
            return None
        first = min(waiting, key=_order)
        self._chosen.add(first.trial_id)
        return first

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if self.study.stopping or trial.status == Trial.ERROR:
            return  # Tune has ended this attempt and requeues the trial
        keep_logs()
        work = _work_of(trial)
        if trial.status == Trial.PENDING and self._may_begin_again(work):
            self.study.requeue(work)
            return
        error = str(trial.get_error() or "")[-4000:]
        with self.guard:
            self.study.ended(work, Outcome("FAIL", reason="process lost", error=error))

    def _may_begin_again(self, work: Work) -> bool:
        """True if the trial may begin again. Its process died before the trial began, for example a
        warm one between two trials, and Tune gives up at once."""
        self._never_begun[work.id] += 1
        return self._never_begun[work.id] <= LOST_PROCESSES


class StartCallback(_Unpickled, ray.tune.Callback):
    """Tells the study which trial has got a process. A message from that process would cost the
    driver as much as a report does."""

    def __init__(self, study: Study, guard: StorageGuard):
        self.study = study
        self.guard = guard

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        with self.guard:
            self.study.started(_work_of(trial))


class StudyStopper(_Unpickled, ray.tune.Stopper):
    """Ends the run when the study is to stop (Ctrl-C, time budget)."""

    def __init__(self, study: Study):
        self.study = study

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.study.stopping


def _work_of(trial: Trial) -> Work:
    return Work.from_json(trial.config["work"])


def _order(trial: Trial) -> int:
    """Sort key: the baseline first, then trials by number."""
    number = _work_of(trial).id.trial
    return -1 if number is None else number
