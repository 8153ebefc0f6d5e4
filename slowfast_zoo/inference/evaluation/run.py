"""A network's scores on a list of labelled videos: resumed after an interruption, shared among processes."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slowfast_zoo.errors import VideoDecodeError
from slowfast_zoo.inference.classify.classifier import VideoClassifier, resolve_views
from slowfast_zoo.inference.classify.results import count_views
from slowfast_zoo.utils.distributed import Team
from slowfast_zoo.utils.progress import ProgressBar
from slowfast_zoo.utils.runs import describe_differences
from slowfast_zoo.video.dataset import LabelledVideo

from .metrics import Measure, Metrics, measure, rank_of

_TOP = 5  # classes that a line of the results names
_LOST = "another process of this evaluation has stopped, see its message; the results file keeps what was done"
_FORMAT = "slowfast-zoo evaluate, version 1"

Vector = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(Metrics):
    """What a network's predictions for a dataset are worth, and how they were made.

    Attributes:
        model: name of the network.
        dtype: floating-point type that it computed in.
        clips: clips of a video.
        crops: crops of a clip: 1, 3 or "full".
        view_average: how the scores of a video's views became one: "scores" (probabilities averaged), "logits"
            (averaged before) or "max" (the highest probability).
        skipped: the videos that could not be read and are not counted, each with the reason.
    """

    model: str
    dtype: str
    clips: int
    crops: int | str
    view_average: str
    skipped: tuple[tuple[str, str], ...]

    @property
    def views(self) -> str:
        """In words, how many views of a video there are."""
        return count_views(self.clips, self.crops)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; classes that were mistaken for others have these under ``taken_for``."""

        def plain(number: Measure | None) -> dict[str, float] | None:
            return number._asdict() if number else None

        value = "average_precision" if self.multi_label else "accuracy"
        classes = [
            {"label": entry.label, "videos": entry.videos, value: entry.value}
            | ({"taken_for": dict(entry.taken_for)} if entry.taken_for else {})
            for entry in self.classes
        ]
        return {
            "model": self.model,
            "dtype": self.dtype,
            "clips": self.clips,
            "crops": self.crops,
            "view_average": self.view_average,
            "multi_label": self.multi_label,
            "videos": self.videos,
            "skipped": [{"video": video, "reason": reason} for video, reason in self.skipped],
            "top1": plain(self.top1),
            "top5": plain(self.top5),
            "mean_class_accuracy": plain(self.mean_class_accuracy),
            "mean_average_precision": plain(self.mean_average_precision),
            "classes": classes,
        }


