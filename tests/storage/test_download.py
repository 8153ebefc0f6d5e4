"""Downloads that are killed, and servers that send more than they should: real processes, and a real server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from servers import CdnFile, CdnServer, direct

import slowfast_zoo as sfz
from slowfast_zoo.errors import WeightsError
from slowfast_zoo.storage import download
from slowfast_zoo.storage.cache import ContentError
from slowfast_zoo.storage.download import Checksum
from slowfast_zoo.weights import find_weights, records
from tests.weights.test_source import fetch, leave_part, names, upstream

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BUNDLED = "slowfast_tiny_4x8.motion"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    direct(monkeypatch, 2.0)


DOWNLOADS = """
import dataclasses, json, sys
from slowfast_zoo.weights import WeightsRecord, find_weights, records
name, url, folder = sys.argv[1:]
source = {"project": "?", "name": "?", "config": None, "url": url, "layout": None, "hash": None, "bytes": None}
changes = {"name": "slowfast_tiny_4x8.elsewhere", "file": None, "sha256": None, "bytes": None, "source": source}
print(find_weights(dataclasses.replace(records()[name], **changes), folder, progress=False))
"""


def start(url: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DOWNLOADS, BUNDLED, url, str(folder)], stdout=subprocess.PIPE)


def kill_in_the_middle(process: subprocess.Popen[bytes], folder: Path, least: int) -> int:
    """Kills a download when so many bytes are there; gives how many there are."""
    deadline = time.monotonic() + 60
    while True:
        parts = list(folder.rglob("*.part/weights.bin"))
        if parts and parts[0].stat().st_size >= least:
            break
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    return parts[0].stat().st_size


def test_a_killed_download_repeated_at_once(tmp_path: Path) -> None:
    """It goes on from what is there, and nothing is left of it in the end."""
    content = find_weights(records()[BUNDLED]).read_bytes()
    file = CdnFile(content, pause=0.2)
    with CdnServer({"weights.bin": file}) as server:
        url = f"{server.url}/weights.bin"
        arrived = kill_in_the_middle(start(url, tmp_path), tmp_path, len(content) // 4)
        assert 0 < arrived < len(content)
        file.pause = 0
        process = start(url, tmp_path)
        out, _ = process.communicate(timeout=100)
        assert process.returncode == 0
        assert [r for *_, r in server.requests] == [None, f"bytes={arrived}-"]
    path = Path(out.decode().strip())
    model = sfz.create_model("slowfast_tiny_4x8", num_classes=12, checkpoint_path=path)
    expected = sfz.create_model(BUNDLED, pretrained=True).state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
    assert names(path.parent) == [
        ".slowfast_tiny_4x8.elsewhere.lock",
        ".verified",
        "slowfast_tiny_4x8.elsewhere.json",
        "slowfast_tiny_4x8.elsewhere.safetensors",
    ]


@pytest.mark.parametrize(
    "noted",
    [b"[" * 5000, b'{"validator": ' + b"9" * 5000 + b"}", b"\xff", b"[1]", b'{"validator": 3, "total": 9}', b""],
)
def test_a_damaged_note_starts_anew(tmp_path: Path, noted: bytes) -> None:
    with CdnServer({"weights.bin": CdnFile(CONTENT)}) as server:
        url = f"{server.url}/weights.bin"
        left = leave_part(url, tmp_path, CONTENT[:70_000])
        (left.part / ".origin").write_bytes(noted)
        assert fetch(url, tmp_path / "x", what="x") == SHA256
        assert [r for *_, r in server.requests] == [None]
    assert names(tmp_path) == ["x"]


# Servers that send more than they should


class Endless:
    """A server that answers every request with these headers, and then bytes without end.

    Attributes:
        sent: bytes that it got rid of.
    """

    def __init__(self, headers: str, status: str = "200 OK") -> None:
        self.head = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n".encode()
        self.sent = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/weights.bin"

    def __enter__(self) -> Endless:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        chunked = b"chunked" in self.head
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n" if chunked else b"x" * 0x10000
        try:
            with connection:
                if not connection.recv(65536):
                    return  # one that only looks whether somebody is there
                connection.sendall(self.head)
                while self.sent < 1 << 30:
                    connection.sendall(piece)
                    self.sent += 0x10000
        except OSError:
            pass


@pytest.fixture(params=["Connection: close", "Transfer-Encoding: chunked", "Content-Length: 999999999999999"])
def endless(request: pytest.FixtureRequest) -> Iterator[Endless]:
    with Endless(request.param) as server:
        yield server


@pytest.mark.parametrize("bound", [{"size": 500_000}, {"most": 500_000}])
def test_a_download_stops_at_the_size(tmp_path: Path, endless: Endless, bound: dict[str, int]) -> None:
    with pytest.raises(ContentError, match=r"500000"):
        fetch(endless.url, tmp_path / "x", what="x", **bound)
    assert endless.sent < 50_000_000  # what the system's buffers took
    assert names(tmp_path) == []


def test_the_networks_size_bounds_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the publisher's size is not known. The network has 0.2 million numbers, or fewer."""
    from slowfast_zoo.weights import source

    record = upstream("http://127.0.0.1/weights.bin")
    numbers = sum(p.numel() for p in sfz.create_model(BUNDLED).state_dict().values())
    assert 16 * numbers < source._most_bytes(record) < 64 * numbers + (100 << 20)
    monkeypatch.setattr(source, "_most_bytes", lambda _: 400_000)
    with Endless("Connection: close") as server:
        with pytest.raises(WeightsError, match="more than the 400000 bytes"):
            find_weights(upstream(server.url), tmp_path)
        assert server.sent < 50_000_000
    assert names(tmp_path / "slowfast_zoo") == [".slowfast_tiny_4x8.elsewhere.lock"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200 OK", "Content-Length: " + "9" * 5000),
        ("206 Partial Content", f"Content-Range: bytes {'9' * 5000}-/{'9' * 5000}\r\nContent-Length: 10"),
        ("200 OK", "Content-Length: -5"),
        ("503 \x1b[31mred" + "!" * 3000, "Content-Length: 0"),
        ("200 OK", "X: " + "x" * 100_000),
    ],
)
def test_what_servers_say_is_bounded(tmp_path: Path, status: str, headers: str) -> None:
    with Endless(headers, status) as server:
        with pytest.raises(WeightsError) as caught:
            fetch(server.url, tmp_path / "x", what="x", size=300_000)
        assert server.sent < 50_000_000
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()
    assert names(tmp_path) == []


