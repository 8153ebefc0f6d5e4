"""Exported files, run by their runtimes beside the network, at sizes that no example had."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

import slowfast_zoo as sfz
from slowfast_zoo.inference import export as module
from slowfast_zoo.inference.export import export_with_report
from slowfast_zoo.inference.telemetry import no_telemetry

onnx = pytest.importorskip("onnx")
with no_telemetry():
    onnxruntime = pytest.importorskip("onnxruntime")
    openvino = pytest.importorskip("openvino")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="older exporters cannot do all of this; export_model says so where they cannot",
)
ROOT = Path(__file__).resolve().parents[2]
DEPTHS = (1, 1, 1, 1)
SIZES = ((3, 80, 112), (1, 33, 47), (1, 32, 32), (1, 40, 256))  # batch, height, width
SUFFIXES = (".pt2", ".onnx", ".xml")


def network(name: str = "slowfast_tiny_4x8", **options: Any) -> Any:
    """A small one, each batch norm with statistics of its own: fresh ones would hide what the blocks do."""
    torch.manual_seed(0)
    options = {"width": 8, "depths": DEPTHS, "crop": 64, "num_classes": 7, **options}
    model: Any = sfz.create_model(name, **options).eval()
    generator = torch.Generator().manual_seed(1)
    for path, layer in model.named_modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            small = 0.1 if "non_local" in path else 1.0  # a dot product of untrained features is large
            layer.weight.data.copy_(small * (torch.rand(layer.weight.shape, generator=generator) * 0.5 + 0.5))
            layer.bias.data.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.1)
            layer.running_mean.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.1)
            layer.running_var.copy_(torch.rand(layer.bias.shape, generator=generator) + 0.5)
    return model


def runner(path: Path) -> Callable[..., list[Tensor]]:
    """The file as a function of its inputs, in its own runtime."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()

        def run(*inputs: Tensor) -> list[Tensor]:
            with torch.no_grad():
                given = program(*inputs)
            return [given] if isinstance(given, Tensor) else list(given)

        return run
    names = ("clip", "boxes")
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda *inputs: [
            torch.from_numpy(x) for x in session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=False)})
        ]
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda *inputs: [
        torch.from_numpy(np.array(x))
        for x in compiled({n: x.numpy() for n, x in zip(names, inputs, strict=False)}).values()
    ]


def clip_for(model: Any, batch: int, height: int, width: int, frames: int | None = None) -> Tensor:
    return torch.randn(batch, model.config.in_chans, frames or model.config.clip_frames, height, width)


def assert_close(given: list[Tensor], expected: Any) -> None:
    wanted = [expected] if isinstance(expected, Tensor) else list(expected)
    assert [x.shape for x in given] == [x.shape for x in wanted]
    for got, want in zip(given, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=2e-5 * (float(want.abs().max()) if want.numel() else 0))


def assert_same_everywhere(model: Any, path: Path, function: Any = None, sizes: Any = SIZES) -> None:
    run = runner(path)
    for size in sizes:
        clip = clip_for(model, *size)
        with torch.no_grad():
            assert_close(run(clip), (function or model)(clip))


