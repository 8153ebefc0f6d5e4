"""Guards against a torchvision that cannot work beside the installed torch.

torchvision's compiled operators are built for one torch. Beside another (most often: torch without CUDA from one
package index, torchvision with CUDA from another) ``import torchvision`` dies with "operator torchvision::nms does not
exist", and ``import timm`` with it. The networks need neither, so this library looks once, without importing either,
and warns; the parts that do need them fail with the same words.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import mmap
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch

from slowfast_zoo.errors import MissingDependencyError

# How a library built for an accelerator names torch's part for it, in its dynamic section (ELF) or import table (PE).
_CUDA_NAMES = (b"libtorch_cuda.so", b"torch_cuda.dll")
_HIP_NAMES = (b"libtorch_hip.so", b"torch_hip.dll")
_CUDA_RUNTIME = re.compile(rb"libcudart\.so\.(\d+)|cudart64_(\d+)\.dll")
_TORCH_REQUIREMENT = re.compile(r"torch\s*\(?\s*(==|>=)\s*(\d+)\.(\d+)")


def check_torchvision() -> None:
    """Warn once, with the fix, if the installed torchvision cannot work beside this torch.

    Meant for import time: takes a few milliseconds and imports neither torchvision nor timm. An absent torchvision is
    no reason to warn.
    """
    if reason := _defect():
        warnings.warn(_message(reason), RuntimeWarning, stacklevel=3)  # 3: the line that imports slowfast_zoo


def require_torchvision() -> ModuleType:
    """Import torchvision.

    Raises:
        MissingDependencyError: it is absent or cannot work beside this torch; says how to mend that.
    """
    return _require("torchvision")


def require_timm() -> ModuleType:
    """Import timm, which imports torchvision.

    Raises:
        MissingDependencyError: it is absent, or torchvision cannot work beside this torch; says how to mend that.
    """
    return _require("timm")


def _require(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken package dies in many ways: ImportError, RuntimeError, OSError, AttributeError
        if isinstance(error, ModuleNotFoundError) and error.name in ("timm", "torchvision"):
            raise MissingDependencyError(f"{error.name} is not installed. {_fix(error.name)}") from error
        reason = _defect() or f"import {name} fails with {type(error).__name__}: {error}"
        raise MissingDependencyError(_message(reason)) from error


def _defect() -> str | None:
    """Why the installed torchvision cannot work beside this torch, or None where nothing speaks against it."""
    if "torchvision" in sys.modules:
        return None  # somebody imported it: it works
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        requirements = importlib.metadata.requires("torchvision") or []
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path
        requirements = []
    return _version_defect(requirements) or _library_defect(Path(spec.origin).parent)


def _version_defect(requirements: list[str]) -> str | None:
    """Compare torch's minor version with the one torchvision asks for; patch releases keep the binary interface."""
    have = tuple(int(number) for number in torch.__version__.split(".")[:2])
    for requirement in requirements:
        if match := _TORCH_REQUIREMENT.match(requirement):
            needed = (int(match[2]), int(match[3]))
            if have < needed or (match[1] == "==" and have != needed):
                return f"it was built for torch {match[1]} {match[2]}.{match[3]}"
    return None


def _library_defect(folder: Path) -> str | None:
    """Compare what torchvision's compiled operators link to with the accelerator this torch was built for."""
    library = next((path for path in sorted(folder.glob("_C*")) if path.suffix in (".so", ".pyd")), None)
    if library is None or library.stat().st_size == 0:
        return "its compiled operators are missing"
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for_hip = any(content.find(name) >= 0 for name in _HIP_NAMES)
        for_cuda = any(content.find(name) >= 0 for name in _CUDA_NAMES)
        runtime = _CUDA_RUNTIME.search(content) if for_cuda else None
        cuda = (runtime[1] or runtime[2]).decode() if runtime else ""
    if for_hip and torch.version.hip is None:
        return "it was built for ROCm and this torch was not"
    if for_cuda and torch.version.cuda is None:
        return "it was built for CUDA and this torch was not"
    if cuda and cuda != str(torch.version.cuda).split(".")[0]:
        return f"it was built for CUDA {cuda} and this torch for CUDA {torch.version.cuda}"
    return None


def _message(reason: str) -> str:
    try:
        version = importlib.metadata.version("torchvision")
    except importlib.metadata.PackageNotFoundError:
        version = "(of unknown version)"
    return (
        f"torchvision {version} does not work beside torch {torch.__version__}: {reason}. The networks of slowfast_zoo "
        f"work without it, whatever uses torchvision or timm fails. {_fix('--force-reinstall torch torchvision')}"
    )


def _fix(packages: str) -> str:
    """The pip command, with the index of this torch's build, which the end of its version ("+cpu", "+cu126") names."""
    build = re.search(r"\+(cpu|xpu|cu\d+|rocm[\d.]+)$", torch.__version__)
    index = f" --index-url https://download.pytorch.org/whl/{build[1]}" if build and "torchvision" in packages else ""
    return f"To mend it: pip install {packages}{index}"
