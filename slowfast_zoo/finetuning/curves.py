"""A training's numbers: as CSV, as a picture, and for TensorBoard."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slowfast_zoo.errors import MissingDependencyError
from slowfast_zoo.inference.draw.style import INK, PALE
from slowfast_zoo.utils.files import whole_file, write_whole

Row = Mapping[str, float]

_TRAIN, _VAL, _BEST = "#1f6f8b", "#d9822b", "#5a9367"
_TITLES = {
    "val_top1": "top-1 accuracy",
    "val_top5": "top-5 accuracy",
    "val_mean_class_accuracy": "mean class accuracy",
    "val_mean_average_precision": "mean average precision",
}


def write_metrics(history: Sequence[Row], path: str | os.PathLike[str]) -> None:
    """Write a row an epoch as CSV, whole or not at all, unless it is there as it should be."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    content = text.getvalue().encode()
    if not os.path.isfile(path) or Path(path).read_bytes() != content:
        write_whole(path, content)


def draw_curves(history: Sequence[Row], best: int, path: str | os.PathLike[str]) -> None:
    """Draw losses, the first measure and the learning rate over the epochs; the file is written whole or not at all.

    Args:
        history: a row an epoch.
        best: which of them is best.
        path: the picture.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    measure = next(name for name in _TITLES if name in history[0])
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(11, 3.2), dpi=120, facecolor="white")
    figure.subplots_adjust(0.05, 0.16, 0.98, 0.9, wspace=0.24)
    panels: list[tuple[str, dict[str, tuple[str, str]]]] = [
        ("loss", {"train_loss": ("training", _TRAIN), "val_loss": ("validation", _VAL)}),
        (_TITLES[measure], {measure: ("validation", _VAL)}),
        ("learning rate", {"learning_rate": ("at the epoch's end", PALE)}),
    ]
    for axes, (title, lines) in zip(figure.subplots(1, 3), panels, strict=True):
        for name, (label, colour) in lines.items():
            marker = "o" if len(history) < 40 else ""
            axes.plot(epochs, [row[name] for row in history], color=colour, label=label, marker=marker, markersize=3)
        axes.set_title(title, size=10, color=INK, loc="left")
        axes.set_xlabel("epoch", size=9, color=PALE)
        axes.tick_params(labelsize=8, colors=PALE)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 1.05 * max(row[name] for row in history for name in lines))
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)
        if title == _TITLES[measure]:
            axes.set_ylim(0, 1)
            axes.axvline(epochs[best], color=_BEST, linewidth=1, linestyle=":")
            words = f"best: {100 * history[best][measure]:.1f} % in epoch {epochs[best]:g}"
            axes.set_title(words, size=8, color=_BEST, loc="right")
    with whole_file(Path(path)) as temporary:
        figure.savefig(temporary)


def require_tensorboard() -> None:
    """Fail now rather than after the work.

    Raises:
        MissingDependencyError: TensorBoard is not installed, or broken.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception as error:  # with other versions of protobuf or NumPy it raises what they do
        reason = str(error).partition("\n")[0]
        raise MissingDependencyError(
            f"TensorBoard cannot be used ({reason}): pip install tensorboard, or leave the option out; the same "
            "numbers are in metrics.csv"
        ) from error


AddRow = Callable[[Row], None]


@contextlib.contextmanager
def open_board(folder: Path | None, history: Sequence[Row]) -> Iterator[AddRow]:
    """Numbers for TensorBoard, if they are asked for; gives a function that adds the numbers of an epoch.

    Args:
        folder: where its files go, in place of those that are there; None for none.
        history: rows of the epochs that are done already.
    """
    if folder is None:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard writes in a thread, whose errors flush raises; Python would print their traceback besides.
    before = threading.excepthook

    def show(args: threading.ExceptHookArgs) -> None:
        if not (issubclass(args.exc_type, OSError) and type(args.thread).__module__.startswith("tensorboard")):
            before(args)

    def add(row: Row) -> None:
        for name, value in row.items():
            if name != "epoch":
                writer.add_scalar(name.replace("_", "/", 1), value, int(row["epoch"]))
        writer.flush()

    shutil.rmtree(folder, ignore_errors=True)
    threading.excepthook = show
    writer: Any = SummaryWriter(str(folder))
    try:
        for row in history:
            add(row)
        yield add
    finally:
        with contextlib.suppress(OSError):  # nothing is left to write; where the disk is full, that was reported
            writer.close()
        threading.excepthook = before
