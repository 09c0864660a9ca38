"""The claims about speed: each against its peer, in one run of a script, and whether it holds."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figure_text import block, decimal
from benchmarks.record_file import NOT_RECORDED, NotRecordedError
from benchmarks.speed_records import (
    Record,
    command,
    number,
    quartiles,
    ratios,
    seconds,
    speed,
    times,
)


@dataclass(frozen=True)
class Claim:
    """A row of the table of claims."""

    claim: str
    ours: str
    theirs: str
    ratio: str
    holds: bool | None = None
    """None where nothing is claimed."""
    why_not: str = ""
    """Reason that is known if it does not hold, for the list below the table."""

    def verdict(self) -> str:
        return {True: "yes", False: "**no**", None: "-"}[self.holds]


OURS = "vistune, batched"


def augment(record: Record) -> list[Claim]:
    rows = []
    for one in record["inputs"]:
        peers = dict(one["seconds"])
        ours = peers.pop(OURS)
        slower = [statistics.median(ratios(taken, ours)) for taken in peers.values()]
        larger = one["height"] > record["size"]
        rows.append(
            Claim(
                "loading and augmenting (view 1 of BYOL, "
                f"{one['height']} x {one['width']} to {record['size']} px) is at least 4 times "
                "faster",
                _per_second(ours, "images"),
                "; ".join(
                    f"{peer}: {_per_second(taken, 'images')}" for peer, taken in peers.items()
                ),
                "; ".join(times(1 / ratio) for ratio in slower),
                min(slower) >= 4,
                "a study does not load larger images than it needs, as its store holds squares of "
                "the training size"
                if larger
                else "",
            )
        )
    return rows


def joint_augment(record: Record) -> list[Claim]:
    rows = []
    for one in record["sizes"]:
        ours, (peer, taken) = one["seconds"][OURS], list(one["seconds"].items())[-1]
        rate = [[taken / record["batch"] for taken in side] for side in (ours, taken)]
        rows.append(
            Claim(
                f"augmenting image and mask together ({one['size']} px) is at least 4 times faster",
                _per_second(rate[0], "pairs"),
                f"{peer}: {_per_second(rate[1], 'pairs')}",
                quartiles(ratios(ours, taken)),
                statistics.median(ratios(taken, ours)) >= 4,
                "torchvision's cost per call matters less in large images, and jitter takes half "
                "of our time"
                if one["size"] >= 128
                else "",
            )
        )
    return rows


def _per_second(taken: Sequence[float], what: str) -> str:
    return f"{number(1 / statistics.median(taken))} {what}/s"


def loop(record: Record) -> list[Claim]:
    ours, _, bare = record["turns"].values()
    cpu = [[turn[0] for turn in turns] for turns in (ours, bare)]
    found = ratios(*cpu)
    return [
        Claim(
            f"the training loop costs at most 3 %: BYOL, {record['batch']} images a step, "
            f"{record['steps']} steps an epoch",
            f"{seconds(statistics.median(cpu[0]))} CPU a step",
            "bare loop around byol-pytorch, target moved in place: "
            f"{seconds(statistics.median(cpu[1]))}",
            quartiles(found),
            statistics.median(found) <= 1.03,
            "every epoch writes a checkpoint, and an epoch is short"
            if record["batch"] < 64
            else "",
        )
    ]


def trial_gap(record: Record) -> list[Claim]:
    median = {name: statistics.median(gaps) for name, gaps in record["gaps"].items()}
    ours = median.pop("vistune")
    claim = "from the last step of a trial to the first one of the next: at most 1/50"
    return [
        Claim(
            claim,
            seconds(ours),
            f"{name}: {seconds(theirs)}",
            times(ours / theirs),
            ours / theirs <= 1 / 50 if name == "nested TorchTrainer" else None,
        )
        for name, theirs in sorted(median.items())
    ]


def tracking(record: Record) -> list[Claim]:
    *ours, peer = record["seconds"].values()
    theirs = statistics.median(peer)
    claims = ("a report holds up the driver less, fsync included", "while MLflow catches up")
    rows = []
    for claim, taken in zip(claims, ours, strict=True):
        mine = statistics.median(taken)
        shown = f"Ray's `MLflowLoggerCallback`: {seconds(theirs)}"
        rows.append(Claim(claim, seconds(mine), shown, times(mine / theirs), mine < theirs))
    return rows


CPU, STUDY_CPU, PEER_CPU, MEMORY = 1, 3, 5, 6
"""Columns of the marks of `thousand_trials.py`."""


def per_trial(record: Record, column: int) -> list[float]:
    """Return ms a trial in each block."""
    marks = [mark[column] for mark in record["marks"]]
    return [1000 * (b - a) / record["block"] for a, b in itertools.pairwise(marks)]


def thousand_trials(record: Record) -> list[Claim]:
    blocks = per_trial(record, CPU)
    mean = statistics.fmean(blocks)
    memory = [mark[MEMORY] for mark in record["marks"]]
    count = f"{record['trials']:,}"
    early = min(2, len(blocks) - 1)
    growth = blocks[-1] / blocks[early]
    grown = (memory[-1] - memory[early]) / (record["block"] * (len(blocks) - early))
    return [
        Claim(
            f"{count} trials cost the driver at most 25 ms of CPU each, with Tune and Ray",
            f"{number(mean)} ms",
            "limit: 25 ms",
            times(mean / 25),
            mean <= 25,
        ),
        Claim(
            "a trial costs as much at the end, within a quarter",
            f"last {record['block']} trials: {number(blocks[-1])} ms",
            f"trials {early * record['block']} to {(early + 1) * record['block']}: "
            f"{number(blocks[early])} ms",
            decimal(growth),
            growth <= 1.25,
        ),
        Claim(
            "memory of the driver",
            f"{number(1000 * grown)} kB a trial",
            f"{number(memory[-1])} MB at the end",
            "-",
        ),
    ]


def thousand_trials_local(record: Record) -> list[Claim]:
    ours, theirs = (statistics.fmean(per_trial(record, c)) for c in (STUDY_CPU, PEER_CPU))
    return [
        Claim(
            f"the calls of a study of {record['trials']:,} trials, without Ray, cost less than "
            "Optuna's",
            f"{number(ours)} ms CPU a trial",
            f"Optuna alone: {number(theirs)} ms",
            times(ours / theirs),
            ours < theirs,
        )
    ]


def features(record: Record) -> list[Claim]:
    fast, slow = zip(*record["turns"], strict=True)
    found = ratios(fast, slow)
    same = "equal" if record["top1"][0] == record["top1"][1] else "**not equal**"
    return [
        Claim(
            "a step of D and E on cached features is at least 100 times faster: "
            f"{record['backbone']}, {record['image_size']} px, batches of {record['batch']}",
            f"{seconds(statistics.median(fast))} CPU",
            f"`features.cache=false`: {seconds(statistics.median(slow))}; val/top1 {same}",
            quartiles(found),
            statistics.median(found) <= 1 / 100 and record["top1"][0] == record["top1"][1],
        )
    ]


STUDIES = {
    "digits": "E on digits",
    "letters": "E on letters (the default study)",
    "long": "E on letters, trials eight times as long",
}


def batch_trials(record: Record) -> list[Claim]:
    rows = []
    for length in dict.fromkeys(one["length"] for one in record["studies"]):
        studies = [one for one in record["studies"] if one["length"] == length]
        shorter = [sooner(one, "to_target") for one in studies]
        cells = []
        for side in ("batched", "one by one"):
            spent = (_of_studies(studies, part, side) for part in ("to_target", "all_trials"))
            cells.append("{}; all trials {} s".format(*spent))
        whole = [1 / sooner(one, "all_trials") for one in studies]
        found = [1 / one for one in shorter]
        rows.append(
            Claim(
                f"`--batch-trials {record['width']}` reaches equal regret 5 times sooner: "
                f"{record['trials']} trials of {STUDIES[length]}, "
                f"{_several(len(studies), 'search', 'searches')}",
                cells[0],
                f"Ray, {record['cores']} at a time: {cells[1]}",
                f"{_each(found)}; all trials {_each(whole)}",
                statistics.median(shorter) >= 5,
                "a batch trains the early good trials beside all others",
            )
        )
    return rows


def batch_earlier(record: Record) -> list[Claim]:
    rows = []
    for length in dict.fromkeys(one["length"] for one in record["studies"]):
        of_length = [one for one in record["studies"] if one["length"] == length]
        sides = {
            side: [one for one in of_length if one["side"] == side]
            for side in ("batched", "earlier", "one by one")
        }
        cells = {side: _to_own_best(studies) for side, studies in sides.items()}
        searches = _several(len(sides["batched"]), "search", "searches")
        peer = f"Ray, {record['cores']} at a time"
        rows += [
            Claim(
                f"`--batch-trials {record['width']}` finds a trial near its best 5 times sooner "
                f"than {record['earlier']} did (splits and ranges differ): {record['trials']} "
                f"trials of {STUDIES[length]}, {searches}",
                cells["batched"],
                f"{record['earlier']}, {peer}: {cells['earlier']}",
                _beside(sides["batched"], sides["earlier"]),
                1 / statistics.median(_shares(sides["batched"], sides["earlier"], NEAR)) >= 5,
                "on letters, what is left is steps, the start of trials and validation, in about "
                "equal parts ([notes](notes/speed.md#where-a-batch-of-trials-goes))",
            ),
            Claim(
                "as above, other peer",
                cells["batched"],
                f"today, {peer}: {cells['one by one']}",
                _beside(sides["batched"], sides["one by one"]),
            ),
        ]
    return rows


ALL, NEAR = "all_trials", "near_own_best"


def _to_own_best(studies: list[Record]) -> str:
    """Name the seconds until a trial was nearly as good as the best, and for all trials."""
    near, spent = (", ".join(decimal(one[part], 1) for one in studies) for part in (NEAR, ALL))
    return f"{near} to .01 from the own best; all trials {spent} s"


def _shares(ours: list[Record], theirs: list[Record], part: str) -> list[float]:
    return ratios([one[part] for one in ours], [one[part] for one in theirs])


def _beside(ours: list[Record], theirs: list[Record]) -> str:
    near, spent = (
        ", ".join(times(one) for one in _shares(ours, theirs, part)) for part in (NEAR, ALL)
    )
    return f"{near}; all trials {spent}"


def sooner(study: Record, part: str) -> float:
    """Return how many times shorter the batched run took."""
    taken = study[part]
    return float(taken["one by one"] / taken["batched"])


def _of_studies(studies: list[Record], part: str, side: str) -> str:
    return ", ".join(decimal(one[part][side], 1) for one in studies)


def _each(found: list[float]) -> str:
    return ", ".join(decimal(one) for one in found)


def _several(count: int, one: str, more: str) -> str:
    return f"one {one}" if count == 1 else f"{count} {more}"


def batch_steps(record: Record) -> list[Claim]:
    rows = []
    for data, about in {"digits": "10 classes", "glyphs": "209 classes"}.items():
        cpu = {
            way: [run["cpu"] for run in record["runs"] if (run["data"], run["way"]) == (data, way)]
            for way in ("together", "one by one")
        }
        steps = record["steps"] * record["width"]
        mine, theirs = (statistics.median(found) / steps for found in cpu.values())
        rows.append(
            Claim(
                f"a step of {record['width']} heads together ({about})",
                f"{seconds(mine)} CPU a head",
                f"one by one: {seconds(theirs)}",
                quartiles(ratios(*cpu.values())),
            )
        )
    return rows


ROWS: dict[str, Callable[[Record], list[Claim]]] = {
    "augment": augment,
    "joint_augment": joint_augment,
    "loop": loop,
    "loop_preset": loop,
    "loop_preset_100": loop,
    "trial_gap": trial_gap,
    "tracking": tracking,
    "thousand_trials": thousand_trials,
    "thousand_trials_local": thousand_trials_local,
    "features": features,
    "features_resnet50": features,
    "batch_trials": batch_trials,
    "batch_trials_long": batch_trials,
    "batch_earlier": batch_earlier,
    "batch_trials_steps": batch_steps,
}
"""Record -> its rows, in the order of the table."""


def claims() -> str:
    """Return the table of claims."""
    header = ["claim", "command", "vistune", "peer", "vistune / peer", "holds"]
    rows = []
    for name, rows_of in ROWS.items():
        try:
            record = speed(name)
        except NotRecordedError as missing:
            rows.append([f"`{missing}`", *["-"] * 4, NOT_RECORDED])
            continue
        typed, claim = command(record), ""
        for one in rows_of(record):
            asked = "as above, other peer" if one.claim == claim else one.claim
            rows.append([asked, typed, one.ours, one.theirs, one.ratio, one.verdict()])
            typed, claim = "the same", one.claim
    return block(header, rows)


def failed() -> str:
    """List the claims that do not hold, with the reason where one is known."""
    lines = []
    for name, rows_of in ROWS.items():
        try:
            found = rows_of(speed(name))
        except NotRecordedError:
            continue
        for one in found:
            if one.holds is False:
                why = one.why_not or "the reason is not known"
                lines.append(f"- {one.claim}: {one.ratio}; {why}.")
    return "\n" + ("\n".join(lines) or "- nothing that is recorded") + "\n"
