"""A network is what its modules are: its classes, its labels, and what is saved of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrizations, prune

import slowfast_zoo as sfz

BUNDLED = "slowfast_tiny_4x8.motion"


def network(**overrides: Any) -> Any:
    torch.manual_seed(0)
    return sfz.create_model("slow_tiny_4x8", **{"width": 8, "num_classes": 3, "crop": 32, **overrides}).eval()


CLIP = torch.rand(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [7, 10])
def test_a_classifier_put_in_by_hand(classes: int, tmp_path: Path) -> None:
    """Its outputs count, and the labels of the one that it replaced are not its own, even where there are as many."""
    model: Any = sfz.create_model(BUNDLED, pretrained=True).eval()
    old = len(sfz.VideoClassifier(model).labels)
    classes = old if classes == 10 else classes
    model.head.fc = nn.Linear(model.num_features, classes)
    assert model.num_classes == classes
    classifier = sfz.VideoClassifier(model)
    assert classifier.labels == tuple(f"class {i}" for i in range(classes)) and not classifier.labels_known
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["config"]["num_classes"] == classes and written["labels"] is None
    again: Any = sfz.create_model(f"local-dir:{tmp_path}").eval()
    clip = torch.rand(1, 3, again.config.clip_frames, 32, 32)
    assert again.num_classes == classes and torch.equal(again(clip), model(clip))
    model.pretrained_cfg["labels"] = [f"mine {i}" for i in range(classes)]
    assert sfz.VideoClassifier(model).labels[0] == "mine 0"


def test_labels_stay_with_their_classifier() -> None:
    model: Any = sfz.create_model(BUNDLED, pretrained=True)
    assert sfz.VideoClassifier(model, optimize=True).labels == sfz.VideoClassifier(BUNDLED).labels
    assert sfz.VideoClassifier(BUNDLED).labels_known
    model.head.fc = nn.Sequential(nn.Dropout(), nn.Linear(model.num_features, 7))
    assert model.num_classes == 7
    model.head.fc = nn.Identity()
    assert model.num_classes == 0


def test_one_output_is_a_sigmoid() -> None:
    model = network(num_classes=1)
    want = model(CLIP).sigmoid().detach()
    assert 0 < float(want) < 1
    torch.testing.assert_close(model.probabilities(CLIP), want)
    for average in ("scores", "logits"):
        model.pretrained_cfg["view_average"] = average
        classifier = sfz.VideoClassifier(model)
        rule = classifier.score_rule
        torch.testing.assert_close(rule.over_views(rule.of_views(classifier.model, CLIP)), want[0])


def test_counters_of_a_profiler_are_left_out(tmp_path: Path) -> None:
    model = network()
    for module in list(model.modules()):
        module.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
        module.register_buffer("total_params", torch.zeros(1, dtype=torch.float64))
    again: Any = sfz.create_model(f"local-dir:{model.save_pretrained(tmp_path)}").eval()
    assert torch.equal(again(CLIP), model(CLIP))


def test_compiled_parts_are_saved_plain(tmp_path: Path) -> None:
    model = network()
    want = model(CLIP)
    model.pathway.res2 = torch.compile(model.pathway.res2, backend="eager")
    again: Any = sfz.create_model(f"local-dir:{model.save_pretrained(tmp_path)}").eval()
    assert torch.equal(again(CLIP), want)


class Adapter(nn.Module):
    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.Linear(base_layer.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base_layer.out_features, bias=False)


def _adapt(model: Any) -> None:
    model.head.fc = Adapter(model.head.fc)


def _prune(model: Any) -> None:
    prune.l1_unstructured(model.pathway.stem.conv1.conv, "weight", 0.5)


def _parametrize(model: Any) -> None:
    parametrizations.weight_norm(model.head.fc)


def _group_norm(model: Any) -> None:
    model.pathway.stem.conv1.norm = nn.GroupNorm(2, 8)


def _head(model: Any) -> None:
    model.head.fc = nn.Sequential(nn.Linear(model.num_features, 5), nn.ReLU(), nn.Linear(5, 4))


def _gelu(model: Any) -> None:
    name = next(name for name, module in model.named_modules() if isinstance(module, nn.ReLU))
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.GELU())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_adapt, "merge"),
        (_prune, "prune.remove"),
        (_parametrize, "remove_parametrizations"),
        (_group_norm, r"pathway\.stem\.conv1\.norm.*state_dict"),
        (_head, r"head\.fc\..*reset_classifier"),
        (_gelu, "GELU in place of a ReLU"),
    ],
)
def test_what_would_not_read_back_is_refused_before_writing(change: Any, words: str, tmp_path: Path) -> None:
    model = network()
    change(model)
    with pytest.raises(ValueError, match=words):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def _eps(model: Any) -> None:
    model.pathway.stem.conv1.norm.eps = 0.5


def _dilation(model: Any) -> None:
    conv = model.pathway.stem.conv1.conv
    conv.dilation, conv.padding = (1, 2, 2), (conv.padding[0], 6, 6)


def _padding(model: Any) -> None:
    model.pathway.stem.conv1.conv.padding_mode = "replicate"


def _pool(model: Any) -> None:
    model.pathway.stem.pool1.kernel_size = (1, 2, 2)


class _Doubled(nn.BatchNorm3d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def _subclass(model: Any) -> None:
    model.pathway.stem.conv1.norm.__class__ = _Doubled


class _Halving(nn.Dropout):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def _dropout(model: Any) -> None:
    model.head.dropout = nn.Sequential(_Halving())


@pytest.mark.parametrize("change", [_eps, _dilation, _padding, _pool, _subclass, _dropout])
def test_layers_with_the_same_tensors_that_compute_otherwise_are_refused(change: Any, tmp_path: Path) -> None:
    model = network()
    before = model(CLIP)
    change(model)
    assert not torch.equal(model(CLIP), before)
    with pytest.raises(ValueError, match="in place of"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def _forward(model: Any) -> None:
    forward = model.head.fc.forward
    model.head.fc.forward = lambda x: 2 * forward(x)


def _pooling(model: Any) -> None:
    model.head._pool_one = lambda x: x.amax(dim=(2, 3, 4)).unsqueeze(1)


class _Loud(sfz.models.ResNet3D):
    def forward_head(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return 2 * super().forward_head(*args, **kwargs)


def _class(model: Any) -> None:
    model.__class__ = _Loud


def _hook(model: Any) -> None:
    model.head.fc.register_forward_hook(lambda module, given, output: output + 1)


def _pre_hook(model: Any) -> None:
    model.pathway.res2.register_forward_pre_hook(lambda module, given: (3 * given[0],))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_forward, r"forward of head\.fc"),
        (_pooling, "_pool_one of head"),
        (_class, "forward_head of the network"),
        (_hook, "hooks"),
        (_pre_hook, "hooks"),
    ],
)
def test_layers_that_are_called_otherwise_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    model = network()
    before = model(CLIP)
    change(model)
    assert not torch.allclose(model(CLIP), before)
    with pytest.raises(ValueError, match=words):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


class _Doubling(nn.Module):
    """Keeps its layer under the name that PyTorch's wrappers have."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.module(x)


