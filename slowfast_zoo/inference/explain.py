"""Where a network looks for a class, in space and time: Grad-CAM on the stages of both pathways."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from slowfast_zoo.errors import in_line
from slowfast_zoo.inference.classify.results import short_notes
from slowfast_zoo.layers import as_rois
from slowfast_zoo.models import NetworkConfig, VideoNetwork, unwrapped
from slowfast_zoo.models.config import FEATURE_NAMES
from slowfast_zoo.models.validation import STAGES
from slowfast_zoo.video import (
    ClipSpan,
    ClipTransform,
    VideoInput,
    VideoSource,
    frame_times,
    open_video,
    video_name,
    whole_video,
)

if TYPE_CHECKING:
    from .classify.classifier import VideoClassifier

_SCALE = 1024.0  # of the logit, so that its gradients do not vanish in float16
_NO_LAYER = f"layer must be one of {', '.join(STAGES)}, not {{!r}}"


@dataclass(frozen=True, eq=False)
class Explanation:
    """Grad-CAM of clips: a map for each pathway, "slow" and "fast", or "network" where there is one.

    Attributes:
        maps: for each pathway float32 (B, T, H, W) in 0..1: its own frames (T for Slow, alpha T for Fast), the clip's
            height and width. Each clip's map is divided by its own largest value, so that the warmest position of each
            pathway is 1, however much the pathway counts; a map without heat is zero.
        heat: for each pathway (B,): the map before that, summed over the positions of the stage. It is what they add to
            the logit, to first order, which says how much each pathway counts; for res5 of a network with an
            average-pooling head, and if no position speaks against the class, the pathways' heat and the classifier's
            bias together are the logit.
        frames: for each pathway the frames of the clip that its map's frames belong to.
        target: (B,), the class that each clip was explained for.
        logits: (B, num_classes).
        layers: for each pathway the target layer, such as "slow.res5".
    """

    maps: dict[str, Tensor] = field(repr=False)
    heat: dict[str, Tensor]
    frames: dict[str, tuple[int, ...]] = field(repr=False)
    target: Tensor
    logits: Tensor = field(repr=False)
    layers: dict[str, str]

    def over_clip(self) -> dict[str, Tensor]:
        """The maps at every frame of the clip, (B, clip frames, H, W): between Slow frames along straight lines."""
        count = max(map(len, self.frames.values()))
        stretched = {}
        for name, x in self.maps.items():
            own = x.new_tensor(self.frames[name])
            clip = torch.arange(count, dtype=x.dtype, device=x.device)
            before = (torch.searchsorted(own, clip, right=True) - 1).clamp(0, max(len(own) - 2, 0))
            after = (before + 1).clamp(max=len(own) - 1)
            step = (own[after] - own[before]).clamp(min=1)
            stretched[name] = _resample(x, 1, before + ((clip - own[before]) / step).clamp(0, 1))
        return stretched

    def moments(self) -> dict[str, Tensor]:
        """How much each moment counts: for each pathway (B, its frames), whose mean over the frames is its heat."""
        means = {name: x.mean((2, 3)) for name, x in self.maps.items()}
        return {
            name: self.heat[name][:, None] * x / x.mean(1, keepdim=True).clamp(min=1e-12) for name, x in means.items()
        }


@dataclass(frozen=True, eq=False)
class VideoExplanation:
    """Where a network looked in one clip of a video.

    Attributes:
        video: the file, or what else the video came from (``"<array>"``, ``"<bytes>"``).
        model: name of the model.
        duration: length of the video in seconds.
        target: index of the class that was explained.
        label: its name, or "class 5" if the model came without names.
        score: its probability in this clip.
        span: the clip: its start and end in the video, and the moments of its frames.
        frames: uint8 RGB (T, 3, H, W), the clip's frames as the network saw them, resized and cropped.
        explanation: the maps, on the CPU, of a batch of one.
    """

    video: str
    model: str
    duration: float
    target: int
    label: str
    score: float
    span: ClipSpan
    frames: Tensor = field(repr=False)
    explanation: Explanation = field(repr=False)

    def __str__(self) -> str:
        where = f"{self.span.start:.2f} to {self.span.end:.2f} s of {in_line(self.video)}"
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.shares().items())
        layers = " and ".join(self.explanation.layers.values())
        lines = [
            f"{in_line(self.label)} ({100 * self.score:.1f} %) in {where}",
            f"Grad-CAM at {layers}; heat: {shares}",
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes())])

    def shares(self) -> dict[str, float]:
        """What part of the heat each pathway has; 0 for all if there is none."""
        heat = {name: float(x[0]) for name, x in self.explanation.heat.items()}
        return {name: x / (sum(heat.values()) or 1.0) for name, x in heat.items()}

    def moments(self) -> dict[str, list[tuple[float, float]]]:
        """For each pathway and each of its frames (second, how much it counts).

        An even spread over the clip is 1; the pathways' means together are 1.
        """
        whole = sum(float(x[0]) for x in self.explanation.heat.values()) or 1.0
        return {
            name: [
                (min(self.span.times[frame], self.duration), value / whole)
                for frame, value in zip(self.explanation.frames[name], x[0].tolist(), strict=True)
            ]
            for name, x in self.explanation.moments().items()
        }

    def notes(self) -> list[str]:
        """What a reader of the maps has to know about them, in sentences."""
        notes = []
        if not any(self.shares().values()):
            notes.append("nothing in the clip speaks for this class, so there is no heat")
        return notes + short_notes([self.span], "clip")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the maps; times in seconds."""
        shares, moments = self.shares(), self.moments()
        return {
            "video": self.video,
            "model": self.model,
            "duration": self.duration,
            "start": self.span.start,
            "end": self.span.end,
            "label": self.label,
            "index": self.target,
            "score": self.score,
            "pathways": {
                name: {"layer": layer, "share": shares[name], "moments": [list(pair) for pair in moments[name]]}
                for name, layer in self.explanation.layers.items()
            },
            "notes": self.notes(),
        }


