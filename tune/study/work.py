"""The work that a study hands out, and its outcome."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["trial", "repeat", "baseline"]
State = Literal["COMPLETE", "PRUNED", "FAIL"]
DIVERGED = ("nan", "collapse")
"""Reasons that are the configuration's fault, so that the sampler should learn them; memory and
data are not."""


@dataclass(frozen=True)
class WorkId:
    """Identifies one fit of a study: a trial of the search, a repeat of a trial under another seed,
    or the untrained baseline."""

    trial: int | None
    """Number of the trial; None for the baseline."""
    repeat: int | None = None
    """Seed of the repeat; None for the trial itself."""

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> "WorkId":
        """The run that a `start`, `report` or `end` event is about."""
        return cls(event["trial"], event.get("repeat"))

    @property
    def kind(self) -> Kind:
        if self.trial is None:
            return "baseline"
        if self.repeat is None:
            return "trial"
        return "repeat"

    def folder(self, study: Path) -> Path:
        """The run's folder inside the folder of its study."""
        if self.trial is None:
            return study / "baseline"
        folder = study / "trials" / f"{self.trial:04d}"
        if self.repeat is None:
            return folder
        return folder / f"repeat-{self.repeat}"


BASELINE = WorkId(trial=None)
_LEVELS: dict[Kind, int] = {"baseline": 0, "trial": 1, "repeat": 2}
"""Number of folders between that of a run and that of its study, by `WorkId.folder`."""


@dataclass(frozen=True)
class Work:
    """One fit to do."""

    id: WorkId
    seed: int
    config: dict[str, Any]
    """Flat: dotted path -> value."""
    directory: str
    """Folder of the run's files."""
    measure: list[str] = field(default_factory=list)
    """Costs of the trained network to measure at its end (`tune.study.objectives`)."""
    hung_after: float = 0.0
    """A function that is silent for this many times its usual epoch has failed; 0: never."""
    usual_epoch_s: float = 0.0
    """Seconds of an epoch of the trials so far; 0: not known."""

    @property
    def kind(self) -> Kind:
        return self.id.kind

    @property
    def study(self) -> Path:
        """Folder of the study."""
        return Path(self.directory).parents[_LEVELS[self.kind]]

    def to_json(self) -> str:
        """Encode the work to send it to another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Work":
        fields = json.loads(text)
        work_id = WorkId(**fields.pop("id"))
        return cls(id=work_id, **fields)


@dataclass(frozen=True)
class Outcome:
    """The end of a fit, as reported by the process that ran it."""

    state: State
    value: float | None = None
    """Best objective; None if the fit has none."""
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """Final metrics."""
    error: str | None = None
    """Traceback."""
    tested: dict[str, Any] = field(default_factory=dict)
    """Outcome of every test image of a repeat, as packed by `trainables/outcomes.py`; empty if not
    known."""

    def to_event(self) -> dict[str, Any]:
        """Fields of the `end` event; `tested` only if it is not empty."""
        fields = asdict(self)
        if not self.tested:
            del fields["tested"]
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Outcome":
        return cls(
            state=fields["state"],
            value=fields.get("value"),
            reason=fields.get("reason"),
            metrics=fields.get("metrics") or {},
            error=fields.get("error"),
            tested=fields.get("tested") or {},
        )
