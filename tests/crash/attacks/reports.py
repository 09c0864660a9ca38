"""Reports that run at the same time, and killed ones."""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.crash.attacks.common import (
    NOWHERE,
    PRETRAIN,
    REPORT,
    SHORT,
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
from tests.crash.operations import from_start, read_changes
from tests.crash.place import Place


def at_once(place: Place) -> str:
    """One study is started five times at the same instant, in an empty storage."""
    shutil.rmtree(place.storage)
    place.storage.mkdir()
    line = toy_line(place, *TWO)
    code = shell(place, f"for n in 1 2 3 4 5; do {line} > $n.txt 2>&1 & done; wait")
    said = [(place.folder / f"{n}.txt").read_text() for n in range(1, 6)]
    lost = [text for text in said if "is being run by another process" in text]
    if any("Traceback" in text for text in said):
        return next(text for text in said if "Traceback" in text)[-300:]
    return first(whole(place), "" if lost or not code else "no loser was told")


def reports_at_once(place: Place) -> str:
    """Pages, tables, bundles and MLflow are written at the same time, while the study runs."""
    process = running(place)
    lines = [
        report_line(place, *words)
        for words in (
            ("html", "toy"),
            ("html", "toy"),
            ("bundle", "toy", "--overwrite"),
            ("bundle", "toy", "--overwrite"),
            ("show", "toy"),
            ("sync",),
        )
    ]
    jobs = "; ".join(f"{line} > {n}.txt 2>&1 &" for n, line in enumerate(lines))
    shell(place, f"{jobs.replace('&;', '&')} wait")
    texts = [(place.folder / f"{n}.txt").read_text() for n in range(len(lines))]
    broken = [text for text in texts if "Traceback" in text]
    if broken:
        place.kill(process)
        return broken[0][-300:]
    done = ended(place, process)
    return first(wrong(done), whole(place), _bundle_is_whole(place))


def _bundle_is_whole(place: Place) -> str:
    bundle = place.folder / "toy.tar.gz"
    there = subprocess.run(["tar", "xzf", bundle, "-C", place.folder], capture_output=True)
    page = place.folder / "toy/report.html"
    is_whole = page.exists() and page.read_text().rstrip().endswith("</html>")
    return "" if there.returncode == 0 and is_whole else "the bundle is torn"


def deleted_while_read(place: Place) -> str:
    """Deleting, renaming and archiving a study that runs is refused."""
    process = running(place, *TWO[:-1], "train.epochs=9000", "--set", "sleep_s=0.02")
    for words in (
        ("delete", "toy", "--yes"),
        ("rename", "toy", "b", "--yes"),
        ("archive", "toy", "--yes"),
    ):
        done = beside(place, *words)
        if wrong(done, 2, says=("is being run by another process",)):
            place.kill(process)
            return f"{words[0]}: {done}"
    process.send_signal(signal.SIGTERM)
    return wrong(ended(place, process), 130)


def _killed(
    place: Place, *words: str, check: Callable[[], str], points: int = 12, problem: str = ""
) -> str:
    """SIGKILL a command of `report.py` at several changes of files, and repeat it each time."""
    problem = problem or (finished(place) if not place.study.exists() else "")
    kept = place.folder / "kept"
    shutil.copytree(place.storage, kept, symlinks=True)
    record = place.folder / "record"
    line = [*words, "--storage", "runs"]
    done = ended(place, place.start(REPORT, *line, **_watched(place, record=record)))
    problem = first(problem, wrong(done))
    changes = len(read_changes(record))
    for at in sorted({1 + n * (changes - 1) // (points - 1) for n in range(points)}):
        shutil.rmtree(place.storage)
        shutil.copytree(kept, place.storage, symlinks=True)
        for path in place.folder.glob("toy.tar.gz*"):
            path.unlink()
        killed = ended(place, place.start(REPORT, *line, **_watched(place, at)))
        if killed.code != -signal.SIGKILL:
            continue
        again = ended(place, place.start(REPORT, *line))
        found = first(wrong(again, 0, 2), check())
        if found:
            return f"killed at {at} of {changes}: {found}"
    return problem


def _watched(place: Place, kill_at: int = 0, record: Path | None = None) -> dict[str, str]:
    names = ("LD_PRELOAD", "VISTUNE_CRASH")
    return {name: from_start(place.folder, kill_at, record=record)[name] for name in names}


def _leftovers(folder: Path) -> str:
    left = [str(p) for p in folder.rglob("*") if p.name.endswith((".partial", ".tmp"))]
    return f"left: {left[0]}" if left else ""


def killed_html(place: Place) -> str:
    """`report.py html` is killed."""

    def check() -> str:
        page = (place.study / "report.html").read_text()
        return first(_leftovers(place.study), "" if page.rstrip().endswith("</html>") else "torn")

    return _killed(place, "html", "toy", check=check)


def killed_bundle(place: Place) -> str:
    """`report.py bundle` is killed."""
    return _killed(
        place,
        "bundle",
        "toy",
        "--overwrite",
        check=lambda: first(_bundle_is_whole(place), _leftovers(place.storage)),
    )


def killed_delete(place: Place) -> str:
    """`report.py delete` is killed, and the next start of any study removes the rest."""

    def check() -> str:
        if place.study.exists():
            return "it is still there"
        done = place.toy("--trials", "1", *SHORT, "--study", "other", **NOWHERE)
        left = sorted(path.name for path in place.storage.iterdir())
        shutil.rmtree(place.storage / "other")
        return first(wrong(done), "" if not {".deleted"} & set(left) else f"left: {left}")

    return _killed(place, "delete", "toy", "--yes", check=check, points=8)


def killed_export(place: Place) -> str:
    """`report.py export` is killed while it replaces an earlier model."""
    place.study = place.storage / "pretrain"
    problem = first(
        wrong(place.command("tune/run.py", *PRETRAIN, **NOWHERE)),
        wrong(report(place, "export", "pretrain", "--format", "safetensors")),
    )

    def check() -> str:
        model = place.study / "model-safetensors"
        names = sorted(path.name for path in model.iterdir())
        return first(_leftovers(place.storage), "" if "model.json" in names else f"it has {names}")

    words = ("export", "pretrain", "--format", "safetensors")
    return _killed(place, *words, check=check, points=8, problem=problem)


def killed_rename(place: Place) -> str:
    """`report.py rename` is killed, and repeated."""

    def check() -> str:
        there = [name for name in ("toy", "new") if (place.storage / name / "study.json").exists()]
        if len(there) != 1:
            return f"there are {there}"
        shown = report(place, "show", there[0])
        return first(wrong(shown), "" if there == ["new"] else "it has its old name")

    return _killed(place, "rename", "toy", "new", "--yes", check=check)


def killed_archive(place: Place) -> str:
    """`report.py archive` is killed, repeated, and undone."""

    def check() -> str:
        back = report(place, "archive", "toy", "--undo")
        return first(wrong(back), whole(place), wrong(report(place, "show", "toy")))

    return _killed(place, "archive", "toy", "--yes", check=check)
