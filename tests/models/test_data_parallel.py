"""DistributedDataParallel on two gloo processes: the same gradients as one process with the whole batch."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import slowfast_zoo as sfz


def network() -> Any:
    torch.manual_seed(0)
    model = sfz.create_model("slowfast_tiny_4x8", width=8, num_classes=5, drop_rate=0.0)
    return model.eval()  # frozen batch norms: with their own statistics two halves differ from the whole


def batch() -> torch.Tensor:
    return torch.randn(4, 3, 16, 32, 32, generator=torch.Generator().manual_seed(1))


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = DistributedDataParallel(network())
    for _ in range(2):  # the second round fails if a parameter was left out of the first
        model.zero_grad()
        model(batch()[rank * 2 : rank * 2 + 2]).square().mean().backward()
    torch.save([p.grad for p in model.parameters()], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(worker, (port, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    model = copy.deepcopy(network())
    model(batch()).square().mean().backward()
    for rank in range(2):
        for got, p in zip(torch.load(tmp_path / f"{rank}.pt"), model.parameters(), strict=True):
            torch.testing.assert_close(got, p.grad, rtol=1e-4, atol=1e-6)
