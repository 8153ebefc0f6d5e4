"""What freezing keeps from training, layer-wise groups for timm, and batch norm over a few clips at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slowfast_zoo as sfz
from slowfast_zoo.layers.split_norm import SplitBatchNorm3d
from slowfast_zoo.models.freezing import freeze, unfreeze

STAGES = ("stem", "res2", "res3", "res4", "res5")


def network(name: str = "slowfast_tiny_4x8", **overrides: Any) -> Any:
    torch.manual_seed(0)
    model: Any = sfz.create_model(name, **{"width": 8, "num_classes": 3, **overrides})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)  # a residual block's last one is zero at first, and nothing before it learns
    return model


def clip(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 16, 32, 32, generator=torch.Generator().manual_seed(seed))


def changed_by_a_step(model: Any) -> set[str]:
    """Which entries of the state dict a training step changes."""
    before = copy.deepcopy(model.state_dict())
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    maps = model(clip())
    sum(m.square().sum() for m in (maps if isinstance(maps, list) else [maps])).backward()
    optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def parts(names: set[str]) -> set[str]:
    """slow.res2.blocks.0.conv1.conv.weight -> slow.res2."""
    return {".".join(name.split(".")[:2]) if name.split(".")[0] != "head" else "head" for name in names}


@pytest.mark.parametrize("until", [None, "stem", "res3", "res5"])
def test_up_to_a_stage(until: str | None) -> None:
    model = network()
    freeze(model, until)
    frozen = STAGES[: STAGES.index(until) + 1] if until else ()
    open_stages = [stage for stage in STAGES if stage not in frozen]
    expected = {f"{pathway}.{stage}" for pathway in ("slow", "fast") for stage in open_stages}
    expected |= {f"lateral.{stage}" for stage in open_stages if stage != "res5"} | {"head"}
    assert parts(changed_by_a_step(model)) == expected
    assert model.training and model.head.training and not any(getattr(model.slow, stage).training for stage in frozen)


@pytest.mark.parametrize("name", ["slow_tiny_4x8", "i3d_r50_8x8"])
def test_networks_of_one_pathway(name: str) -> None:
    model = network(name)
    freeze(model, "res4")
    grads = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert parts(grads) == {"pathway.res5", "head"}


def test_batch_norms() -> None:
    model = network()
    freeze(model, batch_norm=True)
    changed = changed_by_a_step(model)
    assert not any("running" in name or "tracked" in name for name in changed)
    assert parts({name for name in changed if "norm.weight" in name}) > {"slow.stem", "fast.res5", "lateral.res4"}
    freeze(model, batch_norm=True, affine=True)
    changed = changed_by_a_step(model)
    assert changed and not any(".norm." in name for name in changed)


def test_it_survives_and_is_undone() -> None:
    model = network()
    freeze(model, "res2")
    freeze(model, batch_norm=True)  # beside it
    freeze(model, "stem")  # which is frozen already
    for again in (copy.deepcopy(model), nn.Sequential(model)[0].eval().train(), model.train(False).train(True)):
        assert not again.slow.res2.training and not again.slow.res5.blocks[0].conv1.norm.training
        assert again.slow.res5.training and again.head.dropout.training
        assert not again.lateral.res2.fast_to_slow.conv.weight.requires_grad
    model.reset_classifier(5)
    assert model.head.fc.weight.requires_grad
    unfreeze(model)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    freeze(model, "stem")
    unfreeze(model)
    assert not any(module.training for module in model.modules()), "evaluation stays evaluation"


def test_feature_networks() -> None:
    model = network(features_only=True, out_indices=(1, 3))
    freeze(model, "res2")
    model.train()
    assert not model.network.fast.res2.training and model.network.slow.res4.training
    unfreeze(model)
    assert model.network.fast.res2.training


def test_what_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match="one of stem, res2, res3, res4, res5, not 'res6'"):
        freeze(network(), "res6")
    with pytest.raises(ValueError, match="batch_norm=True"):
        freeze(network(), affine=True)
    with pytest.raises(TypeError, match="from create_model, not Linear"):
        freeze(nn.Linear(2, 2))  # type: ignore[arg-type]
    optimized = sfz.optimize_for_inference(network())
    with pytest.raises(ValueError, match="an optimised network does not train"):
        freeze(optimized)
    with pytest.raises(ValueError, match="an optimised network does not train"):
        unfreeze(optimized)


def test_gradient_checkpointing_with_frozen_stages() -> None:
    plain, saving = network(), network()
    for model in (plain, saving):
        freeze(model, "res2")
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        model.train()
        torch.manual_seed(1)
        model(clip()).square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


# timm


@pytest.mark.parametrize("name", ["slowfast_r50_4x16", "i3d_r50_nl_8x8", "slowfast_r50_4x16_det"])
def test_layer_decay(name: str) -> None:
    from timm.models import group_parameters
    from timm.optim import create_optimizer_v2

    model = network(name)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    for parameter, group in groups.items():
        part = "head" if parameter.startswith("head") else parameter.split(".")[1]
        assert group == ("stem", "res2", "res3", "res4", "res5", "head").index(part), parameter
    optimizer = create_optimizer_v2(model, "sgd", lr=1.0, weight_decay=1e-4, layer_decay=0.5)
    of_group = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        group = of_group[id(parameter)]
        assert group["lr_scale"] == 0.5 ** (5 - groups[name])
        assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 1e-4), name


def test_timm_leaves_frozen_parameters_out() -> None:
    from timm.optim import create_optimizer_v2

    model = network()
    freeze(model, "res5")
    optimizer = create_optimizer_v2(model, "sgd", lr=1.0, weight_decay=1e-4, layer_decay=0.5)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.head.parameters()
    }


# Batch norm over all processes' clips, and over a few


def test_synchronised_batch_norms() -> None:
    """PyTorch's go on with what is frozen, and are saved as others are."""
    model, plain = network(), network()
    freeze(model, "res2")
    nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    model.train()
    assert not model.slow.res2.blocks[0].conv1.norm.training and model.slow.res3.blocks[0].conv1.norm.training
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(clip()), plain.eval()(clip()))