def explain(
    model: nn.Module,
    clip: Tensor | Sequence[Tensor],
    target: int | Sequence[int] | Tensor | None = None,
    *,
    layer: str = "res5",
    boxes: Sequence[Tensor] | Tensor | Literal["full"] | None = None,
) -> Explanation:
    """Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
    ICCV 2017) of both pathways: which positions of a stage's output raise the logit of a class.

    A channel's weight is the gradient of the logit with respect to it, averaged over time, height and width; the map is
    the ReLU of the weighted sum of the channels. It is resized by trilinear interpolation. Each position is put where
    its receptive field has its centre: position i of a stage with stride s lies at pixel s i. (Stretching the map from
    corner to corner, as is often done, moves all heat half a stride to the lower right.)

    The network is evaluated as in evaluation and left as it was: mode, gradients and hooks.

    Args:
        model: a network from ``create_model``, optimised ones and those for action detection included.
        clip: as the network takes it, (B, in_chans, alpha T, H, W) or the pair (slow, fast).
        target: index of the class to explain, one for all clips or one for each; None is each clip's best class.
        layer: the stage: "res2", "res3", "res4" or "res5". The target layers are its outputs in all pathways, before
            any lateral connection: ``slow.res5`` and ``fast.res5``, or ``pathway.res5`` where there is one.
        boxes: for networks that detect actions: as they take them, but one box for each clip.

    Raises:
        TypeError: not a network from ``create_model``, or one with ``features_only``; a clip or target of another kind.
        ValueError: there is no such layer or class, the network has no classifier, or not one box for each clip;
            shapes that do not fit.
    """
    network = unwrapped(model, said="expected a network from create_model, with its head, not")
    if not isinstance(network, VideoNetwork):
        raise TypeError(f"expected a network from create_model, with its head, not {type(model).__name__}")
    if not network.num_classes:
        raise ValueError("the network has no classifier (num_classes=0), so there is no class to explain")
    if layer not in STAGES:
        raise ValueError(_NO_LAYER.format(layer))
    record = network.feature_info[FEATURE_NAMES.index(layer)]
    records: dict[str, dict[str, Any]] = {"network": record} if "module" in record else record
    layers = {name: record["module"] for name, record in records.items()}
    with torch.inference_mode(False), torch.enable_grad(), _evaluation_mode(network):
        clip = _leave_inference(clip) if isinstance(clip, Tensor) else [_leave_inference(part) for part in clip]
        with _start_gradients(network, layers.values()) as found:
            logits = network(clip, boxes)
        frames = clip if isinstance(clip, Tensor) else clip[-1]
        if boxes is not None and not isinstance(boxes, str):
            of_clips = as_rois(boxes, frames)[:, 0].tolist()
            if of_clips != list(range(len(frames))):
                raise ValueError(
                    f"one box for each clip is explained at a time: {len(frames)} clips, but the boxes are of clips "
                    f"{[int(index) for index in of_clips]}"
                )
        classes = _resolve_targets(target, logits.detach())
        score = logits.gather(1, classes[:, None])
        outputs = [found[module] for module in layers.values()]
        gradients = torch.autograd.grad(score, outputs, torch.full_like(score, _SCALE))
    maps, heat, covered = {}, {}, {}
    height, width = frames.shape[-2:]
    for (name, record), x, gradient in zip(records.items(), outputs, gradients, strict=True):
        weights = gradient.float().mean((2, 3, 4), keepdim=True) / _SCALE
        coarse = (x.detach().float() * weights).sum(1).relu()  # (B, T, h, w)
        covered[name] = _frames_of(network.config, name, frames.shape[2])
        fine = _resample(coarse, 1, _time_positions(network.config, name, record, len(covered[name]), x.device))
        for axis, size in ((2, height), (3, width)):
            fine = _resample(fine, axis, torch.arange(size, device=x.device) / record["reduction"])
        largest = fine.amax((1, 2, 3), keepdim=True)
        maps[name] = torch.where(largest > 0, fine / largest, 0.0)
        heat[name] = coarse.sum((1, 2, 3))
    return Explanation(maps, heat, covered, classes, logits.detach().float(), layers)


