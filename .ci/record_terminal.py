"""Record the terminal output that README.md shows, in a fresh clone of this checkout.

    .venv/bin/python .ci/record_terminal.py [FOLDER]   # ten minutes on two quiet cores

FOLDER keeps the clone, for `benchmarks/results.py record ssl FOLDER/vistune/runs "make run"`. The
whole output goes to docs/recordings/; some of its lines go into README.md, behind a line
`<!-- recorded: NAME -->` for each name.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
RECORDINGS = REPO / "docs" / "recordings"
MARKED = ("  * ", " * ")
"""Beginnings of the row of the chosen trial, whose number has one digit or two."""
CLAIM = ("Trial ", "Not decided", "The default", "No claim")
"""Beginnings of a study's last sentence, whichever it is."""
SHOWN: dict[str, tuple[str, tuple[str | tuple[str, ...], ...]]] = {
    "run": ("make run", ("study ", "trial 0 starts", "trial 1 starts", "compare ")),
    "show": (
        ".venv/bin/python tune/report.py show ssl",
        ("study ", "trial ", MARKED, "* chosen", CLAIM),
    ),
    "ui": ("make ui", ("ssl ", "MLflow ")),
}
"""Name -> command, and the beginnings of the lines that README.md shows: the first line of each."""


def record(command: str, clone: Path) -> str:
    """Run a command in the clone; a server is interrupted once it has said where it is."""
    environment = os.environ | {"COLUMNS": "100", "VISTUNE_CACHE": str(clone / "cache")}
    words = command.split()
    if words[0] == "make":
        words[1:1] = ["-o", ".venv/installed"]  # the environment is this checkout's
    with subprocess.Popen(
        words,
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
            if command == "make ui" and "Ctrl-C" in line:
                time.sleep(2)
                os.killpg(process.pid, signal.SIGTERM)  # `nohup` would ignore SIGINT
    if command != "make ui" and process.returncode != 0:
        sys.exit(f"{command} ended with exit code {process.returncode}")
    return "".join(line for line in lines if not line.startswith(("make", ".venv/bin")))


def excerpt(text: str, beginnings: tuple[str | tuple[str, ...], ...]) -> str:
    """The first line with each beginning, in the text's order; `...` where others are left out."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    chosen = []
    for beginning in beginnings:
        chosen.append(next(n for n, line in enumerate(lines) if line.startswith(beginning)))

    shown: list[str] = []
    before = -1
    for number in sorted(chosen):
        if number > before + 1:
            shown.append("...")
        shown.append(lines[number])
        before = number
    return "\n".join(shown)


def into_readme(name: str, text: str) -> None:
    """Replace the block behind `<!-- recorded: NAME -->`."""
    readme = REPO / "README.md"
    pattern = rf"(<!-- recorded: {name} -->\n)(?:```text\n.*?```\n)?"
    block = f"```text\n{text}\n```\n"
    changed, count = re.subn(
        pattern, lambda match: match[1] + block, readme.read_text(), flags=re.DOTALL
    )
    assert count == 1, name
    readme.write_text(changed)


def main() -> None:
    RECORDINGS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        clone = folder / "vistune"
        subprocess.run(["git", "clone", "--quiet", str(REPO), str(clone)], check=True)
        (clone / ".venv").symlink_to(Path(sys.prefix).resolve())
        for name, (command, beginnings) in SHOWN.items():
            text = record(command, clone).replace(str(clone), "~/vistune")
            (RECORDINGS / f"{name}.txt").write_text(text)
            into_readme(name, excerpt(text, beginnings))


if __name__ == "__main__":
    main()