@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 3), (5,)])
def test_each_group_is_normalised_by_itself(sizes: tuple[int, ...]) -> None:
    """As by processes with a batch norm and a group of clips each, whose running statistics are averaged."""
    torch.manual_seed(0)
    x = torch.randn(sum(sizes), 4, 2, 3, 3) * torch.rand(sum(sizes), 1, 1, 1, 1) + 1
    plain = nn.BatchNorm3d(4, momentum=0.3)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.running_mean)
    apart = [copy.deepcopy(plain) for _ in sizes]
    split: Any = SplitBatchNorm3d.convert(copy.deepcopy(plain), 8)
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = split(inputs[0])
    want = torch.cat([norm(group) for norm, group in zip(apart, inputs[1].split(sizes), strict=True)])
    torch.testing.assert_close(got, want)
    got.pow(3).sum().backward()
    want.pow(3).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(split.weight.grad, sum(norm.weight.grad for norm in apart))
    shares = torch.tensor(sizes) / sum(sizes)
    for name in ("running_mean", "running_var"):
        mean = shares @ torch.stack([getattr(norm, name) for norm in apart])
        torch.testing.assert_close(getattr(split, name), mean)
    assert int(split.num_batches_tracked) == 1
    plain.load_state_dict(split.state_dict())
    assert torch.equal(split.eval()(x), plain.eval()(x))


def test_a_whole_network_is_converted() -> None:
    model = network()
    before, parameters = copy.deepcopy(model.state_dict()), [id(p) for p in model.parameters()]
    freeze(model, "res2")
    SplitBatchNorm3d.convert(model, 2)
    assert [id(p) for p in model.parameters()] == parameters
    assert model.state_dict().keys() == before.keys()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert norms and all(type(norm) is SplitBatchNorm3d and norm.clips == 2 for norm in norms)
    model.train()
    assert not model.slow.res2.blocks[0].conv1.norm.training
    model.head.dropout.p = 0.0
    torch.testing.assert_close(
        model(clip(4)).detach(), torch.cat([model(part).detach() for part in clip(4).split(2)]), atol=1e-5, rtol=1e-4
    )
    model.set_grad_checkpointing()
    state = copy.deepcopy(model.state_dict())
    model(clip(4)).sum().backward()
    once = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
    model.load_state_dict(state)
    model.set_grad_checkpointing(False)
    model(clip(4)).sum().backward()
    for name, tensor in once.items():
        assert torch.equal(tensor, model.state_dict()[name]), f"{name} counts each batch once"
    with pytest.raises(ValueError, match="at least 1 clip"):
        SplitBatchNorm3d.convert(model, 0)