def explain_video(
    classifier: VideoClassifier,
    video: VideoInput,
    *,
    target: int | str | None = None,
    clip: int | None = None,
    at: float | None = None,
    layer: str = "res5",
    crops: int | str | None = None,
    fps: float | None = None,
    progress: bool = False,
) -> VideoExplanation:
    """Where a classifier's network looks in a clip of a video: :func:`explain`, from a file.

    Args:
        classifier: the classifier. With the copy made for inference that it has on a CPU the maps are the same.
        video: as the classifier takes it.
        target: the class to explain, its name or index; None is the best one: of the clip if that is chosen by ``clip``
            or ``at``, of the whole video otherwise.
        clip: which of the clips that the classifier would look at, from 0. If neither this nor ``at`` is given, it is
            the one that speaks most for the class.
        at: a second of the video that the clip shall have in its middle, as far as it fits into the video.
        layer: the stage, see :func:`explain`.
        crops: 1 for the centre crop or "full" for the whole frame, in which the clip is looked at. None is 1 for
            weights that are best seen so, and "full" for all others.
        fps: frame rate of an array or tensor, which need it, or of a folder of images (30 unless given).
        progress: show a progress bar on a terminal if it takes long.

    Raises:
        FileNotFoundError: there is no such file.
        VideoDecodeError: it cannot be decoded.
        ValueError: there is no such class, clip or layer, or the moment lies outside the video.
    """
    if clip is not None and at is not None:
        raise ValueError(f"give clip, a number, or at, a second, not both: {clip} and {at}")
    if layer not in STAGES:  # known before the work
        raise ValueError(_NO_LAYER.format(layer))
    index = None if target is None else _resolve_class(target, classifier)
    record = classifier.model.pretrained_cfg
    crops = (1 if record.get("crops") == 1 else "full") if crops is None else crops
    if crops not in (1, "full"):
        raise ValueError(f'crops must be 1 or "full" where one picture is explained, not {crops!r}')
    span: ClipSpan | None = None
    if at is None:
        prediction = classifier(video, crops=crops, fps=fps, progress=progress)
        if clip is None:
            index = int(prediction.probabilities.argmax()) if index is None else index
            span = max(prediction.clips, key=lambda seen: float(seen.probabilities[index])).span
        elif isinstance(clip, bool) or not isinstance(clip, int) or not 0 <= clip < len(prediction.clips):
            raise ValueError(f"clip must lie from 0 to {len(prediction.clips) - 1}, the clips of the video: {clip!r}")
        else:
            span = prediction.clips[clip].span
    transform = replace(classifier.transform, crops=crops)
    with open_video(video, fps=fps) as source:
        span = _place_clip(at, source, classifier) if span is None else span  # type: ignore[arg-type]
        resized = next(iter(source.clips_at([span.times], transform.resize)))
        duration = source.duration
    view = transform.views(resized)
    parameter = next(classifier.model.parameters())
    given = view.to(device=parameter.device, dtype=parameter.dtype)
    with torch.inference_mode():
        probabilities = classifier.model.probabilities(given)[0].float().cpu()
    index = int(probabilities.argmax()) if index is None else index
    found = explain(classifier.model, given, index, layer=layer)
    return VideoExplanation(
        video=video_name(video),
        model=classifier.name,
        duration=duration,
        target=index,
        label=classifier.labels[index],
        score=float(probabilities[index]),
        span=span,
        frames=_restore_frames(view[0], transform),
        explanation=_move_to_cpu(found),
    )


def _leave_inference(part: Tensor) -> Tensor:
    """A copy of a tensor that was made in inference mode, which cannot take part in what gives gradients."""
    return part.clone() if isinstance(part, Tensor) and part.is_inference() else part


