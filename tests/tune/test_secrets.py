"""Passwords in addresses work, and nobody sees them. Every option and variable that takes an
address gets one."""

import base64
import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import quote

import pytest
from typer.models import ArgumentInfo

from tests import REPO
from tests.commands import LOCAL_TOY, Call, Said, left_in
from tests.toy import Toy
from trainables.errors import UserError
from tune.cli.options import Options
from tune.report import app, main
from tune.surroundings import hide_passwords
from tune.tracking.address import default_uri, probe, without_password

PASSWORDS = ("correct-horse", "p@ss/w:rd#1?", "ümläut pass", "per%cent+plus", "it's\"quoted")
NOWHERE = "127.0.0.1:9"

USER = "someone"


def spellings(password: str) -> set[str]:
    return {password, quote(password), quote(password, safe="")}


def check_hidden(said: Said, folder: Path, password: str) -> None:
    """Assert that neither the output nor any file has the password in any spelling."""
    shown = [said.out, said.err]
    shown += [content.decode(errors="replace") for content in left_in(folder).values()]
    for spelling in spellings(password):
        assert not [text for text in shown if spelling in text]


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that answers {} to everything. Yield its host, and the path and authorization of
    each request."""
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
    """Remove the variables that `default_uri` sets after the test."""
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
        ("postgresql://host/db?user=a&password=b", "postgresql://host/db?user=a&password=***"),
        ("http://host/a@b", "http://host/a@b"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
    ],
)
def test_an_address_without_password(address: str, shown: str) -> None:
    assert without_password(address) == shown


ADDRESS = "https://{}@host/x"
OTHER_FORMS = [
    ("--storage", "s3://{}@bucket/runs"),
    ("--storage", "gs://{}@bucket/runs"),
    ("--data", "hf:https://{}@host/owner/name"),
    ("--data", "hf:owner/name,token=https://{}@host/"),
    ("--log", "csv,https://{}@host"),
    ("--set", "data.name=https://{}@host"),
    ("--set", "nonsense=https://{}@host"),
    ("--space", "optim.lr=https://{}@host"),
    ("--try", "optim.lr=https://{}@host"),
]


def declared(of: Any, name: str) -> tuple[str, Any]:
    """The option name of a value, and its type. "" stands for a positional argument."""
    kind, about = get_args(of)[:2]
    if isinstance(about, ArgumentInfo):
        return "", kind
    return (about.param_decls or (f"--{name.replace('_', '-')}",))[0], kind


def options_of_run() -> list[str]:
    """Every option of `tune/run.py` that takes a value."""
    hints = get_type_hints(Options, include_extras=True)
    found = [declared(hint, name) for name, hint in hints.items()]
    return [option for option, kind in found if kind is not bool]


def places_of_report() -> list[list[str]]:
    """The commands of `tune/report.py`, each with {} in one place that takes a value."""
    places = []
    for registered in app.registered_commands:
        callback = registered.callback
        assert callback is not None
        parameters = signature(callback).parameters.items()
        needed = [name for name, one in parameters if one.default is Parameter.empty]
        for name, one in parameters:
            if declared(one.annotation, name)[1] is bool:
                continue
            words = [registered.name or callback.__name__]
            for other in dict.fromkeys([*needed, name]):
                option = declared(signature(callback).parameters[other].annotation, other)[0]
                words += [option] * bool(option)
                words.append("{}" if other == name else "x")
            places.append(words)
    return places


FORMS = [*((option, ADDRESS) for option in options_of_run()), *OTHER_FORMS]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_an_address_in_any_option_shows_no_password(
    form: tuple[str, str], call: Call, tmp_path: Path
) -> None:
    option, address = form
    for experiment in ("toy", "classify") if option else ("",):
        for password in PASSWORDS:
            for spelling in {quote(password, safe=""), password}:
                typed = address.replace("{}", f"{USER}:{spelling}")
                words = [experiment, option, typed] if option else [typed]
                said = call(*words, "--local", "--plan")
                assert said.code == 2
                check_hidden(said, tmp_path, password)


@pytest.mark.parametrize("words", places_of_report(), ids=" ".join)
def test_an_address_in_any_place_of_a_report_shows_no_password(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for password in PASSWORDS:
        typed = [word.replace("{}", f"https://{USER}:{password}@host/x") for word in words]
        monkeypatch.setattr(sys, "argv", ["tune/report.py", *typed])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert left.value.code == 2
        check_hidden(Said(2, said.out, said.err), tmp_path, password)


VARIABLES = [
    ("MLFLOW_TRACKING_URI", f"http://{{}}@{NOWHERE}", ()),
    ("MLFLOW_TRACKING_URI", f"postgresql://{{}}@{NOWHERE}/db", ()),
    ("MLFLOW_TRACKING_URI", f"postgresql://{NOWHERE}/db?user=me&password={{}}", ()),
    ("HTTP_PROXY", f"http://{{}}@{NOWHERE}", ("--backbone", "torchvision")),
    ("HTTPS_PROXY", f"http://{{}}@{NOWHERE}", ("--backbone", "torchvision")),
    ("ALL_PROXY", f"http://{{}}@{NOWHERE}", ("--backbone", "torchvision")),
    ("HF_ENDPOINT", f"http://{{}}@{NOWHERE}", ("--data", "hf:owner/name")),
    ("WANDB_BASE_URL", f"http://{{}}@{NOWHERE}", ("--log", "wandb")),
    ("AWS_ENDPOINT_URL", f"http://{{}}@{NOWHERE}", ("--storage", "s3://bucket/runs")),
    ("AWS_ENDPOINT_URL_S3", f"http://{{}}@{NOWHERE}", ("--storage", "s3://bucket/runs")),
]
"""Environment variables that hold addresses, and options that make the command read them."""
ELSEWHERE = {
    "RAY_ADDRESS": "test_the_address_of_a_cluster_shows_no_password",
    "RAY_API_SERVER_ADDRESS": "ours: 127.0.0.1",
    "MLFLOW_BACKEND_STORE_URI": "ours, for the server of the ui",
}


def test_every_address_that_the_code_reads_is_fed() -> None:
    read = re.compile(r'"([A-Z][A-Z0-9_]*_(?:URI|URL|ENDPOINT|ADDRESS))"')
    sources = [path for room in ("tune", "trainables") for path in (REPO / room).rglob("*.py")]
    found = {name for path in sources for name in read.findall(path.read_text())}
    assert found <= {name for name, _, _ in VARIABLES} | ELSEWHERE.keys()


def test_the_address_of_a_cluster_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    from tune.execution.ray_session import start_ray

    monkeypatch.setenv("RAY_ADDRESS", "http://me:correct-horse@127.0.0.1:9")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9") as refused:
        start_ray()
    assert "correct-horse" not in str(refused.value)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("variable", "address", "words"),
    VARIABLES,
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
    credentials = quote(password, safe="")
    if "@" in address:
        credentials = f"{USER}:{credentials}"
    monkeypatch.setenv(variable, address.format(credentials))
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


def test_the_server_of_the_ui_is_not_given_its_password_as_an_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everyone on a machine can read the arguments of its processes."""
    from tune.ui import serve

    class Ended:
        pid, returncode = 999_999_999, 1  # no process has this id

        def __init__(self, words: list[str], env: dict[str, str], **_: Any):
            assert not [word for word in words if "correct-horse" in word]
            assert env["MLFLOW_BACKEND_STORE_URI"] == uri

        def poll(self) -> int:
            return 1

        def wait(self, *_: Any) -> int:
            return 1

    uri = "postgresql://someone:correct-horse@host/db"
    monkeypatch.setattr("tune.ui.subprocess.Popen", Ended)
    with pytest.raises(UserError, match="the MLflow server did not start"), serve(uri, tmp_path, 0):
        pass


def test_what_is_kept_of_mlflow_is_under_an_address_without_password(
    call: Call, tmp_path: Path
) -> None:
    """It is in the file that records how much of a study MLflow has."""
    from tune.tracking.saved_state import save_state, saved_state

    save_state(tmp_path, "postgresql://someone:correct-horse@host/db", {"offset": 1})
    assert json.loads((tmp_path / "tracking.json").read_text()) == {
        "postgresql://host/db": {"offset": 1}
    }
    assert saved_state(tmp_path, "postgresql://other:word@host/db") == {"offset": 1}
