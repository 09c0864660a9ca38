"""`python -m tests.crash`: try every crash of the tiny studies, and print those that a study did
not recover from."""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.crash import operations

_KINDS = ("kill", "torn", "power", "signal", "double")
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # here a sync takes no time
_COLUMNS = ("changes", "crashes", *_KINDS, "wrong", "left", "CPU s", "seconds")
_WIDTH = 9


def main() -> int:
    """Parse argv, try the crashes, print a table. Return 1 if a study did not recover from one."""
    options = _options()
    if not operations.is_preloaded():
        environment = operations.preloaded() | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        os.execve(sys.executable, [sys.executable, "-m", "tests.crash", *sys.argv[1:]], environment)

    from tests.crash.tiny import plant, prepare

    prepare()
    if options.defect:
        plant(options.defect)
    return _try_one(options) if options.only else _try_all(options)


def _try_one(options: argparse.Namespace) -> int:
    """Repeat one crash. Print what is wrong after it, and the output of the resumed command."""
    from tests.crash.enumerator import Crash, Enumerator
    from tests.crash.tiny import STUDIES

    (name,) = options.study or ["toy"]
    crash = Crash.read(options.only)
    with tempfile.TemporaryDirectory(prefix="vistune-crash-", dir=_MEMORY) as scratch:
        enumerator = Enumerator(Path(options.keep or scratch), STUDIES[name])
        print(f"{name} {crash}, before {enumerator.changes[crash.at - 1]}")
        wrong = enumerator.after(crash)
        print("\n".join(wrong) or "recovered")
        print(enumerator.home.said.read_text())
    return 1 if wrong else 0


def _try_all(options: argparse.Namespace) -> int:
    """Try every crash of every study, and samples on Ray."""
    from tests.crash.enumerator import Findings
    from tests.crash.tiny import STUDIES

    _say(_row("study", _COLUMNS))
    whole = Findings()
    for name in options.study or STUDIES:
        began = _spent()
        found = _of_study(name, options)
        _print_row(name, found, began)
        whole.add(found)

    same = None
    for workers in (1, 2) if options.ray else ():
        began = _spent()
        found, same = _on_ray(workers, options, same)
        _print_row(f"Ray, {workers}", found, began)
        whole.add(found)

    total = sum(whole.tried.values())
    print(
        f"{total} crashes: {whole.unrecovered} not recovered from, {whole.leftovers} that left "
        "files behind"
    )
    return 1 if whole.bad else 0


def _of_study(name: str, options: argparse.Namespace) -> "Findings":  # noqa: F821
    from tests.crash.enumerator import enumerate_crashes
    from tests.crash.tiny import STUDIES

    with tempfile.TemporaryDirectory(prefix="vistune-crash-", dir=_MEMORY) as scratch:
        found = enumerate_crashes(
            Path(scratch),
            STUDIES[name],
            kinds=tuple(options.kind or _KINDS),
            points=options.points,
            seed=options.seed,
            jobs=options.jobs,
            tell=_say,
        )
    bad = {f"{name} {crash}": wrong for crash, wrong in found.bad.items()}
    return replace(found, bad=bad)


def _on_ray(
    workers: int, options: argparse.Namespace, same: set[str] | None
) -> tuple["Findings", set[str]]:  # noqa: F821
    """Try sampled crashes on Ray. Return the findings, and the facts that are always the same
    there."""
    from tests.crash.enumerator import Findings
    from tests.crash.on_ray import RayStudy

    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="vistune-crash-", dir=_MEMORY) as scratch:
        study = RayStudy(Path(scratch), workers, same)
        findings.changes = len(study.changes)
        for crash in study.crashes(options.ray, options.seed):
            wrong = study.after(crash)
            findings.tried["kill"] = findings.tried.get("kill", 0) + 1
            if wrong:
                findings.bad[f"{workers} {crash}"] = wrong
                _say(f"Ray, {workers} {crash}: {wrong[0]}")
        return findings, study.same


def _spent() -> tuple[float, float]:
    """CPU seconds of the child processes that have ended, and the current time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, time.monotonic()


def _print_row(name: str, found: "Findings", began: tuple[float, float]) -> None:  # noqa: F821
    tried = [found.tried.get(kind, 0) for kind in _KINDS]
    wrong = [found.unrecovered, found.leftovers]
    spent = [round(now - then) for now, then in zip(_spent(), began, strict=True)]
    _say(_row(name, [found.changes, found.crashes, *tried, *wrong, *spent]))
    if sum(tried) < found.differing:
        _say(f"{'':<9} {sum(tried)} of {found.differing} that leave different files, by --seed")


def _row(name: str, values: Sequence[object]) -> str:
    return f"{name:<9}" + "".join(f"{value:>{_WIDTH}}" for value in values)


def _say(line: str) -> None:
    print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--study", action="append", help="one of the tiny studies; default: all")
    parser.add_argument("--kind", action="append", choices=_KINDS, help="default: all")
    parser.add_argument(
        "--points", type=int, help="crashes of each study; default: all, or what it says"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses the points")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--ray", type=int, default=0, help="crashes on Ray, and with two workers")
    parser.add_argument("--only", help="one crash, as it is printed, such as kill:120")
    parser.add_argument("--keep", help="with --only: a folder to look at afterwards")
    parser.add_argument("--defect", help="a defect to plant first, which must be found")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
