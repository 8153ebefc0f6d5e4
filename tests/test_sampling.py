"""Where clips lie in a video."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_zoo.video import clip_starts, frame_times, sample_clips

lengths = st.floats(0.01, 10_000)


def test_the_paper_protocol() -> None:
    # SlowFast 4 x 16 on ten seconds: clips of 64 source frames, first at the start, last at the end.
    spans = sample_clips(10.0, 10, clip_frames=32, clip_stride=2)
    assert [span.start for span in spans] == pytest.approx([(10 - 64 / 30) * index / 9 for index in range(10)])
    assert spans[-1].end == pytest.approx(10.0)
    assert not any(span.short for span in spans)
    assert all(len(span.times) == 32 for span in spans)


def test_one_clip_is_centred() -> None:
    assert clip_starts(10.0, 2.0, 1) == [4.0]


@pytest.mark.parametrize("fps", [30, 30000 / 1001])
def test_the_frames_of_a_clip_are_every_second_one(fps: float) -> None:
    # As MMAction2 samples 300 frames for a clip of 32 x 2 from the start; the same at NTSC's 29.97.
    assert [int(time * fps) for time in frame_times(0.0, 32, 2)] == list(range(0, 64, 2))


@settings(deadline=None)
@given(duration=lengths, seconds=lengths, clips=st.integers(1, 40))
def test_starts_are_inside_and_even(duration: float, seconds: float, clips: int) -> None:
    starts = clip_starts(duration, seconds, clips)
    if duration <= seconds:
        assert starts == [0.0]
        return
    assert len(starts) == clips
    assert all(-1e-9 <= start <= duration - seconds + 1e-9 for start in starts)
    assert sum(starts) / clips == pytest.approx((duration - seconds) / 2, abs=1e-6)
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert max(gaps, default=0.0) - min(gaps, default=0.0) < 1e-6


@settings(deadline=None)
@given(duration=lengths, clips=st.integers(1, 12), frames=st.integers(1, 64), stride=st.integers(1, 16))
def test_spans(duration: float, clips: int, frames: int, stride: int) -> None:
    for span in sample_clips(duration, clips, clip_frames=frames, clip_stride=stride):
        assert 0 <= span.start < span.end <= duration
        assert len(span.times) == frames
        assert span.times[0] > span.start
        assert all(later - earlier == pytest.approx(stride / 30) for earlier, later in itertools.pairwise(span.times))
        assert span.short == (span.times[-1] >= duration)
        if not span.short:
            assert span.times[-1] < span.end + 1e-9


def test_a_video_as_long_as_a_clip_is_not_short() -> None:
    (span,) = sample_clips(32 / 30, 10, clip_frames=16, clip_stride=2)
    assert not span.short
    assert span.end == pytest.approx(32 / 30)


def test_a_short_video_says_so() -> None:
    (span,) = sample_clips(0.5, 10, clip_frames=16, clip_stride=2)
    assert span.short
    assert (span.start, span.end) == (0.0, 0.5)


@pytest.mark.parametrize("clips", [0, -3])
def test_no_clips(clips: int) -> None:
    with pytest.raises(ValueError, match="clips must be at least 1"):
        clip_starts(10.0, 2.0, clips)


def test_impossible_lengths() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        sample_clips(0.0, clip_frames=16, clip_stride=2)
    with pytest.raises(ValueError, match="must be positive"):
        sample_clips(10.0, clip_frames=0, clip_stride=2)
