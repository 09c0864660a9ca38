"""Record the terminal output that README.md shows, in a fresh clone of this checkout.

    .venv/bin/python .ci/record_terminal.py            # ten minutes on two quiet cores

The whole output goes to docs/recordings/; some of its lines go into README.md, behind a line
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
SHOWN = {
    "run": ("make run", 2, 5),
    "show": (".venv/bin/python tune/report.py show ssl", 6, 1),
    "ui": ("make ui", 3, 0),
}
"""Name -> command, and how many of its first and last lines README.md shows."""


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
                os.killpg(process.pid, signal.SIGINT)
    if command != "make ui" and process.returncode != 0:
        sys.exit(f"{command} ended with exit code {process.returncode}")
    return "".join(line for line in lines if not line.startswith(("make", ".venv/bin")))


def excerpt(text: str, head: int, tail: int) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    if len(lines) <= head + tail + 1:
        return "\n".join(lines)
    return "\n".join([*lines[:head], "...", *lines[len(lines) - tail :]])


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
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "vistune"
        subprocess.run(["git", "clone", "--quiet", str(REPO), str(clone)], check=True)
        (clone / ".venv").symlink_to(Path(sys.prefix).resolve())
        for name, (command, head, tail) in SHOWN.items():
            text = record(command, clone).replace(str(clone), "~/vistune")
            (RECORDINGS / f"{name}.txt").write_text(text)
            into_readme(name, excerpt(text, head, tail))


if __name__ == "__main__":
    main()
