"""The networks are PyTorch's own layers, run as they are: what other tools do to such layers they do to these."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

import slowfast_zoo as sfz
from slowfast_zoo.layers import ConvNorm

NON_LOCAL = {"blocks": {"res3": (0,), "res5": (0,)}, "fast_blocks": {"res4": (0,)}}
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "slowfast": ("slowfast_r50_4x16", {}),
    "tiny": ("slowfast_tiny_4x8", {}),
    "slow": ("slow_r50_8x8", {}),
    "i3d": ("i3d_r50_nl_32x2", {}),
    "c2d": ("c2d_r50_8x8", {}),
    "strided": ("slowfast_r50_4x16", {"slow_frames": "strided", "lateral_norm": False}),
    "windows": ("slowfast_r50_4x16", {"head_window": 2}),
    "large window": ("slowfast_r50_4x16", {"head_window": 7}),
    "gray": ("slowfast_r50_4x16", {"fast_input": "gray", "fusion": "time_to_channel_concat"}),
    "sum": ("slowfast_r50_4x16", {"fast_input": "time_difference", "fusion": "time_to_channel_sum"}),
    "half": ("slowfast_r50_4x16", {"fast_input": "rgb_half", "fusion": "bidirectional"}),
    "sample": ("slowfast_r50_4x16", {"fast_input": "rgb_half", "fusion": "time_strided_sample"}),
    "gaussian": ("slowfast_r50_4x16", {"non_local": {**NON_LOCAL, "instantiation": "gaussian"}}),
    "concatenation": (
        "slowfast_r50_4x16",
        {"non_local": {**NON_LOCAL, "instantiation": "concatenation", "pool_first": False}},
    ),
}


@torch.no_grad()
def network(kind: str, **overrides: Any) -> Any:
    """A narrow one in evaluation, whose batch norms have statistics of their own."""
    name, options = KINDS.get(kind, (kind, {}))
    torch.manual_seed(0)
    options = {"width": 16, "depths": (1, 1, 1, 1), "num_classes": 5, **options, **overrides}
    model = sfz.create_model(name, **options).eval()
    for path, module in model.named_modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if "non_local" in path:  # a product of untrained features is large
                module.weight.mul_(0.05)
    return model


def clip_for(model: Any, batch: int = 2, height: int = 64, width: int = 48, times: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, model.config.clip_frames * times, height, width, generator=generator)


def assert_close(got: Tensor, want: Tensor, tolerance: float = 1e-4) -> None:
    assert got.shape == want.shape
    assert float((got - want).abs().max()) <= tolerance * float(want.abs().max())


@pytest.mark.parametrize("name", sfz.list_models())
def test_types(name: str) -> None:
    with torch.device("meta"):
        model = sfz.create_model(name)
    weighted = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    assert {type(module) for module in weighted} <= {nn.Conv3d, nn.BatchNorm3d, nn.Linear}
    others = [module for module in model.modules() if isinstance(module, (nn.MaxPool3d, nn.ReLU))]
    assert {type(module) for module in others} == {nn.MaxPool3d, nn.ReLU}


def test_cost_is_what_hooks_on_convolutions_count() -> None:
    """As thop, ptflops and others do. Right values: the compiler's own count, and the published 50.3 of fvcore."""
    with torch.device("meta"):
        model = sfz.create_model("slowfast_r50_8x8").eval()
        clip = torch.empty(1, 3, 32, 224, 224)
    counts = {"all": 0}

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        if type(module) is nn.Conv3d:
            counts["all"] += output.numel() * module.weight[0].numel()
        elif type(module) is nn.Linear:
            counts["all"] += output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model(clip)
    for hook in hooks:
        hook.remove()
    with FlopCounterMode(display=False) as counter:
        model(clip)
    assert counts["all"] == counter.get_total_flops() // 2
    assert round(counts["all"] / 1e9, 1) == 50.3


@pytest.mark.parametrize("kind", KINDS)
def test_symbolic_trace(kind: str) -> None:
    """The graph is one for clips of every size and number of frames, and can be pickled."""
    model = network(kind)
    graph = torch.fx.symbolic_trace(model)
    graphs = [graph]
    if TORCH >= (2, 14):  # torch 2.7 cannot pickle graphs of methods whose types are written as strings
        graphs.append(pickle.loads(pickle.dumps(graph)))
    for module in graphs:
        for sizes in ((2, 64, 48), (1, 33, 70, 2)):
            clip = clip_for(model, *sizes)
            with torch.no_grad():
                assert torch.equal(module(clip), model(clip))


