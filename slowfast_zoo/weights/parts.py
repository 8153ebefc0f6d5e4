"""Where in a checkpoint a network is: among what training loops, wrappers and other networks put around and next to it.

All tensors of a file have one name: the keys of the dicts that they stand in, joined with dots. A network is wherever
the weight of a first convolution is; what stands before that in its name stands before the network's other names too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slowfast_zoo.errors import WeightsError, printable
from slowfast_zoo.models.wrappers import INSIDE
from slowfast_zoo.storage.pickled import Unread

from .layouts import LAYOUTS, Layout, recognise

_LONGEST_NAME = 1000  # characters; the names of networks have 100, what stands before them as many
_MOST_CHARACTERS = 100_000_000  # of all names
_MOST_TENSORS = 200_000  # of a file, and of all networks in it together; training keeps some thousand
_MOST_NETWORKS = 50
_DEEPEST = 50
_PARALLEL = "module"  # what DataParallel and DDP put into names where a part of a network is wrapped
# What torch.compile, FSDP and checkpointing of activations put there.
_WRAPPED = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(name for name in INSIDE if name != _PARALLEL)})\.")
# Averages of the weights were kept to be used.
_AVERAGE = re.compile(
    r"(?:^|[_-])(?i:ema|average|averaged|avg|shadow|swa|polyak)(?:[_-]|$|(?=[A-Z]))"
    r"|(?<=[a-z])(?:EMA|Ema|Average|Averaged|Avg|Shadow|SWA|Swa)(?:[_-]|$|(?=[A-Z]))"
)
# What is there to go on with training: the weights next to an average that is under state_dict (Lightning's
# WeightAveraging; MMEngine's EMAHook, which changes the two over and counts its steps), and an average whose batch
# norms have no statistics yet (Lightning's StochasticWeightAveraging).
_TO_GO_ON = ("current_model_state", "average_model_state")
_CHANGED_OVER, _CHANGED_OVER_IF = "ema_state_dict", "ema_state_dict.steps"
# What the names of networks begin with, for those whose first layer is missing.
_ROOTS = ("slow", "fast", "pathway", "head", "blocks")
# PyTorchVideo's detection networks have their classifier next to the network: model.blocks..., detection_head.proj....
_NETWORK, _CLASSIFIER = "model.", "detection_head.proj.weight"
# What is no part of any network, and left aside without a word.
_NOT_REPORTED = re.compile(r"(?:\w*optim\w*|n_averaged|\w*sched\w*)(?:\.|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A network in a file.

    Attributes:
        place: what stands before its names in the file, without the last dot; "" for nothing.
        layout: how its tensors are named.
        state: its tensors, and whatever else has names that begin so, by the names that are left.
        rank: 0 for an average of other weights in the file, 2 for what is only there to go on with
            training, 1 for any other.
    """

    place: str
    layout: Layout
    state: dict[str, Tensor]
    rank: int


@dataclass(frozen=True)
class Content:
    """The tensors of a file.

    Attributes:
        tensors: by their names.
        unread: names of what could not be read, and what it is.
    """

    tensors: dict[str, Tensor]
    unread: dict[str, str]


def flatten(content: Mapping[Any, Any], name: str, rename: Callable[[str], str | None] | None = None) -> Content:
    """All tensors of a file by name, however deep they stand.

    Args:
        content: what the file holds.
        name: of the file, for messages.
        rename: gives another name for one as it stands in its dict, or None to leave it out.

    Raises:
        WeightsError: it has longer names, or more of them, than any checkpoint; or two of one name.
        TypeError: ``rename`` gives something else.
    """
    found = Content({}, {})
    characters = 0
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        before, values, depth = waiting.pop()
        inside: list[tuple[str, Any, int]] = []
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            is_container = isinstance(value, (Mapping, list, tuple))
            if not is_container and not isinstance(value, (Tensor, Unread)):
                continue
            if isinstance(key, (str, bytes)) and len(key) > _LONGEST_NAME:
                continue
            own = key.decode("latin-1") if isinstance(key, bytes) else str(key)
            if rename is not None and isinstance(value, Tensor):
                new = rename(own)
                if new is None:
                    continue
                if not isinstance(new, str):
                    raise TypeError(f"prefix gives a name or None, not {new!r}, which it gave for {printable(own)!r}")
                if f"{before}{new}" in found.tensors:
                    raise WeightsError(f"{name!r}: prefix gives two tensors the name {printable(new)!r}")
                own = new
            if len(before) + len(own) > _LONGEST_NAME:
                continue
            full = before + own
            characters += len(full)
            if characters > _MOST_CHARACTERS or len(found.tensors) > _MOST_TENSORS:
                raise WeightsError(f"{name!r} has more names in it than any checkpoint")
            if isinstance(value, Tensor):
                found.tensors[full] = value
            elif isinstance(value, Unread):
                found.unread[full] = value.name
            elif depth < _DEEPEST:
                inside.append((f"{full}.", value, depth + 1))
        waiting.extend(reversed(inside))
    plain = {full: _WRAPPED.sub("", full) for full in found.tensors}
    if len(set(plain.values())) == len(plain):
        found = Content({plain[full]: tensor for full, tensor in found.tensors.items()}, found.unread)
    return found


