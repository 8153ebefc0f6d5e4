"""What is measured side by side: networks as they are, optimised, and other libraries' networks of the same shape."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.factory import create_model
from slowfast_zoo.inference.export import export_model
from slowfast_zoo.inference.optimize.network import optimize_for_inference
from slowfast_zoo.inference.telemetry import no_telemetry
from slowfast_zoo.models import SlowFastConfig, build
from slowfast_zoo.models.config import block_kernels
from slowfast_zoo.utils import checks

KINDS = (
    "ordinary",
    "optimised",
    "optimised without Winograd",
    "channels-last",
    "compiled",
    "CUDA graph",
    "PyTorchVideo",
    "OpenVINO",
    "ONNX Runtime",
)
DTYPES = ("float32", "bfloat16", "float16")
PACKAGES = {"PyTorchVideo": "pytorchvideo", "OpenVINO": "openvino", "ONNX Runtime": "onnxruntime"}
_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}  # PyTorchVideo knows networks by their depth
Call = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is computed.

    Attributes:
        model: a name that :func:`~slowfast_zoo.create_model` takes. Its weights stay random.
        batch: clips at once.
        size: side of the square clip in pixels; the network's own crop by default.
        frames: T, the frames of the Slow pathway; the network's own by default.
        threads: of the CPU; as many as torch takes by default.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        train: a training step, forward and backward, instead of inference.
        overrides: further keywords of ``create_model``.
    """

    model: str
    batch: int = 1
    size: int | None = None
    frames: int | None = None
    threads: int | None = None
    device: str = "cpu"
    train: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("size", 32), ("frames", 1), ("threads", 1)):
            if name == "batch" or getattr(self, name) is not None:
                checks.integer(getattr(self, name), name, at_least=least)
        try:
            device = torch.device(self.device)
            if device.type not in ("cpu", "cuda"):
                raise ValueError(f"device {self.device!r} cannot be measured: it is cpu or cuda")
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise ValueError(f"device {self.device!r} cannot be used: {str(error).splitlines()[0]}") from error

    def network(self) -> Any:
        """The network, in evaluation or training as the work wants it, on the current default device."""
        overrides = dict(self.overrides) | ({"frames": self.frames} if self.frames else {})
        return create_model(self.model, **overrides).train(self.train)

    def inputs(self, config: Any, dtype: torch.dtype = torch.float32, device: str | None = None) -> tuple[Any, ...]:
        """What the network is called with: a clip, the pair of frames and flow, or a clip and one box in each.

        Args:
            config: the network's configuration.
            dtype: of the clip.
            device: where it is; the work's own device by default.
        """
        like: dict[str, Any] = {"dtype": dtype, "device": device or self.device}
        side = self.size or config.crop
        clip = torch.rand(self.batch, config.in_chans, config.clip_frames, side, side, **like)
        if getattr(config, "fast_input", "") == "flow":
            return ((clip[:, :, : config.frames], torch.rand(self.batch, 2, *clip.shape[2:], **like)),)
        if config.roi:
            return clip, [torch.tensor([[0.0, 0.0, side, side]], **like)] * self.batch
        return (clip,)


@dataclass(frozen=True)
class Contender:
    """One of those that do the same work.

    Attributes:
        kind: one of :data:`KINDS`. ``ordinary`` is the network as :func:`~slowfast_zoo.create_model` makes it.
        dtype: ``float32``, ``bfloat16`` or ``float16``: what it computes in. Training in another than float32 is under
            autocast.
    """

    kind: str
    dtype: str = "float32"

    def __post_init__(self) -> None:
        checks.one_of(self.kind, KINDS, "a contender's kind")
        checks.one_of(self.dtype, DTYPES, "dtype")

    def __str__(self) -> str:
        return f"{self.kind} {self.dtype}"

    def require(self) -> Any:
        """Import what it needs, all of it, so that none is imported while memory is measured.

        Returns:
            The module that makes networks: of PyTorchVideo its ``models``, of OpenVINO the package.

        Raises:
            MissingDependencyError: it is not installed.
        """
        try:
            with warnings.catch_warnings(), no_telemetry():
                warnings.simplefilter("ignore")  # of what the package imports
                if self.kind == "PyTorchVideo":
                    for part in ("slowfast", "resnet"):
                        importlib.import_module(f"pytorchvideo.models.{part}")
                    return importlib.import_module("pytorchvideo.models")
                if self.kind == "OpenVINO":
                    importlib.import_module("openvino.frontend.pytorch")
                    openvino = importlib.import_module("openvino")
                    openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")  # loads the library for the CPU
                    return openvino
                if self.kind == "ONNX Runtime":
                    for part in ("onnx", "onnxscript"):
                        importlib.import_module(part)
                    return importlib.import_module("onnxruntime")
        except ImportError as error:
            packages = "onnx onnxscript onnxruntime" if self.kind == "ONNX Runtime" else PACKAGES[self.kind]
            raise MissingDependencyError(
                f"comparing with {self.kind} needs it ({error}): pip install {packages}"
            ) from error
        return torch


