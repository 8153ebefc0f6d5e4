"""Networks as files that other runtimes run: a torch.export program, ONNX, OpenVINO's IR.

Each file is run and compared with the network before it gets its name.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from slowfast_zoo.errors import ExportError, MissingDependencyError
from slowfast_zoo.factory import create_model
from slowfast_zoo.models import FeatureNetwork, unwrapped
from slowfast_zoo.models.network import MIN_SIDE
from slowfast_zoo.models.scores import ScoreRule
from slowfast_zoo.models.wrappers import whole
from slowfast_zoo.utils.signals import unwound_when_ended
from slowfast_zoo.utils.version import __version__

from .optimize.network import copy_of
from .prepare import labels_of, model_name
from .runtimes import RUNTIMES, as_tuple, import_package, load_runner

ExportFormat = Literal["torch", "onnx", "openvino"]
ExportOutput = Literal["logits", "probabilities", "features"]

METADATA_KEY = "slowfast_zoo"  # in ONNX and OpenVINO; a torch.export program has a file of this name with .json
LEAST_OPSET = 18
TOLERANCE = 1e-4  # of the largest output; float32 in another order differs by about 1e-6

_SUFFIXES: dict[str, ExportFormat] = {".pt2": "torch", ".onnx": "onnx", ".xml": "openvino"}
_WRITERS = {"torch": (), "onnx": ("onnx", "onnxscript"), "openvino": ("onnx", "onnxscript", "openvino")}

# The part of a network's pretrained_cfg that is needed to run the file.
_PREPROCESSING = ("mean", "std", "channel_order", "scale", "crop", "clip_sampling", "clips", "crops", "view_average")


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        format: torch, onnx or openvino.
        files: the file; OpenVINO's has a second one with the weights.
        bytes: their size.
        inputs: names and shapes of the inputs; axes of any size have names.
        outputs: names of the outputs.
        difference: the largest between file and network, as a share of the network's largest output; None if the file
            was not run.
    """

    format: ExportFormat
    files: tuple[Path, ...]
    bytes: int
    inputs: Mapping[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    difference: float | None


def export_model(
    model_or_name: str | nn.Module,
    path: str | os.PathLike[str],
    *,
    format: ExportFormat | None = None,  # noqa: A002
    output: ExportOutput | None = None,
    out_indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    size: int | tuple[int, int] | None = None,
    frames: int | None = None,
    opset: int | None = None,
    pretrained: bool = True,
    check: bool = True,
) -> Path:
    """Write a network as a file for another runtime.

    The input ``clip`` is (batch, in_chans, frames, height, width), float32 and normalised; a network that detects
    actions has a second one, ``boxes`` (K, 5) of any K: the clip's index, then x1, y1, x2, y2 in pixels. Batch, height
    and width may be any, height and width from 32, unless ``batch_size`` and ``size`` fix them. The number of frames is
    fixed. The file holds a JSON object with the preprocessing, the labels and the configuration.

    Args:
        model_or_name: a network made by ``create_model``, which stays as it is, or a name.
        path: the file. It, and what stands there, is replaced whole or not at all.
        format: ``torch`` (a torch.export program, .pt2), ``onnx`` (.onnx) or ``openvino`` (.xml, and a .bin of the same
            name). None takes that of the suffix.
        output: ``logits``, ``probabilities`` or ``features``: the maps of the stages, named ``slow_res2``,
            ``fast_res2`` and so on, in a network of one pathway ``res2``. None is the logits, or what a network made
            with ``features_only`` gives. Without a classifier the logits are the vectors before it, ``pooled``.
        out_indices: the stages of ``features``, 0 (stem) to 4 (res5); None is all.
        batch_size: clips in a batch; None leaves it open.
        size: height and width in pixels, or one number for both; None leaves them open.
        frames: frames of a clip; None takes the network's own.
        opset: version of ONNX's operators that the file is to have, from 18, or that OpenVINO's is made from; None is
            the exporter's choice.
        pretrained: load the weights of a named network; False gives a random one.
        check: run the file at several sizes, and compare it with the network. Where the runtime is not installed there
            is a warning instead.

    Returns:
        The path.

    Raises:
        ValueError: an unknown name, format, suffix, output, size or opset; a network without values, an optimised one,
            or one that takes pairs of clips.
        TypeError: neither a name nor a network of this library.
        FileNotFoundError: the folder does not exist.
        OSError: the folder cannot be written to.
        MissingDependencyError: the exporter is not installed.
        ExportError: the network cannot be exported, or the file gives other results. There is no file then.
        WeightsError: the weights of a named network cannot be found or loaded.
    """
    return export_with_report(**locals()).files[0]


def export_with_report(
    model_or_name: str | nn.Module,
    path: str | os.PathLike[str],
    *,
    format: ExportFormat | None = None,  # noqa: A002
    output: ExportOutput | None = None,
    out_indices: Sequence[int] | None = None,
    batch_size: int | None = None,
    size: int | tuple[int, int] | None = None,
    frames: int | None = None,
    opset: int | None = None,
    pretrained: bool = True,
    check: bool = True,
) -> ExportReport:
    """:func:`export_model`, which says what was written."""
    target = Path(path)
    kind = _resolve_format(target, format)
    if opset is not None and kind == "torch":
        raise ValueError("opset is for ONNX and OpenVINO, not for a torch.export program")
    if opset is not None and not _is_integer(opset, LEAST_OPSET):
        raise ValueError(
            f"opset is an integer from {LEAST_OPSET}, in which PyTorch's exporter writes and from which it does not go "
            f"down, or None, not {opset!r}"
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(target.parent)!r} to write {target.name!r} into")
    for file in (target, target.with_suffix(".bin")) if kind == "openvino" else (target,):
        if file.is_dir():
            raise ValueError(f"{os.fspath(file)!r} is a folder, not a file")
    for package in _WRITERS[kind]:
        import_package(package, f"exporting to {kind}")
    if opset is not None and opset > (newest := import_package("onnx.defs", "exporting").onnx_opset_version()):
        raise ValueError(f"the onnx that is installed knows opsets up to {newest}, not {opset}")
    model = create_model(model_or_name, pretrained) if isinstance(model_or_name, str) else model_or_name
    graph = _Graph(model, output, out_indices)
    shape = _Shape.of(graph.config, batch_size, size, frames)

    next_to_it = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.")
    with unwound_when_ended(), next_to_it as folder, _silence():
        try:
            files = _write(graph, shape, Path(folder) / target.name, kind, opset)
        except Exception as error:  # the exporters raise whatever they like
            raise ExportError(f"{graph.name} cannot be exported to {kind}: {_explain_error(error)}") from error
        difference = _compare(graph, shape, files[0], kind) if check else None
        replaced = [file.replace(target.with_name(file.name)) for file in reversed(files)][::-1]  # weights first
    if check and difference is None:
        runtime = RUNTIMES[kind]
        warnings.warn(
            f"{os.fspath(target)!r} was written but not run, because {runtime} is not installed: "
            'pip install "slowfast-zoo[export]"',
            UserWarning,
            stacklevel=3,
        )
    return ExportReport(
        format=kind,
        files=tuple(replaced),
        bytes=sum(file.stat().st_size for file in replaced),
        inputs=shape.inputs(graph),
        outputs=graph.outputs,
        difference=difference,
    )


# -- what is exported ----------------------------------------------------------------------------------------------


class _Graph(nn.Module):
    """A copy of the network in evaluation, float32, on the CPU, that gives one tensor or a flat tuple of maps.

    Attributes:
        outputs: their names.
        name: the network's.
        metadata: what the file says about it, plain values for JSON.
    """

    def __init__(self, model: Any, output: str | None, out_indices: Sequence[int] | None) -> None:
        super().__init__()
        model = unwrapped(model, said="expected a model name or a network from create_model, got")
        whole(model, "export_model")
        if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            raise ValueError("the network is on the meta device and has no values to export")
        if (model.network if isinstance(model, FeatureNetwork) else model).optimized:
            raise ValueError("export the network that this one was made from: runtimes optimise it themselves")
        if output not in (None, *get_args(ExportOutput)):
            raise ValueError(f"output is one of {', '.join(map(repr, get_args(ExportOutput)))}, not {output!r}")
        is_features = isinstance(model, FeatureNetwork)
        output = output or ("features" if is_features else "logits")
        if is_features and (output != "features" or out_indices is not None):
            raise ValueError("a network made with features_only gives the features of its own out_indices")
        if output != "features" and out_indices is not None:
            raise ValueError("out_indices selects feature maps and needs output='features'")
        if output == "probabilities" and not model.num_classes:
            raise ValueError("a network without a classifier (num_classes=0) has no probabilities")
        if getattr(model.config, "fast_input", None) == "flow":
            raise ValueError("a network on optical flow takes pairs of clips, which are not exported")
        self.name = model_name(model)
        self.metadata = _describe(model, output)
        network: Any = copy_of(model).cpu().float().eval()
        if output == "features" and not is_features:
            network = FeatureNetwork(network, out_indices)
        self.network: Any = network
        self.config = network.config
        self.output = output
        self.takes_boxes = bool(network.config.roi) and output != "features"
        self.outputs = _name_outputs(network, output)

    def forward(self, clip: Tensor, boxes: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """What ``outputs`` names."""
        if self.output == "features":
            return tuple(x for maps in self.network(clip) for x in as_tuple(maps))
        if self.output == "probabilities":
            return self.network.probabilities(clip, boxes)  # type: ignore[no-any-return]
        return self.network(clip, boxes)  # type: ignore[no-any-return]


def _name_outputs(network: Any, output: str) -> tuple[str, ...]:
    if output != "features":
        return (output if network.num_classes else "pooled",)
    names: list[str] = []
    for info in network.feature_info:
        names += [info["name"]] if "name" in info else [f"{pathway}_{info[pathway]['name']}" for pathway in info]
    return tuple(names)


def _describe(model: Any, output: str) -> dict[str, Any]:
    cfg, config = model.pretrained_cfg, model.config
    labels = None if output == "features" else labels_of(model)
    return {
        "library_name": "slowfast_zoo",
        "library_version": __version__,
        "name": model_name(model),
        "license": cfg.get("license"),
        "labels": None if labels is None else list(labels),
        "preprocessing": {
            **{key: cfg[key] for key in _PREPROCESSING if key in cfg},
            "frames": config.clip_frames,
            "stride": config.clip_stride,  # of a 30 fps video
        },
        "score": ScoreRule.of(model).activation,
        "config": config.to_dict(),
    }


@dataclass(frozen=True)
class _Shape:
    """Sizes of the input; None is open."""

    channels: int
    frames: int
    batch: int | None
    height: int | None
    width: int | None

    @classmethod
    def of(cls, config: Any, batch_size: Any, size: Any, frames: Any) -> _Shape:
        sides = size if isinstance(size, (tuple, list)) else (size, size)
        if len(sides) != 2 or not all(side is None or _is_integer(side, MIN_SIDE) for side in sides):
            raise ValueError(f"size is a number of pixels from {MIN_SIDE}, or height and width, or None, not {size!r}")
        if not (batch_size is None or _is_integer(batch_size, 1)):
            raise ValueError(f"batch_size is an integer of at least 1, or None, not {batch_size!r}")
        multiple = config.alpha * getattr(config, "temporal_reduction", 1)
        frames = config.clip_frames if frames is None else frames
        if not _is_integer(frames, multiple) or frames % multiple:
            raise ValueError(f"frames is a positive multiple of {multiple} in this network, not {frames!r}")
        return cls(config.in_chans, frames, batch_size, *sides)

    def inputs(self, graph: _Graph) -> dict[str, tuple[int | str, ...]]:
        """Names and shapes of the graph's inputs."""
        sides = self.height or "height", self.width or "width"
        inputs: dict[str, tuple[int | str, ...]] = {"clip": (self.batch or "batch", self.channels, self.frames, *sides)}
        if graph.takes_boxes:
            inputs["boxes"] = ("boxes", 5)
        return inputs

    def example(self, graph: _Graph, batch: int, height: int, width: int, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs, of these sizes where they are open; with boxes that reach out of the frame, in detection."""
        generator = torch.Generator().manual_seed(seed)
        batch, height, width = self.batch or batch, self.height or height, self.width or width
        clip = torch.randn(batch, self.channels, self.frames, height, width, generator=generator)
        if not graph.takes_boxes:
            return {"clip": clip}
        count = batch + 2
        random = functools.partial(torch.rand, generator=generator)
        corner = (random(count, 2) - 0.1) * torch.tensor([width, height])
        box = torch.cat((corner, corner + 4 + random(count, 2) * torch.tensor([width, height])), dim=1)
        index = torch.arange(count) % batch
        return {"clip": clip, "boxes": torch.cat((index[:, None].float(), box), dim=1)}


# -- writing -------------------------------------------------------------------------------------------------------


def _write(graph: _Graph, shape: _Shape, path: Path, kind: str, opset: int | None) -> list[Path]:
    """Writes the file, and OpenVINO's weights into a second one."""
    metadata = json.dumps({**graph.metadata, "inputs": shape.inputs(graph), "outputs": graph.outputs})
    program = _trace(graph, shape)
    if kind == "torch":
        torch.export.save(program, path, extra_files={f"{METADATA_KEY}.json": metadata})
        return [path]
    if kind == "onnx":
        path.write_bytes(_convert_to_onnx(program, graph, shape, opset, metadata))
        return [path]
    openvino = import_package("openvino", "exporting to openvino")
    # From ONNX: what OpenVINO makes of the program itself leaves the number of frames open, and names no output.
    model = openvino.Core().read_model(_convert_to_onnx(program, graph, shape, opset, metadata))
    model.set_rt_info(metadata, [METADATA_KEY])
    openvino.save_model(model, path, compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]


def _trace(graph: _Graph, shape: _Shape) -> torch.export.ExportedProgram:
    """The network as torch.export traces it, without the paths of source files and the example."""
    example = shape.example(graph, batch=2, height=MIN_SIDE * 3, width=MIN_SIDE * 2)
    at_least = {"batch": 1, "height": MIN_SIDE, "width": MIN_SIDE, "boxes": 0}
    shapes = {
        name: {axis: _open_axis(at_least[size]) for axis, size in enumerate(sizes) if isinstance(size, str)}
        for name, sizes in shape.inputs(graph).items()
    }
    with torch.no_grad(), _allow_size_one():
        program = torch.export.export(graph, tuple(example.values()), dynamic_shapes=shapes, strict=False)
    count = len(program.graph_signature.user_outputs)
    if count != len(graph.outputs):  # the user's own classifier may give several
        raise ValueError(f"the network gives {count} tensors where there is to be one for {', '.join(graph.outputs)}")
    with contextlib.suppress(AttributeError):
        program.example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def _open_axis(at_least: int) -> Any:
    hint: Any = torch.export.Dim.DYNAMIC
    return hint(min=at_least) if callable(hint) else hint  # torch 2.7 takes no bounds


def _allow_size_one() -> contextlib.AbstractContextManager[Any]:
    """Keeps the tracer from taking for granted that no size is 1: a batch may be, and a small frame's last map."""
    import torch.fx.experimental._config as config

    # Not public, so nothing relies on it: without it the program asks for two clips, or 33 pixels.
    if hasattr(config, "patch") and hasattr(config, "backed_size_oblivious"):
        return config.patch(backed_size_oblivious=True)  # type: ignore[no-any-return]
    return contextlib.nullcontext()


def _convert_to_onnx(program: Any, graph: _Graph, shape: _Shape, opset: int | None, metadata: str) -> bytes:
    """The program as an ONNX file."""
    import onnx

    inputs = shape.inputs(graph)
    exported: Any = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=list(inputs),
        output_names=list(graph.outputs),
        opset_version=opset,
    )
    model = exported.model_proto
    # Where the exporter cannot convert to another opset, it only writes so to a logger.
    written = next(known.version for known in model.opset_import if known.domain in ("", "ai.onnx"))
    if opset is not None and written != opset:
        raise ExportError(f"PyTorch's exporter wrote opset {written}, not the {opset} that was asked for")
    written_graph = model.graph
    # The exporter calls open axes s53, s47, ... and computes with these names in the outputs.
    names = {}
    for value, sizes in zip(written_graph.input, inputs.values(), strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes, strict=True):
            if isinstance(size, str):
                names[dim.dim_param] = size
    values = (*written_graph.input, *written_graph.output, *written_graph.value_info)
    for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim):
        if dim.dim_param:
            dim.dim_param = re.sub(r"\w+", lambda match: names.get(match[0], match[0]), dim.dim_param)
    # Its notes for debugging hold the paths of source files on this machine.
    for part in (written_graph, *written_graph.node, *values, *written_graph.initializer, *model.functions):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata})
    model.producer_name, model.producer_version = "slowfast_zoo", graph.metadata["library_version"]
    written_graph.name = graph.name
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