def find_parts(content: Content, name: str, prefix: str | None = None) -> list[Part]:
    """The networks in a file, averages first.

    Args:
        content: what :func:`flatten` gave.
        name: of the file, for messages.
        prefix: gives those only whose place has it, whole or between dots; all by default.

    Raises:
        WeightsError: there is none, or none there, or more than any training keeps.
    """
    places: dict[str, Layout] = {}
    stems = {stem: layout for layout in reversed(LAYOUTS) for stem in layout.stems}
    for full in content.tensors:
        plain = full.replace(f".{_PARALLEL}.", ".")
        for stem in stems:
            if plain == stem or plain.endswith(f".{stem}"):
                place = _place_of(stem, full)
                outer = place.removesuffix(_NETWORK)
                if f".{place}".endswith(f".{_NETWORK}") and f"{outer}{_CLASSIFIER}" in content.tensors:
                    place = outer
                places.setdefault(place, stems[stem])
    parts = []
    wanted = None if prefix is None else _WRAPPED.sub("", f"{prefix}.").strip(".")
    if wanted is not None:
        exact = [place for place in places if wanted == place.strip(".")]
        inside = [place for place in places if f".{wanted}." in f".{place}"] if wanted else []
        chosen = {place: places[place] for place in exact or inside}
        if not chosen:
            raise WeightsError(
                f"{name!r} has no network under {printable(prefix)!r}, "
                + (f"only under {describe_places(places)}" if places else "nor anywhere else")
            )
        places = chosen
    room = _MOST_TENSORS
    for place in places:
        state = _tensors_under(place, content)
        room -= len(state)
        if len(places) > _MOST_NETWORKS or room < 0:
            raise WeightsError(
                f"{name!r} has {len(places)} networks in it, more than are tried: name the one that is meant, with "
                "prefix=..."
            )
        # One project's stem can be another's name of something else: the dimensions tell.
        layout = places[place] if places[place].recognises(state) else recognise(state)
        if layout is not None:
            parts.append(Part(place.removesuffix("."), layout, state, _rank(place, content)))
    if not parts:
        parts = _find_without_stem(content)
    return sorted(parts, key=lambda part: part.rank)


def _place_of(stem: str, full: str) -> str:
    """What stands before a first layer's name in a tensor's, which may have ``module.`` between the parts of that."""
    keys = full.split(".")
    for wanted in reversed(stem.split(".")):
        while keys[-1] != wanted:
            keys.pop()
        keys.pop()
    return "".join(f"{key}." for key in keys)


def _tensors_under(place: str, content: Content) -> dict[str, Tensor]:
    """The tensors of a place by the names that are left, without ``module.`` where parts of a network are wrapped."""
    state = {full[len(place) :]: t for full, t in content.tensors.items() if full.startswith(place)}
    plain = {name: name.replace(f".{_PARALLEL}.", ".") for name in state}
    if len(set(plain.values())) < len(plain):
        return state
    return {plain[name]: tensor for name, tensor in state.items()}


def _rank(place: str, content: Content) -> int:
    keys = place.split(".")
    if any(key in _TO_GO_ON for key in keys) or (keys[0] == _CHANGED_OVER and _CHANGED_OVER_IF in content.tensors):
        return 2
    return 0 if any(_AVERAGE.search(key) for key in keys) else 1


def _find_without_stem(content: Content) -> list[Part]:
    """What looks like a network without its first layer, so that the message can say what is missing."""
    befores: dict[str, None] = {}
    for full in content.tensors:
        for root in _ROOTS:
            before, found, _ = f".{full}".partition(f".{root}.")
            if found:
                befores[f"{before[1:]}." if before else ""] = None
    for before in list(befores)[:_MOST_NETWORKS]:
        state = _tensors_under(before, content)
        layout = recognise(state)
        if layout is not None:
            return [Part(before.removesuffix("."), layout, state, 1)]
    return []


def describe_places(places: Iterable[str]) -> str:
    """The places of networks, in words."""
    names = [repr(printable(place.strip("."), 80)) for place in places]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def describe_aside(names: list[str]) -> str:
    """Tensors that are left aside, in words: by what stands first in their names, with their number."""
    groups: dict[str, list[str]] = {}
    for full in names:
        if not _NOT_REPORTED.match(full.rpartition("state_dict.")[2]):
            keys = full.split(".")
            groups.setdefault(".".join(keys[: 2 if keys[0] == "state_dict" else 1]), []).append(full)
    described = [
        repr(printable(members[0], 80)) if len(members) == 1 else f"{printable(group, 80) + '.*'!r} ({len(members)})"
        for group, members in groups.items()
    ]
    return ", ".join(described[:5]) + (f" and {len(described) - 5} more" if len(described) > 5 else "")