def test_a_wrapper_of_somebodys_own_is_no_wrapper_of_pytorchs(tmp_path: Path) -> None:
    model = network()
    model.pathway.res2 = _Doubling(model.pathway.res2)
    with pytest.raises(ValueError, match=r"pathway\.res2 is inside a _Doubling"):
        model.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"pathway\.res2 is another layer: _Doubling"):
        sfz.optimize_for_inference(model)


def test_the_setting_of_a_layer_that_was_changed_is_refused(tmp_path: Path) -> None:
    model = network()
    model.head.window = 1
    with pytest.raises(ValueError, match="window of head"):
        model.save_pretrained(tmp_path)


class _Named(sfz.models.ResNet3D):
    def training_step(self, clip: torch.Tensor) -> torch.Tensor:
        return self(clip).sum()


def test_hooks_that_look_on_and_methods_beside_are_saved(tmp_path: Path) -> None:
    model = network()
    model.__class__ = _Named
    seen: list[Any] = []
    handle = model.pathway.res3.register_forward_hook(lambda module, given, output: seen.append(output))
    model.train()
    again: Any = sfz.create_model(f"local-dir:{model.save_pretrained(tmp_path)}").eval()
    assert model.training and model.pathway.res3.blocks[0].conv1.norm.training
    seen.clear()
    assert torch.equal(again(CLIP), model.eval()(CLIP)) and len(seen) == 1
    handle.remove()


def test_what_matters_in_training_alone_is_saved(tmp_path: Path) -> None:
    model = network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 0.01
        if isinstance(module, nn.ReLU):
            module.inplace = False
    model.head.dropout = nn.Identity()
    model.pathway.res2 = torch.compile(model.pathway.res2, backend="eager")
    again: Any = sfz.create_model(f"local-dir:{model.save_pretrained(tmp_path)}").eval()
    assert torch.allclose(again(CLIP), model(CLIP), atol=1e-6)


def test_channels_are_those_of_the_stem(tmp_path: Path) -> None:
    model = network()
    old = model.pathway.stem.conv1.conv
    model.pathway.stem.conv1.conv = nn.Conv3d(1, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
    assert model.in_chans == 1
    expected = model(CLIP[:, :1])
    with pytest.raises(ValueError, match="has 1 channels in dimension 1, not 3"):
        model(CLIP)
    again: Any = sfz.create_model(f"local-dir:{model.save_pretrained(tmp_path)}").eval()
    assert torch.equal(again(CLIP[:, :1]), expected)
    record = model.pretrained_cfg
    assert record["input_size"][0] == len(record["mean"]) == len(record["std"]) == model.config.in_chans == 1
    grey = torch.full((4, 1, 40, 40), 128, dtype=torch.uint8)
    torch.testing.assert_close(
        sfz.create_transform(model)(grey), torch.full((1, 4, 32, 32), (128 / 255 - 0.45) / 0.225)
    )
    torch.testing.assert_close(sfz.optimize_for_inference(model)(CLIP[:, :1]), expected, rtol=1e-4, atol=1e-4)


class _Cosine(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight), self.bias)


