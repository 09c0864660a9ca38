"""Servers on this machine that studies are sent to."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = "vistune-acts"
_KEY = "acts"


@contextlib.contextmanager
def password_server() -> Iterator[tuple[int, list[str]]]:
    """Serve nothing, but ask for a password.

    Yields:
        Its port, and the paths that were requested with a password.
    """
    authorised: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            knows = "Authorization" in self.headers
            if knows:
                authorised.append(self.path)
            self.send_error(404 if knows else 401)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, authorised
    finally:
        server.shutdown()


@contextlib.contextmanager
def bucket_server() -> Iterator[dict[str, str]]:
    """Serve moto's S3 with an empty bucket.

    Yields:
        The environment that points commands to it.
    """
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    _client(environment).create_bucket(Bucket=BUCKET)
    try:
        yield environment
    finally:
        server.stop()


def names_in_bucket(environment: dict[str, str]) -> list[str]:
    """Keys of all objects (at most a thousand)."""
    found = _client(environment).list_objects_v2(Bucket=BUCKET)
    return [entry["Key"] for entry in found.get("Contents", [])]


def put_in_bucket(environment: dict[str, str], name: str) -> None:
    """Write an object."""
    _client(environment).put_object(Bucket=BUCKET, Key=name, Body=b"left by a kill")


def _client(environment: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=_KEY,
        aws_secret_access_key=_KEY,
        region_name=environment["AWS_DEFAULT_REGION"],
    )
