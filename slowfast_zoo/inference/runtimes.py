"""The runtimes that run exported networks: PyTorch, ONNX Runtime, OpenVINO."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slowfast_zoo.errors import MissingDependencyError

from .telemetry import no_telemetry

Runner = Callable[[Mapping[str, Tensor]], list[Tensor]]  # from inputs by name to the outputs

RUNTIMES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}


def import_package(package: str, purpose: str) -> Any:
    """A package that only exporting needs, imported without its telemetry.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        with no_telemetry():
            return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError(
            f'{purpose} needs {package} ({error}): pip install "slowfast-zoo[export]"'
        ) from error


def load_runner(path: Path, kind: str, outputs: Sequence[str]) -> Runner:
    """The file, ready to run on the CPU in float32.

    Raises:
        MissingDependencyError: its runtime is not installed.
    """
    if kind == "torch":
        program: Any = torch.export.load(path).module()

        def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
            with torch.no_grad():
                return list(as_tuple(program(*inputs.values())))

        return run
    runtime = import_package(RUNTIMES[kind], "running the file")
    if kind == "onnx":
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        # From memory, so that no file is open when it is given its name.
        session = runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        return lambda inputs: [torch.from_numpy(x) for x in session.run(list(outputs), _as_numpy(inputs))]
    core = runtime.Core()
    model = core.read_model(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    # Left alone, OpenVINO computes in bfloat16 where the processor can.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run_openvino(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        results = compiled(_as_numpy(inputs))
        return [torch.from_numpy(results[name].copy()) for name in outputs]

    return run_openvino


def _as_numpy(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: x.numpy() for name, x in inputs.items()}


def as_tuple(tensors: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs of a network or program, of which a single one comes as it is."""
    return (tensors,) if isinstance(tensors, Tensor) else tensors
