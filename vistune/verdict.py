"""The claim that a study supports, for people and programs."""

from dataclasses import dataclass, field

from tune.reports.doubts import doubts
from tune.reports.front import front_conclusions
from tune.reports.statistics import Interval
from tune.reports.verdict import StudyVerdict, claim, judge_study
from tune.study.record import Record


@dataclass(frozen=True)
class Verdict:
    """Comparison of a trial with the default on the test split, under fresh seeds."""

    sentence: str
    """The claim, or the reason why there is none."""
    decided: bool
    """True if the difference is larger than noise explains."""
    front: tuple[str, ...] = ()
    """Sentences on the front of several objectives, and on its balanced trial against its best one
    on the test split."""
    doubts: tuple[str, ...] = ()
    """Reasons to doubt the result, each with a remedy."""
    details: StudyVerdict | None = field(default=None, repr=False)
    """Both configurations with their intervals; None if repeats are missing."""

    @property
    def gain(self) -> Interval | None:
        """Test metric of the trial minus that of the default, with its 95 % interval; None without
        a comparison."""
        return None if self.details is None else self.details.gain

    def __str__(self) -> str:
        notes = (f"note: {doubt}" for doubt in self.doubts)
        return "\n".join([self.sentence, *self.front, *notes])


def verdict_of(record: Record) -> Verdict:
    """Derive a study's verdict from its record."""
    details = judge_study(record)
    return Verdict(
        sentence=claim(record, details),
        decided=details is not None and details.decided,
        front=tuple(front_conclusions(record)),
        doubts=tuple(doubts(record, record.folder.parent)),
        details=details,
    )
