"""Where weights come from: downloads that break, a Hub that misbehaves, the cache, and the order of it all.

The servers are real ones, on this machine. Where the environment matters, which the Hub's client reads when it is
imported, the calls are made in a process of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import cached_assets_path, constants
from servers import COMMIT, CdnFile, CdnServer, HubServer, Repo, direct

import slowfast_zoo as sfz
from slowfast_zoo.errors import WeightsError
from slowfast_zoo.storage import download
from slowfast_zoo.storage.cache import ContentError, DiskError, cache_folder
from slowfast_zoo.storage.download import Checksum
from slowfast_zoo.utils.files import file_hash
from slowfast_zoo.weights import WeightsRecord, checkpoint, find_weights, records, source

ROOT = Path(__file__).resolve().parents[2]
CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(250_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BUNDLED = "slowfast_tiny_4x8.motion"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    direct(monkeypatch, 0.4)


@contextlib.contextmanager
def cdn(**fields: Any) -> Iterator[tuple[CdnServer, CdnFile, str]]:
    """A server with one file, and its address."""
    file = CdnFile(**{"content": CONTENT, **fields})
    with CdnServer({"weights.bin": file}) as server:
        yield server, file, f"{server.url}/weights.bin"


def fetch(url: str, target: Path, **kwargs: Any) -> str:
    """Downloads to a place of its own; gives the SHA-256."""
    with download.download(url, target.parent, **kwargs) as file:
        file.replace(target)
    return file_hash(target)


def leave_part(url: str, folder: Path, content: bytes) -> download._Download:
    """What a process that was killed left of the file with the ETag "1"."""
    left = download._Download(url, folder, "x", None, None)
    left.part.mkdir(parents=True)
    left.restart('"1"', len(CONTENT))
    left.file.write_bytes(content)
    return left


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def upstream(url: str | None, name: str = "slowfast_tiny_4x8.elsewhere", **fields: Any) -> WeightsRecord:
    """A record of weights that only their publisher has."""
    source = {"project": "?", "name": "?", "config": None, "url": url, "layout": None, "hash": None, "bytes": None}
    empty = {"file": None, "sha256": None, "bytes": None, "source": source if url else None}
    return dataclasses.replace(records()[BUNDLED], name=name, **{**empty, **fields})


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A converter in place of the real one; what it was given."""
    given: list[Path] = []

    def convert(path: Path, record: WeightsRecord) -> dict[str, torch.Tensor]:
        given.append(path)
        return {"x": torch.frombuffer(bytearray(path.read_bytes()[:1000]), dtype=torch.uint8)}

    monkeypatch.setattr(checkpoint, "convert_file", convert)
    return given


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Downloads


def test_download(tmp_path: Path) -> None:
    with cdn() as (server, _, url):
        target = tmp_path / "new" / "folder" / "weights.bin"
        assert fetch(url, target, what="x", size=len(CONTENT), checksum=Checksum("sha256", SHA256)) == SHA256
        assert target.read_bytes() == CONTENT
        assert names(target.parent) == ["weights.bin"]
        assert server.count() == 1
        # The content, not the name, decides; what was there before is replaced.
        target.write_bytes(b"old")
        fetch(f"{url}?a=1", target, what="x")
        assert target.read_bytes() == CONTENT
    fetch(target.as_uri(), tmp_path / "copy", what="x", size=len(CONTENT))
    assert (tmp_path / "copy").read_bytes() == CONTENT


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5"])
@pytest.mark.parametrize("digits", [8, None])
def test_published_hashes(algorithm: str, digits: int | None, tmp_path: Path) -> None:
    digest = hashlib.new(algorithm, CONTENT).hexdigest()[:digits]
    with cdn() as (_, _, url):
        fetch(url, tmp_path / "x", what="x", checksum=Checksum(algorithm, digest.upper()))
        wrong = ("0" if digest[0] != "0" else "1") + digest[1:]
        with pytest.raises(ContentError, match=f"{algorithm} {digest}.* instead of {wrong}"):
            fetch(url, tmp_path / "y", what="x", checksum=Checksum(algorithm, wrong))
    assert names(tmp_path) == ["x"]


def test_dropped_connections_are_resumed(tmp_path: Path) -> None:
    with cdn(drop=80_000) as (server, _, url):
        fetch(url, tmp_path / "x", what="x")
        assert [r for *_, r in server.requests] == [None, "bytes=80000-", "bytes=160000-", "bytes=240000-"]
    with cdn(drop=80_000, times=2, etag=None, modified="Wed, 25 Nov 2020 03:00:00 GMT") as (server, _, url):
        fetch(url, tmp_path / "y", what="x")
        assert [r for *_, r in server.requests] == [None, "bytes=80000-", "bytes=160000-"]
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == CONTENT


