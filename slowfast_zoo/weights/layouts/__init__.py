"""The layouts of checkpoints that are read, one module each, told apart by content."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from . import caffe2, gluoncv, image, mmaction2, native, pyslowfast, pytorchvideo
from .layout import Layout

__all__ = ["LAYOUTS", "Layout", "recognise"]

LAYOUTS = (
    native.LAYOUT,
    pyslowfast.LAYOUT,
    caffe2.LAYOUT,
    pytorchvideo.LAYOUT,
    mmaction2.LAYOUT,
    gluoncv.LAYOUT,
    image.LAYOUT,
)


def recognise(state: Mapping[str, Tensor]) -> Layout | None:
    """The layout that a state dict is in, or None."""
    return next((layout for layout in LAYOUTS if layout.recognises(state)), None)