# -- checking ------------------------------------------------------------------------------------------------------


def _compare(graph: _Graph, shape: _Shape, path: Path, kind: str) -> float | None:
    """The largest difference between file and network, as a share of the largest output; None without the runtime.

    Raises:
        ExportError: it is too large, or the file does not run.
    """
    try:
        run = load_runner(path, kind, graph.outputs)
    except MissingDependencyError:
        return None
    except Exception as error:  # each runtime has its own
        raise ExportError(f"{RUNTIMES[kind]} cannot load what {graph.name} was exported to: {error}") from error
    largest = 0.0
    crop = graph.config.crop
    for seed, sizes in enumerate(((1, crop, crop), (3, 64, 112)), start=1):
        inputs = shape.example(graph, *sizes, seed=seed)
        at = " x ".join(map(str, inputs["clip"].shape))
        try:
            with torch.no_grad():
                expected = as_tuple(graph(*inputs.values()))
        except Exception as error:  # what a changed layer raises
            raise ExportError(f"{graph.name} itself does not run on a clip of {at}: {_explain_error(error)}") from error
        try:
            given = run(inputs)
        except Exception as error:
            raise ExportError(f"the exported {graph.name} does not run on a clip of {at}: {error}") from error
        for name, got, want in zip(graph.outputs, given, expected, strict=True):
            if got.shape != want.shape:
                raise ExportError(
                    f"the exported {graph.name} gives {name} of shape {tuple(got.shape)} on a clip of {at}, the "
                    f"network {tuple(want.shape)}"
                )
            largest_value = want.abs().max().clamp(min=torch.finfo(want.dtype).tiny)
            difference = float((got - want).abs().max() / largest_value)
            if not difference <= TOLERANCE:  # not a number is not
                raise ExportError(
                    f"the exported {graph.name} differs from the network on a clip of {at}: {name} by "
                    f"{difference:.2g} of its largest value, more than {TOLERANCE:g}"
                )
            largest = max(largest, difference)
    return largest


# -- arguments and errors -------------------------------------------------------------------------------------------


def _is_integer(value: Any, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def _resolve_format(path: Path, given: str | None) -> ExportFormat:
    known = ", ".join(f"{kind} ({suffix})" for suffix, kind in _SUFFIXES.items())
    by_suffix = _SUFFIXES.get(path.suffix)
    if given is None and by_suffix is None:
        raise ValueError(f"the suffix says the format: {known}; {path.name!r} has none of them")
    if given not in (None, *_SUFFIXES.values()):
        raise ValueError(f"format is one of {known}, not {given!r}")
    if given not in (None, by_suffix):
        suffix = next(suffix for suffix, kind in _SUFFIXES.items() if kind == given)
        raise ValueError(f"a file of the format {given} ends in {suffix}, which {path.name!r} does not")
    return by_suffix  # type: ignore[return-value]


def _explain_error(error: BaseException) -> str:
    """The first line of the first error; exporters wrap it in longer ones."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: " + next(iter(str(error).strip().splitlines()), "")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the exporters' progress and the warnings about their own code to themselves."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
