"""What load_checkpoint makes of damaged and hostile files: either their data or a WeightsError, and nothing else.

Small files of each container are changed at random (bytes, cuts, insertions, pieces of one another, calls of functions
that would create a file, instructions of pickles in any order, long names, large numbers, deep nesting, second ends of
archives) and read: into memory, then as the weights of a network, which none of them is. So are the index of several
files and the configuration of a folder. They are read in fresh interpreters, so that a crash is counted like any other
failure, and with the same seed they are the same files. Needs Linux.

    python -m benchmarks.fuzz_checkpoints [--inputs 18000] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pickle
import pickletools
import platform
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "fuzz_checkpoints.json"
BATCH = 3000  # inputs of one interpreter
PLAIN = ("safetensors", "index", "configuration")  # no pickles
EXTREMES = [0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 2**40, 2**62, 2**63 - 1, 2**64 - 1]


class Python2Pickler(pickle._Pickler):  # the one written in Python, which can be changed
    """Writes bytes as Python 2 does its strings."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: bytes) -> None:
        short = len(value) < 256
        self.write(
            pickle.SHORT_BINSTRING + bytes([len(value)]) if short else pickle.BINSTRING + struct.pack("<i", len(value))
        )
        self.write(value)
        self.memoize(value)

    dispatch[bytes] = save_string