def test_other_classifiers_have_other_labels() -> None:
    model: Any = sfz.create_model("slowfast_tiny_4x8.motion", pretrained=True)
    assert model.labels is not None
    model.head.fc = _Cosine(model.num_features, model.num_classes)
    assert model.labels is None


class _Heads(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.verb, self.noun = nn.Linear(features, 2), nn.Linear(features, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.verb(x), self.noun(x)), dim=-1)


class _Pointwise(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(features, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x[..., None])[..., 0]


@pytest.mark.parametrize(
    "make",
    [
        _Heads,
        _Pointwise,
        lambda features: nn.Sequential(nn.Linear(features, 5), nn.ReLU(), nn.Linear(5, 6), nn.Softmax(-1)),
        lambda features: nn.Sequential(nn.Linear(features, 9), _Heads(9)),
    ],
)
def test_classes_are_the_outputs_of_any_classifier(make: Any) -> None:
    model = network()
    model.pretrained_cfg["labels"] = ["a", "b", "c"]
    model.remember_classifier()
    features = model.num_features
    model.head.fc = make(features).eval()
    assert model.num_classes == model(CLIP).shape[1] == 6
    assert model.labels is None
    assert model.pretrained_cfg["num_classes"] == model.config.num_classes == 6
    assert model.pretrained_cfg["labels"] is None
    assert sfz.VideoClassifier(model).labels == tuple(f"class {i}" for i in range(6))


def test_labels_of_a_classifier_inside_another() -> None:
    model = network()
    model.pretrained_cfg["labels"] = ["a", "b", "c"]
    model.remember_classifier()
    model.head.fc = nn.Sequential(nn.Dropout(), model.head.fc)
    assert model.labels == ("a", "b", "c")
    model.head.fc.append(nn.Linear(3, 2))
    assert model.labels is None


def test_a_network_whose_classifier_was_taken_away_is_saved(tmp_path: Path) -> None:
    model: Any = sfz.create_model(BUNDLED, pretrained=True).eval()
    model.head.fc = nn.Identity()
    again: Any = sfz.create_model(f"local-dir:{model.save_pretrained(tmp_path)}").eval()
    clip = torch.rand(1, 3, model.config.clip_frames, 32, 32)
    assert again.num_classes == 0 and again.labels is None and torch.equal(again(clip), model(clip))


def test_features_are_those_that_the_classifier_takes() -> None:
    """As after pruning channels, which changes layers and leaves the configuration."""
    model = network()
    model.head.fc = nn.Sequential(nn.Linear(model.num_features, 16), nn.ReLU(), nn.Linear(16, 3))
    assert model.num_features == 256
    model.head.fc = nn.Linear(200, 3)
    model.reset_classifier(4)
    assert (model.num_features, model.head.fc.in_features, model.head.fc.out_features) == (200, 200, 4)


def test_a_head_that_pools_nothing_is_told_of() -> None:
    model = network()
    model.head = nn.Identity()
    assert (model.num_classes, model.num_features, model.labels) == (0, 256, None)
    with pytest.raises(TypeError, match=r"model\.head is a Identity.*model\.head\.fc"):
        model(CLIP)
    model.head = nn.Linear(256, 3)
    for call in (model, model.probabilities):
        with pytest.raises(TypeError, match=r"model\.head is a Linear.*reset_classifier"):
            call(CLIP)
    model.reset_classifier(4)
    assert model(CLIP).shape == (1, 4)


class _Pair(_Heads):
    def forward(self, x: torch.Tensor) -> Any:
        return self.verb(x), self.noun(x)


def test_several_classifiers_have_no_probabilities() -> None:
    model = network()
    model.head.fc = _Pair(model.num_features)
    assert [tuple(rows.shape) for rows in model(CLIP)] == [(1, 2), (1, 4)]
    with pytest.raises(TypeError, match="gives a tuple, not a tensor"):
        model.probabilities(CLIP)


def test_pruned_for_good_is_saved(tmp_path: Path) -> None:
    model = network()
    _prune(model)
    prune.remove(model.pathway.stem.conv1.conv, "weight")
    again: Any = sfz.create_model(f"local-dir:{model.save_pretrained(tmp_path)}").eval()
    assert torch.equal(again(CLIP), model(CLIP))


@pytest.mark.parametrize("place", [-1, -100_000, -400_001])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: int) -> None:
    """A weight with another bit is a weight as well: only what was noted when it was written tells."""
    network().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    assert len(load_file(path)) == len(network().state_dict())  # which safetensors cannot tell
    with pytest.raises(sfz.WeightsError, match="has changed since it was written"):
        sfz.create_model(f"local-dir:{tmp_path}")
    with pytest.raises(sfz.WeightsError, match="has changed since it was written"):
        sfz.load_checkpoint(network(), path)


def test_saved_twice_it_is_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        network().save_pretrained(tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"  # what Transformers looks for
    state = network().state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(tmp_path / "a/model.safetensors").items())
