"""Regret of an earlier commit's study, on the tables and into the record of `search_regret.py`.

    python benchmarks/search_earlier.py 5d3a9ec --seeds 60
    python benchmarks/search_regret.py --report    # today's study over "study at 5d3a9ec"

The earlier tree is checked out into a temporary worktree. A process with that tree on its path runs
its own `OurStudy`, and is asked and told by lines of JSON. Everything else is today's.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

REPO = Path(__file__).resolve().parents[1]


class Served:
    """A process with an earlier tree on its path, which has one study at a time."""

    def __init__(self, tree: Path):
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tree), *_further_paths()])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, name: str, **fields: Any) -> Any:
        """Call the study and return its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        _write(stdin, {"call": name} | fields)
        return json.loads(stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class Earlier:
    """The study of an earlier tree, as a searcher of `search_efficiency.py`."""

    def __init__(self, served: Served, table: Any, seed: int, trials: int):
        self._call = served.call
        about = {"name": table.name, "axes": table.axes, "default": table.default}
        curves = [[key, list(curve)] for key, curve in table.curves.items()]
        self._call("begin", table=about, curves=curves, seed=seed, trials=trials)

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        asked = self._call("ask")
        return None if asked is None else (asked["handle"], asked["params"])

    def report(self, handle: int, epoch: int, value: float) -> bool:
        goes_on: bool = self._call("report", handle=handle, epoch=epoch, value=value)
        return goes_on

    def end(self, handle: int, curve: list[float], stopped: bool) -> None:
        self._call("end", handle=handle, curve=curve, stopped=stopped)


def _further_paths() -> list[str]:
    """Return the entries of PYTHONPATH that are not this tree, such as one of packages."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [path for path in paths if path and Path(path).resolve() != REPO]


def _write(stream: IO[str], said: Any) -> None:
    stream.write(json.dumps(said) + "\n")
    stream.flush()


def serve() -> None:
    """Answer calls on stdin with the study of the tree on the path."""
    from benchmarks.search_efficiency import OurStudy
    from benchmarks.search_tables import Table

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    study: Any = None
    handles: list[Any] = []
    for line in sys.stdin:
        said = json.loads(line)
        call = said.pop("call")
        answer: Any = None
        if call == "begin":
            curves = {tuple(key): curve for key, curve in said["curves"]}
            study = OurStudy(Table(**said["table"], curves=curves), said["seed"], said["trials"])
        elif call == "ask":
            if (asked := study.ask()) is not None:
                handles.append(asked[0])
                answer = {"handle": len(handles) - 1, "params": dict(asked[1])}
        elif call == "report":
            answer = study.report(handles[said["handle"]], said["epoch"], said["value"])
        else:
            study.end(handles[said["handle"]], said["curve"], said["stopped"])
        _write(answers, answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit", help="whose benchmarks/search_efficiency.py has `OurStudy`")
    parser.add_argument("--seeds", type=int, default=60)
    options = parser.parse_args()

    sys.path.insert(0, str(REPO))
    from benchmarks import search_regret as today
    from benchmarks.earlier_tree import earlier_tree
    from benchmarks.search_tables import Table, tables

    with earlier_tree(options.commit) as tree:
        served = Served(tree)

        def study(table: Table, seed: int) -> today.Searcher:
            trials = today.BUDGETS[-1] * table.epochs + today.AT_A_TIME
            return today.Whole(Earlier(served, table, seed, trials), table)

        name = f"{today.OURS} at {options.commit}"
        today.CONTESTANTS[name] = study
        some = tables([*today.TUNED, *today.REPORTED])
        try:
            today.record([name], some, options.seeds, today.RECORD)
        finally:
            served.close()


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
