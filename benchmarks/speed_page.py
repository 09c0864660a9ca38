"""Figures of docs/benchmarks.md and of pages that quote it, from the records of `record_speed.py`.

A record has times alone. Ratios, and whether a claim holds, are computed at rendering.
"""

import contextlib
import itertools
import statistics
from collections.abc import Callable

from benchmarks.figure_text import block, decimal, listed
from benchmarks.record_file import NOT_RECORDED, NotRecordedError, or_not_recorded
from benchmarks.speed_claims import (
    PEER_CPU,
    ROWS,
    STUDIES,
    STUDY_CPU,
    claims,
    failed,
    per_trial,
    sooner,
)
from benchmarks.speed_records import (
    Record,
    command,
    number,
    percent,
    ratios,
    seconds,
    speed,
)

REPLAYED = "time_left"
"""Record of replayed event logs."""


def source() -> str:
    """Name machine, commit, date and load of the records that are measured."""
    names = [name for name in (*ROWS, *SECTIONS) if name != REPLAYED]
    found = []
    for name in names:
        with contextlib.suppress(NotRecordedError):
            found.append(speed(name))
    if not found:
        return NOT_RECORDED
    loads = [record["load"] for record in found]
    return (
        f"{_all(found, 'machine')}; commit {_all(found, 'commit')}, {_all(found, 'date')}; load "
        f"average at the start of a script {decimal(min(loads), 1)} to {decimal(max(loads), 1)} "
        "(each begins as another ends)"
    )


def _all(found: list[Record], key: str) -> str:
    return listed(list(dict.fromkeys(record[key] for record in found)))


def features_building() -> str:
    """Say what building the features costs, and whether the results agree."""
    record = speed("features")
    slow = statistics.median(turn[1] for turn in record["turns"])
    paid = record["building"] / slow
    agree = all(round(a, 6) == round(b, 6) for a, b in (record["losses"], record["val_loss"]))
    return (
        f"The step does not include building the features: {record['views']} views of "
        f"{record['images']} images cost {seconds(record['building'])} of CPU with "
        f"{record['backbone']}, as much as {number(paid)} steps through it. With and without the "
        "cache, the last training loss and val/loss "
        f"{'agree in six digits' if agree else '**differ** within six digits'}."
    )


RUNS = {
    "make-run-410f594": "`make run` at 410f594, beside small tests",
    "make-run-2c20e7c": "`make run` at 2c20e7c, while a simulation beside it ended: the first "
    "trial's epochs took twice as long as those of its repeats",
    "ssl-two-at-a-time": "`ssl`, 16 trials and 12 repeats, two at a time, quiet machine",
    "function-interrupted": "a function, 16 trials and 6 repeats, interrupted and resumed",
    "function-two-at-a-time": "a function, 12 trials and 6 repeats, two at a time on Ray",
    "fewshot-three-studies": "three few-shot settings, one after another",
    "classify-14-studies": "`classify --searches 2`, 14 studies, beside other programs",
    "ssl-one-at-a-time": "`ssl` one at a time, while others made an epoch take 7 to 30 s",
}
BOUND, FROM = 0.25, 2
"""The claim of `time_left.py`: largest error, and the first tenth of a run for which it holds."""


def time_left() -> str:
    """Return the table of errors of the predicted end."""
    runs = {run["name"]: run for run in speed("time_left")["runs"]}
    rows = []
    for name, about in RUNS.items():
        errors = _errors(runs[name])
        shown = [_marked(errors[tenth - 1]) for tenth in (2, 5, 8)]
        worst = max(map(abs, errors[FROM - 1 :]))
        rows.append([about, _duration(runs[name]["whole"]), *shown, percent(worst)])
    return block(["run", "lasted", "20 %", "50 %", "80 %", "largest from 20 % on"], rows)


def time_left_holds() -> str:
    """Say for how many runs the claim holds."""
    runs = speed("time_left")["runs"]
    held = sum(max(map(abs, _errors(run)[FROM - 1 :])) <= BOUND for run in runs)
    return (
        f"{held} of {len(runs)} runs meet the goal of {percent(BOUND)} from a fifth of the run on"
    )


