"""docs/api.md: its blocks run from top to bottom as cells of a notebook, in a real kernel."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vistune
from tests import REPO
from tests.commands import use_mlflow
from tune.study.lock import is_in_use

PAGE = (REPO / "docs/api.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S = 600


def blocks(page: str) -> list[str]:
    return BLOCK.findall(page)


def test_names_of_the_page_are_there() -> None:
    for name in set(re.findall(r"\bvistune\.(\w+)", PAGE)) - {"commands"}:
        assert name in vistune.__all__ or name == "__all__", name
    members = set(re.findall(r"\bstudy\.(\w+)", PAGE)) | set(re.findall(r"`(plot_\w+)\(", PAGE))
    assert len(members) > 12
    assert [name for name in members if not hasattr(vistune.Study, name)] == []


def test_the_notebook_has_at_most_eight_cells() -> None:
    notebook = PAGE.partition("## A notebook in eight cells")[2].partition("\n## ")[0]
    cells = blocks(notebook)
    assert len(cells) <= 8
    for call in ("vistune.search", "plot_curves", "load_model"):
        assert any(call in cell for cell in cells)


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, with MLflow's real store."""
    monkeypatch.chdir(tmp_path)
    use_mlflow(monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_folder")
def test_every_block_of_the_page_runs_in_a_notebook(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[dev]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[dev]'")

    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(block) for block in blocks(PAGE)]
    nbclient.NotebookClient(notebook, timeout=PATIENCE_S, kernel_name="python3").execute()

    search, trials, verdict, curves = notebook.cells[:4]
    (table,) = displays(search, "text/html")
    assert "<pre" in table
    assert "8/8 trials" in table
    assert "searched by val/top1" in printed(search)
    assert "ipywidgets" not in printed(search)
    assert "IProgress" not in printed(search)
    assert "trial 3 starts" not in printed(search)  # the table shows it instead
    assert "<table" in results(trials, "text/html")
    assert "Trial(number=" in printed(verdict)
    assert results(curves, "application/vnd.plotly.v1+json")["data"]
    study = vistune.load_study(tmp_path / "runs" / "pretrain")
    assert len(study.trials) == 9
    assert study.trial(8).enqueued


def printed(cell: Any) -> str:
    return "".join(output["text"] for output in cell.outputs if output.output_type == "stream")


def displays(cell: Any, kind: str) -> list[str]:
    shown = [output for output in cell.outputs if output.output_type == "display_data"]
    return [output["data"][kind] for output in shown]


def results(cell: Any, kind: str) -> Any:
    """The value of the last line, which plotly shows in its own display."""
    kinds = ("execute_result", "display_data")
    found = [output["data"] for output in cell.outputs if output.output_type in kinds]
    return found[-1][kind]


@pytest.fixture
def kernel(_folder: None) -> Iterator[tuple[Any, Any]]:
    """A notebook kernel in the folder of the test: its manager and a client."""
    client = pytest.importorskip("jupyter_client", reason="pip install -e '.[dev]'")
    manager, connection = client.manager.start_new_kernel(kernel_name="python3")
    yield manager, connection
    connection.stop_channels()
    manager.shutdown_kernel(now=True)


LONG = {
    "data.image_size": 8,
    "backbone.width": 8,
    "train.epochs": 12,
    "train.epoch_images": 1000,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("local", [True, False], ids=["local", "ray"])
def test_an_interrupted_cell_leaves_a_study_that_resumes(
    local: bool, kernel: tuple[Any, Any], tmp_path: Path
) -> None:
    manager, client = kernel
    call = (
        "import vistune\n"
        f"study = vistune.search('pretrain', data='digits', trials=3, repeats=0, local={local}, "
        f"set={LONG!r})"
    )
    folder = tmp_path / "runs" / "pretrain"

    asked = client.execute(call)
    deadline = time.monotonic() + PATIENCE_S
    while not has_epochs(folder, 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    manager.interrupt_kernel()
    reply = answer(client, asked)
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")

    assert not is_in_use(folder)
    interrupted = vistune.load_study(folder)
    assert not interrupted.finished
    assert "open" in set(interrupted.trials["state"])
    epochs = len(interrupted.curves)

    reply = answer(client, client.execute(f"{call}\nassert study.finished"))
    assert reply["status"] == "ok", reply
    assert len(interrupted.curves) > epochs  # reports from before the interrupt are kept
    assert not interrupted.curves.index.duplicated().any()
    assert set(interrupted.trials["state"]) <= {"complete", "pruned"}


@pytest.mark.slow
def test_wrong_use_is_one_line_in_a_notebook(kernel: tuple[Any, Any]) -> None:
    _, client = kernel
    asked = client.execute("import vistune\nvistune.search('sll')")
    reply = answer(client, asked)

    assert reply["ename"] == "UserError"
    (line,) = reply["traceback"]
    assert line.startswith(
        "vistune: unknown experiment 'sll' (a file of your own ends in .py); did you mean 'ssl'?"
    )


def answer(client: Any, asked: str) -> dict[str, Any]:
    """Return the kernel's reply to a cell."""
    while True:
        reply = client.get_shell_msg(timeout=PATIENCE_S)
        if reply["parent_header"].get("msg_id") == asked:
            content: dict[str, Any] = reply["content"]
            return content


def has_epochs(folder: Path, count: int) -> bool:
    log = folder / "events.jsonl"
    return log.exists() and log.read_text().count('"event":"report"') >= count