def _resolve_class(target: Any, classifier: VideoClassifier) -> int:
    """Index of a class given by its name or index."""
    labels = classifier.labels
    if isinstance(target, str):
        if target in labels:
            return labels.index(target)
        near = difflib.get_close_matches(target, labels, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"classes are {', '.join(labels[:3])}, ..."
        raise ValueError(f"{classifier.name} has no class {target!r}: {hint}")
    if isinstance(target, bool) or not isinstance(target, int):
        raise TypeError(f"target is the name or the index of a class, not {target!r}")
    if not 0 <= target < len(labels):
        raise ValueError(f"target must lie from 0 to {len(labels) - 1}, the classes of {classifier.name}: {target}")
    return target


def _place_clip(at: float, source: VideoSource, classifier: VideoClassifier) -> ClipSpan:
    """The clip with a second of the video in its middle, or as near to it as a whole clip fits."""
    if not 0 <= at <= source.duration:
        raise ValueError(f"{at:g} s lies outside the video, which is {source.duration:.2f} s long")
    config = classifier.model.config
    if classifier.sampling == "segments":
        return whole_video(source.duration, config.clip_frames)
    length = config.clip_seconds()
    start = min(max(at - length / 2, 0.0), max(source.duration - length, 0.0))
    times = tuple(frame_times(start, config.clip_frames, config.clip_stride))
    return ClipSpan(start, min(start + length, source.duration), times, short=times[-1] >= source.duration)


def _restore_frames(view: Tensor, transform: ClipTransform) -> Tensor:
    """uint8 RGB frames (T, 3, H, W) of a normalised view (3, T, H, W)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (transform.mean, transform.std))
    pixels = (255 * (view * std + mean)).round().clamp(0, 255).to(torch.uint8).transpose(0, 1)
    return pixels.flip(1) if transform.channel_order == "bgr" else pixels


def _move_to_cpu(found: Explanation) -> Explanation:
    maps, heat = ({name: x.cpu() for name, x in of.items()} for of in (found.maps, found.heat))
    return replace(found, maps=maps, heat=heat, target=found.target.cpu(), logits=found.logits.cpu())


@contextlib.contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextlib.contextmanager
def _start_gradients(network: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Lets gradients begin at the outputs of some modules, which a forward pass enters under the modules' names.

    What lies before them takes no part, whether or not its parameters are frozen, and its activations are not kept.
    """
    outputs: dict[str, Tensor] = {}

    def begin(name: str, module: nn.Module, given: Any, output: Tensor) -> Tensor:
        outputs[name] = output.detach().requires_grad_()
        return outputs[name]

    with contextlib.ExitStack() as stack:
        for name in names:
            hook = network.get_submodule(name).register_forward_hook(partial(begin, name))
            stack.callback(hook.remove)
        yield outputs


def _resolve_targets(target: Any, logits: Tensor) -> Tensor:
    """Class indices (B,)."""
    count, classes = logits.shape
    if target is None:
        return logits.argmax(1)
    if isinstance(target, bool) or not isinstance(target, (int, Tensor, list, tuple)):
        raise TypeError(f"target is a class index, one for each clip in a tensor, or None, not {target!r}")
    given = torch.as_tensor(target, device=logits.device)
    if given.is_floating_point() or given.dtype == torch.bool:
        raise TypeError(f"target holds class indices, which are integers, not {given.dtype}")
    if given.shape not in ((), (count,)):
        raise ValueError(f"target is one class index, or one for each of {count} clips, not of {tuple(given.shape)}")
    if bool(((given < 0) | (given >= classes)).any()):
        raise ValueError(f"target must lie from 0 to {classes - 1}, the network's classes, not {target!r}")
    return given.long().expand(count)


def _frames_of(config: NetworkConfig, pathway: str, clip_frames: int) -> tuple[int, ...]:
    """Frames of the clip that a pathway sees."""
    return config.slow_indices(clip_frames) if pathway == "slow" else tuple(range(clip_frames))


def _time_positions(config: Any, pathway: str, record: dict[str, Any], count: int, device: torch.device) -> Tensor:
    """Where each of a pathway's frames lies in time on its map, in the map's frames."""
    moments = torch.arange(count, device=device, dtype=torch.float32)
    if pathway != "network":  # no stage of a SlowFast network strides in time
        return moments
    # A convolution with stride s keeps frames 0, s, 2s, ...; the pooling after res2 averages frames, and lies between.
    reduction: int = record["temporal_reduction"]
    strided: int = config.conv1_stride * config.pool1_stride
    return (moments - (reduction - strided) / 2) / reduction


def _resample(x: Tensor, dim: int, at: Tensor) -> Tensor:
    """Values at fractional positions along an axis, by linear interpolation; beyond its ends those of the ends."""
    at = at.clamp(0, x.shape[dim] - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=x.shape[dim] - 1)
    share = (at - low).view(-1, *[1] * (x.ndim - dim - 1))
    return torch.lerp(x.index_select(dim, low), x.index_select(dim, high), share)
