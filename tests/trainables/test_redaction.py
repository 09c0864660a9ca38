"""Passwords in texts are hidden wherever an address may occur, and nothing else is."""

import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.errors import TrialFailed, UserError, first_line
from trainables.redaction import has_credentials, redacted

SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_categories=("Cs", "Cc", "Z")),
    min_size=8,
    max_size=24,
).map(lambda word: f"q7{word}")
SCHEMES = st.sampled_from(["http", "https", "s3", "postgresql", "mysql+pymysql", "hf"])


@given(secret=SECRETS, scheme=SCHEMES, port=st.sampled_from(["", ":5000"]))
def test_an_address_in_any_text_has_no_password(secret: str, scheme: str, port: str) -> None:
    encoded = quote(secret, safe="")
    address = f"{scheme}://someone:{encoded}@host.example{port}/path"
    as_path = address.replace("://", ":/")
    for text in (address, f"cannot reach {address!r}: refused", f"File {as_path} is missing"):
        shown = redacted(text)
        assert encoded not in shown
        assert "host.example" in shown


@given(secret=SECRETS, name=st.sampled_from(["password", "X-Amz-Signature", "sig", "api_key"]))
def test_the_query_of_an_address_has_no_password(secret: str, name: str) -> None:
    """PostgreSQL accepts such addresses, and links to private files are signed this way."""
    encoded = quote(secret, safe="")
    for query in (f"?user=me&{name}={encoded}&b=1", f"?{name}={encoded}"):
        shown = redacted(f"cannot reach 'postgresql://host.example/db{query}'")
        assert encoded not in shown
        assert "host.example/db?" in shown
        assert ("&b=1" in shown) == ("&b=1" in query)


@given(secret=SECRETS)
def test_every_kind_of_error_is_clean(secret: str) -> None:
    address = f"https://someone:{quote(secret, safe='')}@host/"
    for error in (UserError(address), TrialFailed("data", address)):
        assert quote(secret, safe="") not in str(error)
    assert quote(secret, safe="") not in first_line(ValueError(address))


@pytest.mark.parametrize(
    "text",
    [
        "models:/name@champion",
        "runs:/0123/backbone",
        "s3://bucket/prefix/a@b",
        "write to someone@host.example, or see https://host.example/a",
        "val/top1 was .5: @ epoch 3",
        "https://host.example/a?design=2&sign=3",
        "is the token=abc right?",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("address", "has"),
    [
        ("s3://bucket/a@b:c", False),
        ("http://host:5000/a@b", False),
        ("hf:owner/name", False),
        ("/data/a:b@c", False),
        ("optim.lr=1e-3..1:log", False),
        ("https://host/a?design=2", False),
        ("https://token@host", True),
        ("data.name=https://me:word@host", True),
        ("https://me:a word@host", True),
        ("https://me:a/slashed@host", True),
        ("https://host/x?X-Amz-Signature=0a", True),
    ],
)
def test_an_address_has_credentials(address: str, has: bool) -> None:
    assert has_credentials(address) == has


def test_secrets_of_the_environment_and_the_command_are_hidden_in_every_spelling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors of other libraries print passwords decoded and without the address around them."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws/secret+key")
    monkeypatch.setenv("HTTPS_PROXY", "http://someone:proxy%2Fword@proxy.example:3128")
    monkeypatch.setattr(sys, "argv", ["run.py", "--data", "https://me:typed-word@host/x"])
    for secret in ("aws/secret+key", "aws%2Fsecret%2Bkey", "proxy/word", "proxy%2Fword"):
        assert redacted(f"key {secret} is wrong") == "key *** is wrong"
    assert redacted("typed-word") == "***"
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", "postgresql://db/runs?user=me&password=in%20the%20query"
    )
    assert redacted("password in the query or in%20the%20query") == "password *** or ***"


def test_a_raw_slash_in_a_password_of_the_environment_is_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The address is invalid, but the password is still one."""
    address = "http://someone:a/slashed#word@host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert "slashed" not in redacted(f"port could not be cast: {address}")


@pytest.mark.parametrize("word", ["vistune", "computervision", "vistune2024"])
def test_a_password_that_names_a_folder_too_breaks_no_path(
    monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://mlflow:{word}@db/mlflow")
    for path in (f"/data/{word}/runs", f"{word}/runs", f"runs/{word}", f"./{word}-b", f"my-{word}"):
        command = f"python tune/run.py ssl --storage {path}"
        assert redacted(command) == command
    for shown in (f"mlflow:{word} is refused", f"no host in {word}@db", f"password '{word}'"):
        assert word not in redacted(shown)


def test_an_everyday_word_is_hidden_only_where_it_is_a_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--data", "https://me:vistune@host/x"])
    assert redacted("vistune ssl --study vistune") == "vistune ssl --study vistune"
    monkeypatch.setenv("WANDB_API_KEY", "vistune")  # a key is hidden wherever it occurs
    assert redacted("/data/vistune/runs") == "/data/***/runs"
