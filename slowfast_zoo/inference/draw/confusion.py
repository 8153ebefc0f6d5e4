"""A picture of which class was taken for which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from slowfast_zoo.inference.evaluation.metrics import Floats, Integers
from slowfast_zoo.inference.evaluation.run import Evaluation

from . import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RIGHT, _WRONG = style.TEAL, style.ORANGE
_NUMBERED = 30  # classes up to which cells have numbers
_NAMED = 70  # classes up to which rows and columns have names
_SIDE = 6.6  # of the matrix, in inches, as all lengths here
_DPI = 160
_RECOGNISED = 2.2  # the bars on its right
_TITLE_WIDTH = 5.4  # the matrix's title, which may be wider than the matrix
_LINE = 0.4  # a line of the lists on the right of a large matrix


class _Table(NamedTuple):
    """The part of the confusion matrix that is drawn.

    Attributes:
        names: of the rows; the columns have the same, and there may be one more, for classes without videos.
        counts: (rows, columns).
    """

    names: list[str]
    counts: Integers

    @property
    def shares(self) -> Floats:
        """(rows, columns), parts of the row's videos."""
        shares: Floats = self.counts / self.counts.sum(1, keepdims=True)
        return shares


def save_confusion_plot(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Draw what the videos of each class were taken for: a row for each class with videos, a column for each answer.

    Up to 30 classes are drawn in their order, with numbers in the cells. More are drawn without numbers, and classes
    that are mistaken for each other are neighbours; on the right are the pairs that are confused most often and the
    worst classes.

    Args:
        evaluation: of videos with one label each.
        path: the picture, in a format that matplotlib writes (.png, .pdf, .svg, ...). Written whole or not at all.

    Raises:
        ValueError: the videos have several labels, or the suffix names no known format.
        FileNotFoundError: the folder is not there.
        MissingDependencyError: matplotlib is not installed.
    """
    if evaluation.confusion is None:
        raise ValueError("videos with several labels are not taken for one class: there is no confusion matrix to draw")
    with style.drawn_picture(path, _DPI) as figure:
        names = [entry.label for entry in evaluation.classes]
        shown = [index for index, entry in enumerate(evaluation.classes) if entry.videos]
        if len(shown) > _NUMBERED:
            shown = [
                shown[place]
                for place in _order_by_confusion(_select_classes(names, evaluation.confusion, shown).shares)
            ]
        _draw(figure, evaluation, _select_classes(names, evaluation.confusion, shown))


def _select_classes(names: Sequence[str], confusion: Integers, shown: Sequence[int]) -> _Table:
    """Some of the classes in some order; answers that are none of them go into a last column, if there are any."""
    counts = confusion[np.ix_(shown, shown)]
    others = confusion[shown].sum(1) - counts.sum(1)
    if others.any():
        counts = np.column_stack((counts, others))
    return _Table([names[index] for index in shown], counts)


def _order_by_confusion(shares: Floats) -> list[int]:
    """An order of the rows in which classes that are mistaken for each other are neighbours.

    Groups are joined two by two, those first that are confused most on average, each pair by its most similar ends.
    """
    rows = len(shares)
    pairs = shares[:, :rows] + shares[:, :rows].T
    between = pairs.copy()
    np.fill_diagonal(between, -1)
    groups = [[index] for index in range(rows)]
    for _ in range(rows - 1):
        kept, gone = divmod(int(between.argmax()), rows)
        first, second = groups[kept], groups[gone]
        sizes = len(first), len(second)
        ends = [(a, b) for a in (first, first[::-1]) for b in (second, second[::-1])]
        joined = max(ends, key=lambda two: float(pairs[two[0][-1], two[1][0]]))
        groups[kept], groups[gone] = joined[0] + joined[1], []
        between[kept] = between[:, kept] = (sizes[0] * between[kept] + sizes[1] * between[gone]) / sum(sizes)
        between[kept, kept] = -1
        between[gone] = between[:, gone] = -1
    return next(group for group in groups if group)


def _draw(figure: Figure, evaluation: Evaluation, table: _Table) -> None:
    """The heading, the matrix with its names, and on the right how each class fared or which pairs are confused."""
    rows, columns = table.counts.shape
    numbered, named = rows <= _NUMBERED, rows <= _NAMED
    size = min(9.0, 62 * _SIDE / rows)
    names = [style.cut(name, 24) for name in table.names] if named else []
    longest = max(map(len, names), default=0) * size / 72  # an em for each letter
    left = style.MARGIN + 0.58 * longest
    cell = min((style.WIDTH - left - style.MARGIN - _RECOGNISED) / columns, _SIDE / rows, max(0.62, 3.6 / columns))
    wide, tall = cell * columns, max(cell * rows, 1.2)
    height = style.HEADING + style.TITLE + tall + 0.35 + (0.42 if numbered else 0.58) * longest
    figure.set_size_inches(style.WIDTH, height)

    def panel(start: float, width: float, top: float = 0.0, high: float = tall) -> Axes:
        """Axes ``top`` inches below the upper edge of the matrix."""
        return style.add_panel(figure, start, style.HEADING + style.TITLE + top, width, high)

    top1, mean = evaluation.top1, evaluation.mean_class_accuracy
    assert top1 is not None and mean is not None  # there is a confusion matrix
    interval = f"95 % interval {100 * top1.low:.1f} to {100 * top1.high:.1f} %"
    counts = (f"{evaluation.videos} videos", interval, f"mean class accuracy {100 * mean.value:.1f} %")
    lines = ("   ".join((style.cut(evaluation.model, 60), evaluation.views)), "   ".join(counts))
    style.put_heading(figure, f"{100 * top1.value:.1f} % right", lines)
    _draw_matrix(panel(left, wide), table, names, size)
    start = left + max(wide, _TITLE_WIDTH) + 0.3
    if numbered:
        _draw_recognised(panel(start, _RECOGNISED), table)
        return
    full, upper = style.WIDTH - style.MARGIN - start, 0.62 * tall
    letters = int(15 * full) - 10  # of the text that stands before the numbers
    pairs = [
        (_name_pair(label, other, letters), count, label)
        for label, other, count in evaluation.most_confused(int(upper / _LINE))
    ]
    worst = [
        (style.cut(entry.label, letters), round((entry.value or 0) * entry.videos), entry.label)
        for entry in evaluation.worst(int((tall - upper - style.TITLE) / _LINE))
    ]
    totals = {entry.label: entry.videos for entry in evaluation.classes}
    for axes, title, colour, rows_of_list in (
        (panel(start, full, 0.0, upper), "Confused most often", _WRONG, pairs),
        (panel(start, full, upper + style.TITLE, tall - upper - style.TITLE), "Recognised worst", _RIGHT, worst),
    ):
        _draw_list(axes, [(text, count, totals[label]) for text, count, label in rows_of_list], colour)
        style.put_title(axes, title, colour)


def _draw_matrix(axes: Axes, table: _Table, names: Sequence[str], size: float) -> None:
    """Teal where the answer is right, orange where it is wrong, the stronger the larger a part of the row's videos."""
    from matplotlib.colors import to_rgb

    rows, columns = table.counts.shape
    right = np.eye(rows, columns, dtype=bool)
    strength = np.where(right, table.shares, np.sqrt(table.shares))  # a few mistakes are to be seen too
    if not names:  # cells are too small to have colours that can be compared
        row, column = (table.counts * ~right).nonzero()
        letters: dict[str, Any] = {"color": _WRONG, "alpha": 0.55, "linewidths": 0}
        axes.scatter(column, row, s=120 * table.shares[row, column], **letters)
        strength *= right
    colours = np.where(right[..., None], to_rgb(_RIGHT), to_rgb(_WRONG))
    over: dict[str, Any] = (
        {} if names else {"alpha": right.astype(float), "zorder": 2}
    )  # the diagonal, before the mistakes
    axes.imshow(1 - strength[..., None] * (1 - colours), interpolation="nearest", aspect="auto", **over)
    if rows <= _NUMBERED:
        _draw_numbers(axes, table.counts, strength)
    labels = [*names, "other classes"][:columns] if names else []
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if rows <= _NUMBERED else {"rotation": 90}
    axes.set_yticks(range(len(names)), names, size=size, color=style.INK, parse_math=False)
    axes.set_xticks(range(len(labels)), labels, size=size, color=style.INK, parse_math=False, **turned)
    axes.tick_params(length=0, pad=4)
    for spine in axes.spines.values():
        spine.set_color("#cccccc")
    style.put_title(axes, "What the videos of each class (row) were taken for (column)")


def _draw_numbers(axes: Axes, counts: Integers, strength: Floats) -> None:
    """How many videos a cell has, between thin lines."""
    rows, columns = counts.shape
    letters: dict[str, Any] = {"ha": "center", "va": "center", "size": min(10.0, 200 / rows)}
    for row, column in zip(*counts.nonzero(), strict=True):
        colour = "white" if strength[row, column] > 0.6 else style.INK
        axes.text(column, row, str(counts[row, column]), color=colour, **letters)
    axes.set_xticks(np.arange(columns - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#f4f4f4", linewidth=1)
    axes.tick_params(which="minor", length=0)


def _draw_recognised(axes: Axes, table: _Table) -> None:
    """A bar for each row of the matrix, at the same height."""
    rows = len(table.names)
    shares, totals = table.shares.diagonal(), table.counts.sum(1)
    thick = min(0.42, rows / 16)
    letters: dict[str, Any] = {"va": "center", "size": min(9.0, 200 / rows), "color": style.INK}
    for row, (share, total) in enumerate(zip(shares, totals, strict=True)):
        style.put_bar(axes, row, share, _RIGHT, thick)
        axes.annotate(f"{100 * share:.0f} % of {total}", (1, row), (8, 0), textcoords="offset points", **letters)
    axes.set_xlim(0, 1.9)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_axis_off()
    style.put_title(axes, "Recognised", _RIGHT)


def _name_pair(label: str, other: str, letters: int) -> str:
    arrow = " \N{RIGHTWARDS ARROW} "
    if len(label + arrow + other) > letters:
        label, other = (style.cut(name, (letters - len(arrow)) // 2) for name in (label, other))
    return label + arrow + other


def _draw_list(axes: Axes, lines: Sequence[tuple[str, int, int]], colour: str) -> None:
    """Lines of a text and a part of some videos, with a bar below."""
    for row, (text, count, total) in enumerate(lines):
        style.put_bar(axes, row + 0.1, count / total, colour, 0.12)
        letters: dict[str, Any] = {"size": 8, "va": "bottom", "parse_math": False}
        axes.text(0, row, text, ha="left", color=style.INK, **letters)
        axes.text(1, row, f"{count} of {total}", ha="right", color=style.PALE, **letters)
    axes.set_xlim(0, 1)
    axes.set_ylim(max(len(lines), 1) - 0.5, -0.55)
    axes.set_axis_off()
