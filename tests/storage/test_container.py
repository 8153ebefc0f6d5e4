"""read_container: real files of every container, and files made to run code, to fill the memory or to be damaged."""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from benchmarks.fuzz_checkpoints import RESULTS, Python2Pickler, valid_files
from slowfast_zoo.errors import WeightsError
from slowfast_zoo.storage.container import read_container
from slowfast_zoo.storage.pickled import Unread

CODES = ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2"]
HUGE = 2**32  # claimed in files of some kB
MAGIC = 0x1950A86A20F9469CFC6C
FLOATS = np.arange(4, dtype="<f4").tobytes()
RECONSTRUCT = np.empty(0).__reduce__()[0]
REBUILD = torch._utils._rebuild_tensor_v2
DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


class Stored:
    """Pickles as one of torch's references to a storage."""

    def __init__(self, *identity: Any) -> None:
        self.identity = identity


class TorchPickler(Python2Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.identity if isinstance(value, Stored) else None


def python2(value: Any) -> bytes:
    """A pickle as Python 2 and the numpy and torch of its time write it."""
    file = io.BytesIO()
    TorchPickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def torch_zip(data: bytes | Any, **records: bytes) -> bytes:
    """A torch archive around any pickle; records are storages by key."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data if isinstance(data, bytes) else python2(data))
        archive.writestr("archive/byteorder", "little")
        for key, content in records.items():
            archive.writestr(f"archive/data/{key}", content)
    return file.getvalue()


def torch_older(data: bytes | Any, **storages: bytes) -> bytes:
    """A file of torch's older kind around any pickle; storages are of float32."""
    parts = [python2(part) for part in (MAGIC, 1001, {"little_endian": True})]
    parts += [data if isinstance(data, bytes) else python2(data), python2(list(storages))]
    return b"".join(parts) + b"".join(struct.pack("<q", len(c) // 4) + c for c in storages.values())


def stored(count: int = 4, key: str = "k", storage: Any = torch.FloatStorage) -> Stored:
    return Stored("storage", storage, key, "cpu", count)


def tensor(storage: Stored, size: Any = (4,), stride: Any = (1,), offset: Any = 0) -> Call:
    """Torch's pickle of a tensor."""
    return Call(REBUILD, storage, offset, size, stride, False, OrderedDict())


def array(shape: Any, data: Any, code: str = "f4", state: Any = (3, "<", None, None, None, -1, -1, 0)) -> Call:
    """Numpy's pickle of an array; ``state`` is its dtype's."""
    return Call(
        RECONSTRUCT,
        np.ndarray,
        (0,),
        b"b",
        state=(1, shape, Call(np.dtype, code, False, True, state=state), False, data),
    )


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def read(folder: Path, content: bytes) -> Any:
    path = folder / "checkpoint.txt"  # a name says nothing
    path.write_bytes(content)
    return read_container(path)


def refused(folder: Path, content: bytes) -> str:
    with pytest.raises(WeightsError) as caught:
        read(folder, content)
    message = str(caught.value)
    assert str(folder / "checkpoint.txt") in message
    assert "\n" not in message and len(message) < 600
    return message


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        expected = torch.from_numpy(np.array(expected.astype(expected.dtype.newbyteorder("="))))
    if isinstance(expected, torch.Tensor):
        assert type(found) is torch.Tensor and found.device.type == "cpu" and not found.requires_grad
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tolist() == expected.tolist()
    elif isinstance(expected, dict):
        assert type(found) is dict
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(found) is (tuple if isinstance(expected, tuple) else list)
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours, theirs)
    else:
        assert type(found) is type(expected)
        assert found == expected


def training_checkpoint() -> dict[str, Any]:
    """All that real checkpoints have in them."""
    model = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 1), torch.nn.BatchNorm3d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 2, 2, 2, 2)).sum().backward()
    optimizer.step()
    base = torch.arange(24.0)
    return {
        "model_state": model.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "parameters": dict(model.named_parameters()),
        "types": {str(dtype): torch.tensor([0, 1, 1, 0, 1]).to(dtype) for dtype in DTYPES},
        "views": [base, base[3:9], base.view(4, 6).T, base[::5]],
        "odd": [torch.tensor(3.5), torch.empty(0), torch.empty(2, 0, 3), torch.tensor(7)],
        "cfg": "NUM_GPUS: 8\ntrümmer: ✓\n",
        "numbers": (1, -1, 2**40, 10**30, 0.5, float("inf"), True, False, None),
        "more": {0: [], 1: (), 2: {}, 0.5: b"", None: b"\x00\xff", b"k": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
        "size": torch.Size([2, 3]),
        "counter": Counter({"a": 2}),
        "dtype": torch.float32,
        "numpy": [np.arange(6, dtype=np.float32).reshape(2, 3), np.float64(0.25), np.int64(3), np.bool_(True)],
    }


def expected_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    numbers = [0.25, 3, True]
    return {**checkpoint, "size": (2, 3), "numpy": [checkpoint["numpy"][0], *numbers], "counter": {"a": 2}}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("as_zip", [True, False])
def test_torch(tmp_path: Path, protocol: int, as_zip: bool) -> None:
    checkpoint = training_checkpoint()
    content = saved(checkpoint, pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip)
    found = read(tmp_path, content)
    assert_same(found, expected_of(checkpoint))
    views = found["views"]
    views[0][3] = 99  # views of one storage still are
    assert views[1][0] == 99
    assert (tmp_path / "checkpoint.txt").read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="a file in use cannot be overwritten")