@pytest.mark.parametrize("roi", [{}, {"context": True, "temporal_pool": "max"}])
def test_symbolic_trace_of_a_detector(roi: dict[str, Any]) -> None:
    model = network("slowfast_r50_4x16_det", roi=roi)
    graph = torch.fx.symbolic_trace(model)
    clip, boxes = clip_for(model), [torch.tensor([[3.0, 4, 20, 30]]), torch.zeros(0, 4)]
    with torch.no_grad():
        assert torch.equal(graph(clip, boxes), model(clip, boxes))
    with pytest.raises(ValueError, match="x1 < x2"):
        graph(clip, [torch.tensor([[30.0, 4, 20, 30]]), torch.zeros(0, 4)])


def test_feature_maps_of_a_graph() -> None:
    model = network("slowfast", features_only=True)
    clip = clip_for(model)
    with torch.no_grad():
        for got, want in zip(torch.fx.symbolic_trace(model)(clip), model(clip), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_clips(kind: str) -> None:
    """Outputs, and the gradients of each clip, as per-sample clipping and influence functions want them."""
    model = network(kind)
    clips = clip_for(model, height=33, width=32)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def call(parameters: dict[str, Tensor], clip: Tensor) -> Tensor:
        return torch.func.functional_call(model, (parameters, dict(model.named_buffers())), (clip[None],))[0]

    with torch.no_grad():
        assert_close(torch.func.vmap(call, (None, 0))(parameters, clips), model(clips))
    if kind in ("slowfast", "i3d"):
        each = torch.func.vmap(torch.func.grad(lambda p, x: call(p, x).square().sum()), (None, 0))(parameters, clips)
        model(clips[1:]).square().sum().backward()
        for name, parameter in model.named_parameters():
            scale = max(float(parameter.grad.abs().max()), 1e-3)
            assert float((each[name][1] - parameter.grad).abs().max()) <= 1e-3 * scale, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_torch_jit_trace(kind: str) -> None:
    model = network(kind)
    clip = clip_for(model)
    traced = torch.jit.trace(model, (clip,), check_trace=False)
    with torch.no_grad():
        assert_close(traced(clip + 1), model(clip + 1))


def test_torch_jit_trace_of_a_detector() -> None:
    """In a process of its own: torchvision, which cannot be imported while torch.jit traces, is there before."""
    code = """
import sys, warnings
import torch
import slowfast_zoo as sfz
warnings.simplefilter("ignore")
model = sfz.create_model("slow_r50_4x16_det", width=8, depths=(1, 1, 1, 1), num_classes=3).eval()
clip, boxes = torch.randn(2, 3, 4, 64, 64), torch.tensor([[0, 3.0, 4, 40, 50], [1, 0, 0, 64, 64]])
assert "torchvision" in sys.modules
traced = torch.jit.trace(model, (clip, boxes), check_trace=False)
assert torch.allclose(traced(clip, boxes[1:]), model(clip, boxes[1:]), atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["slowfast", "i3d", "large window", "concatenation", "half"])
def test_older_onnx_exporter(kind: str) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = network(kind)
    clip = clip_for(model)
    file = io.BytesIO()
    axes = {"clip": {0: "batch", 3: "height", 4: "width"}}
    torch.onnx.export(model, (clip,), file, dynamo=False, input_names=["clip"], dynamic_axes=axes, opset_version=17)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for sizes in ((2, 64, 48), (1, 96, 80)):
        clip = clip_for(model, *sizes)
        with torch.no_grad():
            assert_close(torch.from_numpy(session.run(None, {"clip": clip.numpy()})[0]), model(clip))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["slowfast", "i3d"])
def test_fusion(kind: str) -> None:
    """torch.ao's by the names of the layers, and by hand; and both are made for inference after it."""
    quantization = pytest.importorskip("torch.ao.quantization")
    model = network(kind)
    clip = clip_for(model)
    by_name, by_hand = copy.deepcopy(model), copy.deepcopy(model)
    groups = []
    for name, module in by_name.named_modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm3d):
            act = [f"{name}.act"] if type(module.act) is nn.ReLU else []
            groups.append([f"{name}.conv", f"{name}.norm", *act])
    assert len(groups) > 10
    quantization.fuse_modules(by_name, groups, inplace=True)
    for module in by_hand.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm3d):
            module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
    with torch.no_grad():
        want = model(clip)
        assert_close(by_name(clip), want)
        assert_close(by_hand(clip), want)
        assert_close(sfz.optimize_for_inference(by_hand)(clip), want)