def evaluate(
    classifier: VideoClassifier,
    entries: Sequence[LabelledVideo],
    *,
    clips: int | None = None,
    crops: int | str | None = None,
    multi_label: bool | None = None,
    limit: int | None = None,
    results: str | os.PathLike[str] | None = None,
    on_error: Callable[[str, Exception], None] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Classify the videos of a dataset and compare with their labels.

    Where torch.distributed has been initialised, its processes share the videos; each has to call this function with
    the same arguments, and each is given the same result, that of a single process.

    Args:
        classifier: does the work, by its own protocol for the views of a video.
        entries: from :func:`read_dataset`.
        clips: clips spread over a video; None takes what the weights' publisher tests with, or the paper's 10.
        crops: crops of a clip, 1, 3 or "full"; None takes what the weights are best seen with.
        multi_label: report mean average precision instead of accuracies; None does if the network's head is a sigmoid,
            or a video has not exactly one label.
        limit: evaluate only this many videos, the first ones; None is all.
        results: a file that every video's scores are added to as they come, a line of JSON for each. If it is there
            already, the videos in it are not seen again: an interrupted evaluation goes on. Several processes write
            ``results.rank0``, ``results.rank1``, ...; all of these are read, by however many processes.
        on_error: called with the path of a video that cannot be read and the exception, at once. The video is skipped
            either way; it is tried again when the evaluation goes on.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: an argument makes no sense, ``results`` belongs to another evaluation, or no video could be read.
        OSError: ``results`` cannot be written.
        ConnectionError: another process has failed; its own message says why.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    chosen = entries[:limit]
    multi_label = is_multi_label(classifier, entries) if multi_label is None else multi_label
    _check_entries(chosen, len(classifier.labels), multi_label)
    clips, crops = resolve_views(classifier, clips, crops)
    header = _describe_run(classifier, entries, clips, crops)
    with Team(_LOST) as team, ExitStack() as stack:
        done = _read_results(results, header, len(chosen)) if team.rank == 0 else {}
        header, known = team.broadcast((header, set(done)))
        share = [index for index in range(len(chosen)) if index not in known][team.rank :: team.size]
        title = f"process 1 of {team.size}" if team.size > 1 else ""
        show = progress and team.rank == 0
        total = len(done) + len(share)
        bar = stack.enter_context(ProgressBar("videos", total, done=len(done), title=title, show=show))
        right = 0 if multi_label else sum(_is_right(scores, chosen[index]) for index, scores in done.items())
        skipped: dict[str, str] = {}

        def skip(video: Any, error: Exception) -> None:
            skipped[str(video)] = _explain_error(error)
            if on_error is not None:
                on_error(str(video), error)
            bar.advance()

        predictions = classifier.predict_many([chosen[i].source for i in share], clips, crops, on_error=skip)
        file = None
        if results is not None and share:
            own = os.fspath(results) + (f".rank{team.rank}" if team.size > 1 else "")
            file = stack.enter_context(_ResultsFile(Path(own), header))
        for prediction in predictions:
            index = share[prediction.position]
            scores = prediction.probabilities.numpy()
            done[index] = scores
            if file is not None:
                file.add(index, chosen[index], scores, classifier.labels)
            if not multi_label:
                right += _is_right(scores, chosen[index])
                bar.note(f"top-1 {100 * right / len(done):.1f} %")
            bar.advance()
        evaluation = None
        gathered = team.gather((done, skipped))
        if team.rank == 0:
            for their_scores, their_skipped in gathered:
                done |= their_scores
                skipped |= their_skipped
            evaluation = _summarise(classifier, chosen, done, skipped, header, multi_label)
        result, skipped = team.broadcast((evaluation, skipped))
    if result is None:
        video, reason = next(iter(skipped.items()))
        raise ValueError(f"none of the {len(chosen)} videos could be read; {video}: {reason}")
    return result  # type: ignore[no-any-return]


def is_multi_label(classifier: VideoClassifier, entries: Sequence[LabelledVideo]) -> bool:
    """Whether videos have sets of labels: the network has a sigmoid, or a video has not exactly one label."""
    return classifier.score_rule.activation == "sigmoid" or any(len(entry.targets) != 1 for entry in entries)


def _check_entries(entries: Sequence[LabelledVideo], classes: int, multi_label: bool) -> None:
    """What would be found out at the end of the work is found out before it."""
    if not entries:
        raise ValueError("there are no videos to evaluate")
    for entry in entries:
        if not all(0 <= target < classes for target in entry.targets):
            raise ValueError(f"{entry.name!r} has the labels {entry.targets}, but there are {classes} classes")
        if not multi_label and len(entry.targets) != 1:
            raise ValueError(f"{entry.name!r} has {len(entry.targets)} labels, so multi_label cannot be False")
    if not any(entry.targets for entry in entries):
        raise ValueError("no video has a label, so there is no average precision")


def _summarise(
    classifier: VideoClassifier,
    entries: Sequence[LabelledVideo],
    done: Mapping[int, Vector],
    skipped: Mapping[str, str],
    header: Mapping[str, Any],
    multi_label: bool,
) -> Evaluation | None:
    counted = [index for index in range(len(entries)) if index in done]
    if not counted:
        return None
    scores = np.stack([done[index] for index in counted])
    metrics = measure(scores, [entries[index].targets for index in counted], classifier.labels, multi_label)
    return Evaluation(
        **vars(metrics),
        **{key: header[key] for key in ("model", "dtype", "clips", "crops", "view_average")},
        skipped=tuple(
            (entry.name, skipped[str(entry.source)]) for index, entry in enumerate(entries) if index not in done
        ),
    )


def _is_right(scores: Vector, entry: LabelledVideo) -> bool:
    return bool(rank_of(scores[None], entry.targets)[0] == 0)


def _explain_error(error: Exception) -> str:
    if isinstance(error, VideoDecodeError):
        return error.reason
    return (isinstance(error, OSError) and error.strerror) or str(error)


# The results file


def _describe_run(
    classifier: VideoClassifier, entries: Sequence[LabelledVideo], clips: int, crops: int | str
) -> dict[str, Any]:
    """The first line of a results file: everything that scores depend on."""
    # Without the labels: scores stay valid where labels are corrected.
    listed = json.dumps([entry.name if len(entry.place) == 1 else entry.place for entry in entries])
    return {
        "results": _FORMAT,
        "model": classifier.name,
        "weights": _hash_weights(classifier.model),
        "dtype": str(next(classifier.model.parameters()).dtype).removeprefix("torch."),
        "clips": clips,
        "crops": crops,
        "sampling": classifier.sampling,
        "view_average": classifier.score_rule.view_average,
        "transform": repr(classifier.transform),
        "classes": len(classifier.labels),
        "videos": len(entries),
        "dataset": hashlib.sha256(listed.encode()).hexdigest()[:16],
    }


def _hash_weights(model: torch.nn.Module) -> str:
    """A hash of all values: networks of one name, before and after more training, have different ones."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class _ResultsFile:
    """Adds lines to a results file, each at once and as a whole."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        whole = sum(map(len, _read_lines(path, header))) if path.exists() else 0
        # Unbuffered: a line is one write, and stays if the process is killed a moment later.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._file.truncate(whole)
        if not whole:
            self._file.write(_encode_line(header))

    def __enter__(self) -> _ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, index: int, entry: LabelledVideo, scores: Vector, labels: Sequence[str]) -> None:
        """A video's line; its scores have the digits that make the same float32 of them again."""
        values = [float(str(score)) for score in scores]
        best = [(labels[place], values[place]) for place in np.argsort(-scores, kind="stable")[:_TOP]]
        line = {"index": index, "video": entry.name, "targets": entry.targets, "top": best, "probabilities": values}
        self._file.write(_encode_line(line))


