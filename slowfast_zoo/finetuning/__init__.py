"""Fine-tuning: a network that was trained on other videos learns to tell classes of one's own.

The engines are those there are: torch's DistributedDataParallel, DistributedSampler and DataLoader, timm's optimizers,
schedules, mixup and moving averages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .settings import Settings, takes_settings

__all__ = ["FinetuneResult", "finetune"]


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning gave.

    Attributes:
        best: folder of the network that validation says is best, for ``create_model("local-dir:...")``.
        last: folder of the network after the last epoch.
        history: a row of numbers an epoch: epoch (from 1), learning_rate, train_loss, val_loss, and val_top1, val_top5
            (with more than 5 classes) and val_mean_class_accuracy, or val_mean_average_precision.
        best_epoch: the epoch that ``best`` is of.
        skipped: videos that could not be read, each with the reason.
    """

    best: Path
    last: Path
    history: tuple[dict[str, float], ...] = field(repr=False)
    best_epoch: int
    skipped: tuple[tuple[str, str], ...]


@takes_settings(Settings)
def finetune(settings: Settings) -> FinetuneResult:
    """Fine-tune a network on videos of one's own classes.

    The recipe is the paper's (section 4 and appendix), scaled to small data: SGD with momentum, half-period cosine
    schedule with linear warm-up, dropout, a random clip of each video with its shorter side at random between the
    network's own scale and 1.25 times that ([256, 320] for most), a random crop of seven eighths (224 of 256), mirrored
    half of the time.

    Under torchrun the processes share each step; a script calls this function as it would alone, and finds
    ``torch.distributed`` initialised afterwards. What is left of an epoch's videos after its last whole step is left
    out; the next epoch has another order.

    Returns:
        A :class:`FinetuneResult`, in each process.

    Raises:
        ValueError: an argument makes no sense, data that nothing can be learnt from, a network that does not fit them,
            an output folder with something else in it, too many unreadable videos, a state that is not as it was
            written, or a training that has diverged.
        TypeError: a network that is not from ``create_model``.
        FileNotFoundError: a list, a folder, or all videos of a list are not there, or a network that a finished run
            had written, or not as it was written.
        OSError: something cannot be written, as on a full disk. The state of before, if there is one, is whole.
        MemoryError: a step does not fit in memory; the message says what to lower.
        WeightsError: the weights cannot be found or loaded.
        MissingDependencyError: something to read, train or show with is not installed.
    """
    from slowfast_zoo.utils.distributed import device_of, processes
    from slowfast_zoo.utils.torchvision_guard import require_timm, require_torchvision

    from .curves import require_tensorboard
    from .data import ClipDataset, read_data, warn_about

    require_timm()
    require_torchvision()
    if settings.tensorboard:
        require_tensorboard()
    data = read_data(
        settings.train,
        settings.val,
        labels=settings.labels,
        root=settings.root,
        multi_label=settings.multi_label,
        seed=settings.seed,
    )

    from .loop import Trainer
    from .network import describe, prepare, resolve_network
    from .state import BEST, LAST, OutputFolder, digest_of

    with torch.inference_mode(False), torch.enable_grad(), processes(settings.device) as team:
        if team.rank == 0:
            warn_about(data, flip=settings.flip)
        device = device_of(settings.device, team)
        with _use_seed(settings.seed, device):
            network, data = resolve_network(settings, data)
            transform = prepare(network, data, settings, device)
            lr = settings.rate(team.size, multi_label=data.multi_label)
            run = {
                "network": describe(network),
                "classes": list(data.labels),
                "train": digest_of(data.train),
                "val": digest_of(data.val),
                "transform": repr(transform),
                "processes": team.size,
                **settings.recorded(),
                "lr": lr,
            }
            folder = OutputFolder(settings.output, run)
            state = team.share_result(lambda: folder.open(settings.resume))
            dataset = ClipDataset(
                data,
                transform,
                network.config,
                settings.seed,
                segments=network.pretrained_cfg["clip_sampling"] == "segments",
                patience=int(settings.max_bad * (len(data.train) + len(data.val))),
            )
            trainer = Trainer(network, data, dataset, settings, lr, team)
            trainer.run(folder, state)
            team.gather(None)  # until the first process has written everything
        network.eval()
    return FinetuneResult(
        best=folder.path / BEST,
        last=folder.path / LAST,
        history=tuple(trainer.history),
        best_epoch=int(trainer.history[trainer.best]["epoch"]),
        skipped=tuple(trainer.skipped.items()),
    )


@contextmanager
def _use_seed(seed: int, device: torch.device) -> Iterator[None]:
    """The seed's random numbers, and afterwards the caller's."""
    import numpy as np

    before = np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
