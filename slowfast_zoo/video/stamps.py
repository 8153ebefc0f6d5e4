"""When the stored frames of a stream are shown, also where its time stamps are no clock.

Streams that were put one behind another start their clock again; cameras set it after the first frames; some writers
never move it. Whoever decodes in sequence loses no frame to that. Here such a stream gets one timeline without leaps:
within a piece the frames keep their distances, and each piece follows the one before it by one frame.
"""

from __future__ import annotations

import contextlib
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
# The step before a leap sets the pace across it, unless it is this many times as long as the usual one: a pause.
_PAUSE = 4
# Frames that are decoded in another order than shown are no further apart: seconds and, if longer, frames.
_REORDERED, NEAR = 1.0, 17
# Frames a second, where only the container tells: more are none, and then it is this.
_FASTEST, _UNKNOWN_RATE = 480, 30
# Most frames that are skipped, because they cannot be decoded, on the way to the next known stamp.
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
            before: that of the frame before it, and given again where the two have changed places; None after a jump.
            stamp: what the frame says.
        """
        if before is None:
            if stamp is None:
                return None
            found = bisect_left(self.stamps, stamp)  # type: ignore[type-var]  # no jumps where stamps are missing
            return found if found < len(self.stamps) and self.stamps[found] == stamp else None
        following = before + 1
        # Near by first: where a clock stands still or starts again, a stamp is found many times.
        for ahead in (NEAR, _LOST):
            with contextlib.suppress(ValueError):
                return self.stamps.index(stamp, following, following + ahead)
            if stamp is not None and stamp in self.stamps[max(following - NEAR, 0) : before]:
                return before  # it was expected earlier, so those that follow are where they should be
        return following

    def time(self, place: int) -> float:
        """When the frame of an index is shown; some packets hold two frames, which then go on after the last one."""
        beyond = place - len(self.times) + 1
        return self.times[place] if beyond <= 0 else self.times[-1] + beyond * self.frame_time

    def stamp_at(self, time: float) -> int:
        """The stamp of the frame that is shown at a second, where stamps ascend."""
        return self.stamps[max(bisect_right(self.times, time) - 1, 0)] or 0


def delay_stamps(packets: Sequence[StoredPacket], start: int, length: int) -> list[StoredPacket]:
    """Packets that say when their frames come out of a decoder which holds some back, not when they go in.

    Args:
        packets: those with a frame that is shown, each with the stamp at which it is decoded.
        start: when the first frame comes out.
        length: ticks from one frame to the next; the last frames, which have no later stamp, follow one another so.
    """
    stamps = [packet.stamp for packet in packets if packet.stamp is not None]
    held = sum(stamp < start for stamp in stamps)
    stamps += [stamps[-1] + length * (index + 1) for index in range(held)]
    return [packet._replace(stamp=stamp) for packet, stamp in zip(packets, stamps[held:], strict=False)]


def read_clock(
    packets: Sequence[StoredPacket],
    first: int | None,
    tick: float,
    fps: float,
    *,
    can_join: bool,
    has_dts: bool = True,
    is_sparse: bool = False,
) -> Clock:
    """The timeline of a stream from all its packets, in the order in which they are stored.

    Packets are stored in the order of decoding. Where a stamp is less than the one before it, either frames are shown
    in another order or the clock has started again; how far it falls back, in usual steps, tells which. So:

    1. The order of presentation: sorted by the stamps, piece by piece between leaps.
    2. If the stamps do not ascend in it, the clock of decoding decides on the order instead, where the file has one: it
       never goes back within a recording, so that each step back in it is a new start.
    3. What comes before the first frame that can be decoded is left out.
    4. Times: each step of the clock that is none becomes one usual step.

    Args:
        packets: those with a frame that is shown.
        first: the stamp of the first frame that can be decoded; None where frames have no stamps.
        tick: length of a tick in seconds.
        fps: what the container says is its frame rate.
        can_join: whether the format lets streams be put one behind another.
        has_dts: whether the file says when packets are decoded; else that is a guess from when they are shown.
        is_sparse: whether few packets have stamps in the file, and the stamps of the others are a guess.
    """
    longest = (_LEAP_IN_JOINED if can_join else _LEAP) / tick
    durations = [packet.duration for packet in packets]

    def step_and_leap(stamps: Sequence[float | None]) -> tuple[float, float]:
        return _find_usual_step(stamps, durations, tick, fps, longest)

    step, _ = step_and_leap([packet.stamp for packet in packets])
    order = _sort_by_stamp(packets, longest, max(_REORDERED / tick, NEAR * step))
    placed: list[float | None] = [packets[index].stamp for index in order]
    step, leap = step_and_leap(placed)
    faults = dict.fromkeys(("leaps ahead", "falls back", "stands still"), 0)
    decoded = [packet.dts for packet in packets if packet.dts is not None]
    if has_dts and len(decoded) == len(packets) and not (_is_clock(decoded, leap, 0) and _is_clock(placed, leap, 1)):
        order, placed = _unwrap(packets, decoded, step_and_leap(decoded), faults)
    shown = [packets[index] for index in order]
    if first is not None:
        lead = next((index for index, packet in enumerate(shown) if packet.stamp == first), 0)
        shown, placed = shown[lead:], placed[lead:]
    step, leap = step_and_leap(placed)
    times, _ = _assign_times(placed, step, leap, faults)
    last = shown[-1].duration if shown and 0 < shown[-1].duration <= leap else step
    stamps = [packet.stamp for packet in shown]
    known = [stamp for stamp in stamps if stamp is not None]
    if is_sparse and any(faults.values()) and abs(max(known) - min(known) - step * (len(shown) - 1)) <= step:
        # The frames fill the time from the first stamp to the last: some were only given wrong stamps.
        times, stamps, known = [index * step for index in range(len(shown))], [None] * len(shown), []
    joins = ", ".join(f"{text} {_describe_count(count)}" for text, count in faults.items() if count)
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
        joins="" if first is None else joins,
        ascends=len(known) == len(stamps) and all(before < after for before, after in pairwise(known)),
    )


def _is_clock(stamps: Sequence[float | None], leap: float, least: int) -> bool:
    """Whether each stamp is later than the one before it, by ``least`` ticks or more, and not by a leap."""
    known = [stamp for stamp in stamps if stamp is not None]
    return all(least <= after - before <= leap for before, after in pairwise(known))


def _sort_by_stamp(packets: Sequence[StoredPacket], leap: float, back: float) -> list[int]:
    """The packets in the order of presentation: sorted by their stamps, between leaps ahead or further back."""
    pieces: list[list[tuple[int, int]]] = [[]]
    stamp, latest = 0, None
    for index, packet in enumerate(packets):
        if packet.stamp is not None:
            stamp = packet.stamp
            if latest is not None:
                # A keyframe is shown after all that were decoded before it.
                is_back = stamp <= latest if packet.is_keyframe else stamp < latest - back
                if is_back or stamp > latest + leap:
                    pieces.append([])
                    latest = stamp
            latest = stamp if latest is None else max(latest, stamp)
        pieces[-1].append((stamp, index))
    return [index for piece in pieces for _, index in sorted(piece)]


def _unwrap(
    packets: Sequence[StoredPacket], decoded: list[int], limits: tuple[float, float], faults: dict[str, int]
) -> tuple[list[int], list[float | None]]:
    """The packets in the order of presentation, and when each is shown by a clock without leaps.

    The clock of decoding is made to run on where it leaps, which may be in the midst of frames that are shown in
    another order. The delay from decoding to display is then added to it, for each frame as its own packet says.
    """
    times, joints = _assign_times(decoded, *limits, faults)
    placed, delay = [], 0
    for packet, dts, time in zip(packets, decoded, times, strict=True):
        if packet.stamp is not None and abs(packet.stamp - dts) <= limits[1]:
            delay = packet.stamp - dts
        placed.append(time + delay)
    # A recording begins with a keyframe, and its delay from decoding to display may differ from the one before.
    starts = [0, *(joint for joint in joints if packets[joint].is_keyframe), len(packets)]
    order: list[int] = []
    for start, end in pairwise(starts):
        piece = sorted(range(start, end), key=placed.__getitem__)
        if order:
            ahead = placed[order[-1]] + times[start] - times[start - 1] - placed[piece[0]]
            placed[start:end] = [time + ahead for time in placed[start:end]]
        order += piece
    return order, [placed[index] for index in order]


def _find_usual_step(
    stamps: Sequence[float | None], durations: Sequence[int], tick: float, fps: float, longest: float
) -> tuple[float, float]:
    """Ticks from one frame to the next, and from how many ticks on a step is a leap.

    The first by the stamps, or, where too few of them tell, by what the packets or else the container say. The second
    is ``longest``, or more where frames are usually far apart.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    steps = [after - before for before, after in pairwise(known) if 0 < after - before <= _LEAP / tick]
    if 2 * len(steps) > len(stamps):
        # The mean where steps differ by the rounding of stamps.
        middle = statistics.median_low(steps)
        near = [step for step in steps if abs(step - middle) <= max(1.0, 0.05 * middle)]
        step = statistics.fmean(near)
    else:
        likely = [duration for duration in durations if 0 < duration <= _LEAP / tick]
        stated = [statistics.median(likely)] if likely else []
        # Where a container has no rate, what FFmpeg says is its tick.
        rates = [step for step in (*stated, 1 / (fps * tick)) if step * tick * _FASTEST >= 1]
        step = rates[0] if rates else 1 / (_UNKNOWN_RATE * tick)
    return step, max(longest, _UNUSUAL * step)