def test_a_stalled_connection_is_resumed(tmp_path: Path) -> None:
    with cdn(stall=100_000, times=1) as (server, _, url):
        fetch(url, tmp_path / "x", what="x")
        assert [r for *_, r in server.requests] == [None, "bytes=100000-"]
    assert (tmp_path / "x").read_bytes() == CONTENT


@pytest.mark.parametrize("fields", [{"ranges": False}, {"etag": None}, {"etag": 'W/"1"'}])
def test_what_cannot_be_resumed_starts_anew(fields: dict[str, Any], tmp_path: Path) -> None:
    with cdn(drop=100_000, times=2, **fields) as (server, _, url):
        fetch(url, tmp_path / "x", what="x")
        assert server.count() == 3
    assert (tmp_path / "x").read_bytes() == CONTENT
    with cdn(drop=100_000, **fields) as (server, _, url):
        with pytest.raises(WeightsError, match="closed after 100000 of 300000 bytes"):
            fetch(url, tmp_path / "y", what="x")
        assert server.count() == 1 + download._FAILURES


@contextlib.contextmanager
def half_done(tmp_path: Path) -> Iterator[tuple[CdnServer, CdnFile, str]]:
    """A server, after a download that broke at a third."""
    with cdn(drop=100_000, ranges=False) as (server, file, url):
        with pytest.raises(WeightsError, match="100000 bytes have arrived, from which the next call goes on"):
            fetch(url, tmp_path / "x", what="x")
        assert len(names(tmp_path)) == 1
        file.ranges, file.times = True, 0
        server.requests.clear()
        yield server, file, url


def test_the_next_call_goes_on(tmp_path: Path) -> None:
    with half_done(tmp_path) as (server, _, url):
        fetch(url, tmp_path / "elsewhere.bin", what="x")
        assert [r for *_, r in server.requests] == ["bytes=100000-"]
    assert names(tmp_path) == ["elsewhere.bin"]
    assert (tmp_path / "elsewhere.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("content", [OTHER, OTHER[:90_000]])
def test_a_file_that_changed_starts_anew(condition: bool, content: bytes, tmp_path: Path) -> None:
    """Also where the server does not mind If-Range, and where the new file is shorter than what there is of the old."""
    with half_done(tmp_path) as (server, file, url):
        file.content, file.etag, file.condition = content, '"2"', condition
        fetch(url, tmp_path / "x", what="x")
        assert server.requests[0][2] == "bytes=100000-"
        assert server.count() == (1 if condition else 2)
    assert (tmp_path / "x").read_bytes() == content
    assert names(tmp_path) == ["x"]


def test_an_interrupted_download_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def write(file: Any, chunk: bytes) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(file.write(chunk))

    with cdn(pause=0.02) as (server, _, url):
        with monkeypatch.context() as patch:
            patch.setattr(download, "_write", write)
            with pytest.raises(KeyboardInterrupt):
                fetch(url, tmp_path / "x", what="x")
        assert written[0] < len(CONTENT)
        fetch(url, tmp_path / "x", what="x")
        assert [r for *_, r in server.requests] == [None, f"bytes={written[0]}-"]
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert names(tmp_path) == ["x"]


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    with cdn() as (server, _, url):
        leave_part(url, tmp_path, CONTENT[:70_000])
        fetch(url, tmp_path / "x", what="x")
        assert server.requests[-1][2] == "bytes=70000-"
        assert names(tmp_path) == ["x"]
        # Killed when all had arrived.
        leave_part(url, tmp_path, CONTENT)
        server.requests.clear()
        fetch(url, tmp_path / "y", what="x", checksum=Checksum("sha256", SHA256))
        assert server.count() == 0
    assert names(tmp_path) == ["x", "y"]


@pytest.mark.parametrize(
    ("status", "says"), [(404, "no longer there"), (410, "no longer there"), (403, "refuses access"), (400, "HTTP 400")]
)
def test_refusals_fail_at_once(status: int, says: str, tmp_path: Path) -> None:
    with cdn(status=status) as (server, _, url), pytest.raises(WeightsError, match=says) as caught:
        fetch(url, tmp_path / "x", what="the weights")
    assert server.count() == 1
    assert url in str(caught.value) and "the weights" in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int, tmp_path: Path) -> None:
    with cdn(status=status, times=2) as (server, _, url):
        fetch(url, tmp_path / "x", what="x")
        assert server.count() == 3
    with cdn(status=status) as (server, _, url):
        with pytest.raises(WeightsError, match=f"HTTP {status}"):
            fetch(url, tmp_path / "y", what="x")
        assert server.count() == download._FAILURES
    assert names(tmp_path) == ["x"]


