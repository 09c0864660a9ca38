"""A proxy in the environment and a reader that goes away do not end a study, and a proxy does not
come between vistune and its own servers."""

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests import REPO
from tests.commands import SCRIPT
from tune.command_line import command, resume_command
from tune.study.record import read_record
from tune.surroundings import bypass_proxy

NOBODY = "http://127.0.0.1:9"
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@pytest.fixture
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, "no_proxy", "NO_PROXY", "grpc_proxy"):
        monkeypatch.setenv(name, "")  # so that the test restores it when it ends
        monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server on the loopback interface that sends a greeting."""

    class Greeting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"at home")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Greeting) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.mark.usefixtures("_no_proxy")
@pytest.mark.parametrize("name", PROXIES)
def test_our_own_servers_answer_behind_a_proxy(
    name: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, NOBODY)
    if name.startswith(("http_", "HTTP_")):
        with pytest.raises(OSError, match="refused"):
            urllib.request.build_opener().open(server, timeout=5)

    bypass_proxy()
    assert urllib.request.build_opener().open(server, timeout=5).read() == b"at home"
    bypass_proxy()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "localhost,127.0.0.1,::1"


@pytest.mark.usefixtures("_no_proxy")
def test_exceptions_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", NOBODY)
    monkeypatch.setenv("NO_PROXY", "campus.example, 10.0.0.1")
    bypass_proxy()
    assert os.environ["no_proxy"] == "campus.example,10.0.0.1,localhost,127.0.0.1,::1"

    monkeypatch.setenv("no_proxy", "*")
    bypass_proxy()
    assert os.environ["no_proxy"] == "*"


@pytest.mark.usefixtures("_no_proxy")
def test_an_environment_without_proxy_stays_as_it_is() -> None:
    bypass_proxy()
    assert "no_proxy" not in os.environ
    assert "NO_PROXY" not in os.environ


@pytest.mark.parametrize("words", [["tune/run.py"], ["tune/report.py"], ["-m", "tune.ui"]])
def test_an_interrupt_during_the_imports_says_nothing(tmp_path: Path, words: list[str]) -> None:
    """A traceback from an import would tell the user nothing."""
    interrupt = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(20)"
    for module in ("typer", "sqlite3"):
        (tmp_path / f"{module}.py").write_text(interrupt)
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=REPO,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize(
    ("key", "said"), [(KeyboardInterrupt, ""), (EOFError, "vistune: interrupted")]
)
def test_a_report_that_is_interrupted_says_no_more(
    key: type[BaseException],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C interrupts it, or Ctrl-D instead of an answer."""
    from tune import report

    def interrupt(*_: object) -> None:
        raise key

    monkeypatch.setattr(report, "find_study", interrupt)
    monkeypatch.setattr(sys, "argv", ["tune/report.py", "show", "toy"])
    with pytest.raises(SystemExit) as left:
        report.main()
    assert left.value.code == 130
    assert capsys.readouterr().err.strip() == said


def test_a_current_folder_that_is_gone_is_refused(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    command = f"rmdir {here}; exec {sys.executable} {REPO}/tune/report.py show --storage {tmp_path}"
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    said = "vistune: the current folder was deleted: change to another\n"
    assert (ended.returncode, ended.stderr) == (2, said)


def test_commands_are_spelled_where_the_current_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study whose storage is elsewhere reaches its end, and prints the commands that show it."""
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    os.chdir(here)
    here.rmdir()
    monkeypatch.setattr(sys, "argv", ["run.py", "ssl", "--storage", str(tmp_path / "runs")])
    assert resume_command().endswith(f"run.py ssl --storage {tmp_path}/runs")
    assert command("ui", storage=tmp_path / "runs").endswith(f"tune.ui --storage {tmp_path}/runs")


WRITER = """
import subprocess, sys
from tune.surroundings import outlive_reader
outlive_reader()
for number in range(20_000):
    print("line", number)
subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
open(sys.argv[1], "w").write(sys.stdout.encoding)
"""


def test_a_process_outlives_the_reader_of_its_output(tmp_path: Path) -> None:
    """`| head` reads a few lines and exits."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "end")],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"line 0\n"
    writer.stdout.close()
    assert writer.stderr is not None
    assert writer.stderr.read() == b""
    assert writer.wait(60) == 0
    assert (tmp_path / "end").read_text() == "utf-8"


@pytest.mark.slow
def test_a_study_outlives_the_reader_of_its_output(tmp_path: Path) -> None:
    words = "pretrain --data digits --preset tiny --local --trials 2 --repeats 0"
    settings = ("train.epochs=1", "train.epoch_images=32", "data.image_size=8", "backbone.width=8")
    command = [sys.executable, SCRIPT, *words.split(), "--storage", str(tmp_path / "runs")]
    for setting in settings:
        command += ["--set", setting]

    study = subprocess.Popen(
        command,
        cwd=REPO,
        env=os.environ | {"MLFLOW_TRACKING_URI": NOBODY, "VISTUNE_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert study.stdout is not None
    assert study.stdout.readline().startswith(b"study pretrain: ")
    study.stdout.close()
    assert study.wait(300) == 0
    record = read_record(tmp_path / "runs/pretrain")
    assert record.finished
    assert len(record.trials) == 2


PRINTS = """
import os, sys
from tune.surroundings import outlive_reader
outlive_reader()
held = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)  # with descriptor 1, were that free
for _ in range(3000):
    print("a study of \\u732b")
sys.stdout.flush()
print("a warning", file=sys.stderr)
os._exit(0 if held > 2 else 3)
"""


@pytest.mark.parametrize(
    ("redirection", "written"),
    [
        (">&-", ""),
        (">&- 2>&-", ""),
        (">/dev/full", ""),
        ("> out", "a study of \\u732b\n" * 3000),
        ("| true", ""),
    ],
    ids=["closed", "both closed", "full", "ascii", "pipe"],
)
def test_a_process_outlives_its_output(tmp_path: Path, redirection: str, written: str) -> None:
    command = f"{sys.executable} -c '{PRINTS}' {tmp_path}/journal {redirection}"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("> out", f"> {tmp_path}/out")],
        cwd=REPO,
        env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ("" if "2>" in redirection else "a warning\n")
    assert (tmp_path / "journal").read_bytes() == b""
    out = tmp_path / "out"
    assert (out.read_text() if out.exists() else "") == written
