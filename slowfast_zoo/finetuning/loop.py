"""The training itself: steps, epochs, validation, and what has to be kept to go on from any step."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.inference.classify.classifier import VideoClassifier
from slowfast_zoo.inference.classify.pipeline import NotFiniteError, is_out_of_memory
from slowfast_zoo.inference.evaluation.metrics import average_precision, rank_of
from slowfast_zoo.models import VideoNetwork
from slowfast_zoo.utils.distributed import Team

from .curves import AddRow, draw_curves, open_board, write_metrics
from .data import ClipDataset, Data, collate, mix_seeds, reason_of
from .settings import Settings
from .state import BEST, BOARD, CURVES_FILE, LAST, METRICS_FILE, OutputFolder

# timm's types cannot be followed: its modules do not say what they export.
_data, _loss, _optim, _scheduler, _utils = (
    cast(Any, import_module(f"timm.{part}")) for part in ("data", "loss", "optim", "scheduler", "utils")
)

SAVE_SECONDS = 600.0  # after which the state is written, also within an epoch
_DRAW_SECONDS = 60.0  # after which the curves are drawn, at the end of an epoch
_WARMUP_FROM = 0.1  # of the highest learning rate
_LEAST_SCALE = 2.0**-20  # of a loss in float16, which begins with 2**16
_MOST_WORKERS = 8
_COUNTERS = ("epoch", "step", "loss_sum", "history", "skipped", "forgotten", "written")  # that a state keeps
_BAR = "{desc}{percentage:3.0f} % |{bar}| {n_fmt} of {total_fmt} steps, {remaining} left{postfix}"


class Trainer:
    """A network in training.

    Everything random is drawn anew in each step, from the seed and the step's number. So a state needs no random
    number generators, and may be of any step.

    Attributes:
        network: what trains.
        history: a row of numbers an epoch.
        skipped: videos that could not be read, each with the reason.

    Args:
        network: on the device, its parts frozen as wanted.
        data: to train and validate on.
        dataset: gives the clips.
        settings: how to train.
        lr: the highest learning rate.
        team: the processes.
    """

    def __init__(
        self, network: VideoNetwork[Any], data: Data, dataset: ClipDataset, settings: Settings, lr: float, team: Team
    ) -> None:
        self.network, self._data, self._dataset, self._settings, self._team = network, data, dataset, settings, team
        self._device = next(network.parameters()).device
        self._workers = _count_workers(settings.workers, self._device)
        self.steps = len(dataset) // team.size // settings.batch_size // settings.accumulate  # in an epoch
        if not self.steps:
            wanted = settings.batch_size * settings.accumulate * team.size
            raise ValueError(
                f"there are {len(dataset)} videos to train on, and a step takes {wanted} of them "
                f"(batch_size {settings.batch_size}, accumulate {settings.accumulate}): lower batch_size"
                + (" or accumulate" if settings.accumulate > 1 else "")
            )
        self._optimizer = _make_optimizer(network, settings, lr)
        warmup = settings.warmup(self.steps)
        self._schedule = _scheduler.CosineLRScheduler(
            self._optimizer,
            t_initial=max(2, settings.epochs * self.steps - warmup),  # of one step the rate is the same, and timm warns
            warmup_t=warmup,
            warmup_lr_init=_WARMUP_FROM * lr,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        self._loss, self._mix = _make_loss(settings, len(data.labels), data.multi_label)
        self._ema = _utils.ModelEmaV3(network, decay=settings.ema, use_warmup=True) if settings.ema else None
        self._scaler = _utils.NativeScaler(device=self._device.type) if settings.amp == "float16" else None
        self._model: nn.Module = network
        if team.size > 1:
            on_gpu = self._device.type == "cuda"
            self._model = DistributedDataParallel(network, device_ids=[self._device] if on_gpu else None)
        self._parts: dict[str, Any] = {"network": network, "optimizer": self._optimizer}  # that a state keeps, too
        if self._ema:
            self._parts["ema"] = self._ema.module
        if self._scaler:
            self._parts["scaler"] = self._scaler
        self.epoch = self.step = 0
        self.loss_sum = 0.0  # of the epoch's steps
        self.forgotten = 0  # epochs from the first, of which the best network is there no more
        self.written: dict[str, str] = {}  # digests of the networks in the folder
        self.history: list[dict[str, float]] = []
        self.skipped: dict[str, str] = {}

    # -- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What :meth:`load_state` goes on from. The same in all processes, but for batch norms' running statistics."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return parts | {name: getattr(self, name) for name in _COUNTERS}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        vars(self).update({name: state[name] for name in _COUNTERS})

    @property
    def best(self) -> int:
        """The index of the epoch that validation says is best: of equals that of the lower loss, then the earlier."""

        def merit(index: int) -> tuple[float, float, int]:
            row = self.history[index]
            name = "val_top1" if "val_top1" in row else "val_mean_average_precision"
            return row[name], -row["val_loss"], -index

        return max(range(self.forgotten, len(self.history)), key=merit)

    @property
    def _saved_network(self) -> Any:
        """What is validated and written: the moving average, if there is one."""
        return self._ema.module if self._ema else self.network

    def _restore_files(self, folder: OutputFolder) -> int:
        """Write again what the state tells of and the folder lacks.

        The best network cannot be written again where it is of an epoch before the last one, and is gone or another one
        (of an epoch that the state does not tell of). The epochs that follow then have to give it.

        Returns:
            The number of epochs of which the best network is there no more.

        Raises:
            FileNotFoundError: no epochs follow.
        """
        is_between_epochs = not self.step
        for name in (BEST, LAST):
            digest = folder.digest_of_network(name)
            if digest and digest == self.written.get(name, digest):
                continue
            if is_between_epochs and (name == LAST or self.best == len(self.history) - 1):
                self._write_network(folder, name)
            elif name == BEST and self.epoch == self._settings.epochs:
                raise FileNotFoundError(
                    f"{folder.path} holds a fine-tuning that is done, but its folder {name!r} is gone, or its files "
                    "are not as they were written: train for more epochs, or begin again with resume=False (--restart)"
                )
            elif name == BEST:
                return len(self.history)
        if is_between_epochs:
            with folder.explain_write_errors():
                write_metrics(self.history, folder.path / METRICS_FILE)
        return self.forgotten

    def _write_network(self, folder: OutputFolder, name: str) -> None:
        folder.write_network(self._saved_network, name, self._data.labels)
        self.written[name] = folder.digest_of_network(name)

    # -- epochs ------------------------------------------------------------------------------------------------------

    def run(self, folder: OutputFolder, state: Mapping[str, Any] | None) -> None:
        """Train to the end, and write as it goes on; in all processes at once.

        Args:
            folder: where everything is written.
            state: what to go on from; None begins.

        Raises:
            ValueError: too many videos cannot be read, or the loss is no number any more.
            FileNotFoundError: the networks of a finished run are gone.
            OSError: something cannot be written.
            MemoryError: a step does not fit in memory.
        """
        from tqdm import tqdm

        first, settings = self._team.rank == 0, self._settings
        if state:
            self.load_state(state)
        if self.history:
            self.forgotten = self._team.share_result(lambda: self._restore_files(folder))
        elif first:
            folder.write_state(self.state())  # before anything else, so that the folder is known for what it is
            folder.clear()
        with (
            warnings.catch_warnings(),
            ExitStack() as stack,
            tqdm(
                total=settings.epochs * self.steps,
                initial=self.epoch * self.steps + self.step,
                disable=None if settings.progress and first else True,  # None: unless it is a terminal
                bar_format=_BAR,
                leave=False,
                dynamic_ncols=True,
            ) as bar,
        ):
            with folder.explain_write_errors():
                board = folder.path / BOARD if settings.tensorboard and first else None
                add_to_board = stack.enter_context(open_board(board, self.history))
            # DistributedDataParallel's, of gradients that lie in memory as the convolutions on CPUs leave them.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            saved = drawn = time.monotonic()
            while self.epoch < settings.epochs:
                self._model.train()
                batches = self._batches()
                while self.step < self.steps:
                    loss = self._update(batches, bar)
                    self.step += 1
                    self.loss_sum += loss
                    bar.set_description_str(f"epoch {self.epoch + 1}, ", refresh=False)
                    bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                    bar.update()
                    if first and time.monotonic() - saved > SAVE_SECONDS and self._is_finite():
                        folder.write_state(self.state())
                        saved = time.monotonic()
                bar.set_postfix_str("validating")
                rates = [group["lr"] / (group.get("lr_scale") or 1.0) for group in self._optimizer.param_groups]
                row = {"epoch": self.epoch + 1, "learning_rate": max(rates), "train_loss": self.loss_sum / self.steps}
                self.history.append(row | self._validate(bar))
                self.epoch, self.step, self.loss_sum = self.epoch + 1, 0, 0.0
                if first:
                    due = self.epoch == settings.epochs or time.monotonic() - drawn > _DRAW_SECONDS
                    self._write_epoch(folder, add_to_board, draw=due)
                    saved = time.monotonic()
                    drawn = saved if due else drawn
                if first and settings.progress:  # a line that stays
                    numbers = (f"{name} {value:.4g}" for name, value in self.history[-1].items())
                    bar.write("  ".join(numbers), file=sys.stderr)

    def _write_epoch(self, folder: OutputFolder, add_to_board: AddRow, *, draw: bool) -> None:
        """An epoch's files; the state last, by which the epoch is done."""
        if self.best == len(self.history) - 1:
            self._write_network(folder, BEST)
        self._write_network(folder, LAST)
        with folder.explain_write_errors():
            write_metrics(self.history, folder.path / METRICS_FILE)
            if draw:
                try:
                    draw_curves(self.history, self.best, folder.path / CURVES_FILE)
                except ImportError as error:
                    warnings.warn(f"{CURVES_FILE} is not drawn: {error}", stacklevel=2)
            add_to_board(self.history[-1])
        folder.write_state(self.state())

    def _batches(self) -> Iterator[Any]:
        """What is left of the epoch. The processes' batches together are those of one with batches as large."""
        team, settings, dataset = self._team, self._settings, self._dataset
        sampler: DistributedSampler[Any] = DistributedSampler(
            dataset, team.size, team.rank, seed=settings.seed, drop_last=True
        )
        sampler.set_epoch(self.epoch)
        dataset.epoch = self.epoch
        order = list(sampler)[self.step * settings.accumulate * settings.batch_size :]
        loader = DataLoader(
            dataset,
            settings.batch_size,
            sampler=order,
            num_workers=self._workers,
            collate_fn=collate,
            pin_memory=self._device.type == "cuda",
            drop_last=True,
        )
        return iter(loader)

    # -- a step ------------------------------------------------------------------------------------------------------

    def _update(self, batches: Iterator[Any], bar: Any) -> float:
        """One step of the optimizer; gives the mean loss of all processes."""
        settings, done, where = self._settings, self.epoch * self.steps + self.step, f"in step {self.step + 1}"
        self._schedule.step_update(done)
        total = torch.zeros((), device=self._device)
        for part in range(settings.accumulate):
            with explain_memory_errors(settings, self.network):
                batch = next(batches)
                self._skip({self._data.train[index].name: reason for index, reason in batch.bad}, bar)
                if batch.clips is None:
                    raise ValueError(f"none of the {len(self._data.train)} videos to train on can be read")
                last = part == settings.accumulate - 1
                try:
                    total += self._backward(batch.clips, batch.targets, (done, part), last=last)
                except RuntimeError as error:
                    if "without overflow" not in str(error):
                        raise
                    raise self._divergence(f"a step of the optimizer is too large, {where} of") from error
        if self._ema:
            rounding = getattr(self._ema, "_sr_generator", None)  # with which newer timm rounds averages in bfloat16
            if rounding is not None:
                rounding.manual_seed(mix_seeds(settings.seed, done)[0])
            self._ema.update(self.network, step=done + 1)
        loss = float(self._team.sum(total)) / self._team.size
        if not math.isfinite(loss):
            raise self._divergence(f"the loss is no finite number any more, {where} of")
        # The scale is halved where gradients are no finite numbers, and such steps are left out, which is nothing bad.
        if self._scaler and self._scaler.state_dict()["scale"] < _LEAST_SCALE:
            raise self._divergence(f"the gradients are no finite numbers, however small the loss is made, {where} of")
        return loss

    def _is_finite(self) -> bool:
        """Whether all weights and statistics are finite numbers."""
        networks = (self.network, self._ema.module) if self._ema else (self.network,)
        return all(bool(tensor.isfinite().all()) for network in networks for tensor in network.state_dict().values())

    def _divergence(self, what: str) -> ValueError:
        remedies = "Lower lr (the learning rate), or set clip_grad"
        if self._settings.amp == "float16":
            remedies += ', or set amp to "bfloat16"'
        if next(self.network.parameters()).dtype == torch.float16:
            remedies += ", or give model.float(): float16 holds few numbers, for optimizers too"
        return ValueError(
            f"the training has diverged: {what} epoch {self.epoch + 1}. {remedies}, and begin again in another folder "
            "or with resume=False (--restart)"
        )

    def _backward(self, clips: Tensor, targets: Tensor, place: tuple[int, int], *, last: bool) -> Tensor:
        """Gradients of one batch, and with the last of a step the step itself; gives the batch's part of the loss."""
        settings, parameters = self._settings, self.network.parameters()
        (seed,) = mix_seeds(1, settings.seed, *place, self._team.rank)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # timm's mixup
        dtype = next(self.network.parameters()).dtype
        clips, targets = clips.to(self._device, dtype, non_blocking=True), targets.to(self._device, non_blocking=True)
        if self._mix:
            clips, targets = self._mix(clips, targets)
        # Gradients are exchanged once a step, with its last batch.
        is_waiting = isinstance(self._model, DistributedDataParallel) and not last
        with cast(DistributedDataParallel, self._model).no_sync() if is_waiting else nullcontext():
            amp = getattr(torch, settings.amp or "bfloat16")
            with torch.autocast(self._device.type, amp, enabled=settings.amp is not None):
                loss = self._loss(self._model(clips).float(), targets) / settings.accumulate
            if self._scaler:
                self._scaler(loss, self._optimizer, settings.clip_grad, parameters=parameters, need_update=last)
            else:
                loss.backward()
                if last and settings.clip_grad is not None:
                    _utils.dispatch_clip_grad(parameters, settings.clip_grad)
                if last:
                    self._optimizer.step()
        if last:
            self._optimizer.zero_grad()
        part: Tensor = loss.detach()
        return part

    def _skip(self, bad: Mapping[str, str], bar: Any) -> None:
        """Take note of unreadable videos, in all processes.

        Raises:
            ValueError: they have become too many.
        """
        new = {name: reason for name, reason in bad.items() if name not in self.skipped}
        if not self._team.sum(torch.tensor(len(new))):
            return
        for theirs in self._team.gather(new):
            for name in [name for name in theirs if name not in self.skipped]:
                self.skipped[name] = theirs[name]
                if self._team.rank == 0:
                    with bar.external_write_mode():
                        text = f"{name} cannot be read and is left out: {theirs[name]}"
                        warnings.warn(text, RuntimeWarning, stacklevel=2)
        count, total, most = len(self.skipped), len(self._data.train) + len(self._data.val), self._settings.max_bad
        if count > most * total:
            shown = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:3])
            raise ValueError(
                f"{count} of the {total} videos cannot be read, more than {100 * most:g} % (max_bad): {shown}"
                + ("; ..." if count > 3 else "")
            )

    # -- validation --------------------------------------------------------------------------------------------------

    def _validate(self, bar: Any) -> dict[str, float]:
        """Loss and accuracies of what is going to be saved, on the validation videos, which the processes share."""
        settings, team, entries, network = self._settings, self._team, self._data.val, self._saved_network
        if team.size > 1:
            _utils.distribute_bn(network, team.size)  # the first process's running statistics, which are saved, for all
        classifier = VideoClassifier(
            network, labels=self._data.labels, batch_size=settings.batch_size, workers=max(1, self._workers)
        )
        share = range(len(entries))[team.rank :: team.size]
        bad: dict[str, str] = {}
        has_diverged = False

        def take_note(video: object, error: Exception) -> None:
            nonlocal has_diverged
            has_diverged |= isinstance(error, NotFiniteError)
            bad[str(video)] = reason_of(error)

        with explain_memory_errors(settings, self.network, validating=True):
            predictions = classifier.predict_many(
                [entries[index].source for index in share],
                settings.clips,
                settings.crops,
                on_error=take_note,
            )
            found = {share[prediction.position]: prediction.probabilities.float().numpy() for prediction in predictions}
        if team.sum(torch.tensor(int(has_diverged or not self._is_finite()))):
            raise self._divergence("the network's weights or scores are no finite numbers any more, after")
        self._skip({entry.name: bad[str(entry.source)] for entry in entries if str(entry.source) in bad}, bar)
        scores = {index: vector for part in team.gather(found) for index, vector in part.items()}
        if not scores:
            raise ValueError(f"none of the {len(entries)} videos to validate on can be read")
        order = sorted(scores)
        return _measure(np.stack([scores[i] for i in order]), [entries[i].targets for i in order], self._data)


