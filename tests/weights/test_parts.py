"""Checkpoints out of real training code: a network among other networks, heads, losses, averages and objects.

Each is a network's own state dict with other things around and next to it; what comes back is compared with it.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import json
import logging
import pathlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import slowfast_zoo as sfz
from tests import upstream
from tests.weights.test_layouts import awake, image_resnet, same_weights

NAME = "slow_r50_4x16"
SMALL: dict[str, Any] = {"width": 8, "num_classes": 5}
CLIP = torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model() -> Any:
    return awake(NAME)


def empty(**overrides: Any) -> Any:
    return sfz.create_model(NAME, **{**SMALL, **overrides}).eval()


def load(path: Path, content: Any, **options: Any) -> Any:
    """What is loaded from a file with this content into a network with other weights."""
    torch.save(content, path / "w.ckpt")
    fresh = empty()
    sfz.load_checkpoint(fresh, path / "w.ckpt", **options)
    return fresh


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def zeros(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in state.items()}


class Config:
    """Stands for any configuration object."""

    def __init__(self, **values: Any) -> None:
        self.values = values


class Dotted(dict):  # type: ignore[type-arg]
    """Stands for the dicts with attributes that configuration libraries have."""


class Ordered(collections.OrderedDict):  # type: ignore[type-arg]
    """Stands for an ordered dict of some library's own."""


class Mode(enum.Enum):
    TRAIN = 1


PLACES: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "backbone": lambda s: {"state_dict": under("backbone.", s)},
    "net, beside losses and metrics": lambda s: {
        "state_dict": {
            "criterion.weight": torch.ones(5),
            "accuracy.correct": torch.tensor(3),
            **under("net.", s),
            "temperature": torch.tensor(0.1),
        },
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
    },
    "several wrappers": lambda s: {"state_dict": under("model.module._orig_mod.", s)},
    "compiled twice": lambda s: under("_orig_mod.net._orig_mod.", s),
    "wrapped stages": lambda s: {
        k.replace("res3.", "res3._orig_mod.").replace("res4.blocks.", "res4.blocks._checkpoint_wrapped_module."): v
        for k, v in s.items()
    },
    "names of nobody": lambda s: {"trainer": {"student_network": under("encoder.video.", s)}},
    "one dict for each part": lambda s: {
        part: {k.removeprefix(f"{part}."): v for k, v in s.items() if k.startswith(f"{part}.")}
        for part in ("pathway", "head")
    },
    "no prefix, beside a queue": lambda s: {
        **s,
        "queue": torch.zeros(8, 4),
        "queue_ptr": torch.zeros(1),
        "loss.w": torch.ones(2),
    },
    "no prefix, beside another network": lambda s: {**s, **under("teacher.", {"layer.weight": torch.ones(1)})},
    "the same twice": lambda s: {"state_dict": {**under("model.", s), **under("compiled._orig_mod.", s)}},
    "an average in the state dict": lambda s: {
        "state_dict": {**under("model.", zeros(s)), **under("model_ema.module.", s)}
    },
    "an average in a callback": lambda s: {"state_dict": zeros(s), "callbacks": {"EMA": {"ema_state_dict": s}}},
    "stochastic weight averaging": lambda s: {
        "model": zeros(s),
        "swa_model": {"n_averaged": torch.tensor(2), **under("module.", s)},
    },
    "an average without statistics": lambda s: {
        "model": s,
        "model_ema": {k: torch.zeros_like(v) for k, v in s.items() if "running" not in k},
    },
    "beside a network of another kind": lambda s: {**under("video.", s), **under("image.", resnet())},
    "in a list": lambda s: {"models": [s], "steps": [1, 2]},
    "an ordered dict of somebody's own": lambda s: {"state_dict": Ordered(s)},
    "a configuration library's dict": lambda s: Dotted(model=Dotted(s)),
    "tensors with attributes": lambda s: {k: marked(v) for k, v in s.items()},
}