def test_files_may_be_overwritten(tmp_path: Path) -> None:
    """What is in the middle of training is saved under the name that it was read from."""
    checkpoint = {"a": torch.randn(10_000), "b": torch.randn(3)}
    for content in (
        saved(checkpoint),
        saved(checkpoint, _use_new_zipfile_serialization=False),
        save_safetensors(checkpoint),
    ):
        found = read(tmp_path, content)
        (tmp_path / "checkpoint.txt").write_bytes(b"")
        assert_same(found, checkpoint)


def test_as_torch_reads_them(tmp_path: Path) -> None:
    checkpoint = {
        name: value for name, value in training_checkpoint().items() if name not in ("types", "numpy", "more")
    }
    for as_zip in (True, False):
        found = read(tmp_path, saved(checkpoint, _use_new_zipfile_serialization=as_zip))
        theirs = torch.load(tmp_path / "checkpoint.txt", weights_only=True)
        assert_same(found, {**theirs, "size": tuple(theirs["size"])})


def test_torch_archive_in_another_byte_order(tmp_path: Path) -> None:
    order = {"little": "big", "big": "little"}[sys.byteorder]
    for dtype in DTYPES[:4]:
        written = {"a": torch.arange(6).to(dtype)}
        source = zipfile.ZipFile(io.BytesIO(saved(written)))
        swapped = io.BytesIO()
        with zipfile.ZipFile(swapped, "w") as archive:
            for name in source.namelist():
                content = source.read(name)
                if "/data/" in name:
                    content = b"".join(
                        content[i : i + dtype.itemsize][::-1] for i in range(0, len(content), dtype.itemsize)
                    )
                archive.writestr(name, order if name.endswith("byteorder") else content)
        assert_same(read(tmp_path, swapped.getvalue()), written)


def test_safetensors(tmp_path: Path) -> None:
    state = {str(dtype): torch.arange(4).to(dtype).reshape(2, 2) for dtype in DTYPES}
    state |= {"scalar": torch.tensor(2.0), "empty": torch.empty(0, 3)}
    found = read(tmp_path, save_safetensors(state, {"format": "pt"}))
    assert_same(dict(sorted(found.items())), dict(sorted(state.items())))
    for length in range(632, 648, 8):  # as a length, 640 begins with a pickle's first two bytes
        found = read(tmp_path, save_safetensors({"a": torch.ones(2)}, {"pad": "x" * (length - 75)}))
        assert list(found) == ["a"]


