"""Other libraries' networks of the same shape, and other ways to run ours, measured in turns with them.

``python -m benchmarks.contenders MODEL --against openvino`` is ``slowfast-zoo bench`` with others in the round.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from slowfast_zoo.cli.bench import add_options, report, variants_of, work_of
from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.inference.export import export_model
from slowfast_zoo.inference.measure.work import Call, Variant, Workload, inference, training_step
from slowfast_zoo.inference.optimize.network import optimize_for_inference
from slowfast_zoo.inference.telemetry import no_telemetry
from slowfast_zoo.models import SlowFastConfig, build
from slowfast_zoo.models.config import block_kernels

PACKAGES = {"PyTorchVideo": "pytorchvideo", "OpenVINO": "openvino", "ONNX Runtime": "onnxruntime"}
_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}  # PyTorchVideo knows networks by their depth


class Contender(Variant):
    """One of those that do the same work: also other libraries' networks, and PyTorch's other ways to run ours."""

    KINDS: ClassVar[tuple[str, ...]] = (
        *Variant.KINDS,
        "optimised without Winograd",
        "channels-last",
        "compiled",
        "CUDA graph",
        "PyTorchVideo",
        "OpenVINO",
        "ONNX Runtime",
    )

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

    def prepare(self, work: Workload) -> Call:
        """See :meth:`Variant.prepare`."""
        kind, device = self.kind, torch.device(work.device)
        self.require()
        if work.train and kind not in ("ordinary", "channels-last", "compiled", "PyTorchVideo"):
            raise ValueError(f"{kind} is for inference: it has no training step to measure")
        if kind in Variant.KINDS:
            return super().prepare(work)
        if kind == "OpenVINO":
            return _openvino(self, work)
        if kind == "ONNX Runtime":
            return _onnxruntime(self, work)
        dtype: torch.dtype = getattr(torch, self.dtype)
        weights_dtype = torch.float32 if work.train or kind == "optimised without Winograd" else dtype
        model = work.network()
        inputs = work.inputs(model.config, weights_dtype)
        if kind == "PyTorchVideo":
            side = work.size or model.config.crop
            if isinstance(model.config, SlowFastConfig):  # its loaders make the pair, so its time is without that
                with torch.no_grad():
                    inputs = ([part.contiguous() for part in model.to(weights_dtype).pathway_inputs(inputs[0])],)
            model = pytorchvideo_network(model.config, side).train(work.train)
        model = model.to(device, weights_dtype)
        if kind == "optimised without Winograd":
            model = optimize_for_inference(model, dtype=dtype, winograd=False)
        if kind in ("channels-last", "compiled", "CUDA graph"):
            model = model.to(memory_format=torch.channels_last_3d)
            inputs = tuple(
                x.contiguous(memory_format=torch.channels_last_3d) if isinstance(x, Tensor) else x for x in inputs
            )
        if kind == "compiled":
            model = torch.compile(model)
        if work.train:
            return training_step(model, inputs, dtype)
        infer = inference(model, inputs)
        if kind == "compiled":
            config = importlib.import_module("torch._inductor.config")
            with config.patch(freezing=device.type == "cpu"):  # then the weights are constants, and can be ordered anew
                infer()  # compiles
        return _captured(infer) if kind == "CUDA graph" else infer


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


def main(words: Sequence[str] | None = None) -> int:
    """Measures as the command does, and others with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    choices = {package: name for name, package in PACKAGES.items()}
    parser.add_argument("--against", action="append", required=True, choices=sorted(choices), help="may be repeated")
    args = parser.parse_args(words)
    try:
        work, variants = work_of(args), variants_of(args)
        dtypes = list(dict.fromkeys(variant.dtype for variant in variants[1:]))
        for peer in args.against:
            # On a CPU, PyTorchVideo's pooling knows no other dtype, and ONNX Runtime hardly any operation.
            only_float32 = peer != "openvino" and args.device == "cpu" and not args.train
            variants += [Contender(choices[peer], dtype) for dtype in (["float32"] if only_float32 else dtypes)]
        return report(args, work, list(dict.fromkeys(variants)))
    except (ValueError, MissingDependencyError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    from benchmarks.contenders import main as run  # whose classes other processes find by name

    sys.exit(run())
