"""The network of a classifier or detector."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import slowfast_zoo as sfz
from slowfast_zoo.inference.prepare import load_network, prepare_network, resolve_classes
from slowfast_zoo.models.scores import ScoreRule

NAME = "slowfast_tiny_4x8.motion"


def test_a_name_and_a_network() -> None:
    model = sfz.create_model(NAME)
    assert load_network(model, True) is model
    assert load_network(nn.DataParallel(model), True) is model
    assert load_network(NAME, False).config == model.config
    for wrong in (nn.Linear(1, 1), sfz.create_model(NAME, features_only=True)):
        with pytest.raises(TypeError, match=r"expected a model name or a network from create_model, got "):
            load_network(wrong, False)


def test_what_comes_with_a_network() -> None:
    model = sfz.create_model(NAME)
    prepared = prepare_network(model, False, None, torch.bfloat16, None, None)
    assert prepared.network is model and not model.training and not model.optimized
    assert next(model.parameters()).dtype == torch.bfloat16
    assert prepared.name == NAME and prepared.device == torch.device("cpu")
    assert prepared.transform == sfz.create_transform(model)
    assert prepared.score_rule == ScoreRule.of(model)
    assert prepared.labels_known and len(prepared.labels) == model.num_classes


def test_a_named_network_is_optimised_on_a_cpu() -> None:
    model = sfz.create_model(NAME)
    assert prepare_network(model, True, "cpu", None, None, None).network.optimized
    assert not prepare_network(model, True, "cpu", None, False, None).network.optimized
    assert prepare_network(model, False, None, None, True, None).network.optimized


def test_classes() -> None:
    model = sfz.create_model(NAME, num_classes=2)
    assert resolve_classes(model, None) == (("class 0", "class 1"), False)
    assert resolve_classes(model, ["a", "b"]) == (("a", "b"), True)
    with pytest.raises(ValueError, match="the network has 2 classes, but 3 labels were given"):
        prepare_network(model, False, None, None, None, "abc")
    with pytest.raises(ValueError, match="device 'nowhere' cannot be used"):
        prepare_network(model, False, "nowhere", None, None, None)
