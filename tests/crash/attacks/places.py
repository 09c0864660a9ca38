"""Storages and studies with odd names, and links."""

import os
import subprocess
import sys

from tests.crash.attacks.common import (
    NOWHERE,
    REPORT,
    SLOW,
    TOY_COMMAND,
    TWO,
    ended,
    finished,
    first,
    report,
    whole,
    wrong,
)
from tests.crash.place import Place


def odd_paths(place: Place) -> str:
    """Paths of storages have characters that are special for a shell, SQLite, a URI or a glob."""
    for name in ("a b'c\"#;$(touch x)*[é猫😀]{1}& 100% \\", "new\nline", "a=b:c@d"):
        done = place.toy(*TWO, "--storage", name)
        folder = place.folder / name
        found = first(
            wrong(done),
            wrong(place.command(REPORT, "show", "toy", "--storage", name)),
            wrong(place.command(REPORT, "html", "toy", "--storage", name)),
            wrong(place.command(REPORT, "sync", "--storage", name)),
            "" if (folder / "toy/report.html").exists() else "no report there",
            "" if (folder / "mlflow.db").exists() else "no database there",
            "" if "is behind" not in done.said else str(done),
        )
        if found:
            return f"{name!r}: {found}"
    return "a command was run" if (place.folder / "x").exists() else ""


def long_paths(place: Place) -> str:
    """The path of a storage is longer than sockets and SQLite allow."""
    deep = "/".join(["d" * 200] * 4)
    return first(
        wrong(place.toy(*TWO, "--storage", deep)),
        wrong(place.command(REPORT, "html", "toy", "--storage", deep)),
        wrong(place.toy(*TWO, "--storage", "/".join(["d" * 250] * 17), **NOWHERE), 2, 1),
        wrong(place.toy(*TWO, "--storage", "d" * 256, **NOWHERE), 2, says=("too long",)),
    )


def names(place: Place) -> str:
    """Names of studies are too long, or misleading."""
    for name, codes in (
        ("x" * 200, (0,)),
        ("x" * 255, (0, 2)),
        ("x" * 256, (2,)),
        ("x" * 5000, (2,)),
        ("猫", (2,)),
        ("a\nb", (2,)),
        ("..", (2,)),
        ("x.", (0,)),
        ("study.json", (0,)),
        ("ＡＢＣ", (2,)),
    ):
        done = place.toy(*TWO, "--study", name, **NOWHERE)
        found = wrong(done, *codes, says=("--study",) if done.code == 2 else ())
        if found or "another place with --storage" in done.said:
            return f"{name[:20]!r} of {len(name)}: {found or done}"
    return ""


def links(place: Place) -> str:
    """The storage is a link."""
    (place.folder / "real").mkdir()
    (place.folder / "link").symlink_to("real")
    (place.folder / "dangling").symlink_to("nowhere/at/all")
    (place.folder / "loop").symlink_to("loop")
    (place.folder / "file").write_text("")
    (place.folder / "to-file").symlink_to("file")
    problem = first(
        wrong(place.toy(*TWO, "--storage", "link", **NOWHERE)),
        wrong(place.toy(*TWO, "--storage", "real", **NOWHERE)),
        wrong(place.toy(*TWO, "--storage", "dangling", **NOWHERE), 0, 2),
        wrong(place.toy(*TWO, "--storage", "loop", **NOWHERE), 2),
        wrong(place.toy(*TWO, "--storage", "to-file", **NOWHERE), 2),
        wrong(place.command(REPORT, "show", "--storage", "loop"), 2),
        wrong(place.command(REPORT, "show", "--storage", "to-file"), 2),
        wrong(place.command(REPORT, "delete", "toy", "--yes", "--storage", "link")),
    )
    return problem or ("" if not (place.folder / "real/toy").exists() else "it was not deleted")


def linked_study(place: Place) -> str:
    """A study's folder is a link, and the study is deleted. The folder behind the link must
    stay."""
    problem = finished(place)
    place.study.rename(place.folder / "elsewhere")
    place.study.symlink_to(place.folder / "elsewhere")
    problem = first(problem, finished(place), wrong(report(place, "html", "toy")))
    done = report(place, "delete", "toy", "--yes")
    there = (place.folder / "elsewhere/events.jsonl").exists()
    return first(problem, wrong(done), "" if there else "the folder behind the link is gone")


def no_folder(place: Place) -> str:
    """The current folder is deleted while a study runs whose storage is elsewhere."""
    here = place.folder / "here"
    here.mkdir()
    storage = str(place.storage)
    words = [sys.executable, str(TOY_COMMAND), str(place.checkout)]
    said = (place.folder / "said.txt").open("wb")
    process = subprocess.Popen(
        [*words, "toy", *SLOW, "--storage", storage],
        cwd=here,
        env=os.environ | place.environment | NOWHERE,
        stdout=said,
        stderr=said,
        start_new_session=True,
    )
    place.wait_for(lambda: len(place.events("report")) >= 3, process)
    here.rmdir()
    return first(wrong(ended(place, process)), whole(place))