def test_more_than_is_missing(tmp_path: Path) -> None:
    """A server that goes on with a part, and then does not end."""
    with CdnServer({"weights.bin": CdnFile(CONTENT, drop=100_000, ranges=False)}) as server:
        with pytest.raises(WeightsError, match="100000 bytes have arrived"):
            fetch(f"{server.url}/weights.bin", tmp_path / "x", what="x")
        port = server.url.rpartition(":")[2]
    assert json.loads(next(tmp_path.glob("*.part/.origin")).read_text())["total"] == len(CONTENT)
    head = 'Content-Range: bytes 100000-299999/300000\r\nETag: "1"\r\nTransfer-Encoding: chunked'
    with Endless(head, "206 Partial Content") as endless:
        endless._socket.close()
        endless._socket = socket.create_server(("127.0.0.1", int(port)))
        endless.__enter__()
        with pytest.raises(WeightsError):
            fetch(f"http://127.0.0.1:{port}/weights.bin", tmp_path / "x", what="x", checksum=Checksum("sha256", SHA256))
        assert endless.sent < 50_000_000
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", "bytes in 0.2 seconds is all that comes"),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", "bytes in 0.2 seconds is all that comes"),
        ("", "no answer within 0.4 seconds"),
    ],
)
def test_servers_that_drip(tmp_path: Path, head: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time, and all of them never."""
    monkeypatch.setattr(download, "_READ_TIMEOUT", 0.2)

    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if connection.recv(65536):
                connection.sendall(head.encode())
                for byte in ("" if head else "HTTP/1.1 200 OK\r\nX: ").encode() + b"x" * 400:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(WeightsError, match=says):
            fetch(f"http://127.0.0.1:{server.getsockname()[1]}/weights.bin", tmp_path / "x", what="x")
        server.shutdown(socket.SHUT_RDWR)


def test_a_cache_that_is_removed_meanwhile(tmp_path: Path) -> None:
    file = CdnFile(CONTENT, pause=0.1)
    with CdnServer({"weights.bin": file}) as server:
        told: list[Exception] = []

        def run() -> None:
            try:
                fetch(f"{server.url}/weights.bin", tmp_path / "cache" / "x", what="x")
            except WeightsError as error:
                told.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        while not any(part.stat().st_size for part in tmp_path.glob("cache/*.part/weights.bin")):
            time.sleep(0.005)
        shutil.rmtree(tmp_path / "cache")
        thread.join()
    assert [str(error).isprintable() and "cannot write x in" in str(error) for error in told] == [True]


def test_a_note_of_the_cache_that_is_damaged(tmp_path: Path) -> None:
    """The file is downloaded anew, whatever stands in the note beside it."""
    content = find_weights(records()[BUNDLED]).read_bytes()
    with CdnServer({"weights.bin": CdnFile(content)}) as server:
        record = upstream(f"{server.url}/weights.bin")
        path = find_weights(record, tmp_path, progress=False)
        note = json.loads(path.with_suffix(".json").read_text())
        for wrong in ({"sha256": 3}, {"sha256": "\ud800"}, {"bytes": "9"}, {"bytes": None}, {"source_sha256": [1]}):
            path.with_suffix(".json").write_text(json.dumps({**note, **wrong}))
            asked = server.count()
            assert find_weights(record, tmp_path, progress=False) == path
            assert server.count() > asked
            assert json.loads(path.with_suffix(".json").read_text()) == note