def _encode_line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def _read_results(results: str | os.PathLike[str] | None, header: Mapping[str, Any], videos: int) -> dict[int, Vector]:
    """The scores of the first ``videos`` videos, as far as they are there, by index."""
    if results is None:
        return {}
    path = Path(results)
    scores: dict[int, Vector] = {}
    for file in (path, *sorted(path.parent.glob(f"{glob.escape(path.name)}.rank[0-9]*"))):
        if not file.is_file():
            continue
        for number, line in enumerate(_read_lines(file, header), 1):
            if number == 1:
                continue
            try:
                record = json.loads(line)
                index, vector = int(record["index"]), np.array(record["probabilities"], np.float32)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                index, vector = -1, np.empty(0, np.float32)
            if not 0 <= index < header["videos"] or vector.shape != (header["classes"],):
                raise ValueError(f"{file}, line {number} is damaged: delete that line, and its video is seen again")
            if index < videos:
                scores[index] = vector
    return scores


def _read_lines(path: Path, header: Mapping[str, Any]) -> Iterator[bytes]:
    """The header and the other lines of a results file, of this evaluation and no other.

    What follows the last line break is half a line, at which a run was interrupted, and is left out.
    """
    with open(path, "rb") as file:
        first = file.readline()
        if not first.endswith(b"\n") and _encode_line(header).startswith(first):
            return
        try:
            found = json.loads(first)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("results") != header["results"]:
            raise ValueError(f"{path} holds no results of an evaluation, and is left as it is: choose another file")
        if differences := describe_differences(found, header):
            raise ValueError(
                f"{path} holds the results of another evaluation ({differences}): choose another file, or delete it to "
                "begin again"
            )
        yield first
        yield from (line for line in file if line.endswith(b"\n"))
