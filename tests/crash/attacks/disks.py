"""Full and read-only disks, and limits of the machine."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

from tests.crash.attacks.common import (
    NOWHERE,
    SHORT,
    SLOW,
    TWO,
    ended,
    finished,
    first,
    report,
    running,
    shell,
    toy_line,
    wrong,
)
from tests.crash.place import Place


@contextlib.contextmanager
def mounted(place: Place, options: str) -> Iterator[bool]:
    """Mount a small disk over the storage. Yield False if nothing may be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "attack", str(place.storage)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(place.storage)], check=True)


def full(place: Place) -> str:
    """The disk is full while reports are written and studies are renamed and deleted."""
    with mounted(place, "size=700k") as is_there:
        if not is_there:
            return "not tried: no right to mount"
        problem = finished(place)
        filler = place.storage / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (65536, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        problem = first(
            problem,
            wrong(report(place, "show", "toy")),
            wrong(report(place, "html", "toy"), 2, says=("No space left",)),
            wrong(report(place, "bundle", "toy", "--out", "runs/x.tar.gz"), 2),
            wrong(place.toy("--trials", "3", *SHORT, **NOWHERE), 1, 2, says=("No space left",)),
            wrong(place.toy(*TWO, "--study", "new", **NOWHERE), 1, 2, says=("No space left",)),
            wrong(report(place, "sync", MLFLOW_TRACKING_URI=""), 2),
            wrong(report(place, "delete", "toy", "--yes")),
        )
        filler.unlink()
        return first(problem, finished(place))


def read_only(place: Place) -> str:
    """The disk goes away while a study runs, and leaves an empty, read-only folder."""
    process = running(place)
    with mounted(place, "ro,size=64k") as is_there:
        if not is_there:
            place.kill(process)
            return "not tried: no right to mount"
        done = ended(place, process)
        problem = first(
            wrong(done, 1, says=("cannot write", "nothing recorded is lost")),
            wrong(report(place, "show", "toy"), 2),
            wrong(place.toy(*SLOW, **NOWHERE), 2, 1, says=("vistune: ",)),
        )
    return first(problem, finished(place, *SLOW))


def limits(place: Place) -> str:
    """Only few open files, or small files, are allowed."""
    for limit in ("-n 30", "-n 60", "-f 8"):
        shutil.rmtree(place.study, ignore_errors=True)
        code = shell(place, f"ulimit {limit}; {toy_line(place, *TWO)} > out.txt 2>&1")
        said = (place.folder / "out.txt").read_text(errors="replace")
        if place.states()["FAIL"]:
            return f"ulimit {limit}: {dict(place.states())}"
        if "Traceback" in said and "vistune: " not in said:
            return f"ulimit {limit}: exit {code}: {said.strip().splitlines()[-1][:200]}"
    return finished(place)