def prepare(contender: Contender, work: Workload) -> Call:
    """Make a contender ready: its network, on its device, in its dtype, and the input.

    Returns:
        A function without arguments that does the work once.

    Raises:
        ValueError: this contender cannot do this work.
        MissingDependencyError: its package is not installed.
    """
    kind, device = contender.kind, torch.device(work.device)
    contender.require()
    if work.train and kind not in ("ordinary", "channels-last", "compiled", "PyTorchVideo"):
        raise ValueError(f"{kind} is for inference: it has no training step to measure")
    if kind == "OpenVINO":
        return _openvino(contender, work)
    if kind == "ONNX Runtime":
        return _onnxruntime(contender, work)
    dtype: torch.dtype = getattr(torch, contender.dtype)
    optimised = kind in ("optimised", "optimised without Winograd")
    weights_dtype = torch.float32 if work.train or optimised else dtype
    model = work.network()
    inputs = work.inputs(model.config, weights_dtype)
    if kind == "PyTorchVideo":
        side = work.size or model.config.crop
        if isinstance(model.config, SlowFastConfig):  # its loaders make the pair, so its time is without that
            with torch.no_grad():
                inputs = ([part.contiguous() for part in model.to(weights_dtype).pathway_inputs(inputs[0])],)
        model = pytorchvideo_network(model.config, side).train(work.train)
    model = model.to(device, weights_dtype)
    if optimised:
        model = optimize_for_inference(model, dtype=dtype, winograd=kind == "optimised")
    if kind in ("channels-last", "compiled", "CUDA graph"):
        model = model.to(memory_format=torch.channels_last_3d)
        inputs = tuple(
            x.contiguous(memory_format=torch.channels_last_3d) if isinstance(x, Tensor) else x for x in inputs
        )
    if kind == "compiled":
        model = torch.compile(model)
    if work.train:
        return _training_step(model, inputs, dtype)

    def infer() -> Any:
        with torch.inference_mode():
            return model(*_fresh(inputs))

    if kind == "compiled":
        config = importlib.import_module("torch._inductor.config")
        with config.patch(freezing=device.type == "cpu"):  # then the weights are constants, and can be ordered anew
            infer()  # compiles
    return _captured(infer) if kind == "CUDA graph" else infer


def _fresh(inputs: tuple[Any, ...]) -> list[Any]:
    """The same tensors; lists are new, because PyTorchVideo's networks put their own maps into the list they get."""
    return [list(x) if isinstance(x, list) else x for x in inputs]


def _training_step(model: nn.Module, inputs: tuple[Any, ...], dtype: torch.dtype) -> Call:
    device = next(model.parameters()).device

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext():
            logits = model(*_fresh(inputs))
        loss = F.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.long, device=device))
        loss.backward()  # type: ignore[no-untyped-call]

    return step


