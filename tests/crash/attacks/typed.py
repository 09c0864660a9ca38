"""Invalid options, experiment files and environments."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.crash.attacks.common import (
    NOWHERE,
    PRETRAIN,
    SHORT,
    TWO,
    ended,
    first,
    report,
    shell,
    toy_line,
    whole,
    wrong,
)
from tests.crash.place import Done, Place

SENSELESS = [
    *("--trials 0", "--trials -1", "--trials 1e3", "--trials x", "--trials 99999999999999999999"),
    *("--time-budget 0s", "--time-budget nans", "--time-budget -5m", "--time-budget 1e9h"),
    *("--repeats -1", "--repeats x", "--seed -1", "--seed 1e99", "--seed 4294967296"),
    *("--hung-after nan", "--hung-after inf", "--gpus-per-worker nan", "--gpus-per-worker inf"),
    *("--gpus-per-worker -1", "--workers 0", "--workers 2", "--concurrent 0", "--concurrent nan"),
    *("--batch-trials 1", "--batch-trials 9999", "--log x", "--log ", "--preset huge"),
    *(f"--set train.epochs={v}" for v in ("nan", "inf", "0", "-1", "1e400", "9" * 25, "")),
    *(f"--set optim.lr={v}" for v in ("nan", "inf", "-1", "0", "1e400", "[1]")),
    *(f"--set train.batch_size={v}" for v in ("0", "-3", "1.5", "9" * 30)),
    *("--set =", "--set a=b", "--set optim=1", "--set optim.lr", "--space optim.lr=1..0"),
    *("--space optim.lr=nan..1", "--space optim.lr=0..1:log", "--space x=1..2", "--space ="),
    *("--try optim.lr=nan", "--try x=1", "--try =", "--sampler x", "--pruner x", "--keep x"),
    *("--trial toy/99", "--trial toy", "--trial /", "--warm-start toy", "--warm-start nothing"),
    "--warm-start shipped",
    *("--objective val/none", "--objective -", "--objective --", "--storage s3://"),
]


def senseless(place: Place) -> str:
    """Invalid values are refused in one line, and no study is begun."""
    for words in SENSELESS:
        option, _, value = words.partition(" ")
        typed = [*("--trials", "1", *SHORT), option, value]
        done = ended(place, place.start_toy(*typed, **NOWHERE), 60)
        lines = [line for line in done.said.splitlines() if line.startswith("vistune: ")]
        found = wrong(done, 2) or ("" if lines else f"no line: {done}")
        if words in ("--set optim.lr=0", "--time-budget 1e9h", "--trials 99999999999999999999"):
            found = wrong(done, 0, 2, -999)
        if not found and done.code == 2 and (place.study / "study.json").exists():
            found = "a study was begun"
        if found:
            return f"{words}: {found}"
        shutil.rmtree(place.study, ignore_errors=True)
    return ""


FILES = {
    "syntax": "def (",
    "raises": "raise RuntimeError('at import')",
    "exits": "import sys; sys.exit(3)",
    "number": "EXPERIMENT = 5",
    "nothing": "",
    "recursion": "def f(): return f()\nf()",
    "interrupt": "raise KeyboardInterrupt",
    "memory": "raise MemoryError",
    "os": "open('/nowhere/at/all')",
}


def odd_files(place: Place) -> str:
    """Files that cannot be experiments are refused."""
    (place.folder / "folder.py").mkdir()
    (place.folder / "latin.py").write_bytes(b"# \xe9\nEXPERIMENT = 1")
    (place.folder / "null.py").write_bytes(b"EXPERIMENT = 1\0")
    (place.folder / "loop.py").symlink_to("loop.py")
    for name, content in FILES.items():
        (place.folder / f"{name}.py").write_text(content)
    for name in (*FILES, "folder", "latin", "null", "loop", "missing"):
        done = place.command("tune/run.py", f"{name}.py", "--local", "--trials", "1", **NOWHERE)
        codes = (2, 130) if name == "interrupt" else (2,)
        found = wrong(done, *codes, says=("vistune: ", f"{name}.py" if name != "interrupt" else ""))
        if found:
            return f"{name}: {found}"
    return ""


SECRET = "hunter2-correct-horse"
SPILLS = f"""
from vistune import function_experiment


def train(config, run):
    address = "postgresql://me:{SECRET}@127.0.0.1:9/db?x=1&password={SECRET}"
    raise ConnectionError("cannot reach " + address)


