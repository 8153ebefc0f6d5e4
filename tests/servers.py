"""Two HTTP servers on this machine, for tests: one that speaks as the Hugging Face Hub does, and a plain file server.

Both count requests, and both can misbehave in the ways that real ones do.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants

from slowfast_zoo.storage import download

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def direct(monkeypatch: pytest.MonkeyPatch, read_timeout: float) -> None:
    """Downloads reach these servers whatever the environment says, and do not wait long for them."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("SLOWFAST_ZOO_HUB_NAMESPACE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "_PAUSE", 0.001)
    monkeypatch.setattr(download, "_READ_TIMEOUT", read_timeout)


class _Server:
    """A server in a thread, as a context manager.

    Attributes:
        url: its address.
        requests: method, path and Range header of each request.
    """

    handler: ClassVar[type[BaseHTTPRequestHandler]]

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str | None]] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are no news
        self._http.owner = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Any:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    def count(self, path: str = "", method: str = "") -> int:
        """Requests for paths that contain this."""
        with self.lock:
            return sum(path in p and method in (m, "") for m, p, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        owner = self.server.owner  # type: ignore[attr-defined]
        with owner.lock:
            owner.requests.append((self.command, self.path, self.headers.get("Range")))
        self.answer(owner)

    def answer(self, owner: Any) -> None:
        raise NotImplementedError

    def respond(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@dataclass
class Repo:
    """A repository of the Hub server.

    Attributes:
        files: their content by name. Those named ``*.safetensors`` are large ones, whose ETag is their SHA-256.
        fault: "gated", "private", "unavailable", "truncated", "corrupt", "no etag", "no commit", "slow", or "".
        times: how many downloads the fault is for, where it is one of the content.
    """

    files: dict[str, bytes]
    fault: str = ""
    times: int = 1_000_000


class _HubHandler(_Handler):
    def do_GET(self) -> None:
        if self.path == "/-/requests":  # for a client in another process; not counted
            owner = self.server.owner  # type: ignore[attr-defined]
            self.respond(200, {}, json.dumps(owner.requests).encode())
        elif self.path.endswith("?expand=xetEnabled"):  # older clients ask before they upload
            self.respond(200, {"Content-Type": "application/json"}, b'{"id": "", "xetEnabled": false}')
        else:
            super().do_GET()

    def answer(self, owner: HubServer) -> None:
        repo_id, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        repo = owner.repos.get(repo_id)
        error = None
        if repo is None:
            error = (404, "RepoNotFound")
        elif repo.fault == "private":
            error = (401, "RepoNotFound")
        elif repo.fault == "gated":
            error = (403, "GatedRepo")
        elif repo.fault == "unavailable":
            error = (503, "")
        elif revision not in ("main", COMMIT):
            error = (404, "RevisionNotFound")
        elif name not in repo.files:
            error = (404, "EntryNotFound")
        if error or repo is None:
            status, code = error or (500, "")
            return self.respond(status, {"X-Error-Code": code} if code else {})
        content = repo.files[name]
        large = name.endswith(".safetensors")
        etag = hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)
        headers = {"ETag": f'"{etag.hexdigest()}"', "X-Repo-Commit": COMMIT}
        if repo.fault == "no etag":
            del headers["ETag"]
        if repo.fault == "no commit":
            del headers["X-Repo-Commit"]
        if self.command == "GET":
            with owner.lock:
                faulty = repo.times > 0
                repo.times -= 1
            if faulty and repo.fault == "truncated":
                content = content[: len(content) // 2]
            if faulty and repo.fault == "corrupt":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if faulty and repo.fault == "slow":
                owner.closing.wait(0.5)
        self.respond(200, headers, content)
        return None

    def do_POST(self) -> None:
        """What an upload needs: a repository made, files announced, the model card checked, a commit."""
        owner = self.server.owner  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with owner.lock:
            owner.requests.append((self.command, self.path, None))
        if not self.headers.get("Authorization"):
            return self.respond(401, {}, b'{"error": "Invalid username or password."}')
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo_id = f"{asked['organization']}/{asked['name']}"
            owner.repos.setdefault(repo_id, Repo({}))
            answer: dict[str, Any] = {"url": f"{owner.url}/{repo_id}", "name": repo_id}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        else:
            repo_id, _, action = self.path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")
            if action == "preupload":
                paths = [file["path"] for file in json.loads(body)["files"]]
                answer = {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
            else:
                lines = [json.loads(line) for line in body.splitlines()]
                files = [line["value"] for line in lines if line["key"] == "file"]
                owner.repos[repo_id].files.update({f["path"]: base64.b64decode(f["content"]) for f in files})
                answer = {"success": True, "commitUrl": f"{owner.url}/{repo_id}/commit/{COMMIT}", "commitOid": COMMIT}
        self.respond(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())
        return None


class HubServer(_Server):
    """Answers ``/{owner}/{name}/resolve/{revision}/{file}``; revisions are ``main`` and :data:`COMMIT`.

    Takes uploads too, from who has a token.
    """

    handler = _HubHandler

    def __init__(self, repos: dict[str, Repo]) -> None:
        super().__init__()
        self.repos = repos


@dataclass
class CdnFile:
    """A file of the plain server. The faults are for the first ``times`` requests.

    Attributes:
        content: its bytes.
        etag: as sent, or None.
        modified: the date as sent, or None.
        ranges: whether parts can be asked for.
        condition: whether If-Range is minded.
        status: answered instead of the file.
        html: sent instead of the file, as a page that was found.
        drop: bytes after which the connection is closed.
        stall: bytes after which nothing more comes.
        wrong: whether the last byte is another one.
        pause: seconds between pieces of a tenth.
        times: how many requests the faults are for.
    """

    content: bytes
    etag: str | None = '"1"'
    modified: str | None = None
    ranges: bool = True
    condition: bool = True
    status: int = 0
    html: bytes = b""
    drop: int | None = None
    stall: int | None = None
    wrong: bool = False
    pause: float = 0.0
    times: int = 1_000_000


class _CdnHandler(_Handler):
    def answer(self, owner: CdnServer) -> None:
        file = owner.files.get(self.path.partition("?")[0].lstrip("/"))
        if file is None:
            return self.respond(404, {})
        with owner.lock:
            faulty = file.times > 0
            file.times -= 1
        if faulty and file.status:
            return self.respond(file.status, {})
        if faulty and file.html:
            return self.respond(200, {"Content-Type": "text/html; charset=utf-8"}, file.html)
        headers = {"Content-Type": "application/octet-stream"}
        if file.etag:
            headers["ETag"] = file.etag
        if file.modified:
            headers["Last-Modified"] = file.modified
        content = file.content
        if faulty and file.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, status = 0, 200
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if asked and file.ranges and (not file.condition or condition in (None, file.etag, file.modified)):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self.respond(416, {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status = 206
        body = content[start:]
        self.respond(status, {**headers, "Content-Length": str(len(body))})
        self._send(owner, file, body, faulty)
        return None

    def _send(self, owner: CdnServer, file: CdnFile, body: bytes, faulty: bool) -> None:
        stop = min(s for s in (file.drop, file.stall, len(body)) if s is not None) if faulty else len(body)
        step = max(1, len(body) // 10) if file.pause else max(1, len(body))
        for at in range(0, stop, step):
            self.wfile.write(body[at : min(at + step, stop)])
            owner.closing.wait(file.pause)
        self.wfile.flush()
        if stop < len(body):
            if file.stall is not None:
                owner.closing.wait()
            self.close_connection = True


class CdnServer(_Server):
    """Answers ``/{name}`` for each of its files."""

    handler = _CdnHandler

    def __init__(self, files: dict[str, CdnFile]) -> None:
        super().__init__()
        self.files = files
