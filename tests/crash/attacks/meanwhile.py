"""Changes while a study runs: its folder, signals, streams, clocks."""

import os
import shutil
import signal
import time

from tests.crash.attacks.common import (
    FAKETIME,
    NOWHERE,
    SHORT,
    SLOW,
    TWO,
    beside,
    ended,
    finished,
    first,
    report,
    report_line,
    running,
    shell,
    toy_line,
    whole,
    wrong,
)
from tests.crash.place import Place


def renamed(place: Place) -> str:
    """The study's folder is renamed while it runs."""
    process = running(place)
    place.study.rename(place.storage / "moved")
    done = ended(place, process)
    problem = wrong(done, 0, 1, 2, says=("toy",) if done.code else ())
    moved = place.toy(*SLOW, "--study", "moved", **NOWHERE)
    place.study = place.storage / "moved"
    return first(problem, wrong(moved), whole(place))


def trial_deleted(place: Place) -> str:
    """The folder of the running trial is deleted."""
    process = running(place)
    shutil.rmtree(place.study / "trials/0000", ignore_errors=True)
    done = ended(place, process)
    return first(wrong(done, 0, 1), finished(place, *SLOW))


def study_deleted(place: Place) -> str:
    """The whole study is deleted while it runs."""
    process = running(place)
    shutil.rmtree(place.study, ignore_errors=True)
    done = ended(place, process)
    return first(wrong(done, 1, says=("cannot write",)), finished(place, *SLOW))


def log_deleted(place: Place) -> str:
    """The event log is deleted while the study runs, and is restored from the journal."""
    process = running(place)
    (place.study / "events.jsonl").unlink()
    done = ended(place, process)
    again = place.toy(*SLOW, **NOWHERE)
    return first(wrong(done, 0, 1), wrong(again, 0, 2), "" if again.code else whole(place))


def stopped(place: Place) -> str:
    """SIGSTOP comes, as from a full batch queue, then SIGCONT."""
    process = running(place)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(4)
    second = beside(place, "show", "toy")
    os.killpg(process.pid, signal.SIGCONT)
    return first(wrong(second), wrong(ended(place, process)), whole(place))


def closed(place: Place) -> str:
    """Standard input, output and error are closed or full."""
    for redirection in ("<&- >&- 2>&-", "<&- >/dev/full 2>/dev/full", "< /dev/full > /dev/null"):
        shutil.rmtree(place.study, ignore_errors=True)
        code = shell(place, f"{toy_line(place, *TWO)} {redirection}")
        shown = shell(place, f"{report_line(place, 'show', 'toy')} {redirection}")
        if code or shown or whole(place):
            return f"{redirection}: exits {code} and {shown}; {whole(place)}"
    return ""


def interrupted(place: Place) -> str:
    """Ctrl-C comes at any moment, from the first imports on."""
    for seconds in (0.05, 0.2, 0.5, 0.9, 1.4, 2.0, 2.6, 3.2, 4.0, 5.0):
        process = place.start_toy(*SLOW, **NOWHERE)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        done = ended(place, process)
        if wrong(done, 130, -signal.SIGINT, 0):
            return f"after {seconds} s: {wrong(done, 130, -2, 0)}"
        if "rror" in done.said:
            return f"after {seconds} s: {done.said[-300:]}"
    return finished(place, *SLOW)


def clocks(place: Place) -> str:
    """The clock jumps by years, back and forth, between starts and reports."""
    if not FAKETIME[0]:
        return "not tried: --faketime PATH"
    problem = ""
    for number, shift in enumerate(("+0d", "-400d", "+4000d", "-30000d"), 1):
        clock = {"LD_PRELOAD": FAKETIME[0], "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        words = ("--trials", str(number), *SHORT)
        problem = problem or first(
            wrong(place.toy(*words, **NOWHERE, **clock)),
            wrong(report(place, "show", "toy", **clock)),
            wrong(report(place, "html", "toy", **clock)),
            whole(place, number),
        )
    times = [event["t"] for event in place.events()]
    return problem or ("" if times == sorted(times) else "times run backwards")