def python2(value: Any) -> bytes:
    """A pickle as Python 2 and the numpy of its time write it."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


def valid_files() -> dict[str, bytes]:
    """A small file of each container."""
    import numpy as np
    import torch
    from safetensors.torch import save

    tensors = {"a.weight": torch.ones(2, 2), "a.bias": torch.arange(3)}
    training = {
        "model_state": tensors,
        "epoch": 5,
        "cfg": "A: 1",
        "lr": [0.5, None, True],
        "half": torch.ones(2).half(),
    }
    arrays = {"a_w": np.ones((2, 2), "<f4"), "a_b": np.arange(3), "epoch": 5, "more": [1, "x", b"\xff", 0.5, None]}
    archive, older = io.BytesIO(), io.BytesIO()
    torch.save(training, archive)
    one = torch.arange(8.0)
    torch.save({"a": one[:4].view(2, 2), "b": [one[5], 0.5, "x"]}, older, _use_new_zipfile_serialization=False)
    blobs = {
        b"a_w": np.asfortranarray(np.ones((2, 2), ">f4")),
        "a_b": np.arange(3),
        b"lr": np.float32(1),
        b"model_iter": 5,
    }
    return {
        "safetensors": save(tensors, {"format": "pt"}),
        "torch archive": archive.getvalue(),
        # The key of a storage is its address, which is not the same twice.
        "torch older": re.sub(rb"X.\0\0\0\d{10,16}", b"X\x04\0\0\x001234", older.getvalue()),
        "caffe2 pickle": python2({b"blobs": blobs, b"cfg": b"x" * 300}),
        "pickle protocol 0": pickle.dumps(arrays, 0),
        "pickle protocol 5": pickle.dumps(arrays, 5),
    }


def texts() -> dict[str, bytes]:
    """Small files that are read beside checkpoints: an index of several, and the configuration of a folder."""
    import slowfast_zoo as sfz

    with tempfile.TemporaryDirectory() as folder:
        sfz.create_model("slow_r50_4x16", depths=(1, 1, 1, 1), width=4, num_classes=2).save_pretrained(folder)
        configuration = (Path(folder) / "config.json").read_bytes()
    index = json.dumps({"weight_map": {"a.weight": "part", "a.bias": "part"}}).encode()
    return {"index": index, "configuration": configuration}


def call(sentinel: Path, rng: random.Random) -> bytes:
    """Instructions that create the sentinel, in a pickle that is run."""
    code, shell = f"open({str(sentinel)!r}, 'w')".encode(), f"touch {sentinel}".encode()
    text = b"X" + struct.pack("<I", len(code)) + code
    return rng.choice(
        [
            b"cbuiltins\neval\n" + text + b"\x85R",
            b"c__builtin__\nexec\n" + text + b"\x85R",
            b"cposix\nsystem\n(S'" + shell + b"'\ntR",
            b"(S'" + shell + b"'\nios\nsystem\n",
            b"\x8c\x08builtins\x8c\x04eval\x93" + text + b"\x85R",
            b"cnumpy.testing._private.utils\nrunstring\n" + text + b"}\x86R",
        ]
    )


def instructions(rng: random.Random, sentinel: Path) -> bytes:
    """Any instructions, with arguments that often make sense."""
    names = [
        *(
            b"collections\nOrderedDict\n",
            b"numpy\ndtype\n",
            b"numpy\nndarray\n",
            b"numpy.core.multiarray\n_reconstruct\n",
        ),
        *(b"numpy.core.multiarray\nscalar\n", b"numpy._core.numeric\n_frombuffer\n", b"_codecs\nencode\n"),
        *(b"torch._utils\n_rebuild_tensor_v2\n", b"torch._utils\n_rebuild_tensor_v3\n", b"torch\nFloatStorage\n"),
        *(b"torch._utils\n_rebuild_parameter\n", b"torch\nSize\n", b"torch\nfloat16\n", b"os\nsystem\n"),
    ]
    out = [b"\x80" + bytes([rng.randrange(6)])]
    for _ in range(rng.randrange(1, 60)):
        out.append(code := rng.choice(pickletools.opcodes).code.encode("latin-1"))
        size = pickletools.code2op[code.decode("latin-1")].arg
        if rng.random() < 0.1:
            out.append(rng.randbytes(rng.randrange(9)))
        elif rng.random() < 0.02:
            out.append(call(sentinel, rng))
        elif code == b"c":
            out.append(rng.choice(names))
        elif size is None:
            pass
        elif size.n > 0:
            out.append(rng.choice(EXTREMES).to_bytes(8, "little")[: size.n])
        elif size.n == pickletools.UP_TO_NEWLINE:
            out.append(rng.choice([b"1\n", b"'storage'\n", b"'f4'\n", b"4294967295\n", b"x\n"]))
        else:  # bytes, counted by what comes first
            width = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT8U: 8}.get(size.n, 4)
            data = rng.choice([b"f4", b"storage", b"latin1", b"<", b"0", bytes(16)])
            out.append(rng.choice([len(data)] * 9 + [2**31]).to_bytes(8, "little")[:width] + data)
    return b"".join([*out, b"."])


def changed(name: str, files: dict[str, bytes], rng: random.Random, sentinel: Path) -> bytes:
    """A file of a container, changed in one to three ways."""
    content = bytearray(files[name])
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(content) + 1)
        to = min(len(content), at + rng.randrange(1, 65))
        way = rng.choice(
            [
                *("bytes", "bit", "cut", "insert", "delete", "repeat", "splice", "extreme", "call", "instructions"),
                *("name", "digits", "nesting", "end"),
            ]
        )
        if way == "bytes":
            for _ in range(rng.randrange(1, 9)):
                content[at : at + 1] = bytes([rng.randrange(256)])
                at = rng.randrange(len(content) + 1)
        elif way == "bit" and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif way == "cut":
            del content[at:]
        elif way == "insert":
            content[at:at] = rng.randbytes(rng.randrange(1, 65))
        elif way == "delete":
            del content[at:to]
        elif way == "repeat":
            content[at:at] = content[at:to] * rng.randrange(1, 20)
        elif way == "splice":
            other = files[rng.choice(list(files))]
            content[at:to] = other[rng.randrange(len(other)) :][: rng.choice([16, 256, 4096])]
        elif way == "extreme":
            width = rng.choice([1, 2, 4, 8])
            content[at : at + width] = rng.choice(EXTREMES).to_bytes(8, rng.choice(["little", "big"]))[:width]
        elif way == "name":
            content[at:at] = rng.choice([b"module.", b"model.", b"a.", b"\n", b"\x1b[2J"]) * rng.choice(
                [10, 1000, 20_000]
            )
        elif way == "digits":
            content[at:at] = b"9" * rng.choice([20, 5000])
        elif way == "nesting":
            content[at:at] = rng.choice([b"[", b'{"a":', b"(", b"]"]) * rng.choice([100, 20_000])
        elif way == "end":
            content += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, rng.choice(EXTREMES) & 0xFFFFFFFF, at, 0)
        elif way == "call":
            content[at:at] = call(sentinel, rng)
        elif way == "instructions" and name not in PLAIN:
            content = bytearray(with_pickle(name, files[name], instructions(rng, sentinel)))
    return bytes(content)


def with_pickle(name: str, content: bytes, pickled: bytes) -> bytes:
    """A file of a container around another pickle, otherwise whole."""
    import zipfile

    if name == "torch archive":
        old, new = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
        with zipfile.ZipFile(new, "w") as archive:
            for record in old.namelist():
                archive.writestr(record, pickled if record.endswith("data.pkl") else old.read(record))
        return new.getvalue()
    if name == "torch older":
        file, ends = io.BytesIO(content), []
        for _ in range(4):
            for _ in pickletools.genops(file):
                pass
            ends.append(file.tell())
        return content[: ends[2]] + pickled + content[ends[3] :]
    return pickled


def touch(value: Any) -> None:
    """Uses every number of a value, which crashes where it lies outside the memory."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            touch(part)
    elif hasattr(value, "untyped_storage"):
        value.double().sum().item()