def marked(tensor: Tensor) -> Tensor:
    parameter = nn.Parameter(tensor.clone(), requires_grad=False)
    parameter.mark = 1  # type: ignore[attr-defined]
    return parameter


def resnet() -> dict[str, Tensor]:
    return {
        "conv1.weight": torch.zeros(64, 3, 7, 7),
        "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1),
        "layer1.0.conv3.weight": torch.zeros(256, 64, 1, 1),
    }


@pytest.mark.filterwarnings("ignore:.*predictions will be wrong", "ignore:.*left aside")
@pytest.mark.parametrize("project", ["own", "pyslowfast", "mmaction2"])
@pytest.mark.parametrize("how", PLACES)
def test_where_networks_are(tmp_path: Path, model: Any, how: str, project: str) -> None:
    state = model.state_dict()
    if project != "own" and how in ("one dict for each part", "wrapped stages"):
        pytest.skip("made for names of this library")
    named = state if project == "own" else getattr(upstream, project)(state)
    loaded = load(tmp_path, PLACES[how](named))
    assert same_weights(loaded, model)
    with torch.no_grad():
        torch.testing.assert_close(loaded(CLIP), model(CLIP))


@pytest.mark.parametrize("before", ["", "module.", "state_dict.net.", "model."])
def test_a_classifier_beside_its_network(tmp_path: Path, before: str) -> None:
    """PyTorchVideo's detection networks are one network, with nothing left aside, wherever they stand."""
    options = {"width": 8, "num_classes": 11, "pretrained": False}
    model = sfz.create_model("slow_r50_4x16_det.pytorchvideo_ava22", **options)
    path = tmp_path / "w.pth"
    torch.save(under(before, upstream.pytorchvideo_detection(model.state_dict())), path)
    for prefix in (None, before) if before else (None,):
        loaded = sfz.create_model("slow_r50_4x16_det.pytorchvideo_ava22", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sfz.load_checkpoint(loaded, path, prefix=prefix)
        assert same_weights(loaded, model)


def test_what_is_left_aside_is_named_once(tmp_path: Path, model: Any, caplog: pytest.LogCaptureFixture) -> None:
    content = PLACES["net, beside losses and metrics"](model.state_dict())
    with pytest.warns(UserWarning, match="left aside") as caught:
        load(tmp_path, content)
    (told,) = [str(warning.message) for warning in caught]
    for name in ("'state_dict.net'", "criterion.weight", "accuracy.correct", "temperature"):
        assert name in told
    assert "optimizer" not in told and caught[0].filename == __file__
    with warnings.catch_warnings(), caplog.at_level(logging.INFO, logger="slowfast_zoo"):
        warnings.simplefilter("error")
        load(tmp_path, {"state_dict": model.state_dict(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}})
        assert not caplog.records
        load(tmp_path, PLACES["an average in the state dict"](model.state_dict()))
    assert "averaged weights (state_dict.model_ema.module) are taken" in caplog.text
    assert "other networks in it are left aside: 'state_dict.model'" in caplog.text


@pytest.mark.filterwarnings("ignore:.*left aside")
def test_two_heads(tmp_path: Path, model: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A network for features with heads of the user's own next to it, or in place of its own."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    heads = {"verbs.weight": torch.ones(3, 256), "nouns.weight": torch.ones(4, 256)}
    for content in ({**under("backbone.", state), **heads}, {**state, **under("head.", heads)}):
        torch.save(content, tmp_path / "w.pth")
        loaded = sfz.create_model(NAME, width=8, num_classes=0, checkpoint_path=tmp_path / "w.pth")
        assert same_weights(loaded, empty(num_classes=0)) is False
        assert all(torch.equal(t, model.state_dict()[k]) for k, t in loaded.state_dict().items())
    with pytest.raises(sfz.WeightsError, match="2 missing: head.fc.weight"):
        load(tmp_path, {**under("backbone.", state), **heads})


def test_several_that_fit(tmp_path: Path, model: Any) -> None:
    """Of a momentum encoder and its student nobody can tell which is meant; whoever loads says it."""
    state = model.state_dict()
    content = {
        "state_dict": {
            **under("module.encoder_q.", state),
            **under("module.encoder_k.", zeros(state)),
            "module.queue": torch.zeros(4, 2),
        }
    }
    with pytest.raises(sfz.WeightsError, match=r"encoder_q.*encoder_k.*prefix=") as caught:
        load(tmp_path, content)
    assert len(str(caught.value)) < 600
    for prefix in ("encoder_q", "module.encoder_q.", "state_dict.module.encoder_q"):
        assert same_weights(load(tmp_path, content, prefix=prefix), model)
    assert not same_weights(load(tmp_path, content, prefix="encoder_k"), model)
    with pytest.raises(sfz.WeightsError, match="no network under 'encoder', only under .*encoder_q.*encoder_k"):
        load(tmp_path, content, prefix="encoder")
    assert same_weights(load(tmp_path, content, prefix=lambda n: None if "encoder_k" in n else n), model)
    with pytest.raises(TypeError, match="prefix is a string .* not 1"):
        load(tmp_path, content, prefix=1)
    for averages in (["model_ema", "ema"], ["ema_1", "ema_2"]):
        with pytest.raises(sfz.WeightsError, match="several networks that fit"):
            load(tmp_path, {averages[0]: state, averages[1]: zeros(state), "model": state})


def test_the_whole_file_by_an_empty_prefix(tmp_path: Path, model: Any) -> None:
    content = {**model.state_dict(), **under("copy.", zeros(model.state_dict()))}
    assert same_weights(load(tmp_path, content, prefix=""), model)
    with pytest.raises(sfz.WeightsError, match="several networks that fit, under '', 'copy'"):
        load(tmp_path, content)


def test_renaming(tmp_path: Path, model: Any) -> None:
    content = {"net": {k.replace("pathway.", "video_tower_"): v for k, v in model.state_dict().items()}}
    with pytest.raises(sfz.WeightsError):
        load(tmp_path, content)
    seen: list[str] = []

    def rename(name: str) -> str:
        seen.append(name)
        return name.replace("video_tower_", "pathway.")

    assert same_weights(load(tmp_path, content, prefix=rename), model)
    assert "video_tower_stem.conv1.conv.weight" in seen
    with pytest.raises(TypeError, match="prefix gives a name or None, not 3"):
        load(tmp_path, content, prefix=lambda _: 3)
    with pytest.raises(sfz.WeightsError, match="two tensors the name 'x'"):
        load(tmp_path, content, prefix=lambda _: "x")


def test_still_strict(tmp_path: Path, model: Any) -> None:
    """A deeper network's names are the network's own, under whatever prefix: not one with something next to it."""
    deeper = sfz.create_model("slow_r101_8x8", **SMALL).state_dict()
    for content in (
        deeper,
        under("net.", deeper),
        upstream.pyslowfast(deeper),
        under("a.b.", upstream.mmaction2(deeper)),
    ):
        with pytest.raises(sfz.WeightsError, match="unexpected: pathway.res4.blocks"):
            load(tmp_path, content)
    state = model.state_dict()
    for extra in ("head.fc2.weight", "pathway.res2.adapter.weight"):
        with pytest.raises(sfz.WeightsError, match=f"1 unexpected: {extra}"):
            load(tmp_path, under("net.", {**state, extra: torch.ones(1)}))
    wrong = {**state, "head.fc.bias": torch.ones(7)}
    with pytest.raises(
        sfz.WeightsError, match=r"none of the networks in it \('a', 'b'\) fits. Of one of them: .*bias \(7,\)"
    ):
        load(tmp_path, {"a": wrong, "b": wrong})


OBJECTS: dict[str, Any] = {
    "sets": {"tags": {"a", "b"}, "frozen": frozenset({1}), "empty": set()},
    "tuples": {"shape": (1, (2, 3)), (1, 2): "a tuple as a key", "named": torch.Size([1])},
    "default dicts": {"counts": collections.defaultdict(int, a=1), "sets": collections.defaultdict(set, a={1})},
    "complex": {"spectrum": torch.ones(3, dtype=torch.complex64), "turned": torch.ones(2, dtype=torch.cfloat).conj()},
    "sparse": {"graph": torch.eye(3).to_sparse(), "rows": torch.eye(3).to_sparse_csr()},
    "eight bits": {"small": torch.ones(3).to(torch.float8_e4m3fn)},
    "numpy": {
        "lr": np.float32(0.1),
        "names": np.array(["a", "b"]),
        "any": np.array([1, None]),
        "phase": np.complex64(1j),
    },
    "times and paths": {
        "when": datetime.datetime(2026, 1, 1),
        "for": datetime.timedelta(1),
        "where": pathlib.Path("x"),
    },
    "an enum": {"mode": Mode.TRAIN, Mode.TRAIN: 1},
    "a namespace": {"args": argparse.Namespace(lr=0.1, out=pathlib.Path("x"))},
    "a configuration": {"hyper_parameters": Config(model=Config(depth=50), hooks=[print])},
    "random states": {"rng": torch.get_rng_state(), "numpy": np.random.get_state(), "new": np.random.default_rng(0)},
    "a module": {"criterion": nn.CrossEntropyLoss(torch.ones(3)), "queue": collections.deque([1], maxlen=2)},
}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("what", OBJECTS)
def test_what_stands_beside_the_weights_does_not_matter(tmp_path: Path, model: Any, what: str, older: bool) -> None:
    content = {"first": OBJECTS[what], "state_dict": model.state_dict(), **OBJECTS[what]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not older)
    fresh = empty()
    sfz.load_checkpoint(fresh, tmp_path / "w.pth")
    assert same_weights(fresh, model)


def test_what_is_missing_is_said_to_be_an_object(tmp_path: Path, model: Any) -> None:
    state = dict(model.state_dict())
    state["head.fc.bias"] = state["head.fc.bias"].to_sparse()
    with pytest.raises(
        sfz.WeightsError, match=r"1 missing: head.fc.bias.*Not loaded.*head.fc.bias \(torch._utils._rebuild_sp"
    ):
        load(tmp_path, state)
    with pytest.raises(
        sfz.WeightsError, match=r"holds no tensors.*at its top it has 'model'.*Not loaded.*model \(.*Linear"
    ):
        load(tmp_path, {"model": nn.Linear(1, 1)})
    with pytest.raises(sfz.WeightsError, match="could run code, the first of them 'torch.nn.modules.linear.Linear'"):
        load(tmp_path, nn.Linear(1, 1))


# Shards


def shard(folder: Path, state: dict[str, Tensor], kind: str) -> Path:
    """Two files and their index, as other libraries write them."""
    names = list(state)
    halves = {"0001-of-00002": names[: len(names) // 2], "0002-of-00002": names[len(names) // 2 :]}
    stem, suffix = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    places = {}
    for number, part in halves.items():
        file = f"{stem}-{number}.{suffix}"
        tensors = {name: state[name].clone() for name in part}
        if kind == "safetensors":
            save_file(tensors, folder / file)
        else:
            torch.save(tensors, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_shards(tmp_path: Path, model: Any, kind: str) -> None:
    index = shard(tmp_path, under("model.", model.state_dict()), kind)
    for path in (index, tmp_path):
        assert same_weights(sfz.create_model(NAME, checkpoint_path=path, **SMALL), model)
        fresh = empty()
        sfz.load_checkpoint(fresh, path)
        assert same_weights(fresh, model)


def test_shards_that_are_not_whole(tmp_path: Path, model: Any) -> None:
    index = shard(tmp_path, model.state_dict(), "safetensors")
    places = json.loads(index.read_text())["weight_map"]
    for changed, says in (
        ('{"weight_map": {"a": "../../secret"}}', "no file in the same folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "no file in the same folder"),
        ('{"weight_map": {"a": ["x"]}}', "no file in the same folder"),
        ('{"weight_map": []}', "weight_map is empty"),
        ('{"a": 1}', "has no weight_map"),
        ("[" * 100_000, "no index"),
        ('{"weight_map": ' + "9" * 5000 + "}", "no index"),
        ("not json", "no index"),
        (json.dumps({"weight_map": {**places, "more": next(iter(places.values()))}}), "has no tensor 'more'"),
    ):
        index.write_text(changed)
        with pytest.raises(sfz.WeightsError, match=says) as caught:
            sfz.load_checkpoint(empty(), index)
        assert len(str(caught.value)) < 600
    index.write_text(json.dumps({"weight_map": places}))
    (tmp_path / "model-0002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-0002-of-00002.safetensors"):
        sfz.load_checkpoint(empty(), tmp_path)


def test_folders(tmp_path: Path, model: Any) -> None:
    model.save_pretrained(tmp_path / "saved")
    assert same_weights(sfz.create_model(NAME, checkpoint_path=tmp_path / "saved", **SMALL), model)
    with pytest.raises(sfz.WeightsError, match="is a directory without model.safetensors"):
        sfz.load_checkpoint(empty(), tmp_path)


# Networks for features


@pytest.mark.parametrize("name", [NAME, "slowfast_r50_4x16"])
def test_networks_for_features(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = awake(name)
    torch.save({"state_dict": under("net.", whole.state_dict())}, tmp_path / "w.pth")
    clip = torch.randn(1, 3, whole.config.clip_frames, 32, 32)
    for indices in (None, (1, 3)):
        features = sfz.create_model(name, width=8, features_only=True, out_indices=indices).eval()
        with caplog.at_level(logging.INFO, logger="slowfast_zoo"):
            sfz.load_checkpoint(features, tmp_path / "w.pth")
        (told,) = [r.getMessage() for r in caplog.records if "a network for features lacks" in r.getMessage()]
        assert ("res5" in told) == (indices is not None) and "head" in told
        caplog.clear()
        made = sfz.create_model(
            name, width=8, features_only=True, out_indices=indices, checkpoint_path=tmp_path / "w.pth"
        )
        with torch.no_grad():
            expected = [m if len(m) > 1 else m[0] for m in whole.forward_stages(clip, indices or range(5))]
            for found in (features(clip), made.eval()(clip)):
                torch.testing.assert_close(found, expected)
    # What was saved of such a network is enough for another one like it, and too little for a whole one.
    torch.save(features.state_dict(), tmp_path / "f.pth")
    again = sfz.create_model(name, width=8, features_only=True, out_indices=(1, 3), checkpoint_path=tmp_path / "f.pth")
    assert same_weights(again, features)
    with pytest.raises(sfz.WeightsError, match="missing: .*res5"):
        sfz.load_checkpoint(sfz.create_model(name, width=8, features_only=True), tmp_path / "f.pth")


def test_networks_for_features_are_strict_too(tmp_path: Path) -> None:
    features = sfz.create_model(NAME, width=8, features_only=True, out_indices=(2,))
    torch.save(sfz.create_model("slow_r101_8x8", **SMALL).state_dict(), tmp_path / "w.pth")
    with pytest.raises(sfz.WeightsError, match="unexpected: pathway.res4.blocks.6"):
        sfz.load_checkpoint(features, tmp_path / "w.pth")


AVERAGES: dict[str, Callable[[dict[str, Tensor], dict[str, Tensor]], Any]] = {
    "Lightning's WeightAveraging": lambda s, raw: {
        "state_dict": under("net.", s),
        "current_model_state": under("net.", raw),
        "averaging_state": {"n_averaged": torch.tensor(2)},
    },
    "MMEngine's EMAHook, which changes them over": lambda s, raw: {
        "state_dict": s,
        "ema_state_dict": {"steps": torch.tensor(9), **under("module.", raw)},
    },
    "Lightning's SWA, whose batch norms are as they began": lambda s, raw: {
        "callbacks": {"StochasticWeightAveraging": {"average_model_state": under("net.", raw)}},
        "state_dict": under("net.", s),
    },
    "avg": lambda s, raw: {**under("model.", raw), **under("avg_model.module.", s)},
    "capitals": lambda s, raw: {"model": raw, "modelEMA": s},
}


@pytest.mark.parametrize("kept", AVERAGES)
@pytest.mark.filterwarnings("ignore:.*left aside")
def test_which_of_the_two_is_the_average(tmp_path: Path, model: Any, kept: str) -> None:
    """As the code that wrote the file has them, whatever their names say."""
    content = AVERAGES[kept](model.state_dict(), zeros(model.state_dict()))
    assert same_weights(load(tmp_path, content), model)


@pytest.mark.filterwarnings("ignore:.*left aside")
def test_an_image_network_beside_the_video_network(tmp_path: Path) -> None:
    """It would fit too, inflated; the video network is meant."""
    video = awake(NAME, width=64)
    both = {**under("image.", image_resnet().state_dict()), **under("video.", video.state_dict())}
    torch.save({"state_dict": both}, tmp_path / "w.ckpt")
    loaded = sfz.create_model(NAME, num_classes=5, checkpoint_path=tmp_path / "w.ckpt")
    assert same_weights(loaded, video)


def test_parts_in_ddp(tmp_path: Path, model: Any) -> None:
    for part in ("pathway.", "pathway.stem.", "pathway.res3.blocks.1.", "head."):
        state = {f"net.{k.replace(part, f'{part}module.', 1)}": t for k, t in model.state_dict().items()}
        assert same_weights(load(tmp_path, state), model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.uint8])
def test_quantised_numbers_are_no_weights(tmp_path: Path, model: Any, dtype: torch.dtype) -> None:
    state = {k: t.to(dtype) if t.ndim == 5 else t for k, t in model.state_dict().items()}
    with pytest.raises(sfz.WeightsError, match=f"no weights: pathway.stem.conv1.conv.weight .{dtype}"):
        load(tmp_path, state)
    save_file({k: t.contiguous() for k, t in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(sfz.WeightsError, match="no weights"):
        sfz.create_model(NAME, checkpoint_path=tmp_path / "w.safetensors", **SMALL)
    counters = {k: t.float() if t.dtype == torch.int64 else t for k, t in model.state_dict().items()}
    assert same_weights(load(tmp_path, counters), model)  # as some averages have them


@pytest.mark.parametrize("project", ["pytorchvideo", "caffe2", "gluoncv"])
@pytest.mark.filterwarnings("ignore:.*left aside")
@pytest.mark.filterwarnings("ignore:.*predictions will be wrong")
def test_one_network_within_anothers_names(tmp_path: Path, model: Any, project: str) -> None:
    """Of model.X and X neither takes the other's place."""
    options = {"family": "i3d"} if project == "gluoncv" else {}
    theirs = getattr(upstream, project)(model.state_dict(), **options)
    for content in ({**theirs, **under("model.", zeros(theirs))}, {**under("model.", zeros(theirs)), **theirs}):
        assert same_weights(load(tmp_path, content, prefix=""), model)
        with pytest.raises(sfz.WeightsError, match="several networks that fit"):
            load(tmp_path, content)


def test_states_in_a_list(tmp_path: Path, model: Any) -> None:
    assert same_weights(load(tmp_path, (model.state_dict(), {"lr": 0.1}, 3)), model)


def test_integers_of_thousands_of_digits_do_not_matter(tmp_path: Path, model: Any) -> None:
    assert same_weights(load(tmp_path, {"seed": 10**4000, "state_dict": model.state_dict()}), model)
