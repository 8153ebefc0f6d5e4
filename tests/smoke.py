"""The wheel on other Pythons: installed on the oldest and the newest of the machine, and used from another folder.

python tests/smoke.py FOLDER builds the wheel with the Python that runs it, keeps an environment for each other Python
in FOLDER, and runs the command line there: predict, features, detect and one step of finetune. An environment is made
anew when pyproject.toml or the Python has changed; otherwise only the wheel is.

Exit code 0 if all of it works; what cannot be tried is left out, with a line that says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
# What pip says where it reaches no package index.
OFFLINE = re.compile(
    "NewConnectionError|NameResolutionError|ConnectTimeoutError|name resolution|Network is unreachable"
)
FACTS = "import sys, ensurepip, venv; print(sys.implementation.name, *sys.version_info[:3])"
VERSIONS = """
import importlib.metadata as m, slowfast_zoo
print(slowfast_zoo.__file__)
print(", ".join(f"{name} {m.version(name)}" for name in ("torch", "torchvision", "timm", "numpy", "av", "matplotlib")))
"""

LONGEST = 600  # seconds for one command

Version = tuple[int, int, int]


def main(folder: Path) -> int:
    """Tries each Python in turn; the exit code."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = choose(found(), supported(PROJECT.read_text("utf-8")), sys.version_info[:2])
    if not chosen:
        print("smoke: there is no other Python that the package supports, so it is only tested on this one")
        return 0
    with tempfile.TemporaryDirectory() as built:
        execute(Path(built), sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", built, ROOT)
        [wheel] = Path(built).glob("*.whl")
        for version, python in chosen:
            name, start = ".".join(map(str, version)), time.monotonic()
            environment = install(python, name, wheel, folder)
            if environment is None:
                print(f"smoke: Python {name} is left out, because pip reaches no package index")
                continue
            with tempfile.TemporaryDirectory() as elsewhere:
                versions = use(environment, Path(elsewhere))
            print(f"smoke: Python {name} works, with {versions} ({time.monotonic() - start:.0f} s)", flush=True)
    return 0


def supported(project: str) -> set[tuple[int, int]]:
    """The minor versions of Python that the classifiers name."""
    return {(3, int(minor)) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', project)}


def choose(
    pythons: dict[Version, Path], known: set[tuple[int, int]], in_use: tuple[int, int]
) -> list[tuple[Version, Path]]:
    """The oldest and the newest supported minor version besides the one in use, each in its newest patch."""
    newest = {version[:2]: version for version in sorted(pythons) if version[:2] in known and version[:2] != in_use}
    minors = sorted(newest)
    return [(newest[minor], pythons[newest[minor]]) for minor in dict.fromkeys(minors[:1] + minors[-1:])]


def found() -> dict[Version, Path]:
    """The Pythons of the machine that can make environments: on the path, and those that pyenv keeps off it."""
    pythons: dict[Version, Path] = {}
    for path in _candidates():
        # A shim of pyenv's for a version that is not chosen fails.
        done = subprocess.run([path, "-c", FACTS], capture_output=True, text=True, env=clean_environment(), check=False)
        kind, *numbers = done.stdout.split() if done.returncode == 0 else [""]
        if kind == "cpython":
            major, minor, micro = map(int, numbers)
            pythons.setdefault((major, minor, micro), path)
    return pythons


def _candidates() -> Iterator[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for path in sorted(pyenv.glob("3.*/bin/python")):
        if re.fullmatch(r"3\.\d+\.\d+", path.parent.parent.name):
            yield path
    for _, minor in sorted(supported(PROJECT.read_text("utf-8"))):
        path_of = shutil.which(f"python3.{minor}")
        if path_of:
            yield Path(path_of)


def install(python: Path, name: str, wheel: Path, folder: Path) -> Path | None:
    """The wheel and what it needs, in an environment that is kept; None where pip reaches no package index."""
    environment = folder / name
    stamp, wanted = environment / ".installed", f"{name} {hashlib.sha256(PROJECT.read_bytes()).hexdigest()}"
    pip = (environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"smoke: installing into {environment}; the first time this downloads torch", flush=True)
        shutil.rmtree(environment, ignore_errors=True)
        execute(folder.parent, python, "-m", "venv", environment)
        unpacking = environment / "tmp"  # torch is larger than many machines' /tmp
        unpacking.mkdir()
        settings = {**clean_environment(), "TMPDIR": str(unpacking)}
        done = subprocess.run(
            [*pip, f"{wheel}[all]"], capture_output=True, text=True, env=settings, cwd=folder, check=False
        )
        if done.returncode:
            if OFFLINE.search(done.stdout + done.stderr) and "No matching distribution" in done.stderr:
                return None
            sys.exit(f"smoke: pip cannot install the wheel on Python {name}:\n{done.stdout}{done.stderr}")
        shutil.rmtree(unpacking)
        stamp.write_text(wanted)
    else:
        execute(folder, *pip, "--no-deps", "--no-index", "--force-reinstall", wheel)
    return environment


def use(environment: Path, elsewhere: Path) -> str:
    """Runs the commands; the versions of what they ran with."""
    command = environment / "bin" / "slowfast-zoo"
    file, versions = execute(elsewhere, environment / "bin" / "python", "-c", VERSIONS).splitlines()
    check(Path(file).is_relative_to(environment), f"the package comes from {file}, not from the wheel")
    video = elsewhere / "video.mp4"
    shutil.copy(Path(file).parent / "video/samples/camera_moves.mp4", video)

    one_view = ("--clips", "1", "--crops", "1")
    [shown] = json.loads(execute(elsewhere, command, "predict", video, *one_view, "--plot", "plot.png", "--json"))
    check(shown["predictions"][0]["label"] and (elsewhere / "plot.png").stat().st_size > 0, "predict gives no classes")
    execute(elsewhere, command, "features", video, "--stride", "120", "--crops", "1", "--output", "features")
    check(any((elsewhere / "features").glob("*.npz")), "features writes no file")
    execute(elsewhere, command, "detect", video, "--boxes", "full", "--every", "4", "--csv", "found.csv")
    check((elsewhere / "found.csv").stat().st_size > 0, "detect writes no boxes")
    for label in ("one", "two"):
        (elsewhere / "data" / label).mkdir(parents=True)
        shutil.copy(video, elsewhere / "data" / label)
    schedule = ("--epochs", "1", "--batch-size", "2", *one_view, "--workers", "1")
    execute(elsewhere, command, "finetune", "data", "--val", "data", "--output", "tuned", *schedule)
    execute(elsewhere, command, "predict", video, *one_view, "--model", "local-dir:tuned/best")
    return versions


def execute(folder: Path, *command: str | Path) -> str:
    """What a command that has to succeed prints."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=clean_environment(),
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"smoke: {' '.join(words)} did not end within {LONGEST} seconds")
    check(done.returncode == 0, f"{' '.join(words)} ends with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def check(is_true: object, message: str) -> None:
    """Ends the run with a message where something is not as it has to be."""
    if not is_true:
        sys.exit(f"smoke: {message}")


def clean_environment() -> dict[str, str]:
    """Without what would lead to other packages than those installed."""
    outside = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYENV_VERSION")
    inside = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PYTHONUTF8": "1"}
    return {**{name: value for name, value in os.environ.items() if name not in outside}, **inside}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
