"""The trials of a study in Optuna: parameters, values of epochs, rungs, states."""

import zlib
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from tune.search.asking import Answering
from tune.search.methods import make_pruner, make_sampler
from tune.search.pruner import EPOCHS, DurableHalving, longest
from tune.search.repeatable import GAINS
from tune.search.space import within
from tune.study.disk import Patience
from tune.study.journal import Journal
from tune.study.manifest import Manifest
from tune.study.objectives import objectives_of
from tune.study.rules import distinct
from tune.study.warm_turns import forgotten
from tune.study.work import Outcome

OWN = "enqueued"
"""User attribute of a trial whose configuration the user named."""


class TrialDatabase:
    """Optuna's storage of one study, with its sampler and its pruner.

    Only one process may use it at a time; the study's lock makes sure of that.

    Args:
        path: the journal.
        epochs: epochs of a trial that runs to its end; the rungs are fractions of it. 0: each trial
            reports its own.
    Raises:
        StorageFailed: the journal cannot be written.
        UserError: the journal is damaged.
    """

    def __init__(self, path: Path, manifest: Manifest, epochs: int):
        self._journal = Journal(path)
        self._epochs = epochs
        self._warm_start = manifest.warm_start
        self._fading = int(manifest.rules["warm_start"])
        self._objectives = objectives_of(manifest)
        self._study = optuna.create_study(
            study_name=manifest.identity,
            storage=JournalStorage(self._journal),
            direction="maximize",
            load_if_exists=True,
            sampler=make_sampler(
                manifest.rules["sampler"],
                _sampler_seed(manifest),
                list(manifest.space),
                len(self._objectives),
                self._forgotten,
            ),
            pruner=make_pruner(manifest.rules["rungs"], epochs),
        )
        self._open: dict[int, Trial] = {}

    def _forgotten(self, study: optuna.Study, number: int) -> Collection[int]:
        """Numbers of the trials from which the sampler does not learn when it draws trial
        `number`."""
        if self._warm_start is None:
            return ()
        trials = study.get_trials(deepcopy=False)
        return forgotten(self._warm_start, trials, number, self._fading)

    def one_write(self) -> AbstractContextManager[None]:
        """Write everything that is recorded within the block to the disk in one write."""
        return self._journal.together()

    def forget_unwritten(self) -> None:
        """Do not write what this `one_write` block has recorded."""
        self._journal.forget_unwritten()

    def enqueue(self, configurations: list[dict[str, Any]]) -> None:
        """Put configurations (searched parameters only) before all that the sampler draws.

        Each waiting trial is one line of the journal, and no trial begins before all are waiting.
        After a kill the journal has the first part of this list, and the next call adds the rest.
        """
        known = len(self.frozen())
        for parameters in configurations[known:]:
            self._study.enqueue_trial(parameters)

    def be_patient(self, patience: Patience) -> None:
        """Wait with `patience` if the disk of the journal has gone away."""
        self._journal.be_patient(patience)

    def reopen(self, number: int) -> None:
        """Reopen a trial that an earlier process left running."""
        trial_id = self.frozen()[number]._trial_id
        self._open[number] = Trial(self._study, trial_id)

    def ask(self) -> Trial:
        """Begin the next trial: a waiting one, or a new one."""
        trial = self._study.ask()
        self._open[trial.number] = trial
        return trial

    def trial(self, number: int) -> Trial:
        """A trial that has begun and has not ended."""
        return self._open[number]

    def values(self, number: int) -> dict[int, float]:
        """Epoch -> objective of an open trial, for the epochs on record."""
        trial_id = self._open[number]._trial_id
        return self._study._storage.get_trial(trial_id).intermediate_values

    def report(self, number: int, epoch: int, value: float, epochs: int | None = None) -> bool:
        """Record an epoch's objective (once); return True if the pruner stops the trial.

        Args:
            epochs: number of epochs of the trial, if it has announced them.
        """
        trial = self._open[number]
        with self.one_write():
            if epochs is not None and trial.user_attrs.get(EPOCHS) != epochs:
                trial.set_user_attr(EPOCHS, epochs)
            if epoch not in self.values(number):
                trial.report(value, epoch)
            return trial.should_prune()

    def lacks_rungs(self, trial: FrozenTrial) -> bool:
        """True if the pruner has lost a rung that the trial reached."""
        pruner = self._study.pruner
        return isinstance(pruner, DurableHalving) and pruner.lacks_rungs(self._study, trial)

    def epochs(self) -> int:
        """Epochs of a trial that runs to its end; 0 before a trial has announced them."""
        return longest(self.frozen(), self._epochs)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Record the end of an open trial."""
        trial = self._open[number]
        state = TrialState[outcome.state]
        value = outcome.value if state == TrialState.COMPLETE else None
        with self.one_write():
            if outcome.reason:
                trial.set_user_attr("reason", outcome.reason)
            if len(self._objectives) > 1 and state == TrialState.COMPLETE:
                trial.set_user_attr(GAINS, self._gains(outcome))
            self._study.tell(trial, value, state)
        del self._open[number]

    def _gains(self, outcome: Outcome) -> list[float]:
        """All objectives of a completed trial, as values to maximize."""
        values = {one.metric: outcome.metrics[f"best/{one.metric}"] for one in self._objectives}
        return [one.gain(values) for one in self._objectives]

    def frozen(self) -> list[FrozenTrial]:
        """All trials, by number; do not change them."""
        return self._study.get_trials(deepcopy=False)

    def running(self) -> list[int]:
        """Numbers of the trials that have begun and have not ended."""
        return [trial.number for trial in self._in_state(TrialState.RUNNING)]

    def begun(self) -> int:
        """Number of trials that have begun, in any state. Waiting trials come last, because trials
        begin in the order of their numbers."""
        trials = self.frozen()
        begun = len(trials)
        while begun and trials[begun - 1].state == TrialState.WAITING:
            begun -= 1
        return begun

    def ended(self) -> int:
        """Number of trials that have ended, in any state."""
        return sum(trial.state.is_finished() for trial in self.frozen())

    def completed(self) -> dict[int, float]:
        """Completed trials -> objective."""
        return {
            trial.number: trial.value
            for trial in self._in_state(TrialState.COMPLETE)
            if trial.value is not None
        }

    def distinct(self) -> dict[int, float]:
        """Completed trials of different configurations -> objective."""
        parameters = {trial.number: trial.params for trial in self.frozen()}
        return distinct(self.completed(), parameters)

    def tried(self) -> list[dict[str, Any]]:
        """Parameters of all trials, including those that wait."""
        return [
            trial.params or trial.system_attrs.get("fixed_params", {}) for trial in self.frozen()
        ]

    def is_waiting(self) -> bool:
        """True if a configuration is enqueued whose trial has not begun."""
        return bool(self._in_state(TrialState.WAITING))

    def enqueue_next(self, parameters: dict[str, Any], *, own: bool = False) -> None:
        """Make this the configuration of the next trial.

        Args:
            own: the user named it, which is noted on the trial.
        """
        self._study.enqueue_trial(parameters, user_attrs={OWN: True} if own else None)

    def preview(self) -> "Preview":
        """Return a trial that answers as the next one would, and leaves no trace."""
        return Preview(self._study, len(self.frozen()))

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _in_state(self, state: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(state,))


class Preview(Answering):
    """The draws of a trial that has not begun. The trial itself will draw the same, because a draw
    depends only on seed, number, parameter and storage.

    Attributes:
        said: name -> drawn value.
    """

    def __init__(self, study: optuna.Study, number: int):
        self._study = study
        self._trial = optuna.trial.create_trial(state=TrialState.RUNNING)
        self._trial.number = number
        sampler = study.sampler
        space = sampler.infer_relative_search_space(study, self._trial)
        self._relative = sampler.sample_relative(study, self._trial, space)
        self.said: dict[str, Any] = {}

    def answer(self, name: str, distribution: BaseDistribution) -> Any:
        """Draw in the order of Optuna's own `Trial._suggest`."""
        if distribution.single():
            value = _only_value(distribution)
        elif name in self._relative and within(distribution, self._relative[name]):
            value = self._relative[name]
        else:
            value = self._study.sampler.sample_independent(
                self._study, self._trial, name, distribution
            )
        self.said[name] = value
        return value


def _only_value(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return vars(distribution)["low"]


def _sampler_seed(manifest: Manifest) -> int:
    """Seed of the sampler.

    A warm-started study has a seed of its own: under the earlier study's seed, its random trials
    would repeat that study's.
    """
    start = manifest.warm_start
    if start is None:
        return manifest.seed
    return zlib.crc32(f"{manifest.seed} {start['study']}".encode())