EXPERIMENT = function_experiment(
    train, objective="accuracy", space={{"lr": (0.01, 1.0, "log")}}, default={{"lr": 0.05}}
)
"""


def spilled(place: Place) -> str:
    """A function's error contains an address with a password."""
    (place.folder / "mine.py").write_text(SPILLS)
    done = place.command(
        "tune/run.py", "mine.py", "--local", "--trials", "3", "--repeats", "0", "--storage", "runs"
    )
    report(place, "html", "mine")
    code = ("study.json", "mine.py", "experiment.py", "report.html")  # the user's own text
    shown = [str(path) for path, text in place.texts() if SECRET in text and path.name not in code]
    return f"the password is in {', '.join(shown)}" if shown else wrong(done, 1)


def surroundings(place: Place) -> str:
    """Run in the environments of batch systems, services and containers."""
    none = str(place.folder / "none")
    for changes in (
        {"HOME": None, "USER": None, "LOGNAME": None},
        {"HOME": none},
        {"TMPDIR": none},
        {"VISTUNE_CACHE": "/dev/null"},
        {"PATH": ""},
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"PYTHONOPTIMIZE": "2"},
        {"PYTHONUNBUFFERED": "1", "COLUMNS": "1"},
        {"COLUMNS": "0"},
        {"COLUMNS": "x", "LINES": "-1"},
        {"OMP_NUM_THREADS": "x"},
        {"TZ": "Nowhere/City"},
        {"MLFLOW_TRACKING_URI": "   "},
        {"MLFLOW_TRACKING_URI": "databricks"},
        {"MLFLOW_TRACKING_URI": "http://"},
        {"MLFLOW_TRACKING_URI": "nonsense"},
        {"MLFLOW_TRACKING_URI": "sqlite:////nowhere/at/all/x.db"},
        {"MLFLOW_TRACKING_URI": "http://127.0.0.1:99999"},
    ):
        shutil.rmtree(place.study, ignore_errors=True)
        environment = NOWHERE | changes
        unset = " ".join(f"-u {name}" for name, value in environment.items() if value is None)
        given = " ".join(
            f"{name}={value!r}" for name, value in environment.items() if value is not None
        )
        line = toy_line(place, *TWO)
        code = shell(place, f"/usr/bin/env {unset} {given} {line} > out.txt 2>&1")
        said = (place.folder / "out.txt").read_text(errors="replace")
        found = first(wrong(Done(code, said, 0.0), 0, 2), "" if code else whole(place))
        if found:
            return f"{changes}: {found}"
    return ""


SCRIPT = """
import sys
print("connecting to", sys.argv[1])
raise ConnectionError(f"no way to {sys.argv[1]}, user and password {sys.argv[1].split('@')[0]}")
"""


def script(place: Place) -> str:
    """A command with a password among its words fails."""
    (place.folder / "train.py").write_text(SCRIPT)
    address = f"postgresql://me:{SECRET}@127.0.0.1:9/db"
    shared = ("--local", "--trials", "3", "--repeats", "0", "--storage", "runs")
    words = ("--space", "lr=0.1,0.2,0.3", "--objective", "accuracy", *shared)
    python = [sys.executable, "train.py", address, "{lr}"]
    done = place.command("tune/run.py", "script", *words, "--", *python)
    report(place, "html", "train")
    code = ("study.json", "experiment.py", "report.html", "output.txt")  # the command, its output
    shown = [str(path) for path, text in place.texts() if SECRET in text and path.name not in code]
    return f"the password is in {', '.join(shown)}" if shown else wrong(done, 1, 2)


def served(place: Place) -> str:
    """Invalid requests are sent to a served classifier."""
    done = place.command("tune/run.py", *PRETRAIN, **NOWHERE)
    exported = report(place, "export", "pretrain")
    model = place.storage / "pretrain/model"
    if not model.exists():
        return f"the attack itself failed: {done}; {exported}"
    asked = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("ask.py")), str(model)],
        cwd=place.folder,
        env=os.environ | place.environment,
        capture_output=True,
        text=True,
    )
    lines = asked.stdout.strip().splitlines()
    if not lines or lines[-1] != "asked":
        return f"it ended: {(lines[-1:] or asked.stderr.strip().splitlines()[-1:])[0][:300]}"
    return "; ".join(lines[:-1])