def _assign_times(
    stamps: Sequence[float | None], step: float, leap: float, faults: dict[str, int]
) -> tuple[list[float], list[int]]:
    """When frames are shown, or decoded, in ticks from the first one, and those before which the clock was wrong.

    Counts in ``faults`` how often it was wrong in which way.
    """
    times: list[float] = []
    joints: list[int] = []
    # Frames with one stamp share the time until the next one; those without a stamp, that since the one before.
    runs: list[tuple[float, int, int]] = []  # the stamp, how many share it, how many say so
    for stamp in stamps:
        value, count, said = runs[-1] if runs else (stamp or 0, 0, 0)
        if stamp is None or stamp == value:
            runs[-1:] = [(value, count + 1, said + (stamp is not None))]
        else:
            runs.append((stamp, 1, 1))
    now, before = 0.0, step
    for (value, count, said), following in zip(runs, [*runs[1:], None], strict=True):
        distance = None if following is None else following[0] - value
        is_wrong = distance is not None and not 0 < distance <= leap
        if distance is not None and is_wrong:
            faults["leaps ahead" if distance > 0 else "falls back"] += 1
            joints.append(len(times) + count)
        faults["stands still"] += said > 1
        # The rate of a piece that ends here need not be the usual one; but its last step may have been a pause.
        pace = before if before <= _PAUSE * step else step
        part = before = pace if distance is None or is_wrong else distance / count
        times += [now + index * part for index in range(count)]
        now += count * part
    return times, joints


def _describe_count(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
