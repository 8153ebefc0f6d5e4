"""What is measured: a network as it is or optimised, in a dtype, on clips of a size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from slowfast_zoo.factory import create_model
from slowfast_zoo.inference.optimize.network import optimize_for_inference
from slowfast_zoo.utils import checks

DTYPES = ("float32", "bfloat16", "float16")
Call = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is computed.

    Attributes:
        model: a name that :func:`~slowfast_zoo.create_model` takes. Its weights stay random.
        batch: clips at once.
        size: side of the square clip in pixels; the network's own crop by default.
        frames: T, the frames of the Slow pathway; the network's own by default.
        threads: of the CPU; as many as torch takes by default.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        train: a training step, forward and backward, instead of inference.
        overrides: further keywords of ``create_model``.
    """

    model: str
    batch: int = 1
    size: int | None = None
    frames: int | None = None
    threads: int | None = None
    device: str = "cpu"
    train: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("size", 32), ("frames", 1), ("threads", 1)):
            if name == "batch" or getattr(self, name) is not None:
                checks.integer(getattr(self, name), name, at_least=least)
        try:
            device = torch.device(self.device)
            if device.type not in ("cpu", "cuda"):
                raise ValueError(f"device {self.device!r} cannot be measured: it is cpu or cuda")
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise ValueError(f"device {self.device!r} cannot be used: {str(error).splitlines()[0]}") from error

    def network(self) -> Any:
        """The network, in evaluation or training as the work wants it, on the current default device."""
        overrides = dict(self.overrides) | ({"frames": self.frames} if self.frames else {})
        return create_model(self.model, **overrides).train(self.train)

    def inputs(self, config: Any, dtype: torch.dtype = torch.float32, device: str | None = None) -> tuple[Any, ...]:
        """What the network is called with: a clip, the pair of frames and flow, or a clip and one box in each.

        Args:
            config: the network's configuration.
            dtype: of the clip.
            device: where it is; the work's own device by default.
        """
        like: dict[str, Any] = {"dtype": dtype, "device": device or self.device}
        side = self.size or config.crop
        clip = torch.rand(self.batch, config.in_chans, config.clip_frames, side, side, **like)
        if getattr(config, "fast_input", "") == "flow":
            return ((clip[:, :, : config.frames], torch.rand(self.batch, 2, *clip.shape[2:], **like)),)
        if config.roi:
            return clip, [torch.tensor([[0.0, 0.0, side, side]], **like)] * self.batch
        return (clip,)


@dataclass(frozen=True)
class Variant:
    """A form of the network that is measured. The scripts in ``benchmarks/`` have more, other libraries' among them.

    Attributes:
        kind: one of ``KINDS``. ``ordinary`` is the network as :func:`~slowfast_zoo.create_model` makes it.
        dtype: ``float32``, ``bfloat16`` or ``float16``: what it computes in. Training in another than float32 is under
            autocast.
    """

    KINDS: ClassVar[tuple[str, ...]] = ("ordinary", "optimised")

    kind: str
    dtype: str = "float32"

    def __post_init__(self) -> None:
        checks.one_of(self.kind, self.KINDS, "the kind of what is measured")
        checks.one_of(self.dtype, DTYPES, "dtype")

    def __str__(self) -> str:
        return f"{self.kind} {self.dtype}"

    def require(self) -> Any:
        """Imports what it needs, all of it, so that none is imported while memory is measured."""

    def prepare(self, work: Workload) -> Call:
        """Makes the network ready, on its device, in its dtype, and the input.

        Returns:
            A function without arguments that does the work once.

        Raises:
            ValueError: this variant cannot do this work.
        """
        dtype: torch.dtype = getattr(torch, self.dtype)
        is_optimised = self.kind == "optimised"
        if work.train and is_optimised:
            raise ValueError(f"{self.kind} is for inference: it has no training step to measure")
        weights_dtype = torch.float32 if work.train or is_optimised else dtype
        model = work.network()
        inputs = work.inputs(model.config, weights_dtype)
        model = model.to(torch.device(work.device), weights_dtype)
        if is_optimised:
            model = optimize_for_inference(model, dtype=dtype)
        return training_step(model, inputs, dtype) if work.train else inference(model, inputs)


def inference(model: nn.Module, inputs: tuple[Any, ...]) -> Call:
    """A function that runs the network once, without gradients."""

    def infer() -> Any:
        with torch.inference_mode():
            return model(*_fresh(inputs))

    return infer


def _fresh(inputs: tuple[Any, ...]) -> list[Any]:
    """The same tensors; lists are new, because PyTorchVideo's networks put their own maps into the list they get."""
    return [list(x) if isinstance(x, list) else x for x in inputs]


def training_step(model: nn.Module, inputs: tuple[Any, ...], dtype: torch.dtype) -> Call:
    """A function that does one training step, forward and backward."""
    device = next(model.parameters()).device

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext():
            logits = model(*_fresh(inputs))
        loss = F.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.long, device=device))
        loss.backward()  # type: ignore[no-untyped-call]

    return step
