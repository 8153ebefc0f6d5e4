"""Networks inside what training loops put around them: found, or refused in one line."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel, update_bn

import slowfast_zoo as sfz
from slowfast_zoo.inference.prepare import load_network
from slowfast_zoo.models import freeze, unfreeze, unwrapped


def network(name: str = "slow_tiny_4x8", **overrides: Any) -> Any:
    torch.manual_seed(0)
    return sfz.create_model(name, **{"width": 8, "num_classes": 3, **overrides})


class Module(nn.Module):
    """As Lightning's modules: the network under a name of one's own, beside a loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.loss = nn.CrossEntropyLoss()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda model: model,
    "compile": lambda model: torch.compile(model, backend="eager"),  # type: ignore[return-value]
    "parallel": nn.DataParallel,
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),  # type: ignore[arg-type]
    "lightning": Module,
    "compiled lightning": lambda model: torch.compile(Module(model), backend="eager"),  # type: ignore[return-value]
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_each_function_finds_the_network(wrap: Callable[[nn.Module], nn.Module], tmp_path: Any) -> None:
    model = network()
    wrapped: Any = wrap(model)
    assert unwrapped(wrapped) is model
    assert load_network(wrapped, False) is model
    assert str(sfz.create_transform(wrapped)) == str(sfz.create_transform(model))
    assert sfz.VideoClassifier(wrapped).model is model
    freeze(wrapped, "res5", batch_norm=True)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.fc.weight", "head.fc.bias"}
    assert not any(m.training for m in wrapped.train().modules() if isinstance(m, nn.BatchNorm3d))
    unfreeze(wrapped)
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in wrapped.train().modules() if isinstance(m, nn.BatchNorm3d))
    path = model.save_pretrained(tmp_path) / "model.safetensors"
    nn.init.zeros_(model.head.fc.weight)
    sfz.load_checkpoint(wrapped, path)
    assert model.head.fc.weight.any()
    assert sfz.optimize_for_inference(wrapped).optimized  # type: ignore[union-attr]


class Keeper:
    """No module, as timm's ModelEma is none."""

    def __init__(self, model: nn.Module) -> None:
        self.ema, self.decay = model, 0.99


def test_an_object_that_keeps_one_module() -> None:
    model = network()
    keeper: Any = Keeper(nn.DataParallel(model))
    assert unwrapped(keeper) is sfz.VideoClassifier(keeper).model is model
    freeze(keeper, "res5")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.fc.weight", "head.fc.bias"]
    keeper.student = network()
    with pytest.raises(TypeError, match="not Keeper"):
        unwrapped(keeper)


def test_parts_in_pytorchs_wrappers_are_optimised() -> None:
    model = network()
    clip = torch.rand(1, 3, model.config.clip_frames, 32, 32)
    want = model.eval()(clip)
    model.pathway.res2 = torch.compile(model.pathway.res2, backend="eager")
    model.pathway.res3.blocks[0] = checkpoint_wrapper(model.pathway.res3.blocks[0])
    torch.testing.assert_close(sfz.optimize_for_inference(model)(clip), want, rtol=1e-4, atol=1e-5)
    assert hasattr(model.pathway.res2, "_orig_mod"), "the network itself stays as it is"


def test_a_graph_is_told_of() -> None:
    with pytest.raises(TypeError, match="traced: pass the network that it was made from"):
        unwrapped(torch.fx.symbolic_trace(network()))


def test_an_average_is_a_network_of_its_own() -> None:
    model = network()
    average = AveragedModel(model)
    assert unwrapped(average) is average.module is not model


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Linear(2, 2), "(not|got) Linear$"),
        ("no network", "(not|got) str$"),
        (lambda: nn.ModuleList([network(), network()]), "2 networks"),
        (lambda: nn.Sequential(network(), nn.Softmax(-1)), "other layers"),
    ],
)
def test_what_has_no_single_network_is_refused(other: Any, words: str) -> None:
    other = other() if callable(other) and not isinstance(other, nn.Module) else other
    functions: list[Callable[[Any], Any]] = [freeze, unfreeze, sfz.optimize_for_inference]
    functions += [] if isinstance(other, str) else [sfz.VideoClassifier, sfz.create_transform, sfz.ActionDetector]
    for function in functions:
        with pytest.raises(TypeError, match=words):
            function(other)