MAKE_RUN = ("make-run-410f594", "make-run-2c20e7c")
PROCESSES, WAITING = 2, 1.15
"""Processes of `make run` on two cores, and the claim: the largest ratio of its time to that which
its trials and repeats occupy the processes."""


def make_run() -> str:
    """Say whether a core waits during `make run`."""
    runs = {run["name"]: run for run in speed("time_left")["runs"]}
    whole = [runs[name]["whole"] for name in MAKE_RUN]
    found = [runs[name]["whole"] / (runs[name]["occupied"] / PROCESSES) for name in MAKE_RUN]
    return (
        f"Two runs took {listed([_duration(one) for one in whole])} from the first trial's start "
        f"to the verdict, {listed([decimal(one) for one in found])} of the time that their trials "
        f"and repeats occupied two processes; the goal is {number(WAITING)}: "
        f"{_verdict(max(found) <= WAITING)}"
    )


def _errors(run: Record) -> list[float]:
    """Return the errors of the end in each tenth, as shares of the run."""
    pairs = zip(run["left"], run["true"], strict=True)
    return [float("inf") if left is None else (left - true) / run["whole"] for left, true in pairs]


def _marked(error: float) -> str:
    text = percent(error)
    return f"**{text}**" if abs(error) > BOUND else text


def _duration(whole: float) -> str:
    return f"{whole / 60:.0f} min" if whole >= 600 else f"{whole:.0f} s"


STARTS = {
    "Python with torch": ("a Python process that imports torch", None, None),
    "vistune --local": ("**`vistune --local`**", None, 3),
    "a bare Ray task with torch": ("a bare Ray task that imports torch", None, None),
    "vistune": ("**vistune**", 8, 6),
    "vistune --workers 2": ("**vistune, a trial of two workers**", None, 12),
}
"""Contender -> words, and the goals in s of CPU and of wall time."""


def start() -> str:
    """Return the table of starts."""
    starts = [one for name in ("start", "start_workers") for one in speed(name)["starts"]]
    rows = []
    for name, (about, cpu_goal, wall_goal) in STARTS.items():
        own = [one for one in starts if one["contender"] == name]
        cpu, wall = (statistics.median(one[key] for one in own) for key in ("cpu", "wall"))
        goals = [(cpu, cpu_goal, "CPU"), (wall, wall_goal, "wall time")]
        asked = [(taken, goal, what) for taken, goal, what in goals if goal is not None]
        words = [f"{goal} s of {what}: {_verdict(taken <= goal)}" for taken, goal, what in asked]
        rows.append([about, decimal(cpu, 1), decimal(wall, 1), "; ".join(words)])
    return block(["from Enter to the end of the first step", "CPU s", "wall s", "goal"], rows)


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**fails**"


def start_parts() -> str:
    """Say which processes the CPU seconds of a start on Ray are of."""
    own = [one for one in speed("start")["starts"] if one["contender"] == "vistune"]
    roles = dict.fromkeys(role for one in own for role in one["roles"])
    found = {role: statistics.median(one["roles"].get(role, 0.0) for one in own) for role in roles}
    most = sorted(found, key=lambda role: -found[role])[:3]
    parts = [f"{role} ({decimal(found[role], 1)})".replace("Ray: ", "Ray's ") for role in most]
    total = decimal(statistics.median(one["cpu"] for one in own), 1)
    return f"The largest parts of the {total} CPU s of a start on Ray are {listed(parts)}"


STEPS = {
    "start": "the process with its imports",
    "first trial": "its first trial",
    "next trial": "another trial",
    "of it embeddings": "of these: embeddings",
    "of it predictions": "of these: predictions",
    "the data": "the data, once",
}


def pictures() -> str:
    """Return the table of what pictures cost."""
    turns = speed("pictures")["turns"]
    rows = []
    for name in turns[0]:
        words = STEPS.get(name.partition(",")[0])
        if words and not name.endswith("wall"):
            rows.append([words, decimal(statistics.median(turn[name] for turn in turns))])
    return block(["step of the drawing process", "CPU s"], rows)