def caffe2() -> dict[Any, Any]:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 2, 1, 5, 5)).astype("<f4")
    return {
        b"blobs": {
            b"conv1_w": weights,
            "t_conv1_w": np.asfortranarray(weights[..., 0]),
            b"res_conv1_bn_riv": np.arange(5, dtype="<f4"),
            b"model_iter": 12345,
            b"lr": np.float32(0.125),
            b"pred_b": np.zeros((), "<f8"),
            b"empty": np.empty((0, 3), "<f4"),
            b"big": np.arange(6, dtype=">f4").reshape(2, 3),
            b"big_fortran": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
            b"conv1_w_momentum": weights,
            **{b"type_" + code.encode(): np.array([[0, 1], [1, 0]], code) for code in CODES},
        },
        b"cfg": b"a: 1\nb: \xfc\n",
    }


def with_text_keys(value: Any) -> Any:
    """What Python 3 makes of Python 2's strings, and this library of numpy's scalars."""
    if isinstance(value, dict):
        return {with_text_keys(key): with_text_keys(part) for key, part in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value.decode("latin-1") if isinstance(value, bytes) else value


def test_caffe2(tmp_path: Path) -> None:
    content = python2(caffe2())
    assert b"numpy.core" in content and b"BINBYTES" not in content
    found = read(tmp_path, content)
    assert_same(found, with_text_keys(caffe2()))
    blobs = found["blobs"]
    assert all(blob.is_contiguous() for blob in blobs.values() if isinstance(blob, torch.Tensor))
    blobs["conv1_w"].zero_()  # memory of its own
    assert blobs["conv1_w_momentum"] is blobs["conv1_w"]  # the same array in the file
    assert blobs["t_conv1_w"].any()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickle(tmp_path: Path, protocol: int) -> None:
    arrays = {name: value for name, value in with_text_keys(caffe2())["blobs"].items() if isinstance(value, np.ndarray)}
    value = {"blobs": arrays, "list": [1, 2.5, None, True, -(2**40), "ü", b"\x00\xff", b""], "none": {}, "tuple": ()}
    assert_same(read(tmp_path, pickle.dumps(value, protocol)), value)
    ordered = OrderedDict(a=1, b=(2, 3))
    assert_same(read(tmp_path, pickle.dumps(ordered, protocol)), dict(ordered))
    assert_same(read(tmp_path, pickle.dumps([np.float32(0.5), np.uint64(2**63)], protocol)), [0.5, 2**63])


def test_bools_are_bools(tmp_path: Path) -> None:
    bools = tensor(stored(3, storage=torch.BoolStorage), (3,))
    assert_same(read(tmp_path, torch_zip(bools, k=b"\x00\x02\xff")), torch.tensor([False, True, True]))
    found = read(tmp_path, python2(array((3,), b"\x00\x02\xff", "b1", (3, "|", None, None, None, -1, -1, 0))))
    assert found.sum() == 2


def test_default_device_does_not_matter(tmp_path: Path) -> None:
    checkpoint = {"a": torch.ones(2), "b": torch.empty(0)}
    for content in (saved(checkpoint), save_safetensors(checkpoint), python2({"a": np.ones(2), "b": np.empty(0)})):
        with torch.device("meta"):
            found = read(tmp_path, content)
        assert {tensor.device.type for tensor in found.values()} == {"cpu"}


def test_numbers_at_odd_addresses(tmp_path: Path) -> None:
    for pad in range(9):
        for content in (
            torch_zip([tensor(stored()), "x" * pad], k=FLOATS),
            torch_older([tensor(stored()), "x" * pad], k=FLOATS),
        ):
            assert_same(read(tmp_path, content), [torch.arange(4.0), "x" * pad])


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.pkl"), io.BytesIO(b""))
    npz = io.BytesIO()
    np.savez(npz, a=np.ones(3))
    npy = io.BytesIO()
    np.save(npy, np.ones(3))
    cases = {
        b"": "an empty file",
        gzip.compress(python2(caffe2())): "is a gzip archive: unpack it",
        tar.getvalue(): "is a tar archive",
        b"<!DOCTYPE html>\n<html>": "a web page",
        b'\xef\xbb\xbf\n<?xml version="1.0"?><Error><Code>AccessDenied</Code>': "a web page or other XML",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00": "git lfs pull",
        b'{"error": "not found"}': 'begins with b\'{"error":',
        npy.getvalue(): "x93NUMPY",
        bytes(100): "no safetensors file, torch file or pickle",
        npz.getvalue(): "zip archive, but it is another kind",
    }
    for content, says in cases.items():
        assert says in refused(tmp_path, content)
    with pytest.raises(WeightsError, match="directory"):
        read_container(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint at '.*absent.pyth'"):
        read_container(tmp_path / "absent.pyth")


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    content = saved({"a": torch.zeros(1000)})
    source = zipfile.ZipFile(io.BytesIO(content))
    folder = source.namelist()[0].split("/")[0]

    def with_record(name: str, value: bytes) -> bytes:
        file = io.BytesIO(content)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, value)
        return file.getvalue()

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    assert "compressed or encrypted" in refused(tmp_path, packed.getvalue())
    assert "TorchScript" in refused(tmp_path, with_record(f"{folder}/constants.pkl", b""))
    assert "another kind" in refused(tmp_path, with_record("other/data.pkl", b""))
    assert "neither little nor big" in refused(tmp_path, content.replace(b"little", b"middle"))


def test_long_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives of more than 4 GB have their numbers elsewhere: a small one is written like that."""
    parts = io.BytesIO()
    names = [f"k{i}" for i in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 30)
        patch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
        with zipfile.ZipFile(parts, "w") as archive:
            archive.writestr("archive/data.pkl", python2([tensor(stored(12, key=name), (12,)) for name in names]))
            for index, name in enumerate(names):
                archive.writestr(f"archive/data/{name}", np.full(12, index, "<f4").tobytes())
    content = parts.getvalue()
    assert b"PK\6\6" in content and b"PK\6\7" in content
    assert_same(read(tmp_path, content), [torch.full((12,), float(index)) for index in range(5)])
    with zipfile.ZipFile(parts, "a") as archive:
        archive.comment = b"PK\5\6 " * 3
    refused(tmp_path, parts.getvalue())


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**28))
    return file.getvalue()


def one_place() -> bytes:
    """A torch archive whose many records are the same bytes, at an address that asks for copies."""
    names = [f"k{i}" for i in range(1000)]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", python2([tensor(stored(10**6, key=name)) for name in names]))
        archive.writestr("archive/data/k0", bytes(4 * 10**6))
        for name in names[1:]:
            record = copy.copy(archive.getinfo("archive/data/k0"))
            record.filename = f"archive/data/{name}"
            archive.filelist.append(record)
    return file.getvalue()


def arrays_of_one() -> bytes:
    data = bytes(10**6)
    return python2([array((10**6,), data, "u1") for _ in range(1000)])


def safetensors(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + FLOATS[:4]


def code(sentinel: Path) -> dict[str, bytes]:
    """Pickles that would create a file, by way of each instruction and of many functions."""
    touch, shell = f"open({str(sentinel)!r}, 'w').close()", f"touch {sentinel}"
    system, runs = Call(os.system, shell), Call(exec, touch)
    touch_2, shell_2, path_2 = (b"X" + struct.pack("<I", len(t)) + t.encode() for t in (touch, shell, str(sentinel)))
    return {
        "system": pickle.dumps(system, 2),
        "system, newer": pickle.dumps(system, 4),
        "system, text": f"cos\nsystem\n(S'{shell}'\ntR.".encode(),
        "system, text, in a dict": f"(dp0\nS'a'\ncposix\nsystem\n(S'{shell}'\ntRs.".encode(),
        "eval": pickle.dumps(Call(eval, touch), 3),
        "exec": pickle.dumps(runs, 0),
        "Python 2's eval": b"\x80\x02c__builtin__\neval\n" + touch_2 + b"\x85R.",
        "INST": f"(dp0\nS'a'\n(S'{shell}'\nios\nsystem\ns.".encode(),
        "OBJ": b"\x80\x02(cos\nsystem\n" + shell_2 + b"o.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n" + shell_2 + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + shell_2 + b"\x85}\x92.",
        "EXT": b"\x80\x02\x82\x01.",
        "PERSID": b"(dp0\nS'a'\nPos.system\ns.",
        "BINPERSID": torch_zip(b"\x80\x02cos\nsystem\nQ."),
        "numpy's runstring": pickle.dumps(Call(np.testing._private.utils.runstring, touch, {}), 2),  # type: ignore[attr-defined]
        "numpy.load": pickle.dumps(Call(np.load, str(sentinel), None, True), 2),
        "numpy.fromfile": b"\x80\x02cnumpy.core.multiarray\nfromfile\nU\x09/dev/zero\x85R.",
        "numpy.memmap": b"\x80\x02cnumpy\nmemmap\n(" + path_2 + b"U\x05uint8U\x02w+tR.",
        "getattr": pickle.dumps(Call(getattr, Call(__import__, "os"), "system"), 2),
        "torch's os": b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93" + shell_2 + b"\x85R.",
        "torch.load": pickle.dumps(Call(torch.load, str(sentinel)), 2),
        "torch.hub": b"\x80\x02ctorch.hub\nload\n(U\x01xU\x01ytR.",
        "a dtype's class": b"\x80\x04\x8c\x05torch\x8c\x11float32.__class__\x93.",
        "a string called": b"\x80\x02U\x09os.system" + shell_2 + b"\x85R.",
        "an admitted name as a string": b"\x80\x02U\x0bnumpy.dtypeU\x02f4\x85R.",
        "a constant called": b"\x80\x02ctorch\nFloatStorage\nK\x04\x85R.",
        "an array's state": python2(Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=runs)),
        "an array's data": python2(array((1,), runs)),
        "a dtype's state": python2(array((1,), FLOATS[:4], state=runs)),
        "array of objects": pickle.dumps(np.array([runs], dtype=object), 2),
        "array of objects, newer": pickle.dumps(np.array([runs], dtype=object), 5),
        "in lists and dicts": pickle.dumps({"model_state": [{"a": (1, {"b": runs})}]}, 2),
        "in torch's archive": saved({"model_state": [{"a": (1, {"b": runs})}]}),
        "in torch's older kind": saved({"a": [{"b": runs}]}, _use_new_zipfile_serialization=False),
        "beside weights": saved({"model_state": {"w": torch.ones(2)}, "args": runs}),
        "in what comes before": pickle.dumps(MAGIC, 2) + pickle.dumps(runs, 2) * 3,
        "in the storages' keys": torch_older({}).removesuffix(python2([])) + python2(runs),
        "in a tensor's hooks": torch_zip(Call(REBUILD, stored(), 0, (4,), (1,), False, runs), k=FLOATS),
        "in a parameter": torch_zip(Call(torch._utils._rebuild_parameter, runs, True, OrderedDict())),
        "in a dict's attributes": python2(Call(OrderedDict, state={"a": runs})),
    }


# Of the files of code() those whose code stands beside data, which is read without it.
BESIDE = (
    *("system, text, in a dict", "INST", "in lists and dicts", "in torch's archive", "in torch's older kind"),
    *("beside weights", "in a tensor's hooks", "in a dict's attributes"),
)


def test_nothing_is_run(tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    files = code(sentinel)
    for name, content in files.items():
        if name in BESIDE:
            read(tmp_path, content)
        else:
            message = refused(tmp_path, content)
            assert "damaged" not in message, f"{name}: {message}"
        assert not sentinel.exists(), name
    found = read(tmp_path, files["beside weights"])
    assert_same(found["model_state"], {"w": torch.ones(2)})
    assert isinstance(found["args"], Unread) and found["args"].name == "builtins.exec"
    assert_same(read(tmp_path, files["in a tensor's hooks"]), torch.arange(4.0))
    assert "could run code, the first of them 'posix.system'" in refused(tmp_path, files["system"])
    for name in ("exec", "OBJ", "in lists and dicts", "numpy's runstring"):  # they would
        pickle.loads(files[name])
        assert sentinel.exists(), name
        sentinel.unlink()


def bombs() -> dict[str, bytes]:
    """Files made to fill the memory, to overflow the stack, or to keep whoever reads them busy."""
    two = b"\x80\x02"
    tuples = b")" + b"\x85" * 200_000
    part = Stored("storage", torch.FloatStorage, "k", "cpu", 4, ("view", 0, 2))
    entry = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 300_000
    ends = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 60_000, 60_000, len(directory), 4, 0)
    short = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 47, 4, 0)
    whole = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, 300_000, 300_000, len(directory), 4)
    points = struct.pack("<IIQI", 0x07064B50, 0, 4 + len(directory), 1)
    return {
        "a directory of many records": b"PK\x03\x04" + directory + ends,
        "a directory behind a second end": b"PK\x03\x04" + directory + whole + points + short,
        "an end within the comment of an end": b"PK\x03\x04" + directory + ends[:-2] + b"\x16\0" + short,
        "an end in front of an end": b"PK\x03\x04" + directory + short + ends,
        "a header of 20 MB": (20 << 20).to_bytes(8, "little") + b'{"a":' + b" " * (20 << 20),
        "a million lists": two + b"]" * 10**6 + b"a" * 10**6 + b".",
        "lists": two + b"]" * 200_000 + b"a" * 199_999 + b".",
        "dicts": two + b"}K\x01" * 150_000 + b"}" + b"s" * 150_000 + b".",
        "tuples": two + tuples + b".",
        "tuples as a key": two + b"}" + tuples + b"Ns.",
        "tuples as an ordered dict's key": two + b"ccollections\nOrderedDict\n]" + tuples + b"N\x86a\x85R.",
        "tuples as a dtype": two + b"cnumpy\ndtype\n" + tuples + b"\x85R.",
        "tuples as a storage's key": two + b"(U\x07storagectorch\nFloatStorage\n" + tuples + b"U\x03cpuK\x04tQ.",
        "tuples as a name": b"\x80\x04" + tuples + b"\x8c\x01a\x93.",
        "tuples as a name in torch": b"\x80\x04\x8c\x05torch" + tuples + b"\x93.",
        "marks": two + b"(" * 500_000 + b".",
        "marks with tuples": two + b"(" * 200_000 + b"t" * 199_999 + b".",
        "tensors in tensors": two
        + b"ctorch._utils\n_rebuild_tensor\nq\x00"
        + b"h\x00(" * 90_000
        + b"N"
        + b"K\x00))tR" * 90_000
        + b".",
        "memo": two + b"}r\xff\xff\xff\xff.",
        "memo, text": b"(dp" + b"9" * 18 + b"\n" + b"0.",
        "memo, read": two + b"}j\xff\xff\xff\xff.",
        "doubling": two + b"]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(60)) + b".",
        "cycle": two + b"]q\x00h\x00a.",
        "cycle of dicts": two + b"}q\x00K\x01h\x00s.",
        "bytes of a string, again and again": b"".join(
            [two, b"(X", struct.pack("<I", 10**6), b"x" * 10**6, b"q\x00U\x06latin1q\x01c_codecs\nencode\nq\x02"]
            + [b"h\x02h\x00h\x01\x86R"] * 2000
            + [b"l."]
        ),
        "dicts of a list, again and again": b"".join(
            [two, b"(](", b"U\x01aN\x86" * 10**4, b"e\x85q\x00ccollections\nOrderedDict\nq\x01"]
            + [b"h\x01h\x00R"] * 10**5
            + [b"l."]
        ),
        "sizes, again and again": b"".join(
            [two, b"((", b"K\x01" * 10**4, b"tq\x00ctorch\nSize\nq\x01", b"h\x01h\x00\x85R" * 10**5, b"l."]
        ),
        "arrays of a string, again and again": arrays_of_one(),
        "shape": python2(array((HUGE, HUGE), FLOATS)),
        "first shape": python2(Call(RECONSTRUCT, np.ndarray, (HUGE,), b"b")),
        "no data": python2(array((HUGE // 4,), b"")),
        "many dimensions": python2(array((2**62,) * 10_000, FLOATS)),
        "64 dimensions": python2(array((2**62,) * 64, FLOATS)),
        "negative": python2(array((-1, -4), FLOATS)),
        "size of a type": python2(array((1,), FLOATS, f"f{HUGE}")),
        "strings": python2(array((1,), FLOATS[:4], "S4")),
        "objects": python2(array((1,), [None], "O8")),
        "records": python2(array((1,), FLOATS[:4], "V4", (3, "|", None, ("a",), {"a": ("f4", 0)}, 4, 1, 16))),
        "arrays of arrays": python2(array((1,), FLOATS[:4], state=(3, "<", (None, (HUGE,)), None, None, 4, 1, 0))),
        "a buffer": pickle.dumps(np.zeros(4, "f4"), 5).replace(b"K\x04\x85", b"J\0\0\0\x7f\x85"),
        "scalar": python2(Call(np.float32(1).__reduce__()[0], np.dtype("f4"), b"\0" * 400)),
        "BINSTRING": two + b"T\xff\xff\xff\x7fabc.",
        "BINUNICODE": two + b"X\xf0\xff\xff\xffabc.",
        "BINBYTES": two + b"B\xf0\xff\xff\xffabc.",
        **{f"instruction {o}": b"\x80\x05%c" % o + struct.pack("<Q", HUGE) + b"abc." for o in (0x8D, 0x8E, 0x95, 0x96)},
        "the largest BINBYTES8": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b"abc.",
        "LONG4": two + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
        "LONG4, negative": two + b"\x8b" + struct.pack("<i", -1) + b"abc.",
        "LONG4, whole": two + b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".",
        "LONG": b"(lp0\nL" + b"9" * 10**5 + b"L\na.",
        "bytearray": two + b"c__builtin__\nbytearray\nJ\0\0\0\x7f\x85R.",
        "bytes": two + b"c__builtin__\nbytes\nJ\0\0\0\x7f\x85R.",
        "torch.FloatTensor": two + b"ctorch\nFloatTensor\nJ\0\0\0\x7f\x85R.",
        "zip": zip_bomb(),
        "zip: bytearray": torch_zip(Call(bytearray, 2**31)),
        "zip: storage": torch_zip(tensor(stored(HUGE)), k=FLOATS),
        "zip: storage below 0": torch_zip(tensor(stored(-4)), k=FLOATS),
        "zip: storages in one place": one_place(),
        "zip: size": torch_zip(tensor(stored(), (HUGE,)), k=FLOATS),
        "zip: sizes": torch_zip(tensor(stored(), (2**62,) * 10_000, (1,) * 10_000), k=FLOATS),
        "zip: stride of 0": torch_zip(tensor(stored(), (HUGE,), (0,)), k=FLOATS),
        "zip: stride": torch_zip(tensor(stored(), (2, 2), (3, 1)), k=FLOATS),
        "zip: stride below 0": torch_zip(tensor(stored(), stride=(-1,), offset=3), k=FLOATS),
        "zip: offset": torch_zip(tensor(stored(), offset=1), k=FLOATS),
        "zip: offset below 0": torch_zip(tensor(stored(), offset=-1), k=FLOATS),
        "zip: no record": torch_zip(tensor(stored())),
        "zip: no such record": torch_zip(tensor(stored(key="../data.pkl/" + "x" * 10**4)), k=FLOATS),
        "zip: two types": torch_zip([tensor(stored()), tensor(stored(2, storage=torch.LongStorage))], k=FLOATS),
        "older: storage": torch_older(tensor(stored(HUGE)), k=FLOATS),
        "older: storage, both times": torch_older(tensor(stored(HUGE)), k=FLOATS).replace(
            struct.pack("<q", 4), struct.pack("<q", HUGE)
        ),
        "older: storage below 0": torch_older(tensor(stored(-4)), k=FLOATS).replace(
            struct.pack("<q", 4), struct.pack("<q", -4)
        ),
        "older: size": torch_older(tensor(stored(), (HUGE,)), k=FLOATS),
        "older: no storage": torch_older(tensor(stored())),
        "older: unknown storage": torch_older({}, k=FLOATS),
        "older: part of a storage": torch_older(tensor(part, (2,)), k=FLOATS),
        "safetensors: header": struct.pack("<Q", 2**31) + b'{"a":',
        "safetensors: nested": safetensors('{"a":' * 10**5),
        "safetensors: size": safetensors(f'{{"a":{{"dtype":"F32","shape":[{HUGE}],"data_offsets":[0,{4 * HUGE}]}}}}'),
        "safetensors: shape": safetensors(f'{{"a":{{"dtype":"F32","shape":[{HUGE}],"data_offsets":[0,4]}}}}'),
        "safetensors: overflow": safetensors(f'{{"a":{{"dtype":"F32","shape":[{HUGE},{HUGE}],"data_offsets":[0,0]}}}}'),
    }


READS_ALL = """
import json, os, resource, sys
from slowfast_zoo.errors import WeightsError
from slowfast_zoo.storage.container import read_container

def status(name):  # in MiB; ru_maxrss would begin with the memory of the parent
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forgets the peak of the imports
limit = int(status("VmSize") + 1024) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
told = {}
for name in sorted(os.listdir(sys.argv[1])):
    before = status("VmHWM")
    try:
        read_container(os.path.join(sys.argv[1], name))
        message = "was read"
    except WeightsError as error:
        message = str(error)
    told[name] = message, status("VmHWM") - before
print(json.dumps(told))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_memory_and_stack_hold(tmp_path: Path) -> None:
    files = bombs()
    names = {f"{index:03}": name for index, name in enumerate(files)}
    for index, name in names.items():
        (tmp_path / index).write_bytes(files[name])
    done = subprocess.run([sys.executable, "-c", READS_ALL, tmp_path], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told.keys() == names.keys()
    for index, (message, growth) in told.items():
        said = f"{names[index]}: {message}, {growth:.0f} MiB"
        if names[index] not in ("tuples as a key", "tuples as an ordered dict's key"):  # left out
            assert message.startswith(repr(str(tmp_path / index))) and "MemoryError" not in message, said
        assert growth < 300, said


CONTAINERS = valid_files()


@pytest.mark.parametrize("container", CONTAINERS)
def test_cut_short_anywhere(tmp_path: Path, container: str) -> None:
    content = CONTAINERS[container]
    read(tmp_path, content)
    for length in range(len(content)):
        refused(tmp_path, content[:length])


@pytest.mark.parametrize("container", CONTAINERS)
@settings(
    derandomize=True, deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_anywhere(tmp_path: Path, container: str, data: st.DataObject) -> None:
    content = bytearray(CONTAINERS[container])
    places = st.integers(0, len(content) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        content[place] = value
    with contextlib.suppress(WeightsError):
        read(tmp_path, bytes(content))


def test_recorded_fuzzing() -> None:
    result = json.loads(RESULTS.read_text())
    assert result["inputs"] >= 12_000 and result["counts"].keys() == CONTAINERS.keys() | {"index", "configuration"}
    assert result["anything_else"] == 0 and not result["failures"]
    assert result["peak_memory_growth_mib"] < 100