@pytest.mark.filterwarnings("ignore")
def test_static_quantisation_of_a_graph() -> None:
    quantization = pytest.importorskip("torch.ao.quantization")
    fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    engines = [name for name in ("x86", "qnnpack") if name in torch.backends.quantized.supported_engines]
    if not engines:
        pytest.skip("this build of PyTorch does not quantise")
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engines[0]
    try:
        model = network("slow")
        clip = clip_for(model)
        prepared = fx.prepare_fx(copy.deepcopy(model), quantization.get_default_qconfig_mapping(engines[0]), (clip,))
        with torch.no_grad():
            prepared(clip)
            quantised = fx.convert_fx(prepared)
            assert_close(quantised(clip), model(clip), 0.2)
        assert sum("quantized" in type(module).__module__ for module in quantised.modules()) > 10
    finally:
        torch.backends.quantized.engine = before


def test_norms_of_several_processes() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network("slowfast"))
    clip = clip_for(model)
    assert not any(type(module) is nn.BatchNorm3d for module in model.modules())
    with torch.no_grad():
        want = network("slowfast")(clip)
        assert_close(model(clip), want)
        assert_close(sfz.optimize_for_inference(model)(clip), want)


def halved(conv: nn.Module) -> None:
    torch.nn.utils.prune.l1_unstructured(conv, "weight", 0.5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change",
    [
        halved,
        torch.nn.utils.spectral_norm,
        torch.nn.utils.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.parametrizations.weight_norm,
    ],
    ids=["prune", "spectral_norm", "weight_norm", "parametrized spectral_norm", "parametrized weight_norm"],
)
def test_computed_weights(change: Any) -> None:
    """Weights that are computed from others take part in the network, and in its optimised copy, as they are now."""
    model = network("slowfast")
    clip = clip_for(model)
    before = model(clip)
    for module in [module for module in model.modules() if type(module) is nn.Conv3d]:
        change(module)
    model.train()
    model(clip).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(0.01 * parameter.grad.sign() * parameter.abs().mean())
    model.eval()
    optimized = sfz.optimize_for_inference(model)  # before the network itself has computed its weights again
    with torch.no_grad():
        want = model(clip)
        assert float((want - before).abs().max()) > 1e-3 * float(before.abs().max())
        assert_close(optimized(clip), want)


@pytest.mark.parametrize("features_only", [False, True])
def test_relus_not_in_place(features_only: bool) -> None:
    """Then a hook sees what a layer gave, and layers may be written over by nobody."""
    model = network("slowfast", features_only=features_only)
    clip = clip_for(model)
    seen: list[tuple[Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append((output, output.clone())))
    with torch.no_grad():
        want = model(clip)
        assert not all(torch.equal(*pair) for pair in seen)
        seen.clear()
        model.set_inplace_relu(False)
        got = model(clip)
        assert seen
        assert all(torch.equal(*pair) for pair in seen)
        model.set_inplace_relu()
        assert all(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))
    if not features_only:
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    model = network("slowfast")
    clip = clip_for(model)
    with torch.no_grad():
        want = model(clip)
        assert_close(copy.deepcopy(model).to(dtype)(clip.to(dtype)).float(), want, 0.1)


@pytest.mark.parametrize("isa", ["AVX2", "DEFAULT"])
def test_gradients_of_strided_shortcuts(isa: str) -> None:
    """As in float64, in either memory, in a process whose oneDNN has AVX2 only.

    oneDNN's weight gradient of the same convolution in 2-D, on channels-last memory, writes beyond its memory there.
    """
    code = """
import torch
from torch import nn
torch.manual_seed(0)
for channels, side, batch in ((8, 7, 1), (20, 14, 2), (64, 15, 1), (80, 8, 2), (256, 5, 2)):
    for memory in (torch.contiguous_format, torch.channels_last_3d):
        conv = nn.Conv3d(channels, 2 * channels, 1, (1, 2, 2), bias=False).to(memory_format=memory)
        exact = nn.Conv3d(channels, 2 * channels, 1, (1, 2, 2), bias=False).double()
        exact.load_state_dict(conv.state_dict())
        x = torch.randn(batch, channels, 4, side, side).to(memory_format=memory)
        conv(x).square().sum().backward()
        exact(x.double()).square().sum().backward()
        difference = (conv.weight.grad - exact.weight.grad).abs().max() / exact.weight.grad.abs().max()
        assert difference < 1e-4, (channels, side, batch, memory, difference)
"""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_compile_and_export() -> None:
    model = network("slowfast")
    clip = clip_for(model)
    with torch.no_grad():
        assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(clip), model(clip))
        assert_close(torch.export.export(model, (clip,)).module()(clip), model(clip))
