"""Passwords in addresses: they work, and nobody sees them. Every option and variable that takes an
address is fed with one."""

import base64
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.commands import LOCAL_TOY, Call, Said, left_in
from tests.toy import Toy
from tune.surroundings import hide_passwords
from tune.tracking.address import default_uri, probe, without_password

PASSWORDS = ("correct-horse", "p@ss/w:rd#1?", "ümläut pass", "per%cent+plus", "it's\"quoted")
NOWHERE = "127.0.0.1:9"

USER = "someone"


def spellings(password: str) -> set[str]:
    return {password, quote(password), quote(password, safe="")}


def check_hidden(said: Said, folder: Path, password: str) -> None:
    """Neither output nor any file has the password in any spelling."""
    shown = [said.out, said.err]
    shown += [content.decode(errors="replace") for content in left_in(folder).values()]
    for spelling in spellings(password):
        assert not [text for text in shown if spelling in text]


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that answers {} to everything; its host, and path and authorization of each
    request."""
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{running.server_port}", seen
    running.shutdown()
    running.server_close()


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that `default_uri` sets are gone after the test."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("password", PASSWORDS)
def test_mlflow_is_asked_with_user_and_password(
    password: str,
    server: tuple[str, list[tuple[str, str | None]]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient

    host, seen = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{USER}:{quote(password, safe='')}@{host}")

    uri = default_uri(tmp_path)
    assert uri == f"http://{host}"
    probe(uri)
    MlflowClient(uri).search_experiments()

    (health, _), (asked, authorization) = seen
    assert health == "/health"
    assert asked.startswith("/api/")
    encoded = base64.b64encode(f"{USER}:{password}".encode()).decode()
    assert authorization == f"Basic {encoded}"


def test_a_server_with_a_user_in_its_address_is_probed(
    server: tuple[str, list[tuple[str, str | None]]],
) -> None:
    host, seen = server
    probe(f"http://{USER}:word@{host}/")
    assert [path for path, _ in seen] == ["/health"]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://a:b@host:5000/x", "http://host:5000/x"),
        ("http://a:b@c@host", "http://host"),
        ("postgresql://a:b@host/db?x=y@z", "postgresql://host/db?x=y@z"),
        ("http://host/a@b", "http://host/a@b"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
    ],
)
def test_an_address_without_password(address: str, shown: str) -> None:
    assert without_password(address) == shown


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize(
    "words",
    [
        ("toy", "--local", "--storage", "https://{}@host/runs"),
        ("toy", "--local", "--storage", "s3://{}@bucket/runs"),
        ("classify", "--local", "--data", "https://{}@host/images"),
        ("classify", "--local", "--data", "hf:https://{}@host/owner/name"),
        ("classify", "--local", "--data", "hf:owner/name,token=https://{}@host/"),
        ("classify", "--local", "--backbone", "https://{}@host/weights.pt"),
        ("toy", "--local", "--study", "https://{}@host/study"),
        ("https://{}@host/mine.py", "--local"),
        ("toy", "--local", "--log", "https://{}@host"),
        ("toy", "--local", "--set", "data.name=https://{}@host", "--set", "nonsense=1"),
    ],
    ids=lambda words: " ".join(word for word in words if word.startswith("--")) or "experiment",
)
def test_a_refused_address_shows_no_password(
    words: tuple[str, ...], password: str, call: Call, tmp_path: Path
) -> None:
    for spelling in {quote(password, safe=""), password}:
        said = call(*(word.replace("{}", f"{USER}:{spelling}") for word in words))
        assert said.code != 0
        check_hidden(said, tmp_path, password)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("variable", "address", "words"),
    [
        ("MLFLOW_TRACKING_URI", f"http://{{}}@{NOWHERE}", ()),
        ("MLFLOW_TRACKING_URI", f"postgresql://{{}}@{NOWHERE}/db", ()),
        ("HTTPS_PROXY", f"http://{{}}@{NOWHERE}", ("--backbone", "torchvision")),
        ("HF_ENDPOINT", f"http://{{}}@{NOWHERE}", ("--data", "hf:owner/name")),
        ("WANDB_BASE_URL", f"http://{{}}@{NOWHERE}", ("--log", "wandb")),
        ("AWS_ENDPOINT_URL", f"http://{{}}@{NOWHERE}", ("--storage", "s3://bucket/runs")),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
def test_an_address_of_the_environment_shows_no_password(
    variable: str,
    address: str,
    words: tuple[str, ...],
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    password = PASSWORDS[1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(variable, address.format(f"{USER}:{quote(password, safe='')}"))
    experiment = "classify" if {"--backbone", "--data"} & set(words) else "toy"

    said = call(experiment, *LOCAL_TOY[1:], "1", "--set", "train.epochs=1", *words)

    assert said.code == (0 if variable.startswith("MLFLOW") else 2), said.err
    check_hidden(said, tmp_path, password)


def test_a_trial_that_fails_with_an_address_puts_no_password_on_record(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "correct-horse"

    def fail(*_: object) -> None:
        raise ConnectionError(f"http://{USER}:{password}@host refused")

    monkeypatch.setattr(Toy, "validate", fail)
    said = call(*LOCAL_TOY, "2")

    events = (tmp_path / "runs/toy/events.jsonl").read_text()
    assert "ConnectionError: http://***@host refused" in events + said.err
    check_hidden(said, tmp_path, password)


def test_a_traceback_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    hide_passwords()

    def fail() -> None:
        raise ValueError("https://someone:correct-horse@host")

    with contextlib.suppress(ValueError):
        try:
            fail()
        except ValueError as error:
            sys.excepthook(type(error), error, error.__traceback__)
            raise
    thread = threading.Thread(target=fail, name="replay")
    thread.start()
    thread.join()

    said = capsys.readouterr().err
    assert said.count("ValueError: https://***@host") == 2
    assert "Exception in replay:" in said
    assert "correct-horse" not in said


def test_what_is_kept_of_mlflow_is_under_an_address_without_password(
    call: Call, tmp_path: Path
) -> None:
    """The file that says how far MLflow has a study."""
    from tune.tracking.saved_state import save_state, saved_state

    save_state(tmp_path, "postgresql://someone:correct-horse@host/db", {"offset": 1})
    assert json.loads((tmp_path / "tracking.json").read_text()) == {
        "postgresql://host/db": {"offset": 1}
    }
    assert saved_state(tmp_path, "postgresql://other:word@host/db") == {"offset": 1}
