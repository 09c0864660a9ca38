"""A W&B server, as far as its client needs one: runs begin, continue, send lines and end."""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_STREAM = re.compile(r"^/files/[^/]+/[^/]+/([^/]+)/file_stream$")


@dataclass
class Run:
    """A run, as the server stores it."""

    name: str = ""
    group: str = ""
    kind: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """Lines, ordered by their position in the file."""
    summary: dict[str, Any] = field(default_factory=dict)
    exit: int | None = None


class Server(ThreadingHTTPServer):
    """The server, and its runs by id."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, Run] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def wandb_server() -> Iterator[Server]:
    """Serve until the block ends."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        """Accept a file of a run, and discard it."""
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        stream = _STREAM.match(self.path)
        if stream:
            self._stream(self.server.runs[stream[1]], json.loads(content))
            self._answer({"exitcode": None, "limits": {}})
        elif self.path == "/graphql":
            asked = json.loads(content)
            self._answer({"data": self._data(asked["query"], asked.get("variables", {}))})
        else:  # such as the client's own telemetry
            self._answer({})

    def _answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _data(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answer a GraphQL query."""
        self.server.asked.append(query)
        if "upsertBucket" in query:
            return {"upsertBucket": {"bucket": self._begin(given), "inserted": True}}
        if "RunResumeStatus" in query:
            return {"model": self._known(given)}
        if "createRunFiles" in query:
            url = f"{self.server.address}/file"
            files = [{"name": name, "uploadUrl": url} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        viewer = {
            "id": "u",
            "entity": "me",
            "username": "me",
            "flags": "{}",
            "teams": {"edges": []},
        }
        return {"viewer": viewer, "serverInfo": {"features": [], "cliVersionInfo": {}}}

    def _begin(self, given: dict[str, Any]) -> dict[str, Any]:
        identity = given.get("name") or given.get("id") or ""
        run = self.server.runs.setdefault(identity, Run())
        run.name = given.get("displayName") or run.name
        run.group = given.get("groupName") or run.group
        run.kind = given.get("jobType") or run.kind
        if given.get("config"):
            found = json.loads(given["config"])
            run.config |= {key: one["value"] for key, one in found.items() if key != "_wandb"}
        return {
            "id": f"id-{identity}",
            "name": identity,
            "displayName": run.name,
            "historyLineCount": len(run.history),
            "project": {"id": "p", "name": "vistune", "entity": {"id": "e", "name": "me"}},
            "sweepName": None,
        }

    def _known(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a client that wants to continue a run, or None if there is no such run."""
        identity = given.get("name", "")
        run = self.server.runs.get(identity)
        if run is None:
            return None
        bucket = {
            "id": f"id-{identity}",
            "name": identity,
            "displayName": run.name,
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "historyTail": json.dumps([json.dumps(line) for line in run.history[-1:]]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }
        owner = {"id": "e", "name": "me"}
        return {"id": "p", "name": "vistune", "entity": owner, "bucket": bucket}

    def _stream(self, run: Run, sent: dict[str, Any]) -> None:
        """Store lines of files at the positions that the client names."""
        files = sent.get("files", {})
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary |= json.loads(line)
        history = files.get("wandb-history.jsonl")
        if history is not None:
            at = history["offset"]
            run.history[at:] = [json.loads(line) for line in history["content"]]
        if sent.get("complete"):
            run.exit = sent.get("exitcode", 0)
