"""A video in, boxes with actions out: section 5 of the paper."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from slowfast_zoo.inference.prepare import load_network, prepare_network
from slowfast_zoo.utils.checks import is_positive, needs_count
from slowfast_zoo.utils.progress import ProgressBar
from slowfast_zoo.video import ClipSpan, VideoInput, VideoSource, keyframe_clips, load_labels, open_video, video_name

from .boxes import GivenBoxes, check_boxes, read_boxes, sort_by_second
from .person_detector import PersonDetector, TorchvisionPersons

WHOLE_FRAME = "full"
BACKGROUND = "background"  # a column of MMAction2's networks that means nothing


@dataclass(frozen=True, eq=False)
class KeyFrame:
    """The people, or other actors, at one moment, and what they do.

    Attributes:
        time: second from the first frame.
        boxes: (N, 4) pixels x1, y1, x2, y2 of the video's own frames.
        box_scores: (N,) the person detector's confidence; 1 where boxes were given without one.
        probabilities: (N, num_classes), each class by itself.
        span: the clip that was looked at.
        labels: names of all classes.
    """

    time: float
    boxes: Tensor
    box_scores: Tensor
    probabilities: Tensor = field(repr=False)
    span: ClipSpan = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.boxes)

    def actions(self, box: int, top_k: int = 5, threshold: float = 0.0) -> list[tuple[str, float]]:
        """(label, score) of a box's best classes, the best first.

        Args:
            box: which.
            top_k: how many at most.
            threshold: the least score.

        Raises:
            ValueError: ``top_k`` is less than 1.
        """
        top_k = needs_count(top_k, "top_k")
        scores, classes = self.probabilities[box].topk(min(top_k, len(self.labels)))
        pairs = zip(classes.tolist(), scores.tolist(), strict=True)
        return [(self.labels[index], score) for index, score in pairs if score >= threshold]


@dataclass(frozen=True, eq=False)
class Detections(Sequence[KeyFrame]):
    """What happens in a video: a sequence of key frames, in the order of time.

    Attributes:
        video: the file, or what else the video came from.
        model: name of the model.
        duration: length of the video in seconds.
        width: of its frames, in pixels.
        height: of its frames, in pixels.
        labels: names of the classes in the order of the probabilities.
        action_ids: for each class the number that AVA's files have for it.
        key_frames: what was found.
        every: seconds that a key frame stands for.
    """

    video: str
    model: str
    duration: float
    width: int
    height: int
    labels: tuple[str, ...] = field(repr=False)
    action_ids: tuple[int, ...] = field(repr=False)
    key_frames: tuple[KeyFrame, ...] = field(repr=False)
    every: float

    def __len__(self) -> int:
        return len(self.key_frames)

    def __getitem__(self, index: Any) -> Any:
        return self.key_frames[index]

    def __str__(self) -> str:
        lines = [f"{self.video} ({self.duration:.1f} s, {self.model}, {len(self)} key frames)"]
        for key_frame in self:
            lines.append(f"  {key_frame.time:.2f} s" + ("" if len(key_frame) else ": nobody"))
            for index, box in enumerate(key_frame.boxes.round().int().tolist()):
                actions = ", ".join(f"{label} {100 * score:.0f} %" for label, score in key_frame.actions(index, 3, 0.1))
                lines.append(f"    ({box[0]}, {box[1]}) to ({box[2]}, {box[3]}): {actions or 'nothing in particular'}")
        return "\n".join(lines)

    def to_dict(self, top_k: int = 5, threshold: float = 0.0) -> dict[str, Any]:
        """Plain values for JSON; times in seconds, boxes in pixels x1, y1, x2, y2.

        Args:
            top_k: actions of a box at most.
            threshold: their least score.
        """
        return {
            "video": self.video,
            "model": self.model,
            "duration": self.duration,
            "width": self.width,
            "height": self.height,
            "key_frames": [
                {
                    "time": key_frame.time,
                    "boxes": [
                        {
                            "box": box,
                            "score": score,
                            "actions": [
                                {"label": label, "score": value}
                                for label, value in key_frame.actions(index, top_k, threshold)
                            ],
                        }
                        for index, (box, score) in enumerate(
                            zip(key_frame.boxes.tolist(), key_frame.box_scores.tolist(), strict=True)
                        )
                    ],
                }
                for key_frame in self
            ],
        }

    def ava_rows(self, threshold: float = 0.0) -> Iterator[tuple[float, tuple[float, ...], int, float]]:
        """(second, box, action id, score) as AVA's files have them: boxes x1, y1, x2, y2 from 0 to 1.

        Args:
            threshold: the least score.
        """
        size = torch.tensor([self.width, self.height, self.width, self.height])
        for key_frame in self:
            for box, scores in zip((key_frame.boxes / size).tolist(), key_frame.probabilities.tolist(), strict=True):
                for action, score in zip(self.action_ids, scores, strict=True):
                    if score >= threshold:
                        yield key_frame.time, tuple(box), action, score


class ActionDetector:
    """Finds who does what in a video: key frames, boxes of people, a clip around each, a network for boxes.

    As in section 5 of the paper: one clip around each key frame, with its shorter side at the weights' scale (256) and
    the whole frame in it, boxes of people found with a confidence of at least 0.8, and a score from 0 to 1 for each
    class by itself.

    Args:
        model_or_name: the name of a model for detection (``*_det``), with its pretrained weights, or a network made by
            ``create_model``, which is switched to evaluation and, if ``device`` or ``dtype`` say so, moved.
        person_detector: who finds the boxes: a function of one uint8 RGB frame (3, H, W) that gives boxes (N, 4) in
            pixels x1, y1, x2, y2, or (N, 5) with a confidence behind them. None is torchvision's Faster R-CNN
            (R50-FPN), whose weights are downloaded when it is first needed.
        person_threshold: the least confidence of a box.
        device: where to compute. None leaves a network where it is, and puts a named one on the GPU if there is one.
        dtype: floating-point type to compute in; None is the network's own.
        batch_size: key frames that go through the network at once; None is 1 on a CPU and 4 on a GPU.
        labels: class names in the order of the outputs; None takes those of the weights.
        pretrained: load the weights of a named model; False gives a random network, for trying things out.
        optimize: use a copy made by :func:`~slowfast_zoo.optimize_for_inference`; None does so for a name on a CPU.

    Raises:
        ValueError: an unknown name, a network that is not for boxes or has no classifier, the wrong number of labels.
        TypeError: a network that is not from ``create_model``, or a person detector that cannot be called.
        WeightsError: the weights cannot be found or loaded.
    """

    def __init__(
        self,
        model_or_name: str | nn.Module = "slowfast_tiny_4x8_det.objects",
        person_detector: PersonDetector | None = None,
        *,
        person_threshold: float = 0.8,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        labels: Sequence[str] | None = None,
        pretrained: bool = True,
        optimize: bool | None = None,
    ) -> None:
        model = load_network(model_or_name, pretrained)
        if model.config.roi is None:
            raise ValueError("the network classifies clips and takes no boxes: use VideoClassifier, or a *_det network")
        if model.num_classes < 1:
            raise ValueError("the network has no classifier (num_classes=0), so there is nothing to detect")
        if person_detector is not None and not callable(person_detector):
            raise TypeError(f"person_detector is a function of a frame, not {type(person_detector).__name__}")
        if not 0 <= person_threshold <= 1:
            raise ValueError(f"person_threshold lies between 0 and 1, got {person_threshold}")
        if batch_size is not None:
            needs_count(batch_size, "batch_size")
        prepared = prepare_network(model, isinstance(model_or_name, str), device, dtype, optimize, labels)
        self.model, self.device, self.name = prepared.network, prepared.device, prepared.name
        self.transform = replace(prepared.transform, crops=WHOLE_FRAME)
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else 4)
        self.person_detector: PersonDetector = person_detector or TorchvisionPersons(self.device)
        self.person_threshold = person_threshold
        # AVA's column i is action i + 1, but where column 0 is the background.
        first = 1 if prepared.labels[0] == BACKGROUND else 0
        self._columns = slice(first, None)
        self.labels, self.labels_known = prepared.labels[first:], prepared.labels_known
        # Networks for some of AVA's actions have AVA's numbers all the same.
        ava = {name: number for number, name in enumerate(load_labels("ava"), 1)}
        self.action_ids = tuple(ava.get(name, number) for number, name in enumerate(self.labels, 1))
        if not ava.keys() >= set(self.labels):
            self.action_ids = tuple(range(1, len(self.labels) + 1))

    def __repr__(self) -> str:
        return f"ActionDetector({self.name!r}, {len(self.labels)} classes)"

    def __call__(
        self,
        video: VideoInput,
        boxes: GivenBoxes | str | os.PathLike[str] | None = None,
        *,
        every: float = 1.0,
        scales: Sequence[int] | None = None,
        flip: bool = False,
        fps: float | None = None,
        progress: bool = False,
    ) -> Detections:
        """Detect actions in a video.

        Args:
            video: a path, a URL, the bytes of a file, an open binary file, a folder of images, or uint8 RGB frames
                (T, H, W, 3) as an array or tensor.
            boxes: where to look, instead of the person detector: a mapping from seconds to boxes (N, 4) in pixels x1,
                y1, x2, y2, or (N, 5) with a confidence; the path of such a mapping as JSON, or of a CSV in AVA's format
                (x1, y1, x2, y2 from 0 to 1; of several videos, the one named like this video's file). Key frames are
                then those of the boxes. Or ``"full"``, the whole frame as one box.
            every: seconds from one key frame to the next, from ``every`` on; a shorter video has one, in the middle.
                With boxes at seconds of their own it has no effect.
            scales: shorter sides in pixels, whose scores are averaged (Table 8 has 224, 256 and 320 in PySlowFast's
                configuration); None is the weights' own scale.
            flip: average the scores with those of the mirrored clip.
            fps: frame rate of an array or tensor, which need it, or of a folder of images (30 unless given).
            progress: show a progress bar on a terminal if it takes long.

        Raises:
            FileNotFoundError: there is no such video, or file of boxes.
            VideoDecodeError: the video cannot be decoded.
            ValueError: an argument makes no sense, or boxes that are empty, not finite or outside the frame.
            TypeError: boxes of another kind.
            WeightsError: the person detector's weights cannot be downloaded.
        """
        sides = (self.transform.scale,) if scales is None else tuple(scales)
        if not sides or any(isinstance(side, bool) or not isinstance(side, int) or side < 32 for side in sides):
            raise ValueError(f"scales are shorter sides in pixels, each at least 32, got {scales!r}")
        if not is_positive(every):
            raise ValueError(f"every must be a positive number of seconds, got {every!r}")
        config = self.model.config
        with open_video(video, fps=fps) as source:
            looked_at = self._find_boxes(source, boxes, every, progress)
            spans = keyframe_clips(
                source.duration,
                list(looked_at),
                clip_frames=config.clip_frames,
                clip_stride=config.clip_stride,
            )
            filled = [(span, found) for span, found in zip(spans, looked_at.values(), strict=True) if len(found)]
            with ProgressBar("views", len(filled) * len(sides), show=progress, delay=2) as bar:
                passes = [self._score_boxes(source, filled, side, flip, bar) for side in sides]
            scores = iter([torch.stack(of_one).mean(0) for of_one in zip(*passes, strict=True)])
            none = torch.zeros(0, len(self.labels))
            key_frames = tuple(
                KeyFrame(
                    time=time,
                    boxes=found[:, :4],
                    box_scores=found[:, 4],
                    probabilities=next(scores) if len(found) else none,
                    span=span,
                    labels=self.labels,
                )
                for (time, found), span in zip(looked_at.items(), spans, strict=True)
            )
            return Detections(
                video=video_name(video),
                model=self.name,
                duration=source.duration,
                width=source.width,
                height=source.height,
                labels=self.labels,
                action_ids=self.action_ids,
                key_frames=key_frames,
                every=float(every),
            )

    def _find_boxes(self, source: VideoSource, boxes: Any, every: float, progress: bool) -> dict[float, Tensor]:
        """For each key frame, in the order of time, boxes with confidence (N, 5), inside the frame."""
        size = source.width, source.height
        if isinstance(boxes, (str, os.PathLike)) and boxes != WHOLE_FRAME:
            boxes = read_boxes(boxes, source.name, size)
        if isinstance(boxes, Mapping):
            found = {time: check_boxes(b, size, f"boxes at {time:g} s") for time, b in sort_by_second(boxes).items()}
            return {time: given[given[:, 4] >= self.person_threshold] for time, given in found.items()}
        times = [every * number for number in range(1, math.ceil(source.duration / every))]
        times = times or [source.duration / 2]
        if boxes is not None:
            if boxes != WHOLE_FRAME:
                raise TypeError(
                    'boxes are a mapping from seconds to (N, 4) arrays, a file of them, or "full", '
                    f"not {type(boxes).__name__}"
                )
            whole = torch.tensor([[0.0, 0.0, *size, 1.0]])
            return dict.fromkeys(times, whole)
        found = {}
        with ProgressBar("frames", len(times), show=progress, delay=2) as bar:
            for time, frame in zip(times, source.clips_at([[time] for time in times]), strict=True):
                given = self.person_detector(frame[0])
                people = check_boxes(given, size, "the person detector's boxes", strict=False)
                found[time] = people[people[:, 4] >= self.person_threshold]
                bar.advance()
        return found

    @torch.inference_mode()
    def _score_boxes(
        self,
        source: VideoSource,
        key_frames: Sequence[tuple[ClipSpan, Tensor]],
        side: int,
        flip: bool,
        bar: ProgressBar,
    ) -> list[Tensor]:
        """For each key frame the scores of its boxes (N, classes), at one scale."""
        transform = replace(self.transform, scale=side, crop=min(side, self.transform.crop))
        parameter = next(self.model.parameters())
        clips = source.clips_at([span.times for span, _ in key_frames], transform.resize)
        pairs = zip((transform.views(clip)[0] for clip in clips), (found for _, found in key_frames), strict=True)
        scores: list[Tensor] = []
        while batch := list(itertools.islice(pairs, self.batch_size)):
            clip = torch.stack([view for view, _ in batch]).to(device=parameter.device, dtype=parameter.dtype)
            height, width = clip.shape[-2:]
            scale = torch.tensor([width / source.width, height / source.height] * 2)
            boxes = [(found[:, :4] * scale).to(parameter.device) for _, found in batch]
            rows = self.model.probabilities(clip, boxes)
            if flip:
                mirrored = [torch.stack([width - b[:, 2], b[:, 1], width - b[:, 0], b[:, 3]], dim=1) for b in boxes]
                rows = (rows + self.model.probabilities(clip.flip(-1), mirrored)) / 2
            scores += rows.float().cpu()[:, self._columns].split([len(found) for found in boxes])
            bar.advance(len(batch))
        return scores