def _measure(scores: Any, targets: Sequence[tuple[int, ...]], data: Data) -> dict[str, float]:
    """What probabilities (videos, classes) are worth."""
    shown = np.zeros(scores.shape, bool)
    for row, classes in zip(shown, targets, strict=True):
        row[list(classes)] = True
    likely = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    if data.multi_label:
        unlikely = np.log(np.maximum(1 - scores, np.finfo(np.float32).eps))
        return {
            "val_loss": float(-np.where(shown, likely, unlikely).mean()),
            "val_mean_average_precision": float(np.nanmean(average_precision(scores, shown))),
        }
    ranks = rank_of(scores, np.array([target for (target,) in targets]))
    by_class = [float((ranks[shown[:, index]] == 0).mean()) for index in shown.any(0).nonzero()[0]]
    return {
        "val_loss": float(-likely[shown].mean()),
        "val_top1": float((ranks == 0).mean()),
        **({"val_top5": float((ranks < 5).mean())} if scores.shape[1] > 5 else {}),
        "val_mean_class_accuracy": float(np.mean(by_class)),
    }


def _count_workers(workers: int | None, device: torch.device) -> int:
    if workers is not None:
        return workers
    if device.type == "cpu":
        return 0
    return min(_MOST_WORKERS, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _make_optimizer(network: nn.Module, settings: Settings, lr: float) -> Any:
    """The optimizer, of the parameters that train."""
    name = settings.optimizer
    known = _optim.get_optimizer_info(name.lower().rpartition("_")[2])  # behind "lookahead_"
    # timm's sgd and its relatives are Nesterov's, who refuse to be without momentum.
    is_plain = not settings.momentum and known.has_momentum and (known.defaults or {}).get("nesterov")
    try:
        optimizer = _optim.create_optimizer_v2(
            network,
            name,
            lr=lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
            **({"nesterov": False} if is_plain else {}),
        )
    except ImportError as error:
        raise MissingDependencyError(f"optimizer {name!r} cannot be used here: {error}") from error
    except (AssertionError, TypeError) as error:
        raise ValueError(f"optimizer {name!r} cannot be used here: {error}") from error
    if getattr(optimizer, "is_second_order", False):
        raise ValueError(
            f"optimizer {name!r} needs second derivatives, which are not computed here: choose one of first order, "
            "such as 'sgd' or 'adamw'"
        )
    return optimizer


def _make_loss(
    settings: Settings, classes: int, multi_label: bool
) -> tuple[nn.Module, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None]:
    """The loss, and what mixes clips and targets before it."""
    smoothing, mix = settings.label_smoothing, None
    sets = {"multi_label": True} if multi_label else {}
    try:
        if settings.mixup:
            mix = _data.Mixup(settings.mixup, label_smoothing=smoothing, num_classes=classes, **sets)
        if multi_label:
            smooth = {"smoothing": smoothing, "smooth_dense": True} if smoothing and not mix else {"smoothing": 0.0}
            return _loss.BinaryCrossEntropy(**smooth), mix
    except TypeError as error:
        raise MissingDependencyError(
            "for sets of labels, label_smoothing and mixup need a newer timm: pip install --upgrade timm"
        ) from error
    if mix:
        return _loss.SoftTargetCrossEntropy(), mix
    return _loss.LabelSmoothingCrossEntropy(smoothing) if smoothing else nn.CrossEntropyLoss(), None


@contextmanager
def explain_memory_errors(
    settings: Settings, network: VideoNetwork[Any], *, validating: bool = False
) -> Iterator[None]:
    """Out of memory says what to lower.

    Raises:
        MemoryError: something in the context did not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if "DataLoader worker" in str(error):
            raise MemoryError(
                "a process that decodes videos was ended, probably for its memory: lower workers"
            ) from error
        if not is_out_of_memory(error):
            raise
        if validating:  # the classifier has tried fewer clips by itself, down to one
            clips, remedies = "a single clip of validation", ["set crops to 1"] * (settings.crops == "full")
        else:
            clips = f"a batch of {settings.batch_size} clips"
            has_checkpoints = any(getattr(module, "grad_checkpointing", False) for module in network.modules())
            remedies = [
                *["lower batch_size and raise accumulate as much"] * (settings.batch_size > settings.least_batch),
                *["set grad_checkpointing"] * (not has_checkpoints),
                *['set amp to "bfloat16"'] * (settings.amp is None),
            ]
        raise MemoryError(
            f"{clips} ({network.config.clip_frames} frames, crop {network.config.crop}) does not fit in the memory of "
            f"{next(network.parameters()).device}: {', or '.join(remedies) or 'take a smaller crop or network'}"
        ) from error