def test_a_compiled_part_is_frozen_too() -> None:
    model = network()
    model.pathway.res2 = torch.compile(model.pathway.res2, backend="eager")
    model.pathway = torch.compile(model.pathway, backend="eager")
    freeze(model, "res2")
    trained = {name.replace("_orig_mod.", "") for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("pathway.stem", "pathway.res2")) for name in trained)
    assert any(name.startswith("pathway.res3") for name in trained)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items() if name.endswith(("running_mean", "running_var"))}


@pytest.mark.parametrize(("until", "batch_norm"), [(None, True), ("res3", False)])
def test_update_bn_leaves_frozen_norms_alone(until: str | None, batch_norm: bool) -> None:
    model = network()
    model(torch.rand(2, 3, 4, 32, 32))  # statistics other than those of a new norm
    freeze(model, until, batch_norm=batch_norm)
    for averaged in (model, AveragedModel(model), copy.deepcopy(model)):
        before = statistics(averaged)
        update_bn([torch.rand(2, 3, 4, 32, 32) + 1], averaged)
        for name, tensor in statistics(averaged).items():
            frozen = batch_norm or any(f".{stage}." in name for stage in ("stem", "res2", "res3"))
            assert torch.equal(tensor, before[name]) == frozen, name
    unfreeze(model)
    update_bn([torch.rand(2, 3, 4, 32, 32) + 2], model)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in statistics(model).items())


def test_a_clip_of_another_type_is_said_in_words() -> None:
    model = network().eval()
    clip = torch.rand(1, 3, 4, 32, 32)
    for other in (clip.half(), clip.double(), (clip * 255).byte()):
        with pytest.raises(TypeError, match=r"clip .*torch\.(float|uint)"):
            model(other)


def test_stages_of_another_type_or_place_are_pytorchs_to_judge() -> None:
    """As torchvision's networks: a layer converts its input itself, or its parameters come when it is called."""
    model = network().eval()
    clip = torch.rand(1, 3, 4, 32, 32)
    want = model(clip)
    # The stem in bfloat16, so that the first parameter is; hooks convert what goes in and what comes out.
    stem = model.pathway.stem.bfloat16()
    stem.register_forward_pre_hook(lambda module, args: tuple(x.bfloat16() for x in args))
    stem.register_forward_hook(lambda module, args, output: output.float())
    torch.testing.assert_close(model(clip), want, atol=0.05, rtol=0.05)
    # Parameters that are elsewhere until the layer is called.
    model = network().eval()
    for layer in model.modules():
        if not list(layer.children()) and list(layer.parameters()):
            kept = dict(layer.named_parameters())

            def bring(module: Any, args: Any, kept: dict[str, nn.Parameter] = kept) -> None:
                module._parameters.update(kept)

            layer._parameters.update({name: nn.Parameter(tensor.to("meta")) for name, tensor in kept.items()})  # type: ignore[arg-type]
            layer.register_forward_pre_hook(bring)
    assert torch.equal(model(clip), want)


SHARDED = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
import slowfast_zoo as sfz

torch.manual_seed(0)
whole = sfz.create_model("slow_tiny_4x8", width=8, num_classes=3).eval()
clip = torch.rand(1, 3, 4, 32, 32)
expected = whole(clip)
torch.save(whole.state_dict(), sys.argv[1] + "/whole.pt")
dist.init_process_group("gloo", init_method="file://" + sys.argv[1] + "/store", rank=0, world_size=1)
network = fully_shard(whole, mesh=init_device_mesh("cpu", (1,)))
assert torch.allclose(network(clip), expected)
sfz.freeze(network, "res2")
assert not any(p.requires_grad for p in network.pathway.res2.parameters())
for name, call in {
    "optimize_for_inference": sfz.optimize_for_inference,
    "export_model": lambda model: sfz.export_model(model, sys.argv[1] + "/m.onnx"),
    "load_checkpoint": lambda model: sfz.load_checkpoint(model, sys.argv[1] + "/whole.pt"),
}.items():
    try:
        call(network)
    except TypeError as error:
        assert str(error).startswith(name + " needs whole weights") and "save_pretrained" in str(error), error
    else:
        raise AssertionError(name)
again = sfz.create_model("local-dir:" + str(network.save_pretrained(sys.argv[1] + "/folder"))).eval()
assert torch.equal(again(clip), expected)
dist.destroy_process_group()
"""


def test_sharded_weights_work_or_are_told_of(tmp_path: Path) -> None:
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("this torch has the first FSDP alone")
    command = [sys.executable, "-c", SHARDED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
