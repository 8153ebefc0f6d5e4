"""Who is in a frame: torchvision's person detector, or anybody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_zoo.errors import WeightsError
from slowfast_zoo.utils.torchvision_guard import require_torchvision

PersonDetector = Callable[[Tensor], Any]  # uint8 RGB (3, H, W) -> (N, 4) or (N, 5)

_PERSON = 1  # COCO's class


class TorchvisionPersons:
    """People found by a detection network of torchvision.

    The paper's own detector is a Faster R-CNN fine-tuned on AVA; torchvision's, with a ResNet-50 and FPN, trained on
    COCO, takes its place.

    Args:
        device: where to compute.
        model: a network of ``torchvision.models.detection`` whose class 1 is a person. None is
            ``fasterrcnn_resnet50_fpn`` with its COCO weights, which are downloaded when the first frame comes.

    Raises:
        WeightsError: on a call, the weights cannot be downloaded.
        MissingDependencyError: on a call, torchvision is absent or broken.
    """

    def __init__(self, device: torch.device | str = "cpu", model: nn.Module | None = None) -> None:
        self.device = torch.device(device)
        self._model = model.to(self.device).eval() if model is not None else None

    @torch.inference_mode()
    def __call__(self, frame: Tensor) -> Tensor:
        """Boxes (N, 5) in pixels x1, y1, x2, y2 and confidence, the surest first, of a uint8 RGB frame (3, H, W)."""
        if self._model is None:
            self._model = _pretrained().to(self.device).eval()
        (found,) = self._model([frame.to(self.device).float() / 255])
        people = found["labels"] == _PERSON
        return torch.cat([found["boxes"][people], found["scores"][people, None]], dim=1).cpu()


def _pretrained() -> nn.Module:
    require_torchvision()
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights, fasterrcnn_resnet50_fpn

    try:
        model: nn.Module = fasterrcnn_resnet50_fpn(weights=FasterRCNN_ResNet50_FPN_Weights.COCO_V1)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash is another
        raise WeightsError(
            f"the person detector's weights (torchvision, fasterrcnn_resnet50_fpn) cannot be downloaded ({error}): "
            "pass boxes=, or person_detector= with a detector of your own"
        ) from error
    return model