def test_wrong_content(tmp_path: Path) -> None:
    right = Checksum("sha256", SHA256[:16])
    with cdn(wrong=True, times=1) as (server, _, url):
        fetch(url, tmp_path / "x", what="x", checksum=right)
        assert [r for *_, r in server.requests] == [None, None]
    with cdn(wrong=True) as (server, _, url):
        with pytest.raises(
            ContentError, match=rf"sha256 [0-9a-f]{{64}} instead of {SHA256[:16]}\. It was downloaded twice"
        ):
            fetch(url, tmp_path / "y", what="x", checksum=right)
        assert server.count() == 2
        with pytest.raises(ContentError, match="300000 bytes instead of 300001"):
            fetch(url, tmp_path / "y", what="x", size=300_001)
        assert server.count() == 3  # its length is known before
    page = b"<html>Please log in to the guest network.</html>"
    with cdn(html=page) as (server, _, url):
        with pytest.raises(WeightsError, match="a web page came instead of the file"):
            fetch(url, tmp_path / "y", what="x")
        assert server.count() == 1
    assert names(tmp_path) == ["x"]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("another try"))
    for url in (f"{closed_port()}/x", "http://nowhere.invalid/x", "https://nowhere.invalid/x"):
        with pytest.raises(WeightsError, match="cannot be reached"):
            fetch(url, tmp_path / "folder" / "x", what="x")
    monkeypatch.setattr(download, "_CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: threading.Event().wait(1) or [])
    with pytest.raises(WeightsError, match="no answer within 0.2 seconds"):
        fetch("http://localhost:1/x", tmp_path / "folder" / "x", what="x")
    assert names(tmp_path) == []


def test_behind_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with CdnServer({"http://nowhere.invalid/x": CdnFile(CONTENT)}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        fetch("http://nowhere.invalid/x", tmp_path / "x", what="x")
    assert (tmp_path / "x").read_bytes() == CONTENT
    with pytest.raises(WeightsError, match="refused"):  # now nobody listens there
        fetch("http://nowhere.invalid/x", tmp_path / "y", what="x")
    assert names(tmp_path) == ["x"]


def test_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with cdn() as (server, _, url), pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        fetch(url, tmp_path / "x", what="x")
    assert server.count() == 0
    (tmp_path / "y").write_bytes(CONTENT)
    fetch((tmp_path / "y").as_uri(), tmp_path / "x", what="x")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    with cdn(pause=0.15) as (_, _, url):
        for progress in (True, False):
            terminal = Terminal()
            monkeypatch.setattr(sys, "stderr", terminal)
            fetch(url, tmp_path / "x", what="the weights", progress=progress)
            shown[progress] = terminal.getvalue()
    assert "the weights" in shown[True] and "/293k" in shown[True]
    assert shown[False] == ""


# Disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; as good as any other root privilege for a test."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_file: Any, _chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "_write", write)
    with cdn() as (server, _, url), pytest.raises(DiskError, match="No space left.*cache_dir=.*HF_HOME") as caught:
        fetch(url, tmp_path / "x", what="the weights")
    assert server.count() == 1
    assert repr(str(tmp_path)) in str(caught.value)
    assert names(tmp_path) == []


def test_a_really_full_disk(small_disk: Path) -> None:
    with cdn(content=CONTENT * 10) as (_, _, url), pytest.raises(DiskError, match="No space left"):
        fetch(url, small_disk / "x", what="x")
    assert names(small_disk) == []


def test_a_read_only_disk(small_disk: Path, converter: list[Path]) -> None:
    with cdn() as (_, _, url):
        path = find_weights(upstream(url), small_disk)
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        assert find_weights(upstream(url), small_disk) == path  # what is there serves
        assert len(converter) == 1
        with pytest.raises(DiskError, match="Read-only"):
            find_weights(upstream(url, name="slowfast_tiny_4x8.other"), small_disk)
        with pytest.raises(DiskError, match="Read-only"):
            fetch(url, small_disk / "x", what="x")


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with cdn() as (_, _, url):
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(DiskError, match="cannot write the weights in .*file"):
                fetch(url, folder / "x", what="the weights")
    assert names(tmp_path) == ["file"]


# The publishers' files, converted


def test_converted_once(tmp_path: Path, converter: list[Path]) -> None:
    with cdn() as (server, _, url):
        record = upstream(url)
        path = find_weights(record, tmp_path)
        assert path == tmp_path / "slowfast_zoo" / f"{record.name}.safetensors"
        assert find_weights(record, str(tmp_path)) == path
        assert server.count() == len(converter) == 1
        assert converter[0].name == "weights.bin"
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar == {
        "name": record.name,
        "source_url": url,
        "source_sha256": SHA256,
        "source_bytes": len(CONTENT),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "slowfast_zoo": sfz.__version__,
        "conversion": 1,
    }
    # The original is gone.
    assert names(path.parent) == [
        ".slowfast_tiny_4x8.elsewhere.lock",
        ".verified",
        "slowfast_tiny_4x8.elsewhere.json",
        "slowfast_tiny_4x8.elsewhere.safetensors",
    ]


def test_a_cached_file_is_hashed_once(tmp_path: Path, converter: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from slowfast_zoo.storage import cache

    with cdn() as (server, _, url):
        record = upstream(url)
        path = find_weights(record, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(cache, "file_hash", lambda *_: pytest.fail("hashed again"))
            assert find_weights(record, tmp_path) == path
        # Touched, it is: but nothing is downloaded, since the content is the same.
        os.utime(path, (1, 1))
        assert find_weights(record, tmp_path) == path
        assert server.count() == 1
        shutil.rmtree(tmp_path / "slowfast_zoo" / ".verified")
        assert find_weights(record, tmp_path) == path
        assert server.count() == len(converter) == 1


def test_a_damaged_cached_file_is_made_again(
    tmp_path: Path, converter: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with cdn() as (server, _, url):
        record = upstream(url)
        path = find_weights(record, tmp_path)
        good = path.read_bytes()
        for damage in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b""):
            path.write_bytes(damage)
            assert find_weights(record, tmp_path).read_bytes() == good
        path.with_suffix(".json").write_text("{")
        assert find_weights(record, tmp_path).read_bytes() == good
        path.unlink()
        assert find_weights(record, tmp_path).read_bytes() == good
        assert server.count() == len(converter) == 6
        path.write_bytes(good[:-1])
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(WeightsError, match="(?s)is damaged.*HF_HUB_OFFLINE is set"):
            find_weights(record, tmp_path)
        assert server.count() == 6


def test_another_source_or_conversion_is_made_again(
    tmp_path: Path, converter: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with cdn() as (server, _, url):
        find_weights(upstream(url), tmp_path)
        find_weights(upstream(f"{url}?v2"), tmp_path)
        assert server.count() == 2
        monkeypatch.setattr(source, "_CONVERSION", 2)
        find_weights(upstream(f"{url}?v2"), tmp_path)
        find_weights(upstream(f"{url}?v2"), tmp_path)
        assert server.count() == len(converter) == 3


def test_the_manifests_hash_is_checked(tmp_path: Path, converter: list[Path]) -> None:
    published = {"algorithm": "md5", "prefix": "0123abcd", "from": "a table"}
    with cdn() as (_, _, url):
        record = upstream(url)
        assert record.source is not None
        with pytest.raises(WeightsError, match="md5 .* instead of 0123abcd"):
            find_weights(dataclasses.replace(record, source={**record.source, "hash": published}), tmp_path)
        with pytest.raises(WeightsError, match="300000 bytes instead of 3"):
            find_weights(dataclasses.replace(record, source={**record.source, "bytes": 3}), tmp_path)
    assert converter == []
    assert names(tmp_path / "slowfast_zoo") == [".slowfast_tiny_4x8.elsewhere.lock"]


def test_the_real_conversion(tmp_path: Path) -> None:
    bundled = records()[BUNDLED]
    content = find_weights(bundled).read_bytes()
    with cdn(content=content) as (_, file, url):
        model = sfz.create_model(bundled.architecture, num_classes=12)
        sfz.load_checkpoint(model, find_weights(upstream(url), tmp_path))
        expected = sfz.create_model(BUNDLED, pretrained=True).state_dict()
        assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
        file.content = CONTENT
        with pytest.raises(WeightsError, match=r"'slowfast_tiny_4x8.other' cannot be had.*(?s:.)*weights.bin"):
            find_weights(upstream(url, name="slowfast_tiny_4x8.other"), tmp_path)
    assert [n for n in names(tmp_path / "slowfast_zoo") if "other" in n or n.endswith(".part")] == [
        ".slowfast_tiny_4x8.other.lock"
    ]


def test_a_full_disk_at_the_conversion(tmp_path: Path, converter: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(source, "save_state_dict", save)
    with cdn() as (_, _, url), pytest.raises(DiskError, match=f"cannot write slowfast_tiny.*{tmp_path}.*No space left"):
        find_weights(upstream(url), tmp_path)
    assert names(tmp_path / "slowfast_zoo") == [".slowfast_tiny_4x8.elsewhere.lock"]


def test_what_is_cached(tmp_path: Path, converter: list[Path]) -> None:
    bundled = records()[BUNDLED]
    assert source.verify_cached(bundled) == [source.CachedFile(find_weights(bundled), None)]
    assert source.verify_cached(upstream(None), tmp_path) == []
    with cdn() as (server, _, url):
        record = upstream(url)
        assert source.verify_cached(record, tmp_path) == []
        assert names(tmp_path) == []
        path = find_weights(record, tmp_path)
        assert source.verify_cached(record, tmp_path) == [source.CachedFile(path, None)]
        # Damage that no time stamp tells of is what verifying is for.
        status, good = path.stat(), path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert find_weights(record, tmp_path) == path
        (found,) = source.verify_cached(record, tmp_path)
        assert found.path == path and found.problem and "SHA-256" in found.problem
        assert server.count() == 1
        assert find_weights(record, tmp_path).read_bytes() == good
        assert server.count() == 2


def at_once(url: str, folder: Path) -> list[Path | WeightsError]:
    """What four threads get that need the same weights at the same time."""
    outcomes: list[Path | WeightsError] = []

    def find() -> None:
        try:
            outcomes.append(find_weights(upstream(url), folder))
        except WeightsError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=find) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_at_once(tmp_path: Path, converter: list[Path]) -> None:
    with cdn(pause=0.02, drop=150_000, times=1) as (server, _, url):
        outcomes = at_once(url, tmp_path)
        assert outcomes == [outcomes[0]] * 4 and isinstance(outcomes[0], Path)
        assert [asked for *_, asked in server.requests] == [None, "bytes=150000-"] and len(converter) == 1
    assert not list(tmp_path.rglob("*.part"))


def test_at_once_without_a_lock(tmp_path: Path, converter: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems give the lock to everyone, on one machine at a time."""
    from huggingface_hub import utils

    monkeypatch.setattr(utils, "WeakFileLock", contextlib.nullcontext)
    monkeypatch.setattr(platform, "node", lambda: threading.current_thread().name)
    with cdn(pause=0.02) as (server, _, url):
        outcomes = at_once(url, tmp_path)
        assert outcomes == [outcomes[0]] * 4 and isinstance(outcomes[0], Path)
        assert server.count() == len(converter) == 4
        assert find_weights(upstream(url), tmp_path) == outcomes[0]
        assert server.count() == 4
    assert not list(tmp_path.rglob("*.part"))


def test_no_mixed_file(tmp_path: Path, converter: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the lock holds nobody back at all, what is made is right, or nothing is."""
    from huggingface_hub import utils

    monkeypatch.setattr(utils, "WeakFileLock", contextlib.nullcontext)
    with cdn(pause=0.02) as (_, file, url):
        outcomes = at_once(url, tmp_path)
        made = [path for path in outcomes if isinstance(path, Path)]
        for path in made:
            assert json.loads(path.with_suffix(".json").read_text())["source_sha256"] == SHA256
        file.pause = 0
        assert find_weights(upstream(url), tmp_path).read_bytes()


def test_nowhere(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"(?s)'slowfast_tiny_4x8.elsewhere' cannot be had.*no address.*slowfast-zoo down"
    ):
        find_weights(upstream(None), tmp_path)
    url = closed_port()
    with pytest.raises(WeightsError, match=f"(?s)cannot download slowfast_tiny.*{url}.*checkpoint_path="):
        find_weights(upstream(url), tmp_path)


def test_the_cache_folder() -> None:
    path = cache_folder()
    assert path == cached_assets_path("slowfast_zoo", "converted")
    assert cache_folder("~/x") == Path.home() / "x" / "slowfast_zoo"


# The Hub, with its real client, in processes of their own

SCRIPT = """
import dataclasses, hashlib, json, os, sys, time, urllib.request
from pathlib import Path
import slowfast_zoo
from slowfast_zoo.weights import WeightsRecord, find_weights, records, source
from slowfast_zoo.storage.hub import hub_file

options, cases = json.loads(sys.argv[1])
time.sleep = lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02))  # the client's pauses between its tries
if limit := options.get("file_size"):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

def requests():
    if os.environ["HF_ENDPOINT"] == options.get("closed"):
        return 0
    with urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/-/requests") as answer:
        return len(json.load(answer))

def call(name, arguments):
    if name == "hub_file":
        return hub_file(**arguments, what="the weights")
    os.environ["SLOWFAST_ZOO_HUB_NAMESPACE"] = arguments.pop("namespace", "")
    record = dataclasses.replace(records()["slowfast_tiny_4x8.motion"], **arguments)
    if name == "verify_cached":
        return "; ".join(f"{f.path}: {f.problem}" for f in source.verify_cached(record))
    return getattr(source, name)(record)

outcomes = {}
for case, (name, arguments) in cases.items():
    before = requests()
    try:
        outcome = {"error": None, "path": str(call(name, arguments))}
    except slowfast_zoo.WeightsError as error:
        outcome = {"error": f"{type(error).__name__}: {error}", "path": ""}
    outcomes[case] = {**outcome, "requests": requests() - before}
import huggingface_hub
print(json.dumps({"client": {"version": huggingface_hub.__version__}, **outcomes}))
"""
MAIN = {"filename": "model.safetensors"}
PINNED = {**MAIN, "revision": COMMIT}
REPOS = {
    "o/ok": "",
    "o/other": "",
    **{f"o/{f.replace(' ', '-')}": f for f in ("gated", "private", "unavailable", "truncated", "no etag", "no commit")},
    "o/corrupt": "corrupt",
    "o/slow": "slow",
}


class Client:
    """The environment of processes with the Hub's client, and a Hub for them."""

    def __init__(self, home: Path, path: Path | None = None) -> None:
        self.home = home
        self.path = path
        self.hub = HubServer(
            {name: Repo({"model.safetensors": CONTENT, "config.json": b"{}"}, fault) for name, fault in REPOS.items()}
        )
        self.hub.repos["o/corrupt-once"] = Repo({"model.safetensors": CONTENT}, "corrupt", times=1)

    def start(self, cases: dict[str, tuple[str, dict[str, Any]]], **options: Any) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "SLOWFAST_", "TRANSFORMERS_"))}
        environment = {
            **kept,
            "HF_HOME": str(self.home),
            "HF_ENDPOINT": options.get("closed") or self.hub.url,
            "HF_HUB_OFFLINE": "1" if options.get("offline") else "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join([*([str(self.path)] if self.path else []), str(ROOT)]),
        }
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps([options, cases])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, cases: dict[str, tuple[str, dict[str, Any]]], **options: Any) -> dict[str, dict[str, Any]]:
        return result(self.start(cases, **options))


def result(process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    outcomes: dict[str, dict[str, Any]] = json.loads(out.splitlines()[-1])
    return outcomes


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path / "home")
    with client.hub:
        yield client


def file(repo: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return "hub_file", {"repo": repo, **PINNED, **arguments}


def check_the_hub(client: Client) -> None:
    """All that a Hub can do, online, offline, and without a network."""
    outcomes = client.run(
        {
            "pinned": file("o/ok", sha256=SHA256),
            "again": file("o/ok", sha256=SHA256),
            "main": file("o/ok", revision=None),
            "small": file("o/ok", filename="config.json"),
            "slow": file("o/slow"),
            "no repo": file("o/nothing"),
            "no file": file("o/ok", filename="weights.safetensors"),
            "no revision": file("o/ok", revision="v2"),
            "gated": file("o/gated"),
            "private": file("o/private"),
            "bad name": file("o//x"),
            "unavailable": file("o/unavailable"),
            "no etag": file("o/no-etag"),
            "no commit": file("o/no-commit"),
            "truncated": file("o/truncated"),
            "corrupt": file("o/corrupt"),
            "corrupt once": file("o/corrupt-once"),
            "other hash": file("o/other", sha256="f" * 64),
        }
    )
    for case in ("pinned", "again", "main", "slow", "corrupt once"):
        assert outcomes[case]["error"] is None, outcomes[case]
        assert Path(outcomes[case]["path"]).read_bytes() == CONTENT
        assert Path(outcomes[case]["path"]).is_relative_to(client.home / "hub")
    assert Path(outcomes["small"]["path"]).read_bytes() == b"{}"
    assert outcomes["again"]["requests"] == 0
    assert outcomes["main"]["requests"] == 1
    assert client.hub.count("o/corrupt/", "GET") == client.hub.count("o/other/", "GET") == 2
    for case, says in {
        "no repo": "repository o/nothing, revision 0123.*no such repository, or it is private.*HF_TOKEN.*hf auth login",
        "no file": "weights.safetensors.: the repository has no such file",
        "no revision": "o/ok, revision v2.*has no revision 'v2'",
        "gated": f"access has to be asked for. Do that on {client.hub.url}/o/gated, then set HF_TOKEN",
        "private": "no such repository, or it is private",
        "bad name": "o//x.*HFValidationError",
        "unavailable": "HTTP 503",
        "no etag": "ETag",
        "no commit": "(?i)commit",
        "truncated": "Consistency check failed",
        "corrupt": f"ContentError: .*SHA-256 [0-9a-f]{{64}} instead of {SHA256}. It was downloaded twice",
        "other hash": f"ContentError: .*SHA-256 {SHA256} instead of ffff",
    }.items():
        error = outcomes[case]["error"]
        assert error and re.search(says, error), (case, error)
        assert "the weights" in error and "model.safetensors" in error.replace(
            "weights.safetensors", "model.safetensors"
        )
        assert len(error.splitlines()) == 1
    assert not list((client.home / "hub" / "models--o--corrupt").rglob("model.safetensors"))

    client.hub.requests.clear()
    damaged = Path(outcomes["slow"]["path"])
    damaged.write_bytes(OTHER)
    offline = client.run(
        {
            "pinned": file("o/ok", sha256=SHA256),
            "main": file("o/ok", revision=None),
            "cold": file("o/gated"),
            "damaged": file("o/slow"),
        },
        offline=True,
    )
    assert client.hub.count() == 0
    assert Path(offline["pinned"]["path"]) == Path(offline["main"]["path"]) == Path(outcomes["pinned"]["path"])
    assert re.search("o/gated.*not cached in .*hub', and HF_HUB_OFFLINE is set", offline["cold"]["error"])
    assert re.search("ContentError.*is damaged; it is downloaded anew where HF", offline["damaged"]["error"])

    unplugged = client.run(
        {"pinned": file("o/ok"), "main": file("o/ok", revision="main"), "cold": file("o/gated")}, closed=closed_port()
    )
    assert unplugged["pinned"]["path"] == unplugged["main"]["path"] == outcomes["pinned"]["path"]
    assert "127.0.0.1 cannot be reached" in unplugged["cold"]["error"]


def test_the_hub(client: Client) -> None:
    check_the_hub(client)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["==0.30.*", "==0.36.*", "==1.0.*", "<2"])
def test_older_hub_clients(version: str, tmp_path: Path) -> None:
    """Three HTTP libraries, and exceptions of many kinds."""
    packages = tmp_path / "packages"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--target",
        str(packages),
        f"huggingface_hub{version}",
    ]
    if subprocess.run(install, check=False).returncode:
        pytest.skip("pip cannot install it")
    client = Client(tmp_path / "home", packages)
    installed = next(packages.glob("huggingface_hub-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    with client.hub:
        assert client.run({})["client"]["version"] == installed
        check_the_hub(client)
        check_the_order(client)


def test_two_processes_at_once(client: Client) -> None:
    """For weights on the Hub, and for weights to be converted, which are then downloaded and converted once."""
    content = find_weights(records()[BUNDLED]).read_bytes()
    hub = {"repo": "o/slow", "file": "model.safetensors", "revision": COMMIT}
    with cdn(content=content, pause=0.1) as (server, _, url):
        fields = dataclasses.asdict(upstream(url))
        cases = {
            "upstream": ("find_weights", {k: fields[k] for k in ("name", "file", "sha256", "bytes", "source")}),
            "hub": ("find_weights", {"name": "a.b", "file": None, "sha256": SHA256, "hub": hub}),
        }
        first, second = [result(process) for process in [client.start(cases), client.start(cases)]]
        assert server.count() == 1
    for case in cases:
        assert first[case]["error"] is second[case]["error"] is None
        assert first[case]["path"] == second[case]["path"]
    assert not list(client.home.rglob("*.part")) and not list(client.home.rglob("*.incomplete"))


def check_the_order(client: Client) -> None:
    """The package, the cache of converted files, the Hub, the publisher."""
    content = find_weights(records()[BUNDLED]).read_bytes()
    client.hub.repos["me/slowfast_tiny_4x8.four"] = Repo({"model.safetensors": OTHER})
    with cdn(content=content) as (server, _, url):

        def find(name: str, repo: str, call: str = "find_weights", **fields: Any) -> tuple[str, dict[str, Any]]:
            hub = {"repo": repo, "file": "model.safetensors", "revision": COMMIT}
            record = upstream(fields.pop("url", url), hub=hub, sha256=SHA256)
            values = {key: getattr(record, key) for key in ("file", "hub", "sha256", "source")}
            return call, {**values, "name": f"slowfast_tiny_4x8.{name}", **fields}

        bundled: dict[str, Any] = {"file": records()[BUNDLED].file, "sha256": records()[BUNDLED].sha256}
        outcomes = client.run(
            {
                "bundle": find("motion", "o/ok", **bundled),
                "hub": find("one", "o/ok"),
                "upstream": find("two", "o/nothing"),
                "cache": find("two", "o/ok"),
                "wrong": find("three", "o/corrupt"),
                "namespace": find("four", "o/ok", namespace="me"),
                "own namespace": find("one", "o/ok", namespace="o"),
                "verified": find("one", "o/ok", "verify_cached"),
                "nowhere": find("five", "o/gated", url=f"{url}x"),
            }
        )
        assert server.count("/weights.bin", "GET") == 2  # for "upstream", and in vain for "nowhere"
    del outcomes["client"]
    paths = {case: outcome["path"] for case, outcome in outcomes.items()}
    assert {case for case, path in paths.items() if not path} == {"wrong", "nowhere"}
    assert "bundled" in paths["bundle"]
    assert Path(paths["hub"]).is_relative_to(client.home / "hub" / "models--o--ok")
    assert paths["own namespace"] == paths["hub"]
    assert paths["verified"] == f"{paths['hub']}: None"
    assert Path(paths["upstream"]).is_relative_to(client.home / "assets" / "slowfast_zoo")
    assert paths["cache"] == paths["upstream"]
    assert Path(paths["namespace"]).read_bytes() == OTHER
    assert [outcomes[case]["requests"] for case in ("bundle", "cache", "own namespace", "verified")] == [0] * 4
    assert outcomes["wrong"]["error"].startswith("ContentError")
    first, *tried, advice = outcomes["nowhere"]["error"].splitlines()
    assert first == "WeightsError: the weights 'slowfast_tiny_4x8.five' cannot be had:"
    assert ["access has to be asked for" in tried[0], "no longer there" in tried[1], len(tried)] == [True, True, 2]
    assert "slowfast-zoo download slowfast_tiny_4x8.five" in advice and "checkpoint_path=" in advice


def test_the_order(client: Client) -> None:
    check_the_order(client)


def test_the_hub_on_bad_disks(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("resource")  # not on Windows
    (tmp_path / "file").touch()
    outcomes = client.run(
        {
            "too large": file("o/ok"),
            "small": file("o/ok", filename="config.json"),
            "no folder": file("o/ok", cache_dir=str(tmp_path / "file" / "x")),
            "other folder": file("o/ok", filename="config.json", cache_dir=str(tmp_path / "other")),
        },
        file_size=100_000,
    )
    assert re.search(
        f"DiskError: cannot write the weights in '{client.home}/hub': File too", outcomes["too large"]["error"]
    )
    assert re.search(
        f"DiskError: cannot write the weights in '{tmp_path}/file/x': Not a", outcomes["no folder"]["error"]
    )
    assert outcomes["small"]["error"] is outcomes["other folder"]["error"] is None
    assert Path(outcomes["other folder"]["path"]).is_relative_to(tmp_path / "other")


def test_the_hub_on_a_full_and_read_only_disk(client: Client, small_disk: Path) -> None:
    client.hub.repos["o/large"] = Repo({"model.safetensors": CONTENT * 10})
    large = client.run({"large": file("o/large", cache_dir=str(small_disk))})["large"]
    assert re.search(f"DiskError: cannot write the weights in '{small_disk}': No space", large["error"])
    for part in small_disk.rglob("*.incomplete"):  # clients before 1.0 keep it, to go on from it
        part.unlink()
    full = client.run({"ok": file("o/ok", cache_dir=str(small_disk))})
    assert full["ok"]["error"] is None
    shutil.rmtree(small_disk / "slowfast_zoo")  # where it is noted that the file is verified
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    read_only = client.run(
        {
            "ok": file("o/ok", cache_dir=str(small_disk)),
            "main": file("o/ok", revision=None, cache_dir=str(small_disk)),
            "new": file("o/other", cache_dir=str(small_disk)),
        }
    )
    assert read_only["ok"]["path"] == full["ok"]["path"]
    assert re.search(f"DiskError: cannot write the weights in '{small_disk}': Read-only", read_only["new"]["error"])
