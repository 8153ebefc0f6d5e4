"""Checkpoints as training loops write them: the network's tensors under some prefix, next to others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import slowfast_zoo as sfz

SMALL: dict[str, Any] = {"width": 8, "depths": (1, 1, 1, 1), "num_classes": 5}
NAME = "slowfast_r50_4x16"
CLIP = torch.rand(1, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def network(seed: int, **settings: Any) -> Any:
    torch.manual_seed(seed)
    model = sfz.create_model(NAME, **{**SMALL, **settings}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
    nn.init.normal_(model.head.fc.weight)
    return model


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


LOOPS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a Lightning module with weights of its loss": lambda own: {
        "state_dict": {**under("net.", own), "loss.weight": torch.ones(5), "accuracy.total": torch.zeros(())},
        "epoch": 3,
    },
    "deep in wrappers": lambda own: {"model": under("trainer.module._orig_mod.backbone.", own)},
    "another head beside the classifier": lambda own: under("encoder.", {**own, "projection.weight": torch.ones(3, 2)}),
    "beside a queue": lambda own: {**under("video.", own), "queue": torch.rand(4, 4), "queue_ptr": torch.zeros(1)},
    "at the top, beside others": lambda own: {**own, "criterion.centers": torch.rand(5, 2)},
}


@pytest.mark.parametrize("loop", LOOPS)
def test_the_part_that_fits_is_found(loop: str, tmp_path: Path) -> None:
    trained, model = network(1), network(2)
    path = saved(tmp_path / "w.ckpt", LOOPS[loop](trained.state_dict()))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sfz.load_checkpoint(model, path)
    assert torch.equal(model(CLIP), trained(CLIP))
    left = [str(warning.message) for warning in told if "left aside" in str(warning.message)]
    assert len(left) == ("wrappers" not in loop)


def test_of_two_that_fit_none_is_guessed(tmp_path: Path) -> None:
    query, key, model = network(1), network(2), network(3)
    both = {**under("encoder_q.", query.state_dict()), **under("encoder_k.", key.state_dict())}
    path = saved(tmp_path / "w.pt", {"state_dict": both})
    before = model(CLIP)
    with pytest.raises(sfz.WeightsError, match=r"encoder_q', '.*encoder_k'.*prefix="):
        sfz.load_checkpoint(model, path)
    assert torch.equal(model(CLIP), before)
    sfz.load_checkpoint(model, path, prefix="encoder_k.")
    assert torch.equal(model(CLIP), key(CLIP))
    sfz.load_checkpoint(model, path, prefix=lambda name: name[10:] if name.startswith("encoder_q.") else None)
    assert torch.equal(model(CLIP), query(CLIP))
    with pytest.raises(sfz.WeightsError, match="no network under 'encoder_z.'"):
        sfz.load_checkpoint(model, path, prefix="encoder_z.")


def test_an_average_of_the_weights_is_preferred(tmp_path: Path) -> None:
    raw, averaged, model = network(1), network(2), network(3)
    path = saved(tmp_path / "w.pt", {**under("net.", raw.state_dict()), **under("ema_net.", averaged.state_dict())})
    sfz.load_checkpoint(model, path)
    assert torch.equal(model(CLIP), averaged(CLIP))


def test_a_deeper_network_is_no_part(tmp_path: Path) -> None:
    deeper = network(1, depths=(1, 1, 2, 1))
    for prefix in ("", "net."):
        path = saved(tmp_path / "w.pt", {**under(prefix, deeper.state_dict()), "loss.weight": torch.ones(1)})
        with pytest.raises(sfz.WeightsError):
            sfz.load_checkpoint(network(2), path)


@pytest.mark.parametrize("out_indices", [(4,), (1, 2)])
def test_feature_networks_take_what_they_have(out_indices: tuple[int, ...], tmp_path: Path) -> None:
    trained = network(1)
    path = saved(tmp_path / "w.pt", under("net.", {**trained.state_dict(), "aux.weight": torch.ones(1)}))
    features: Any = sfz.create_model(NAME, features_only=True, out_indices=out_indices, **SMALL).eval()
    with pytest.warns(UserWarning, match=r"left aside: 'net\.aux\.weight'"):
        sfz.load_checkpoint(features, path)
    expected = trained.forward_stages(CLIP, out_indices)
    for found, wanted in zip(features(CLIP), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def wrap_parts(model: Any) -> None:
    model.slow.res3 = torch.compile(model.slow.res3)
    model.fast.res4 = nn.DataParallel(model.fast.res4)


def test_networks_with_wrapped_parts(tmp_path: Path) -> None:
    """What is compiled or parallel in the network, in the one that was saved, in both or in neither."""
    for is_wrapped in (False, True):
        trained = network(1)
        expected = trained.state_dict()
        if is_wrapped:
            wrap_parts(trained)
        path = saved(tmp_path / "w.pt", trained.state_dict())
        features: Any = sfz.create_model(NAME, features_only=True, **SMALL)
        for model, inner in ((network(2), None), (features, features.network)):
            wrap_parts(inner or model)
            names = list(model.state_dict())
            assert any("_orig_mod" in name for name in names) and any(".module." in name for name in names)
            sfz.load_checkpoint(model, path)
            assert list(model.state_dict()) == names
            for name, tensor in (inner or model).state_dict().items():
                plain = name.replace("._orig_mod.", ".").replace(".module.", ".")
                assert torch.equal(tensor, expected[plain]), name


def test_an_image_network_for_one_with_wrapped_parts() -> None:
    plain, wrapped = (sfz.create_model("slow_r50_4x16", num_classes=5) for _ in range(2))
    wrapped.pathway.res3 = torch.compile(wrapped.pathway.res3)
    image = timm.create_model("resnet50")
    for model in (plain, wrapped):
        sfz.load_image_weights(model, image)
    loaded = dict(plain.pathway.named_parameters())
    for name, tensor in wrapped.pathway.named_parameters():
        assert torch.equal(tensor, loaded[name.replace("_orig_mod.", "")]), name


def test_names_of_a_million_characters_come_to_an_end(tmp_path: Path) -> None:
    state = {"module." * 200_000 + f"{index}.weight": torch.ones(1) for index in range(5)}
    path = saved(tmp_path / "w.pt", state)
    with pytest.raises(sfz.WeightsError) as error:  # for ever, where each component is taken off by itself
        sfz.load_checkpoint(network(1), path)
    assert len(str(error.value)) < 2000