def pictures_source() -> str:
    record = speed("pictures")
    return f"{command(record)} draws {record['pictures']} pictures of a trial"


LOOP, TUTORIAL = "plain Optuna loop", "Ray's tutorial wiring"
WIRINGS = {
    LOOP: ("plain Optuna loop, one trial at a time", None, None),
    TUTORIAL: ("Ray's tutorial wiring, two at a time", None, None),
    "vistune --local, no pictures": ("`vistune --local --pictures none`", LOOP, 1.15),
    "vistune --local": ("`vistune --local`", LOOP, 1.3),
    "vistune, no pictures": ("`vistune --pictures none`, two at a time", LOOP, None),
    "vistune": ("`vistune`, two at a time", TUTORIAL, 0.35),
}
"""Contender -> words, its peer, and the largest allowed ratio of CPU and of wall time."""
JUDGED_TRIALS = 12
"""Number of trials that the allowed ratios are about."""


def wirings() -> str:
    """Return the table of whole commands beside what people would write."""
    records = ("side_by_side", "side_by_side_tutorial")
    return _beside([run for name in records for run in speed(name)["runs"]])


def short_wirings() -> str:
    """Return the same table for short studies, which no goal is about."""
    return _beside(speed("side_by_side_4")["runs"])


def _beside(runs: list[Record]) -> str:
    is_judged = runs[0]["trials"] == JUDGED_TRIALS
    medians = {
        name: [
            statistics.median(run[key] for run in runs if run["contender"] == name)
            for key in ("cpu", "wall", "behind")
        ]
        for name in WIRINGS
    }
    rows = []
    for name, (about, peer, limit) in WIRINGS.items():
        cells = [decimal(taken, 1) for taken in medians[name]]
        count = sum(run["contender"] == name for run in runs)
        beside = goal = ""
        if peer is not None:
            cpu, wall = ratios(medians[name][:2], medians[peer][:2])
            beside = f"{decimal(cpu)} and {decimal(wall)} of the {peer.split()[-1]}"
            beside = beside.replace("wiring", "tutorial")
            if limit is not None and is_judged:
                verdicts = dict.fromkeys((_verdict(cpu <= limit), _verdict(wall <= limit)))
                goal = f"{number(limit)}: {' and '.join(verdicts)}"
        rows.append([about, *cells, str(count), beside, goal])
    first = f"{runs[0]['trials']} trials"
    return block([first, "CPU s", "wall s", "behind", "runs", "CPU and wall", "goal"], rows)


FLAT = 1.25
"""Allowed ratio of the last third of the blocks to the first, as in `cluster_64.py`."""


