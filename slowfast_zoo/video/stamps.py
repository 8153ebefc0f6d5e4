"""When the stored frames of a stream are shown, also where its time stamps are no clock.

Streams that were put one behind another start their clock again; cameras set it after the first frames; some writers
never move it. Whoever decodes in sequence loses no frame to that. Here such a stream gets one timeline without leaps:
within a piece the frames keep their distances, and each piece follows the one before it by one frame.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

# A step of the clock (seconds) that is no pause: in formats of which several can be put one behind another, and others.
_LEAP_IN_JOINED = 10.0
_LEAP = 60.0
# A leap is this many times as long as the usual step, too: some videos show a frame a minute.
_UNUSUAL = 10
# Frames a second, where only the container tells: more are none, and then it is this.
_FASTEST, _UNKNOWN_RATE = 480, 30
# Frames that cannot be decoded are skipped on the way to the next known stamp, so many at most.
_LOST = 300


class StoredPacket(NamedTuple):
    """What a packet says; all times in ticks.

    Attributes:
        stamp: when its frame is shown; None where it does not say.
        dts: when it is decoded.
        duration: for how long its frame is shown; 0 where it does not say.
        is_keyframe: whether decoding can start with it.
    """

    stamp: int | None
    dts: int | None
    duration: int
    is_keyframe: bool


class Clock(NamedTuple):
    """The timeline of a stream.

    Attributes:
        stamps: the time stamps of its frames in the order of presentation.
        times: the second at which each is shown; the first at 0, strictly ascending.
        end: the second at which the last one ends.
        frame_time: seconds from one frame to the next, usually.
        keyframes: when decoding can start, as (decoding stamp, second), ascending; empty where ``joins`` are.
        flagged: the stamps of frames that the container calls keyframes.
        joins: what is wrong with the clock, in words; empty where the stamps are the times.
        ascends: each stamp is later than the one before it, so that one can be found by its time.
    """

    stamps: list[int | None]
    times: list[float]
    end: float
    frame_time: float
    keyframes: list[tuple[int, float]]
    flagged: frozenset[int]
    joins: str
    ascends: bool

    def keyframe_before(self, time: float) -> tuple[int, float] | None:
        """The last of ``keyframes`` that is shown at a second or before it."""
        place = bisect_right(self.keyframes, time, key=lambda keyframe: keyframe[1])
        return self.keyframes[place - 1] if place else None

    def place(self, before: int | None, stamp: int | None) -> int | None:
        """The index of a decoded frame.

        Args:
            before: that of the frame before it; None after a jump.
            stamp: what the frame says.
        """
        if before is None:
            if stamp is None:
                return None
            found = bisect_left(self.stamps, stamp)  # type: ignore[type-var]  # no jumps where stamps are missing
            return found if found < len(self.stamps) and self.stamps[found] == stamp else None
        try:
            return self.stamps.index(stamp, before + 1, before + 1 + _LOST)
        except ValueError:
            return before + 1

    def time(self, place: int) -> float:
        """When the frame of an index is shown; some packets hold two frames, which then go on after the last one."""
        beyond = place - len(self.times) + 1
        return self.times[place] if beyond <= 0 else self.times[-1] + beyond * self.frame_time

    def stamp_at(self, time: float) -> int:
        """The stamp of the frame that is shown at a second, where stamps ascend."""
        return self.stamps[max(bisect_right(self.times, time) - 1, 0)] or 0


def read_clock(packets: Sequence[StoredPacket], first: int | None, tick: float, fps: float, *, can_join: bool) -> Clock:
    """The timeline of a stream from all its packets, in the order in which they are stored.

    Args:
        packets: those with a frame that is shown.
        first: the stamp of the first frame that can be decoded; None where frames have no stamps.
        tick: length of a tick in seconds.
        fps: what the container says is its frame rate.
        can_join: whether the format lets streams be put one behind another.
    """
    pieces = _pieces(packets, (_LEAP_IN_JOINED if can_join else _LEAP) / tick)
    # The order of presentation, as the decoder gives it: it never mixes pieces.
    shown = [packet for piece in pieces for packet in piece]
    if first is not None:
        lead = next((index for index, packet in enumerate(shown) if packet.stamp == first), 0)
        shown = shown[lead:]
    step = _usual_step(shown, tick, fps)
    leap = max((_LEAP_IN_JOINED if can_join else _LEAP) / tick, _UNUSUAL * step)
    times, faults = _times(shown, step, leap)
    last = shown[-1].duration if shown and 0 < shown[-1].duration <= leap else step
    stamps = [packet.stamp for packet in shown]
    known = [stamp for stamp in stamps if stamp is not None]
    joins = ", ".join(f"{text} {_often(count)}" for text, count in faults.items() if count)
    is_timed = first is not None
    keyframes = [
        (packet.dts, time * tick)
        for packet, time in zip(shown, times, strict=True)
        if packet.is_keyframe and packet.dts is not None
    ]
    return Clock(
        stamps=stamps,
        times=[time * tick for time in times],
        end=((times[-1] if times else 0.0) + last) * tick,
        frame_time=step * tick,
        keyframes=[] if joins else sorted(keyframes, key=lambda pair: pair[1]),
        flagged=frozenset(packet.stamp for packet in shown if packet.is_keyframe and packet.stamp is not None),
        joins=joins if is_timed else "",
        ascends=len(known) == len(stamps) and all(before < after for before, after in pairwise(known)),
    )


def _pieces(packets: Sequence[StoredPacket], leap: float) -> list[list[StoredPacket]]:
    """The packets between two leaps of the clock, each piece in the order of presentation."""
    pieces: list[list[StoredPacket]] = [[]]
    before: int | None = None
    for packet in packets:
        if packet.dts is not None:
            if before is not None and not 0 <= packet.dts - before <= leap:
                pieces.append([])
            before = packet.dts
        pieces[-1].append(packet)
    ordered = []
    for piece in pieces:
        stamp = 0
        keys = []
        for packet in piece:
            stamp = stamp if packet.stamp is None else packet.stamp
            keys.append(stamp)
        ordered.append([piece[index] for index in sorted(range(len(piece)), key=keys.__getitem__)])
    return ordered


def _usual_step(shown: Sequence[StoredPacket], tick: float, fps: float) -> float:
    """Ticks from one frame to the next: by the stamps, by what the packets say, or by what the container says."""
    stamps = [packet.stamp for packet in shown if packet.stamp is not None]
    steps = [after - before for before, after in pairwise(stamps) if 0 < after - before <= _LEAP / tick]
    if 2 * len(steps) > len(shown):
        # The mean where steps differ by the rounding of stamps.
        middle = statistics.median_low(steps)
        near = [step for step in steps if abs(step - middle) <= max(1.0, 0.05 * middle)]
        return statistics.fmean(near)
    durations = [packet.duration for packet in shown if 0 < packet.duration <= _LEAP / tick]
    told = [statistics.median(durations)] if durations else []
    # Where a container has no rate, what FFmpeg says is its tick.
    likely = [step for step in (*told, 1 / (fps * tick)) if step * tick * _FASTEST >= 1]
    return likely[0] if likely else 1 / (_UNKNOWN_RATE * tick)


def _times(shown: Sequence[StoredPacket], step: float, leap: float) -> tuple[list[float], dict[str, int]]:
    """When each frame is shown, in ticks from the first one, and how often the clock was wrong in which way."""
    times: list[float] = []
    faults = {"leaps ahead": 0, "falls back": 0, "stands still": 0}
    # Frames with one stamp share the time until the next one; those without a stamp, that since the one before.
    runs: list[tuple[int, int, int]] = []  # the stamp, how many share it, how many say so
    for packet in shown:
        value, count, said = runs[-1] if runs else (packet.stamp or 0, 0, 0)
        if packet.stamp is None or packet.stamp == value:
            runs[-1:] = [(value, count + 1, said + (packet.stamp is not None))]
        else:
            runs.append((packet.stamp, 1, 1))
    now = 0.0
    for (value, count, said), following in zip(runs, [*runs[1:], None], strict=True):
        distance = None if following is None else float(following[0] - value)
        if distance is not None and not 0 < distance <= leap:
            faults["leaps ahead" if distance > 0 else "falls back"] += 1
            distance = None
        faults["stands still"] += said > 1
        part = step if distance is None else distance / count
        times += [now + index * part for index in range(count)]
        now += count * part
    return times, faults


def _often(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
