"""PyTorch's private parts: with any of them gone, or changed, networks train and infer as before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import slowfast_zoo as sfz
from slowfast_zoo.kernels import onednn

PRIVATE: list[tuple[Any, str]] = [
    (torch._C._nn, "mkldnn_reorder_conv2d_weight"),
    (torch.ops.mkldnn, "_convolution_pointwise"),
    (torch.ops.mkldnn, "_convolution_pointwise_"),
]


@pytest.fixture(autouse=True)
def _probed_anew() -> Iterator[None]:
    onednn.has_onednn.cache_clear()
    yield
    onednn.has_onednn.cache_clear()


def gone(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("of another version")


def fewer_arguments(x: Any) -> Any:
    return x


def other_result(x: Any, *_: Any) -> Any:
    return torch.zeros_like(x)


@pytest.mark.parametrize("replacement", [None, gone, fewer_arguments, other_result])
@pytest.mark.parametrize(("owner", "name"), PRIVATE, ids=lambda value: value if isinstance(value, str) else "")
def test_networks_work_without(owner: Any, name: str, replacement: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(owner, name):
        pytest.skip("this build of PyTorch has no oneDNN")
    if replacement is None:
        replacement = property(gone)  # nothing that can be called
    monkeypatch.setattr(owner, name, replacement)
    assert not onednn.has_onednn(torch.float32)
    torch.manual_seed(0)
    model: Any = sfz.create_model("slowfast_tiny_4x8", width=16, num_classes=3)
    clip = torch.rand(2, 3, model.config.clip_frames, 64, 64)
    loss = model(clip).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.inference_mode():
        torch.testing.assert_close(sfz.optimize_for_inference(model)(clip), model(clip), rtol=1e-4, atol=1e-5)


def test_forward_mode_takes_plain_operations() -> None:
    x = torch.rand(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), forward_ad.dual_level():
        assert onednn.uses_onednn(x) is onednn.has_onednn(x.dtype)
        assert not onednn.uses_onednn(forward_ad.make_dual(x, torch.ones_like(x)))
        assert not onednn.uses_onednn(x, forward_ad.make_dual(x, torch.ones_like(x)))


def test_derivatives_of_an_optimised_network_in_forward_mode() -> None:
    """By forward mode as by the difference of two clips."""
    torch.manual_seed(0)
    model: Any = sfz.create_model("slow_tiny_4x8", width=16, num_classes=3).eval()
    fast: Any = sfz.optimize_for_inference(model)
    clip = torch.rand(1, 3, model.config.clip_frames, 64, 64)
    direction = torch.rand_like(clip)
    with torch.no_grad():
        _, found = torch.func.jvp(fast, (clip,), (direction,))
        _, wanted = torch.func.jvp(model, (clip,), (direction,))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_private_names_stand_here_alone() -> None:
    """Other rooms use PyTorch's public parts."""
    import re
    from pathlib import Path

    private = re.compile(r"torch\._[a-zA-Z]|torch\.ops\.mkldnn|from torch[\w.]* import _|_current_level")
    package = Path(sfz.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if private.search(re.sub(r'"[^"\n]*"', '""', path.read_text(encoding="utf-8")))
    }
    assert found <= {"kernels/onednn.py"}
