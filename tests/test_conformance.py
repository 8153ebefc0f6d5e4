"""Checkpoints in upstream layouts, with the outputs that upstream's own code gave for them.

tests/conformance holds random, narrow weights (Slow width 8, 11 classes) in the files of each project, an input clip,
and that project's logits and probabilities, as float32 on the CPU. Where further cases lie beside the repository, they
are tried too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import slowfast_zoo as sfz

HERE = Path(__file__).resolve().parent / "conformance"
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "conformance"

# Which network each case is of. Those that nobody has published weights of have no tag: they take PySlowFast's head.
NAMES: dict[str, str] = {
    "gluoncv/slowfast_4x16_resnet50_kinetics400__tiny": "slowfast_r50_4x16.gluoncv_k400",
    "mmaction2/ava_slowonly_r50_4x16__tiny": "slow_r50_4x16_det.mmaction2_ava21",
    "mmaction2/slowfast_r101-r50_4x16__tiny": "slowfast_r101_r50_4x16.mmaction2_k400",
    "mmaction2/slowfast_r50_8x8_steplr__tiny": "slowfast_r50_8x8.mmaction2_k400_steplr",
    "mmaction2/slowonly_r50_nl_4x16__tiny": "slow_r50_nl_4x16.mmaction2_k400",
    "pyslowfast/AVA_SLOW_8x8_R50__tiny": "slow_r50_4x16_det.pyslowfast_ava22",
    "pyslowfast/C2D_NLN_8x8_R50__tiny": "c2d_r50_nl_8x8",
    "pyslowfast/I3D_8x8_R50__tiny": "i3d_r50_8x8.pyslowfast_k400",
    "pyslowfast/IN1K_RES_R50__tiny": "c2d_r50_1x1.pyslowfast_in1k",
    "pyslowfast/PTV_SLOW_4x16_R50__tiny": "slow_r50_4x16.pyslowfast_k400_ptv",
    "pyslowfast/SLOWFAST_4x16_R50__tiny": "slowfast_r50_4x16.pyslowfast_k400",
    "pyslowfast/SLOWFAST_8x8_R101_50_50__tiny": "slowfast_r101_8x8",
    "pyslowfast/SLOWFAST_NLN_8x8_R50__tiny": "slowfast_r50_nl_8x8",
    "pyslowfast/SLOW_4x16_R50__tiny256": "slow_r50_4x16.pyslowfast_k400",
    "pyslowfast/SSV2_SLOWFAST_16x8_R50_multigrid__tiny": "slowfast_r50_16x8.pyslowfast_ssv2_multigrid",
    "pytorchvideo/c2d_r50__tiny": "c2d_r50_8x8.pytorchvideo_k400",
    "pytorchvideo/slow_r50__tiny": "slow_r50_8x8.pytorchvideo_k400",
    "pytorchvideo/slow_r50_detection__tiny": "slow_r50_4x16_det.pytorchvideo_ava22",
}


@dataclass(frozen=True)
class Case:
    """One checkpoint file with one input."""

    folder: Path
    checkpoint: Path
    input: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def __str__(self) -> str:
        return f"{self.name}{self.checkpoint.suffix}-{self.input['S']}"

    def arrays(self) -> dict[str, torch.Tensor]:
        with np.load(self.folder / self.input["file"]) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    def tolerance(self) -> float:
        """Ten times what upstream's own outputs vary by between kernels and precisions."""
        seen = [entry["logits"] for entry in self.input["tolerance"].values() if isinstance(entry, dict)]
        return max(10 * max([*seen, 1e-6]), 2e-5 * max(1.0, self.input["tolerance"]["logits_absmax"]))

    def model(self, **overrides: Any) -> Any:
        name = NAMES[self.name]
        if "." not in name:
            overrides = {"head_window": 7, **overrides}
        return sfz.create_model(name, width=8, num_classes=11, checkpoint_path=self.checkpoint, **overrides).eval()


def cases() -> list[Case]:
    found: dict[str, Case] = {}
    for root in (BESIDE, HERE):  # the repository's own win
        for file in sorted(root.glob("*/*/case.json")):
            content = json.loads(file.read_text())
            for entry in content["inputs"]:
                for checkpoint in content["checkpoints"]:
                    case = Case(file.parent, file.parent / checkpoint["file"], entry)
                    found[str(case)] = case
    return list(found.values())


CASES = cases()


def test_the_repository_has_cases() -> None:
    assert sorted(str(case) for case in CASES if case.folder.is_relative_to(HERE)) == [
        "mmaction2/slowonly_r50_nl_4x16__tiny.pth-64",
        "pyslowfast/SLOWFAST_4x16_R50__tiny.pkl-64",
        "pyslowfast/SLOWFAST_4x16_R50__tiny.pyth-64",
        "pytorchvideo/c2d_r50__tiny.pyth-64",
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("error")
def test_outputs_are_upstreams(case: Case) -> None:
    arrays = case.arrays()
    model, boxes = case.model(), arrays.get("boxes")
    with torch.no_grad():
        logits = model(arrays["clip"], boxes)
        probabilities = model.probabilities(arrays["clip"], boxes)
    torch.testing.assert_close(logits, arrays["logits"], atol=case.tolerance(), rtol=0)
    if "probs" in arrays:
        torch.testing.assert_close(probabilities, arrays["probs"], atol=1e-4, rtol=0)
    if boxes is not None:  # the list of boxes a clip, as the detector gives them
        with torch.no_grad():
            torch.testing.assert_close(model(arrays["clip"], [boxes[:, 1:]]), logits)


# A mistake that fits all shapes, as configuration fields, and by which name case.json says how far it moves the logits.
MISTAKES = [
    ("slow_frames_strided", {"slow_frames": "strided"}),
    ("slow_frames_linspace", {"slow_frames": "linspace"}),
    ("global_avg_pool_instead", {"head_window": None}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:.*predictions will be wrong")
def test_mistakes_that_fit_would_be_seen(case: Case) -> None:
    arrays, far = case.arrays(), case.input.get("sensitivity", {})
    mistakes = [(overrides, far[name]) for name, overrides in MISTAKES if name in far]
    if "roi_aligned_flag_flipped" in far:
        roi = case.model().config.roi
        flipped = sfz.RoIConfig(roi.resolution, not roi.aligned, roi.temporal_pool, roi.context)
        mistakes.append(({"roi": flipped}, far["roi_aligned_flag_flipped"]))
    if "nonlocal_use_scale_flipped" in far:
        non_local = case.model().config.to_dict()["non_local"]
        mistakes.append(({"non_local": {**non_local, "scaled": False}}, far["nonlocal_use_scale_flipped"]))
    for overrides, distance in mistakes:
        with torch.no_grad():
            logits = case.model(**overrides)(arrays["clip"], arrays.get("boxes"))
        moved = (logits - arrays["logits"]).abs().max().item()
        assert moved == pytest.approx(distance, rel=0.05), overrides
    if "channel_order_reversed" in far:
        with torch.no_grad():
            logits = case.model()(arrays["clip"].flip(1), arrays.get("boxes"))
        assert (logits - arrays["logits"]).abs().max().item() == pytest.approx(far["channel_order_reversed"], rel=0.05)
    if "head_concat_slow_first" in far or "head_concat_fast_first" in far:
        model = case.model()
        with torch.no_grad():
            fast = model.fast.out_channels[-1]
            weight = model.head.fc.weight
            weight.copy_(torch.cat((weight[:, -fast:], weight[:, :-fast]), dim=1))
            moved = (model(arrays["clip"]) - arrays["logits"]).abs().max().item()
        assert moved > 1000 * case.tolerance()