def _captured(call: Call) -> Call:
    """The same kernels, recorded once and replayed without Python."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()

    def replay() -> Any:
        graph.replay()
        return output

    return replay


def pytorchvideo_network(config: Any, side: int) -> nn.Module:
    """PyTorchVideo's network of the same architecture, in training mode.

    Its head averages windows of a fixed size; they are made to fit the frames and the side, or the configuration's
    ``head_window``, so that both networks compute the same.

    Args:
        config: the configuration of a network of this library.
        side: of the clips in pixels.

    Raises:
        ValueError: PyTorchVideo has no such network.
        MissingDependencyError: PyTorchVideo is not installed.
    """
    models = Contender("PyTorchVideo").require()
    two = isinstance(config, SlowFastConfig)
    depths = set(config.depths) if two else {config.depths}
    depth = _DEPTHS.get(next(iter(depths)))
    plain = config.non_local is None and config.roi is None and config.res5_stride == 2 and config.res5_dilation == 1
    if two:
        plain &= config.fusion == "time_strided_conv" and config.lateral_norm and config.fast_input == "rgb"
    else:
        plain &= config.pool1_padding == 1
    if len(depths) > 1 or depth is None or not plain:
        raise ValueError(f"PyTorchVideo has no network like this one, so there is nothing to compare. {config}")
    window = min(config.head_window or side, -(-side // 32))  # res5 has so many positions a side
    common = {"model_depth": depth, "model_num_class": config.num_classes, "dropout_rate": config.drop_rate}
    if two:
        network: nn.Module = models.slowfast.create_slowfast(
            slowfast_channel_reduction_ratio=(round(1 / config.beta),),
            slowfast_conv_channel_fusion_ratio=config.lateral_ratio,
            slowfast_fusion_conv_kernel_size=(config.lateral_kernel, 1, 1),
            slowfast_fusion_conv_stride=(config.alpha, 1, 1),
            input_channels=(config.in_chans, config.in_chans),
            stem_dim_outs=(config.width, config.fast_channels(config.width)),
            stem_conv_kernel_sizes=tuple((kernels[0], 7, 7) for kernels in config.temporal_kernels),
            stage_conv_a_kernel_sizes=tuple(
                _stage_kernels(k, d) for k, d in zip(config.temporal_kernels, config.depths, strict=True)
            ),
            head_pool_kernel_sizes=((config.frames, window, window), (config.clip_frames, window, window)),
            **common,
        )
    else:
        network = models.resnet.create_resnet(
            input_channel=config.in_chans,
            stem_dim_out=config.fast_channels(config.width),
            stem_conv_kernel_size=(config.temporal_kernels[0], 7, 7),
            stem_conv_stride=(config.conv1_stride, 2, 2),
            stem_pool_stride=(config.pool1_stride, 2, 2),
            stage1_pool=nn.MaxPool3d if config.temporal_pool else None,
            stage_conv_a_kernel_size=_stage_kernels(config.temporal_kernels, config.depths),
            head_pool_kernel_size=(config.clip_frames // config.temporal_reduction, window, window),
            **common,
        )
    with torch.device("meta"):
        ours = build(config)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, network)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"PyTorchVideo's nearest network has {counts[1]} parameters, not {counts[0]}: it is another one. {config}"
        )
    return network


def _stage_kernels(kernels: Any, depths: Sequence[int]) -> tuple[Any, ...]:
    """Of res2 to res5, (T, H, W) of each block's first convolution."""
    stages = zip(kernels[1:], depths, strict=True)
    return tuple(tuple((kernel, 1, 1) for kernel in block_kernels(entry, depth)) for entry, depth in stages)


def _openvino(contender: Contender, work: Workload) -> Call:
    openvino = contender.require()
    model = work.network()
    if torch.device(work.device).type != "cpu" or contender.dtype == "float16":
        raise ValueError("OpenVINO is measured on the CPU, in float32 or bfloat16")
    [clip, *boxes] = work.inputs(model.config)
    if boxes or not isinstance(clip, Tensor):
        raise ValueError("OpenVINO is measured with networks that take one clip and nothing else")
    with warnings.catch_warnings(), no_telemetry():
        warnings.simplefilter("ignore")  # tracing warns of every check of a shape
        converted = openvino.convert_model(model, example_input=clip, input=[list(clip.shape)])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[contender.dtype],
        "INFERENCE_NUM_THREADS": work.threads or torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()
    data = clip.numpy()
    return lambda: request.infer([data], share_inputs=True, share_outputs=True)


def _onnxruntime(contender: Contender, work: Workload) -> Call:
    runtime = contender.require()
    model = work.network()
    if torch.device(work.device).type != "cpu" or contender.dtype != "float32":
        raise ValueError("ONNX Runtime is measured on the CPU, in float32")
    clip, *boxes = work.inputs(model.config)
    if boxes or not isinstance(clip, Tensor):
        raise ValueError("ONNX Runtime is measured with networks that take one clip and nothing else")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = work.threads or torch.get_num_threads()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        export_model(model, path, batch_size=work.batch, size=clip.shape[-1], check=False)
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = {"clip": clip.numpy()}
    return lambda: session.run(None, inputs)