HALF: dict[str, Any] = {"fast_input": "rgb_half"}
NON_LOCAL: dict[str, Any] = {"blocks": {"res4": (0,), "res5": (0,)}, "pool": (2, 2, 2)}
# Name, options, and the formats to try. OpenVINO's is made from ONNX.
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "time_difference": ("slowfast_tiny_4x8", {}, (".xml",)),
    "window": ("slowfast_r50_4x16", {"head_window": 3}, (".pt2", ".onnx")),  # maps larger and smaller than it
    "window_7": ("slow_tiny_4x8", {"head_window": 7}, (".xml",)),
    "gray_frames": ("slowfast_r50_8x8", {"in_chans": 1, "fusion": "time_to_channel_concat"}, (".pt2",)),
    "sum": (
        "slowfast_tiny_4x8",
        {"fusion": "time_to_channel_sum", "beta": 0.25, "fast_input": "gray", "slow_frames": "strided"},
        (".onnx",),
    ),
    "sample": ("slowfast_tiny_4x8", {"fusion": "time_strided_sample", **HALF}, (".onnx",)),
    "bidirectional": ("slowfast_tiny_4x8", {"fusion": "bidirectional", **HALF}, (".pt2", ".xml")),
    "packed": ("slowfast_tiny_4x8", {"fusion": "time_to_channel_concat", **HALF}, (".pt2",)),
    "no_fusion": ("slowfast_tiny_4x8", {"fusion": "none", "num_classes": 0}, (".pt2",)),
    "fast": ("fast_r50_4x16", {}, (".pt2",)),
    "c2d": ("c2d_r50_8x8", {}, (".pt2",)),
    "i3d": ("i3d_r50_32x2", {}, (".onnx",)),
    "gaussian": ("slow_r50_4x16", {"non_local": {**NON_LOCAL, "instantiation": "gaussian"}}, (".onnx",)),
    "embedded": ("slow_r50_4x16", {"non_local": {**NON_LOCAL, "pool_first": False}}, (".pt2",)),
    "dot_product": ("slow_r50_4x16", {"non_local": {**NON_LOCAL, "instantiation": "dot_product"}}, (".onnx",)),
    "concatenation": (
        "slow_r50_4x16",
        {"non_local": {**NON_LOCAL, "instantiation": "concatenation"}},
        (".pt2", ".onnx"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("key", "suffix"), [(key, suffix) for key, case in CASES.items() for suffix in case[2]])
def test_every_kind_of_network(key: str, suffix: str, tmp_path: Path) -> None:
    name, options, _ = CASES[key]
    model = network(name, **options)
    path = sfz.export_model(model, tmp_path / f"model{suffix}", check=False)
    assert path == tmp_path / f"model{suffix}"
    assert_same_everywhere(model, path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_detection(suffix: str, tmp_path: Path) -> None:
    """Any number of boxes, in any order of clips, and partly outside; both ways to align."""
    for i, roi in enumerate(({}, {"aligned": True, "context": True, "temporal_pool": "max"})):
        model = network("slow_r50_4x16_det", roi=roi)
        path = sfz.export_model(model, tmp_path / f"model{suffix}", output="probabilities" if i else None)
        run = runner(path)
        for batch, height, width in SIZES[:2]:
            clip = clip_for(model, batch, height, width)
            corners = torch.rand(5, 2) * torch.tensor([width, height]) - 9
            sides = torch.rand(5, 2) * torch.tensor([width, height]) + 1
            index = torch.randint(batch, (5, 1)).float()
            for boxes in (
                torch.cat((index, corners, corners + sides), 1),
                torch.zeros(0, 5),
                torch.tensor([[0, 3.0, 4, 20, 30]]),
            ):
                with torch.no_grad():
                    expected = model.probabilities(clip, boxes) if i else model(clip, boxes)
                assert_close(run(clip, boxes), expected)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_features(suffix: str, tmp_path: Path) -> None:
    model, backbone = network(), network(features_only=True, out_indices=(1, 4))
    report = export_with_report(model, tmp_path / f"model{suffix}", output="features", out_indices=(1, 4))
    assert report.outputs == ("slow_res2", "fast_res2", "slow_res5", "fast_res5")
    assert_same_everywhere(model, report.files[0], lambda clip: [x for maps in backbone(clip) for x in maps])
    if suffix == ".onnx":
        outputs = onnx.load(report.files[0]).graph.output
        assert [x.name for x in outputs] == list(report.outputs)
        assert "height" in outputs[0].type.tensor_type.shape.dim[3].dim_param


def test_features_of_one_pathway(tmp_path: Path) -> None:
    model = network("slow_r50_4x16_det", features_only=True, out_indices=(2,))  # maps need no boxes
    report = export_with_report(model, tmp_path / "model.pt2")
    assert report.outputs == ("res3",)
    assert list(report.inputs) == ["clip"]
    assert_same_everywhere(model, report.files[0])


@pytest.mark.parametrize("average", ["scores", "logits"])
def test_probabilities(average: str, tmp_path: Path) -> None:
    model = network("slow_tiny_4x8", head_window=2, head_average=average, head_activation="sigmoid")
    path = sfz.export_model(model, tmp_path / "model.pt2", output="probabilities", check=False)
    assert_same_everywhere(model, path, model.probabilities)


def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    model = network("slow_tiny_4x8").double().train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    sfz.export_model(model, tmp_path / "model.pt2", frames=32, batch_size=2, size=(64, 48))
    assert model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    run = runner(tmp_path / "model.pt2")
    clip = clip_for(model, 2, 64, 48, 32)
    with torch.no_grad():
        assert_close(run(clip), model.float().eval()(clip))
    with pytest.raises(Exception, match="(?i)size|shape|guard|expected"):
        run(clip[:1])


@pytest.mark.slow
def test_what_the_files_say(tmp_path: Path) -> None:
    name = "slowfast_tiny_4x8.motion"
    for suffix in SUFFIXES:
        sfz.export_model(name, tmp_path / f"model{suffix}", output="probabilities")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.bin", "model.onnx", "model.pt2", "model.xml"]
    model = onnx.load(tmp_path / "model.onnx")
    extra = {"slowfast_zoo.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    told = [
        {prop.key: prop.value for prop in model.metadata_props}["slowfast_zoo"],
        openvino.Core().read_model(tmp_path / "model.xml").get_rt_info(["slowfast_zoo"]).astype(str),
        extra["slowfast_zoo.json"],
    ]
    facts = json.loads(told[0])
    assert [json.loads(text) for text in told[1:]] == [facts] * 2
    assert facts["name"] == name
    assert facts["library_version"] == sfz.__version__
    assert facts["labels"][:2] == ["static", "pan_left"]
    cfg = sfz.create_model(name).pretrained_cfg
    for key in ("mean", "std", "channel_order", "crop", "scale"):
        assert facts["preprocessing"][key] == cfg[key]
    assert facts["preprocessing"]["frames"] == 16
    assert facts["inputs"] == {"clip": ["batch", 3, 16, "height", "width"]}
    assert facts["outputs"] == ["probabilities"]
    # Names that somebody meets, and nothing of the machine that it was made on.
    [clip], [output] = model.graph.input, model.graph.output
    assert [d.dim_param or d.dim_value for d in clip.type.tensor_type.shape.dim] == ["batch", 3, 16, "height", "width"]
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", 12]
    assert [str(x) for x in openvino.Core().read_model(tmp_path / "model.xml").input("clip").partial_shape] == [
        "?", "3", "16", "?", "?"
    ]  # fmt: skip
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert str(ROOT).encode() not in content
        assert b"site-packages" not in content


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, model = tmp_path / "model.pt2", network("slow_tiny_4x8")
    target.write_text("the one before")
    monkeypatch.setattr(module, "load_runner", lambda *_: lambda inputs: [torch.zeros(len(inputs["clip"]), 7)])
    with pytest.raises(
        sfz.ExportError, match="differs from the network on a clip of 1 x 3 x 4 x 64 x 64: logits by 1 "
    ):
        sfz.export_model(model, target)
    monkeypatch.setattr(
        module, "load_runner", lambda *_: lambda inputs: [torch.full((len(inputs["clip"]), 7), torch.nan)]
    )
    with pytest.raises(sfz.ExportError, match="logits by nan"):
        sfz.export_model(model, target)
    monkeypatch.setattr(module, "load_runner", lambda *_: lambda inputs: [torch.zeros(7)])
    with pytest.raises(sfz.ExportError, match=r"gives logits of shape \(7,\).*the network \(1, 7\)"):
        sfz.export_model(model, target)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(sfz.ExportError, match="cannot be exported to torch: RuntimeError: no such operator$"):
        sfz.export_model(model, target)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert target.read_text() == "the one before"


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("model.bin", {}, ValueError, r"torch \(.pt2\), onnx \(.onnx\), openvino \(.xml\); 'model.bin' has none"),
        ("model.onnx", {"format": "openvino"}, ValueError, "ends in .xml, which 'model.onnx' does not"),
        ("model.onnx", {"format": "tflite"}, ValueError, "format is one of .*not 'tflite'"),
        ("gone/model.onnx", {}, FileNotFoundError, "there is no folder"),
        ("folder.pt2", {}, ValueError, "is a folder"),
        ("model.pt2", {"output": "scores"}, ValueError, "output is one of 'logits', 'probabilities', 'features'"),
        ("model.pt2", {"out_indices": (1,)}, ValueError, "needs output='features'"),
        ("model.pt2", {"size": 31}, ValueError, "from 32, .* not 31"),
        ("model.pt2", {"size": (64, 64, 3)}, ValueError, r"not \(64, 64, 3\)"),
        ("model.pt2", {"batch_size": 0}, ValueError, "batch_size is an integer of at least 1, or None, not 0"),
        ("model.pt2", {"frames": 18}, ValueError, "positive multiple of 4 in this network, not 18"),
        ("model.pt2", {"opset": 18}, ValueError, "opset is for ONNX and OpenVINO"),
        ("model.onnx", {"opset": 17}, ValueError, "opset is an integer from 18, .* not 17"),
        ("model.onnx", {"opset": -1}, ValueError, "from 18, .* not -1"),
        ("model.xml", {"opset": "18"}, ValueError, "from 18, .* not '18'"),
        ("model.xml", {"opset": 18.0}, ValueError, "from 18, .* not 18.0"),
        ("model.onnx", {"opset": 999}, ValueError, "knows opsets up to [0-9]+, not 999"),
        ("weights.xml", {}, ValueError, "weights.bin' is a folder"),
    ],
)
def test_wrong_requests(
    name: str, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    for folder in ("folder.pt2", "weights.bin"):
        (tmp_path / folder).mkdir()
    with pytest.raises(error, match=message):
        sfz.export_model(network(), tmp_path / name, **options)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.pt2", "weights.bin"]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 21])
def test_opset(opset: int, tmp_path: Path) -> None:
    model = network("slow_tiny_4x8")
    path = sfz.export_model(model, tmp_path / "model.onnx", opset=opset, check=False)
    assert [known.version for known in onnx.load(path).opset_import if not known.domain] == [opset]
    assert_same_everywhere(model, path, sizes=SIZES[:1])


@pytest.mark.slow
def test_an_opset_that_the_exporter_does_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the file as it was, and says so to a logger only."""
    monkeypatch.setattr(module, "LEAST_OPSET", 1)
    with pytest.raises(sfz.ExportError, match="wrote opset [0-9]+, not the 7 that was asked for"):
        sfz.export_model(network("slow_tiny_4x8"), tmp_path / "model.onnx", opset=7)
    assert not list(tmp_path.iterdir())


def test_pruned_network(tmp_path: Path) -> None:
    """Whose weights are the result of others, and cannot be copied as they are."""
    model = network("slow_tiny_4x8")
    for layer in [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv3d)]:
        torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.5)
    model(clip_for(model, 1, 32, 32))
    path = sfz.export_model(model, tmp_path / "model.pt2", check=False)
    assert_same_everywhere(model, path, sizes=SIZES[:2])


def test_a_network_that_does_not_run(tmp_path: Path) -> None:
    model = network("slow_tiny_4x8")
    model.head.fc = torch.nn.Linear(3, 7)
    with pytest.raises(sfz.ExportError, match="cannot be exported to torch|does not run"):
        sfz.export_model(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


class _Pair(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.verb, self.noun = nn.Linear(features, 2), nn.Linear(features, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.verb(x), self.noun(x)


@pytest.mark.parametrize("check", [False, True])
def test_a_network_of_several_classifiers(check: bool, tmp_path: Path) -> None:
    model = network("slow_tiny_4x8")
    model.head.fc = _Pair(model.num_features)
    with pytest.raises(sfz.ExportError, match="gives 2 tensors where there is to be one for logits"):
        sfz.export_model(model, tmp_path / "pair.pt2", size=32, check=check)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        sfz.export_model(network("slow_tiny_4x8"), tmp_path / "model.pt2")


def test_wrong_networks(tmp_path: Path) -> None:
    target = tmp_path / "model.pt2"
    with pytest.raises(TypeError, match="expected a model name or a network from create_model, got Linear"):
        sfz.export_model(torch.nn.Linear(1, 1), target)
    with pytest.raises(ValueError, match="features of its own out_indices"):
        sfz.export_model(network(features_only=True), target, output="logits")
    with pytest.raises(ValueError, match="has no probabilities"):
        sfz.export_model(network(num_classes=0), target, output="probabilities")
    with pytest.raises(ValueError, match="optical flow takes pairs"):
        sfz.export_model(network(fast_input="flow"), target)
    with torch.device("meta"), pytest.raises(ValueError, match="meta device"):
        sfz.export_model(sfz.create_model("slow_tiny_4x8"), target)
    with pytest.raises(sfz.WeightsError, match="no pretrained weights"):
        sfz.export_model("slow_tiny_4x8", target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "package"), [(".onnx", "onnxscript"), (".xml", "openvino")])
def test_without_the_exporter(suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(sfz.MissingDependencyError, match=rf'needs {package} .*pip install "slowfast-zoo\[export\]"'):
        sfz.export_model(network(), tmp_path / f"model{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_without_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.warns(UserWarning, match="was written but not run, because onnxruntime is not installed"):
        sfz.export_model(network("slow_tiny_4x8"), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("shape", [(9, 8), (3, 12), (2, 2), (7, 7)])
def test_layers_while_exporting(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed in another way for an export is the same."""
    from slowfast_zoo.layers import ClassifierHead, NonLocal, RoIHead

    head, block = ClassifierHead(4, 3, 0.0, 7), NonLocal(4, pool=(2, 3, 3), instantiation="concatenation").eval()
    context = RoIHead(4, 3, 0.0, 1 / 16, resolution=5, context=True)
    torch.nn.init.ones_(block.norm.weight)
    x, boxes = torch.randn(2, 4, 3, *shape), torch.tensor([[1.0, 0, 0, 30, 40]])
    functions: list[Callable[[], Tensor]] = [lambda: head.pool([x]), lambda: block(x), lambda: context.pool([x], boxes)]
    with torch.no_grad():
        ordinary = [function() for function in functions]
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        for function, want in zip(functions, ordinary, strict=True):
            torch.testing.assert_close(function(), want)
