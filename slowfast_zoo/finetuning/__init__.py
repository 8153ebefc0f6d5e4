"""Fine-tuning: a network that was trained on other videos learns to tell classes of one's own.

The engines are those there are: torch's DistributedDataParallel, DistributedSampler and DataLoader, timm's optimizers,
schedules, mixup and moving averages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .settings import BatchNorm, Precision, Settings, check_flag, check_whole, is_real

if TYPE_CHECKING:
    from slowfast_zoo.models import VideoNetwork
    from slowfast_zoo.utils.distributed import Team

    from .data import Data, VideoList

__all__ = ["FinetuneResult", "finetune"]

_MOST_WORKERS = 8


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


def finetune(
    model: str | VideoNetwork[Any],
    train: VideoList,
    val: VideoList | float | None = None,
    *,
    output: str | os.PathLike[str],
    labels: Sequence[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    multi_label: bool | None = None,
    pretrained: bool = True,
    crop: int | None = None,
    epochs: int = 20,
    batch_size: int = 8,
    accumulate: int = 1,
    lr: float | None = None,
    optimizer: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    warmup_epochs: float | None = None,
    layer_decay: float | None = None,
    drop_rate: float = 0.5,
    flip: bool = True,
    label_smoothing: float = 0.0,
    mixup: float = 0.0,
    freeze: str | None = None,
    batch_norm: BatchNorm = "batch",
    amp: Precision | None = None,
    clip_grad: float | None = None,
    grad_checkpointing: bool = False,
    ema: float | None = None,
    clips: int = 1,
    crops: int | str = 1,
    seed: int = 0,
    device: str | torch.device | None = None,
    workers: int | None = None,
    max_bad: float = 0.05,
    resume: bool = True,
    tensorboard: bool = False,
    progress: bool = False,
) -> FinetuneResult:
    """Fine-tune a network on videos of one's own classes.

    The recipe is the paper's (section 4 and appendix), scaled to small data: SGD with momentum, half-period cosine
    schedule with linear warm-up, dropout, a random clip of each video with its shorter side at random between the
    network's own scale and 1.25 times that ([256, 320] for most), a random crop of seven eighths (224 of 256), mirrored
    half of the time.

    Under torchrun the processes share each step; a script calls this function as it would alone, and finds
    ``torch.distributed`` initialised afterwards. What is left of an
    epoch's videos after its last whole step is left out; the next epoch has another order.

    Args:
        model: the name of a model, whose classifier is replaced by one for these classes unless it is one already; or
            a network from ``create_model`` with as many outputs as there are classes, which is trained itself. One that
            was frozen in parts (:func:`~slowfast_zoo.models.freezing.freeze`) stays so.
        train: videos to train on: a folder with a folder for each class; a folder with the folders train and val, each
            with a folder for each class; a list of paths and labels, see
            :func:`~slowfast_zoo.video.dataset.read_dataset`; what that function gave; pairs of a path and a label (a
            name, an index or several), or paths, whose label is the name of the folder that they lie in.
        val: videos to validate on, likewise; a number is the share of the training videos that is held out, of each
            class, at random. None is the folder val, or else 0.2.
        output: folder for the networks, the state, metrics.csv and curves.png. If it holds an interrupted run of the
            same arguments, this one goes on with it, and its result is that of a run without interruption.
        labels: class names in the order of their indices; None takes those of the data, sorted, or the network's own
            order where it has the same names.
        root: the folder that the paths in lists start from; None is each list's own.
        multi_label: whether videos have sets of labels: then there is a sigmoid for each class, and mean average
            precision is what counts. None does so if any has several.
        pretrained: load the weights of a named model.
        crop: side of a named model's clips in validation and use, in pixels, where it is not to be the weights' own.
        epochs: how often each video is seen.
        batch_size: clips of a process at once.
        accumulate: batches of a step of the optimizer.
        lr: the highest learning rate. None grows with the clips of a step: 0.1 for 64 of them without ``pretrained``,
            as in the paper, which trains from scratch; half of that otherwise, which is a choice; and for sets of
            labels 0.0375 for 16, by which the paper fine-tunes on Charades.
        optimizer: any of timm's that need only first derivatives; "sgd" is SGD with Nesterov's momentum.
        momentum: of SGD; 0 is plain SGD.
        weight_decay: batch norms and biases have none.
        warmup_epochs: epochs over which the learning rate grows from a tenth; None is 2/15 of them, as in the paper.
        layer_decay: factor of the learning rate from the head to res5, from there to res4, and so on.
        drop_rate: dropout before the classifier.
        flip: mirror half of the clips. Switch it off where classes know left from right.
        label_smoothing: share of the label that is spread over all classes.
        mixup: alpha of mixup; 0 is none.
        freeze: the last stage that does not train: "stem", "res2", "res3", "res4", or "res5" for the head only.
        batch_norm: whose statistics batch norms use in training: "batch", those of each process's batch; "sync", of the
            batches of all processes (GPUs only); "split", of 8 clips each, as in the paper; "frozen", none but what the
            network came with.
        amp: compute in "bfloat16" or "float16" what loses nothing by it.
        clip_grad: longest gradient.
        grad_checkpointing: compute activations again instead of keeping them: less memory, more time.
        ema: decay of a moving average of the weights, such as 0.99, that is validated and saved in their place.
        clips: clips of each video in validation; 1 is the centre.
        crops: crops of each, 1 (the centre), 3 or "full".
        seed: of all that is random. On a CPU, the same seed gives the same weights.
        device: where to compute; None is the GPU if there is one, for each process its own.
        workers: processes that decode videos, for each that trains, at most 256; None is up to 8 on a GPU, and none on
            a CPU, which the network keeps busy.
        max_bad: the share of the videos that may be unreadable. They are told of, and in training replaced by the next.
        resume: go on with what is in ``output``, for more epochs if ``epochs`` has grown, then at the learning rates
            that so many have; False begins again, in place of another fine-tuning.
        tensorboard: write the numbers for TensorBoard too.
        progress: show a progress bar, and a line of numbers an epoch.

    Returns:
        A :class:`FinetuneResult`, in each process.

    Raises:
        ValueError: an argument makes no sense, data that nothing can be learnt from, a network that does not fit them,
            an output folder with something else in it, too many unreadable videos, a state that is not as
            it was written, or a training that has diverged.
        TypeError: a network that is not from ``create_model``.
        FileNotFoundError: a list, a folder, or all videos of a list are not there, or a network that a finished run
            had written, or not as it was written.
        OSError: something cannot be written, as on a full disk. The state of before, if there is one, is whole.
        MemoryError: a step does not fit in memory; the message says what to lower.
        WeightsError: the weights cannot be found or loaded.
        MissingDependencyError: something to read, train or show with is not installed.
    """
    from slowfast_zoo.utils.distributed import processes
    from slowfast_zoo.utils.torchvision_guard import require_timm, require_torchvision

    from .curves import require_tensorboard
    from .data import read_data, warn_of

    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        lr=lr,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        layer_decay=layer_decay,
        drop_rate=drop_rate,
        flip=flip,
        label_smoothing=label_smoothing,
        mixup=mixup,
        freeze=freeze,
        batch_norm=batch_norm,
        amp=amp,
        clip_grad=clip_grad,
        ema=ema,
        clips=clips,
        crops=crops,
        seed=seed,
    )
    if not is_real(max_bad) or not 0 <= max_bad <= 1:
        raise ValueError(f"max_bad is a share from 0 to 1, not {max_bad!r}")
    for name, value, least in (("workers", workers, 0), ("crop", crop, 1)):
        if value is not None:
            check_whole(name, value, least)
    flags = {"pretrained": pretrained, "grad_checkpointing": grad_checkpointing, "resume": resume}
    flags |= {"tensorboard": tensorboard, "progress": progress}
    if multi_label is not None:
        flags["multi_label"] = multi_label
    for name, flag in flags.items():
        check_flag(name, flag)
    require_timm()
    require_torchvision()
    if tensorboard:
        require_tensorboard()
    data = read_data(train, val, labels=labels, root=root, multi_label=multi_label, seed=seed)
    with torch.inference_mode(False), torch.enable_grad(), processes(device) as team:
        if team.rank == 0:
            warn_of(data, flip=flip)
        return _train(
            model,
            data,
            settings,
            team,
            output,
            pretrained=pretrained,
            crop=crop,
            grad_checkpointing=grad_checkpointing,
            device=device,
            workers=workers,
            max_bad=max_bad,
            resume=resume,
            tensorboard=tensorboard,
            progress=progress,
        )


def _train(
    model: str | VideoNetwork[Any],
    data: Data,
    settings: Settings,
    team: Team,
    output: str | os.PathLike[str],
    *,
    pretrained: bool,
    crop: int | None,
    grad_checkpointing: bool,
    device: str | torch.device | None,
    workers: int | None,
    max_bad: float,
    resume: bool,
    tensorboard: bool,
    progress: bool,
) -> FinetuneResult:
    from slowfast_zoo.utils.distributed import device_of

    from .curves import Board
    from .data import ClipDataset
    from .loop import Trainer
    from .network import described, fitting_network, prepare
    from .state import BEST, BOARD, LAST, OutputFolder, digest_of

    place = device_of(device, team)
    with _own_randomness(settings.seed, place):
        network, data = fitting_network(model, data, pretrained=pretrained, crop=crop)
        transform = prepare(network, data, settings, place, grad_checkpointing=grad_checkpointing)
        lr = settings.rate(team.size, pretrained=pretrained or not isinstance(model, str), multi_label=data.multi_label)
        run = {
            "network": described(network),
            "classes": list(data.labels),
            "train": digest_of(data.train),
            "val": digest_of(data.val),
            "transform": repr(transform),
            "pretrained": bool(pretrained),
            "processes": team.size,
            **settings.to_dict(),
            "lr": lr,
        }
        folder = OutputFolder(output, run)
        state = team.share_result(lambda: folder.open(resume))
        total = len(data.train) + len(data.val)
        segments = network.pretrained_cfg["clip_sampling"] == "segments"
        dataset = ClipDataset(data, transform, network.config, settings.seed, segments, int(max_bad * total))
        trainer = Trainer(network, data, dataset, settings, lr, team, workers=_workers(workers, place), max_bad=max_bad)
        if state:
            trainer.load_state(state)
        board = folder.path / BOARD if tensorboard and team.rank == 0 else None
        trainer.take_stock(folder)
        with folder.told_of_space():
            numbers = Board(board, trainer.history)
        with numbers:
            trainer.run(folder, numbers, progress=progress)
        team.gather(None)  # until the first process has written everything
    network.eval()
    return FinetuneResult(
        best=folder.path / BEST,
        last=folder.path / LAST,
        history=tuple(trainer.history),
        best_epoch=int(trainer.history[trainer.best]["epoch"]),
        skipped=tuple(trainer.skipped.items()),
    )


def _workers(workers: int | None, device: torch.device) -> int:
    if workers is not None:
        return int(workers)
    if device.type == "cpu":
        return 0
    return min(_MOST_WORKERS, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """The seed's random numbers, and afterwards the caller's."""
    import numpy as np

    before = np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
