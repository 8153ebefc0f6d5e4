"""What the networks share: checked input, the head, timm's vocabulary, initialisation."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import torch
import torch.fx
from torch import Tensor, nn

from slowfast_zoo.layers import ClassifierHead, RoIHead, Stage, as_rois
from slowfast_zoo.transforms import ClipTransform

from .config import FEATURE_NAMES, NetworkConfig
from .feature_info import FeatureInfo
from .frozen import STAGE_PREFIX, keep_frozen
from .init import initialise
from .saved import SavableNetwork
from .scores import ScoreRule

if TYPE_CHECKING:
    from typing_extensions import Self

torch.fx.wrap("as_rois")  # a traced graph calls it: what it does depends on the boxes

MIN_SIDE = 32  # five halvings leave one position

Config = TypeVar("Config", bound=NetworkConfig)
Clip = Tensor | Sequence[Tensor]
Maps = tuple[Tensor, ...]  # one feature map a pathway
Boxes = Sequence[Tensor] | Tensor
Stages = int | str | Iterable[int | str] | None
WHOLE_FRAME = "full"


class VideoNetwork(SavableNetwork, Generic[Config]):
    """Base of the networks: a clip goes in, logits come out, in training and in evaluation.

    A network with ``config.roi`` detects actions (section 5 of the paper): it takes boxes beside the clip, and gives a
    row of logits for each.

    Attributes:
        config: the frozen configuration that the network was built from.
        head: the classifier head, or the detection head.
        num_classes: outputs of the classifier as it is, 0 if there is none.
        num_features: length of the pooled vector that the classifier sees.
        feature_info: a record for each of stem (conv1 and pool1) and res2 to res5: ``name``, ``num_chs`` (channels of
            the feature map), ``reduction`` (of the clip's sides), ``temporal_reduction`` (of the clip's frames) and
            ``module`` (the submodule that makes it). In a SlowFast network each entry has two, "slow" and "fast". It is
            a list that has timm's methods: :class:`~slowfast_zoo.models.feature_info.FeatureInfo`.
        pretrained_cfg: timm's word for the record of weights and preprocessing; filled in by ``create_model``. Classes,
            labels and channels in it follow layers that were replaced by hand.
        optimized: whether ``optimize_for_inference`` made this network.
        frozen_stages: how many of the stages, from the stem on, :func:`~slowfast_zoo.models.freezing.freeze` froze.
        frozen_norms: whether it froze the statistics of all batch norms.
        last_stage: 4 (res5), or the last one that :meth:`drop_stages_after` left.
    """

    head: ClassifierHead | RoIHead
    optimized = False
    frozen_stages = 0
    frozen_norms = False
    last_stage = len(FEATURE_NAMES) - 1
    has_classifier = True  # or room for one: not inside a FeatureNetwork
    _first_labels: str | tuple[str, ...] | None = None
    _first_classes: int | None = None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.feature_info = FeatureInfo([])
        self._pretrained_cfg: dict[str, Any] = {}

    def _build_head(self, features: int) -> ClassifierHead | RoIHead:
        """The head that the configuration asks for, on so many channels of all pathways together."""
        config = self.config
        if config.roi is None:
            return ClassifierHead(features, config.num_classes, config.drop_rate, config.head_window)
        scale = 1 / (16 * config.res5_stride)
        return RoIHead(features, config.num_classes, config.drop_rate, scale, **dataclasses.asdict(config.roi))

    # -- for the subclasses ------------------------------------------------------------------------------------------

    def forward_stages(self, clip: Clip, out_indices: Sequence[int]) -> list[Maps]:
        """Feature maps after some of the stages, as the stage leaves them, before any lateral connection.

        Args:
            clip: as :meth:`forward` takes it.
            out_indices: which stages, 0 for the stem and 1 to 4 for res2 to res5. Later stages are not computed.

        Returns:
            For each of them the maps (B, C, T, H, W) of all pathways, sized as ``feature_info`` says.
        """
        raise NotImplementedError  # the networks have it

    def drop_stages_after(self, stage: int) -> None:
        """Removes the stages after that one, and what only they read."""
        raise NotImplementedError  # the networks have it

    def follow_modules(self) -> None:
        """Brings configuration and ``pretrained_cfg`` in line with a classifier or a stem that was put in by hand."""
        channels, classes = self.in_chans, self.num_classes if self.has_classifier else self.config.num_classes
        if (channels, classes) != (self.config.in_chans, self.config.num_classes):
            self.config = self.config.replace(in_chans=channels, num_classes=classes)
        record = self._pretrained_cfg
        if not record:
            return
        for key in ("mean", "std"):
            record[key] = for_channels(record[key], channels)
        record["input_size"] = (channels, *record["input_size"][1:])
        if self.has_classifier:
            record["num_classes"] = classes
            if self.labels is None:
                record["labels"] = self._first_labels = None

    # -- what comes with the weights -----------------------------------------------------------------------------------

    def transform(self, training: bool = False, **overrides: Any) -> ClipTransform:
        """The transform from decoded frames to the clips that the weights were trained on.

        Args:
            training: random scale, crop and mirroring instead of the test crop.
            **overrides: as in :func:`~slowfast_zoo.create_transform`, which gives the same for a name.

        Raises:
            ValueError: settings that contradict each other.
            TypeError: an unknown keyword, or a network that ``create_model`` did not make.
        """
        if not self.pretrained_cfg:
            raise TypeError("the network was not made by create_model, so its preprocessing is not known")
        return ClipTransform.from_record(self.pretrained_cfg, training=training, **overrides)

    # -- timm's vocabulary -------------------------------------------------------------------------------------------

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        self.follow_modules()
        return self._pretrained_cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, record: dict[str, Any]) -> None:
        self._pretrained_cfg = record

    @property
    def num_classes(self) -> int:
        found = _outputs(self.get_classifier(), self.num_features)
        return self.config.num_classes if found is None else found

    @property
    def in_chans(self) -> int:
        """Channels of a frame: what the stem takes."""
        pathway: Any = getattr(self, "slow", None) or self.pathway
        conv = getattr(getattr(pathway.stem, "conv1", None), "conv", None)  # an optimised stem has none
        found = getattr(conv, "in_channels", None)
        return found if isinstance(found, int) else self.config.in_chans

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's older name of ``pretrained_cfg``."""
        return self.pretrained_cfg

    @property
    def num_features(self) -> int:
        found = _inputs(self.get_classifier()) or getattr(self.head, "in_features", None)
        return found if isinstance(found, int) else self._width_after(self.last_stage)

    @property
    def head_hidden_size(self) -> int:
        return self.num_features

    def _width_after(self, stage: int) -> int:
        """Channels of all pathways together."""
        channels = self.feature_info.channels(stage)
        return sum(channels) if isinstance(channels, tuple) else int(channels)

    @property
    def score_function(self) -> Literal["softmax", "sigmoid"]:
        """How classes are scored: as ``config.head_activation`` says, but a single output always by sigmoid."""
        return "sigmoid" if self.num_classes == 1 else self.config.head_activation

    def forward_features(self, clip: Clip) -> Tensor | Maps:
        """The res5 map of each pathway, before pooling.

        Args:
            clip: as :meth:`forward` takes it.

        Returns:
            For a SlowFast network the pair of Slow (B, 32 width, T, H / 32, W / 32) and Fast (B, 32 beta width, alpha
            T, H / 32, W / 32); for a network of one pathway its one map.
        """
        maps = self.forward_stages(clip, (self.last_stage,))[0]
        return maps if len(maps) > 1 else maps[0]

    def forward_intermediates(
        self,
        x: Clip,
        indices: Stages = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Feature maps of stages as ``features_only`` gives them, and what :meth:`forward_features` gives, in one pass.

        Args:
            x: the clip, as :meth:`forward` takes it.
            indices: which stages, 0 (stem) to 4 (res5), also counted from the end, or their names; one name is that
                stage, a number n the last n, None all.
            norm: timm's argument, for networks with a norm behind the last stage; here it changes nothing.
            stop_early: do not compute the stages after the last of ``indices``; only with ``intermediates_only``.
            output_fmt: "NCHW", timm's word for channels first: maps are (B, C, T, H, W).
            intermediates_only: give the list of maps alone.

        Returns:
            The res5 maps and the list of maps, each a pair in a SlowFast network; or the list alone.

        Raises:
            ValueError: there is no such stage, or another format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"maps have their channels first, so output_fmt is 'NCHW', not {output_fmt!r}")
        wanted, last = _stages(indices, self.last_stage), self.last_stage
        through = wanted if intermediates_only and stop_early else [*wanted, last]
        stages = dict(zip(through, self.forward_stages(x, through), strict=True)) if through else {}
        maps = {i: found if len(found) > 1 else found[0] for i, found in stages.items()}
        intermediates = [maps[i] for i in wanted]
        return intermediates if intermediates_only else (maps[last], intermediates)

    def prune_intermediate_layers(
        self, indices: Stages = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the stages behind the last of those that :meth:`forward_intermediates` is to give.

        Args:
            indices: which stages, as there.
            prune_norm: timm's argument, for networks with a norm behind the last stage; here it changes nothing.
            prune_head: leave out the classifier too, so that the network gives the pooled vectors of what is left.

        Returns:
            The stages of ``indices``, from 0 (stem) to 4 (res5).

        Raises:
            ValueError: there is no such stage, or ``indices`` is empty.
        """
        wanted = _stages(indices, self.last_stage)
        if not wanted:
            raise ValueError("indices names no stage, and a network without stages gives nothing")
        self.drop_stages_after(max(wanted))
        if prune_head:
            self.head = ClassifierHead(self._width_after(self.last_stage), 0, 0.0, None).train(self.training)
        return wanted

    def forward_head(
        self, features: Tensor | Sequence[Tensor], pre_logits: bool = False, *, boxes: Boxes | None = None
    ) -> Tensor:
        """Logits (B, num_classes) from what :meth:`forward_features` gave, of boxes (K, num_classes) in detection.

        Args:
            features: the map or the maps.
            pre_logits: give the pooled vectors (B or K, num_features) instead, which are before dropout and classifier.
            boxes: as :meth:`forward` takes them.
        """
        self._check_boxes(boxes)
        maps = self._maps_for_head(features)
        head = self._pooling_head()
        if isinstance(head, RoIHead):
            return head(maps, as_rois(boxes, maps[0]), pre_logits=pre_logits)  # type: ignore[no-any-return]
        return head(maps, pre_logits=pre_logits)  # type: ignore[no-any-return]

    def _pooling_head(self) -> ClassifierHead | RoIHead:
        head: Any = self.head
        if not isinstance(head, (ClassifierHead, RoIHead)):
            raise TypeError(
                f"model.head is a {type(head).__name__}, which does not pool maps: put another classifier in place of "
                "model.head.fc, or call model.reset_classifier(num_classes); forward_features gives the maps"
            )
        return head

    def forward(self, clip: Clip, boxes: Boxes | Literal["full"] | None = None) -> Tensor:
        """Logits of clips, one row a clip, in training and in evaluation alike; in detection, one row a box.

        Args:
            clip: (B, in_chans, alpha T, H, W), normalised RGB frames in floating point, of any batch size, any H and W
                from 32, and any number of frames that is a multiple of alpha; ``str(model.config)`` says what the
                weights were made for. A SlowFast network also takes the pair (slow, fast) with T and alpha T frames.
            boxes: for networks with ``config.roi``: a list with one (N_i, 4) tensor for each clip, in pixels x1, y1,
                x2, y2 of the clip as given, N_i from 0; or one (K, 5) tensor with the clip's index before them; or
                "full", which is one box of the whole frame for each clip.

        Returns:
            (B, num_classes), or (sum of N_i, num_classes) in the order of the boxes; without a classifier
            (num_classes=0) the pooled vectors of num_features.

        Raises:
            TypeError: not a floating-point tensor, or not of the network's dtype; boxes that are no tensors.
            ValueError: a shape that does not fit; boxes missing in detection, or given in classification.
        """
        found = self._boxes(clip, boxes)
        return self.forward_head(self.forward_features(clip), boxes=found)

    def probabilities(self, clip: Clip, boxes: Boxes | Literal["full"] | None = None) -> Tensor:
        """Class probabilities (B, num_classes), as the weights' own project computes them at test time.

        Softmax, or sigmoid where a clip has several labels or the classifier one output; with several window positions
        (``head_window``) it comes first and the average over positions after, or the other way round
        (``head_average``). In detection (K, num_classes), one row for each of ``boxes``.
        """
        if not self.num_classes:
            raise ValueError("a network without a classifier (num_classes=0) has no probabilities")
        found = self._boxes(clip, boxes)
        maps = self._maps_for_head(self.forward_features(clip))
        head = self._pooling_head()
        logits: Any = self.forward_head(maps, boxes=found) if isinstance(head, RoIHead) else head.positions(maps)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"the classifier gives a {type(logits).__name__}, not a tensor of logits: there are probabilities of "
                "one classifier, so put that in place of model.head.fc"
            )
        if isinstance(head, RoIHead):
            logits = logits.unsqueeze(1)  # (K, 1, num_classes): a box has one position
        return ScoreRule(self.score_function, self.config.head_average).over_windows(logits)

    def _maps_for_head(self, features: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
        maps = features if isinstance(features, (tuple, list)) else (features,)
        # One that is in another type than the layers before it, as in an optimised network.
        converts = getattr(self.head, "converts_input", False)
        return [x.to(self._head_dtype()) for x in maps] if converts else maps

    def _head_dtype(self) -> torch.dtype:
        converts = getattr(self.head, "converts_input", False)
        default = torch.float32 if converts else next(self.parameters()).dtype
        return next((parameter.dtype for parameter in self.head.parameters()), default)

    def get_classifier(self) -> nn.Module:
        """The fully connected layer, or an ``nn.Identity`` where there is none."""
        return getattr(self.head, "fc", self.head)  # or what was put in place of the whole head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a freshly initialised one.

        Args:
            num_classes: its classes; 0 leaves it out.
            global_pool: timm's argument; average pooling ("avg") is the only kind there is.

        Raises:
            ValueError: not a non-negative integer, or another kind of pooling.
        """
        if global_pool not in (None, "avg"):
            raise ValueError(f"the head averages, so global_pool is 'avg' or None, not {global_pool!r}")
        self.config = self.config.replace(num_classes=num_classes)
        head: Any = self.head
        if not isinstance(head, (ClassifierHead, RoIHead)):
            self.head = self._build_head(self._width_after(self.last_stage)).train(self.training)
        # Where the old one is, unless it has no place because its weights were not read.
        old = next((p for p in (*self.head.parameters(), *self.parameters()) if not p.is_meta), next(self.parameters()))
        fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        initialise(fc)
        self.head.fc = fc.to(device=old.device, dtype=self._head_dtype())
        self.pretrained_cfg = {**self.pretrained_cfg, "num_classes": num_classes, "labels": None}
        self.remember_classifier()

    def remember_classifier(self) -> None:
        """Ties the labels in ``pretrained_cfg`` to the classifier as it is now."""
        labels = self._pretrained_cfg.get("labels")
        self._first_labels = labels if labels is None or isinstance(labels, str) else tuple(labels)
        self._first_classes = self.num_classes
        for module in self.get_classifier().modules():
            module.came_with_network = True  # type: ignore[assignment]

    @property
    def labels(self) -> str | tuple[str, ...] | None:
        """The class names of the outputs, or the name of their list, as in ``pretrained_cfg``; None if they are not
        known, as after another classifier was put in place of the one that they came with."""
        labels = self._pretrained_cfg.get("labels")
        labels = labels if labels is None or isinstance(labels, str) else tuple(labels)
        if labels != self._first_labels:  # somebody's own
            return labels
        classifier = self.get_classifier()
        layers = [module for module in classifier.modules() if any(True for _ in module.parameters(recurse=False))]
        replaced = bool(layers) and not any(hasattr(module, "came_with_network") for module in layers)
        return None if replaced or self.num_classes != self._first_classes else labels

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each residual block in the backward pass instead of keeping its activations.

        Gradients and running statistics are those of ordinary training (under ``torch.compile`` the running statistics
        count each batch twice).
        """
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    def set_inplace_relu(self, enable: bool = True) -> None:
        """Whether ReLUs overwrite their input, as they do in a new network; it makes no difference to what is computed.

        Without it, hooks and tools that attribute outputs to layers see each layer's output as it was given.
        """
        for module in self.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = enable

    # -- training ------------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for what is frozen (:func:`~slowfast_zoo.models.freezing.freeze`)."""
        super().train(mode)
        if mode:
            keep_frozen(self)
        return self

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """timm's groups of parameters, as for layer-wise learning-rate decay: the stem, res2 to res5, the head.

        A stage's group has its layers in all pathways and the lateral connection that reads its output. The groups are
        the same whether ``coarse`` or not: the blocks of two pathways of different depth have no common order.
        """
        return {"stem": rf"{STAGE_PREFIX}stem\.", "stages": rf"{STAGE_PREFIX}res(\d)\."}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm's optimisers are to exclude from weight decay besides those of one
        dimension (batch norms and biases), which they exclude by themselves: none."""
        return set()

    # -- input -------------------------------------------------------------------------------------------------------

    def _check_boxes(self, boxes: Boxes | None) -> None:
        if is_traced(boxes):  # and may be left out when the graph is called
            return
        if self.config.roi is None and boxes is not None:
            raise ValueError(f"this network classifies clips and takes no boxes; those named *_det do. {self.config}")
        if self.config.roi is not None and boxes is None:
            raise ValueError(
                "this network detects actions and needs boxes: model(clip, boxes), with one (N, 4) tensor of pixels "
                'x1, y1, x2, y2 for each clip, or boxes="full" for the whole frame of each'
            )

    def _boxes(self, clip: Clip, boxes: Any) -> Any:
        """Boxes as the head takes them, and that there are some exactly where there should be."""
        self._check_boxes(boxes)
        if not isinstance(boxes, str):
            return boxes
        if boxes != WHOLE_FRAME:
            raise TypeError(f'boxes are tensors, or "{WHOLE_FRAME}" for the whole frame of each, not str {boxes!r}')
        frames = clip if isinstance(clip, Tensor) else clip[-1]
        height, width = frames.shape[-2:]
        return [frames.new_tensor([[0, 0, width, height]], dtype=torch.float32) for _ in range(len(frames))]

    def _check_frames(self, frames: Any, what: str, channels: int, multiple: int) -> Tensor:
        """One tensor of frames, checked in words.

        An exported program is exempt: there the checks would turn into constraints on its dynamic sizes. So is a graph
        that torch.fx traces, where there are no sizes yet.
        """
        if is_traced(frames):
            return frames  # type: ignore[no-any-return]
        if not isinstance(frames, Tensor):
            raise TypeError(f"{what} is a torch.Tensor, not {type(frames).__name__}. {self.config}")
        x = frames
        if torch.compiler.is_exporting():
            return x
        if not x.is_floating_point():
            raise TypeError(
                f"{what} holds normalised floating-point frames, not {x.dtype}. create_transform(model) makes them "
                "from uint8 frames."
            )
        parameter = next(self.parameters(), x)  # the replicas of nn.DataParallel have none
        if x.dtype != parameter.dtype and not self._converts_input():
            if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
                x = x.to(parameter.dtype)
            elif self._is_of_one_kind():
                raise TypeError(
                    f"{what} is {x.dtype} but the network is {parameter.dtype}: convert one of them, as in "
                    f"{what}.to({parameter.dtype}), or run under torch.autocast"
                )
        if x.device != parameter.device and self._is_of_one_kind():
            raise ValueError(f"{what} is on {x.device} but the network is on {parameter.device}: move one of them")
        shape = tuple(x.shape)
        if x.ndim != 5:
            raise ValueError(
                f"{what} is 5-dimensional, (B, {channels}, frames, H, W), not {x.ndim}-dimensional: {shape}. "
                + ("A single clip needs a batch dimension: clip[None]. " if x.ndim == 4 else "")
                + str(self.config)
            )
        if shape[1] != channels:
            raise ValueError(f"{what} has {channels} channels in dimension 1, not {shape[1]}: {shape}. {self.config}")
        if shape[2] < multiple or shape[2] % multiple:
            raise ValueError(
                f"{what} has {shape[2]} frames, but their number must be a positive multiple of {multiple}. "
                f"{self.config}"
            )
        if shape[3] < MIN_SIDE or shape[4] < MIN_SIDE:
            raise ValueError(
                f"{what} is {shape[3]} x {shape[4]} pixels; both sides must be at least {MIN_SIDE}. {self.config}"
            )
        return x

    def _converts_input(self) -> bool:
        """Whether the stems take clips of any floating-point type."""
        pathway: Any = getattr(self, "slow", None) or self.pathway
        return getattr(pathway.stem, "converts_input", False)

    def _is_of_one_kind(self) -> bool:
        """Whether all layers have one type and one device, and nothing changes that as they are called.

        Stages in another type, parameters moved in between layers, and FSDP's mixed precision are PyTorch's to judge:
        they change a layer, or its input, by hooks or by another ``forward`` of its own.
        """
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters()}
        inner = [module for module in self.modules() if module is not self]
        return len(kinds) < 2 and not any(module._forward_pre_hooks or "forward" in vars(module) for module in inner)


def is_traced(x: Any) -> bool:
    """Whether torch.fx is tracing a graph, in which x stands for what it will be given."""
    return isinstance(x, torch.fx.Proxy)


def for_channels(values: Sequence[float], count: int) -> Sequence[float]:
    """Means or deviations for so many channels: others than the weights' are each normalised like their average."""
    return values if len(values) == count else [sum(values) / len(values)] * count


def _stages(indices: Stages, last: int) -> list[int]:
    """The stages that ``indices`` says, from 0 to the last one.

    Raises:
        ValueError: it says something else.
    """
    count = last + 1
    names = FEATURE_NAMES[:count]
    if indices is None:
        return list(range(count))
    wrong = ValueError(
        f"there are {count} stages, {', '.join(names)}: indices holds their numbers from 0 or their names, or is the "
        f"number of the last ones, 1 to {count}; not {indices!r}"
    )
    if isinstance(indices, str):
        indices = (indices,)
    if not isinstance(indices, Iterable):
        number = _whole(indices)
        if number is None or not 1 <= number <= count:
            raise wrong
        return list(range(count - number, count))
    found = [names.index(i) if isinstance(i, str) and i in names else _whole(i) for i in indices]
    if any(i is None or not -count <= i < count for i in found):
        raise wrong
    return [i % count for i in found if i is not None]


def _whole(value: Any) -> int | None:
    """A whole number, of whatever library; None is another value."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _inputs(classifier: nn.Module) -> int | None:
    """How many features a classifier takes, if it or its first layer says so."""
    found = getattr(classifier, "in_features", None)
    if isinstance(found, int) and found:  # a lazy layer's is 0
        return found
    return _inputs(next(classifier.children())) if isinstance(classifier, nn.Sequential) and len(classifier) else None


def _outputs(classifier: nn.Module, features: int) -> int | None:
    """How many outputs a classifier of so many features has: its own word, or what it gives; None if nothing tells."""
    if isinstance(classifier, nn.Identity):
        return 0
    layers = reversed(classifier) if isinstance(classifier, nn.Sequential) else (classifier,)
    for layer in layers:
        found = getattr(layer, "out_features", None)
        if isinstance(found, int):
            return found
        if any(True for _ in layer.parameters()):
            break
    said = [found for module in classifier.modules() if isinstance(found := getattr(module, "out_features", None), int)]
    given = None if torch.compiler.is_compiling() else _measured(classifier, features)
    return given or (said[-1] if said else None)


def _measured(classifier: nn.Module, features: int) -> int | None:
    """Length of the rows that a classifier gives for so many features, without values; None if it gives none."""
    tensors = {**dict(classifier.named_parameters()), **dict(classifier.named_buffers())}
    like = next((tensor for tensor in tensors.values() if tensor.is_floating_point()), torch.empty(0))
    try:
        with torch.no_grad():
            bare = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
            rows = torch.func.functional_call(
                classifier, bare, torch.empty(2, features, device="meta", dtype=like.dtype)
            )
    except Exception:  # what a layer of somebody's own raises
        return None
    return int(rows.shape[1]) if isinstance(rows, Tensor) and rows.ndim == 2 else None
