"""The processes that train together: one alone, or those that torchrun started."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from .checks import checked_device

if TYPE_CHECKING:
    from typing_extensions import Self


class Team:
    """What processes tell each other besides gradients; a single one unless torch.distributed has been initialised.

    They have a group of their own. It is closed when one leaves early, so that the others, who would wait for it, fail.

    Attributes:
        rank: this process's number; only number 0 writes and shows anything.
        size: how many there are.
    """

    def __init__(self, lost: str = "another process of this work has stopped, see its message") -> None:
        """``lost`` is what the error says where another process is gone."""
        self.rank, self.size = 0, 1
        self._lost = lost
        self._group: Any = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            # Python objects need a group for the CPU. The one that is ready first may wait for hours.
            self._group = dist.new_group(backend="gloo", timeout=timedelta(days=30))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self._group is not None:
            dist.all_reduce(values, group=self._group if values.device.type == "cpu" else None)
        return values

    def broadcast(self, value: Any) -> Any:
        """What the first process has."""
        values = [value]
        if self._group is not None:
            with self._others_there():
                dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def share_result(self, work: Callable[[], Any]) -> Any:
        """What the first process gets of some work, or its exception, for all."""
        value: Any = None
        if self.rank == 0:
            try:
                value = work()
            except (ValueError, OSError) as error:
                value = error
        value = self.broadcast(value)
        if isinstance(value, Exception):
            raise value
        return value

    def gather(self, value: Any) -> list[Any]:
        """What each has, for all."""
        values = [value] * self.size
        if self._group is not None:
            with self._others_there():
                dist.all_gather_object(values, value, group=self._group)
        return values

    @contextmanager
    def _others_there(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ConnectionError(self._lost) from error


@contextmanager
def processes(device: str | torch.device | None) -> Iterator[Team]:
    """The processes of torchrun, or those that the caller's ``torch.distributed`` has, or this one alone.

    What torchrun's processes share is left as it is afterwards, for what else the script does.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ and not dist.is_initialized():
        on_gpu = torch.cuda.is_available() and (device is None or torch.device(device).type == "cuda")
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        started = True
    else:
        started = False
    with Team() as team:
        yield team
    if started:  # after a failure this could wait for the others
        atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def device_of(device: str | torch.device | None, team: Team) -> torch.device:
    """Where this process computes: a GPU of its own, if there are some and nothing else was asked for.

    Raises:
        ValueError: the device is not there, there are more processes than GPUs, or several were given one GPU.
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(checked_device(default if device is None else device) or default)
    if chosen.type == "meta":
        raise ValueError("nothing is computed on the device 'meta': choose another, such as cpu")
    checked_device(chosen)
    if chosen.type != "cuda" or team.size == 1:
        return chosen
    if ":" in str(chosen):
        raise ValueError(f"{team.size} processes cannot share {chosen}: leave device out, and each gets a GPU")
    local, there = int(os.environ.get("LOCAL_RANK", team.rank)), torch.cuda.device_count()
    if local >= there:
        raise ValueError(
            f"there are {there} GPUs here for more processes: lower torchrun's --nproc-per-node to {there}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
