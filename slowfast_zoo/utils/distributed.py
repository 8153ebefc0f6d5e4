"""The processes that train together: one alone, or those that torchrun started."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .checks import checked_device


class Team:
    """What processes tell each other beside gradients.

    Attributes:
        rank: this process's number; only number 0 writes and shows anything.
        size: how many there are.
    """

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        self._group: Any = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            # Python objects need a group for the CPU; in validation, some wait for those with the longer videos.
            self._group = dist.new_group(backend="gloo", timeout=timedelta(days=1))

    def close(self) -> None:
        """Leave the group; the others, if they wait for this process, fail."""
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
        if self._group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def agreed(self, work: Callable[[], Any]) -> Any:
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
        if self._group is None:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values


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
    team = Team()
    try:
        yield team
    finally:
        team.close()
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


class _Team:
    """The processes that share the work; a single one unless torch.distributed has been initialised.

    They have a group of their own. It is closed when one leaves early, so that the others, who would wait for it, fail.
    """

    def __enter__(self) -> _Team:
        self.rank, self.size = 0, 1
        self._group: Any = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
            # The one that is ready first may wait for hours. Python objects need a group for the CPU.
            self._group = dist.new_group(backend="gloo", timeout=timedelta(days=30))
        return self

    def __exit__(self, *_: object) -> None:
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def broadcast(self, value: Any) -> Any:
        """What the first process has."""
        if self._group is None:
            return value
        values = [value]
        with _told():
            dist.broadcast_object_list(values, src=0, group=self._group)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """What all have, for the first process; an empty list for the others."""
        if self._group is None:
            return [value]
        values = [None] * self.size if self.rank == 0 else None
        with _told():
            dist.gather_object(value, values, dst=0, group=self._group)
        return values or []


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this evaluation has stopped, see its message; the results file keeps what was done"
        ) from error