def cluster() -> str:
    """Return the table of the driver's cost with many workers."""
    rows = []
    for name in ("cluster_64", "cluster_8", "cluster_8_torch"):
        try:
            record = speed(name)
        except NotRecordedError as missing:
            rows.append([f"`{missing}`", *["-"] * 4, NOT_RECORDED])
            continue
        driver, study = cluster_blocks(record)
        third = max(1, len(driver) // 3)
        growth = statistics.fmean(driver[-third:]) / statistics.fmean(driver[:third])
        mean = statistics.fmean(driver)
        about = f"{record['workers']} workers on {record['nodes']} nodes, {record['trials']} trials"
        rows.append(
            [
                about + (" that import torch" if record["torch"] else ""),
                decimal(mean, 1),
                decimal(statistics.fmean(study), 1),
                decimal(mean / record["epochs"], 1),
                f"{decimal(growth)}: {_verdict(growth <= FLAT)}" if len(driver) >= 6 else "-",
                command(record),
            ]
        )
    per_report, last = "a report", "last third / first (at most 1.25)"
    header = ["", "driver CPU, ms a trial", "of which the study", per_report, last, "command"]
    return block(header, rows)


def cluster_blocks(record: Record) -> tuple[list[float], list[float]]:
    """Return CPU ms a trial of the driver and of the study, without the blocks in which processes
    start, and those in which nothing new begins."""
    filled = -(-record["workers"] // record["block"])
    marks = record["marks"][filled : len(record["marks"]) - filled]
    driver, study = (
        [1000 * (b[column] - a[column]) / record["block"] for a, b in itertools.pairwise(marks)]
        for column in (0, 1)
    )
    return driver, study


def comparison() -> str:
    """Return the table of docs/comparison.md."""
    gap, reports, local = speed("trial_gap"), speed("tracking"), speed("thousand_trials_local")
    gaps = {name: statistics.median(found) for name, found in gap["gaps"].items()}
    ours, _, peer = (statistics.median(found) for found in reports["seconds"].values())
    study, optuna = (statistics.fmean(per_trial(local, c)) for c in (STUDY_CPU, PEER_CPU))
    rows = [
        [
            "from one trial's end to the next one's first step",
            seconds(gaps["vistune"]),
            f"a plain Tune function {seconds(gaps['plain Tune function'])}, a nested "
            f"`TorchTrainer` {seconds(gaps['nested TorchTrainer'])}",
            command(gap),
        ],
        [
            "driver time per report",
            seconds(ours),
            f"Ray's `MLflowLoggerCallback` {seconds(peer)}",
            command(reports),
        ],
        [
            f"CPU time per trial, of {local['trials']:,}, without Ray",
            f"{number(study)} ms",
            f"Optuna alone {number(optuna)} ms",
            command(local),
        ],
    ]
    return block(["", "vistune", "the other", "command"], rows)


def batched_studies() -> str:
    """Say for docs/classify.md what batched trials give on processor cores."""
    records = [speed("batch_trials")]
    with contextlib.suppress(NotRecordedError):
        records.append(speed("batch_trials_long"))
    studies = [one for record in records for one in record["studies"]]
    whole = []
    for length in dict.fromkeys(one["length"] for one in studies):
        shown = [decimal(ratio) for ratio in of_batch(studies, "all_trials", length)]
        whole.append(f"{listed(shown)} ({STUDIES[length]})")
    all_trials = of_batch(studies, "all_trials")
    to_target = of_batch(studies, "to_target")
    finds = statistics.median(to_target) < 1
    found = "mostly finds" if finds else "does not find"
    if max(to_target) < 1:
        found = "finds"
    verdict = f"{_over_whole_studies(all_trials)}, and {found} one good trial sooner"
    why = "" if finds else ", because it trains the early good ones beside others"
    return (
        f"**On {records[0]['cores']} CPU cores {verdict}.** All {records[0]['trials']} trials "
        f"took, of the time one by one: {', '.join(whole)}. Until an equally good trial was found, "
        f"the batch took {decimal(min(to_target))} to {decimal(max(to_target))} of the time{why}"
    )


def _over_whole_studies(found: list[float]) -> str:
    """Say whether a batch saves time; only if all studies agree."""
    if max(found) < 1:
        return "it saves time over a whole study"
    if min(found) > 1:
        return "it costs time over a whole study"
    return "it hardly changes the time of a whole study"


def of_batch(studies: list[Record], part: str, length: str | None = None) -> list[float]:
    """Return the time of the batched run over that of the other one, study by study."""
    chosen = [one for one in studies if length in (None, one["length"])]
    return [1 / sooner(one, part) for one in chosen]


SECTIONS = (
    "time_left",
    "start",
    "start_workers",
    "pictures",
    "side_by_side",
    "side_by_side_tutorial",
    "side_by_side_4",
    "cluster_8",
    "cluster_8_torch",
    "cluster_64",
)
"""Records beside those of the table of claims."""


FIGURES: dict[str, Callable[[], str]] = {
    f"speed.{text.__name__}": or_not_recorded(text)
    for text in (
        source,
        claims,
        failed,
        features_building,
        time_left,
        time_left_holds,
        make_run,
        start,
        start_parts,
        pictures,
        pictures_source,
        wirings,
        short_wirings,
        cluster,
        comparison,
        batched_studies,
    )
}
"""Name of a figure -> its text."""
