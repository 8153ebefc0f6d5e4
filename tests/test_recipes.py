"""What the recipes in docs/recipes.md promise beyond running."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slowfast_zoo as sfz
from slowfast_zoo.models.freezing import freeze

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
SHARED, *RECIPES = re.findall(
    r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
)
NAME = "slowfast_tiny_4x8.motion"


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    """The names that the page's first block defines."""
    namespace: dict[str, Any] = {}
    exec(SHARED, namespace)
    return namespace


def test_each_recipe_needs_the_data_and_no_other_recipe() -> None:
    assert len(RECIPES) == 8
    for recipe in RECIPES:
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
        done = subprocess.run(command, input=SHARED + recipe, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_linear_probe_reads_the_bundled_features_better_than_random_ones(data: dict[str, Any]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    accuracy = {}
    for pretrained in (True, False):
        torch.manual_seed(0)
        encoder = sfz.create_model(NAME, pretrained=pretrained, num_classes=0).eval()
        with torch.inference_mode():
            train, test = (
                torch.cat([encoder(few) for few in data[key].split(8)]) for key in ("train_clips", "test_clips")
            )
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        probe.fit(train.numpy(), data["train_labels"])
        accuracy[pretrained] = probe.score(test.numpy(), data["test_labels"])
    assert accuracy[True] >= 0.8
    assert accuracy[False] <= 0.6


def test_frozen_batch_norms_stay_frozen_in_lightning(tmp_path: Path) -> None:
    """Also after validation, from which Lightning goes back to training."""
    import lightning
    from torch.utils.data import DataLoader, TensorDataset

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=2)
            freeze(self.model, "stem", batch_norm=True)
            self.evaluated: list[set[bool]] = []

        def training_step(self, batch: list[Tensor]) -> Tensor:
            assert self.model.training and self.model.head.training and not self.model.slow.stem.training
            self.evaluated.append({m.training for m in self.model.modules() if isinstance(m, nn.BatchNorm3d)})
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor]) -> None:
            assert not self.model.head.training

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    module = Module()
    before = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    clips = DataLoader(TensorDataset(torch.randn(4, 3, 16, 32, 32), torch.tensor([0, 1, 0, 1])), batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, clips, clips)
    assert module.evaluated == [{False}] * 4
    changed = {name for name, tensor in module.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"head.fc.weight", "slow.res5.blocks.0.conv3.norm.weight"} <= changed
    assert not [name for name in changed if "running" in name or "num_batches" in name or ".stem." in name]