def memory(*, forget: bool = False) -> float:
    """The most memory that this process has had, in MiB, from now on if what it had before is to be forgotten."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    with open("/proc/self/status") as file:  # ru_maxrss would begin with the parent's
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def is_well_said(message: str, folder: Path) -> bool:
    """Whether a message names the file, and is one short line without control characters."""
    return str(folder) in message and message.isprintable() and len(message) < 1500


def child(first: int, last: int, seed: int, folder: Path) -> None:
    """Reads the inputs from ``first`` to before ``last``; a line for each, so that what ends the process is known."""
    import numpy
    import safetensors
    import torch

    import slowfast_zoo as sfz
    from slowfast_zoo.errors import WeightsError
    from slowfast_zoo.storage.container import read_container
    from slowfast_zoo.storage.shards import read_file
    from slowfast_zoo.weights import read_folder

    network = sfz.create_model("slow_r50_4x16", depths=(1, 1, 1, 1), width=4, num_classes=2)

    def read(name: str) -> None:
        if name == "configuration":
            read_folder(f"local-dir:{folder}")
        elif name == "index":
            touch(read_file(path))
        else:
            touch(read_container(path))
            try:
                sfz.load_checkpoint(network, path)
            except WeightsError as error:
                if not is_well_said(str(error), folder):
                    raise ValueError(f"message: {error}") from error

    files, sentinel = {**valid_files(), **texts()}, folder / "ran"
    paths = {"index": folder / "model.safetensors.index.json", "configuration": folder / "config.json"}
    (folder / "part").write_bytes(files["safetensors"])
    (folder / "model.safetensors").write_bytes(files["safetensors"])
    for name, content in files.items():
        path = paths.get(name, folder / "checkpoint")
        path.write_bytes(content)
        with contextlib.suppress(WeightsError):  # these are no network's
            read(name)
    versions = {"torch": torch.__version__, "numpy": numpy.__version__, "safetensors": safetensors.__version__}
    before = memory(forget=True)
    for index in range(first, last):
        rng = random.Random(f"{seed} {index}")
        name = list(files)[index % len(files)]
        path = paths.get(name, folder / "checkpoint")
        path.write_bytes(changed(name, files, rng, sentinel))
        print(json.dumps({"index": index, "container": name}), flush=True)
        start = time.perf_counter()
        told = {"how": "read"}
        try:
            read(name)
        except (WeightsError, FileNotFoundError) as error:
            message = str(error)
            well = is_well_said(message, folder)
            message = re.sub(r"\d+", "N", message.replace(str(folder), "FOLDER"))
            told = {"how": "refused" if well else "message", "message": message}
        except BaseException as error:
            told = {"how": type(error).__name__, "message": str(error)}
        if sentinel.exists():
            told = {"how": "code was run"}
            sentinel.unlink()
        print(json.dumps({**told, "seconds": time.perf_counter() - start, "growth": memory() - before}), flush=True)
    print(json.dumps(versions), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=18000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(int(args.child[0]), int(args.child[1]), args.seed, Path(args.child[2]))
        return

    counts: dict[str, Counter[str]] = {}
    messages: set[str] = set()
    failures: list[dict[str, Any]] = []
    slowest = growth = 0.0
    versions: dict[str, str] = {}
    start, first = time.perf_counter(), 0
    while first < args.inputs:
        last = min(first + BATCH, args.inputs)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.fuzz_checkpoints", "--seed", str(args.seed)]
            command += ["--child", str(first), str(last), folder]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode == 0:
            versions = lines.pop()
        elif len(lines) % 2:  # ended while it read
            lines.append({"how": f"exit code {done.returncode}", "seconds": 0, "growth": 0})
        else:
            sys.exit(f"the interpreter that reads ended with exit code {done.returncode}")
        for given, told in zip(lines[::2], lines[1::2], strict=True):
            how = told["how"] if told["how"] in ("read", "refused") else "anything else"
            counts.setdefault(given["container"], Counter({"read": 0, "refused": 0, "anything else": 0}))[how] += 1
            if how == "anything else":
                failures.append({**given, **told})
            elif how == "refused":
                messages.add(told["message"])
            slowest, growth = max(slowest, told["seconds"]), max(growth, told["growth"])
        first += len(lines) // 2
        print(f"{first} of {args.inputs}, {len(failures)} failures", flush=True)

    result = {
        "inputs": sum(sum(counter.values()) for counter in counts.values()),
        "anything_else": len(failures),
        "code_was_run": sum(failure["how"] == "code was run" for failure in failures),
        "counts": {name: dict(counter) for name, counter in counts.items()},
        "distinct_messages": len(messages),
        "peak_memory_growth_mib": round(growth, 1),
        "slowest_read_seconds": round(slowest, 3),
        "failures": failures[:20],
        "seed": args.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "python": platform.python_version(),
        **versions,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["counts"]))
    if failures:
        sys.exit(f"{len(failures)} inputs were neither read nor refused with a WeightsError; see {RESULTS}")


if __name__ == "__main__":
    main()
