"""Where clips lie in a video."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_zoo.video import (
    CONVENTIONS,
    ClipSpan,
    clip_indices,
    clip_starts,
    frame_times,
    keyframe_clips,
    random_clip,
    sample_clips,
    sliding_windows,
    whole_video,
)

BY_FRAME = ("pyslowfast", "mmaction2", "gluoncv")

lengths = st.floats(0.01, 10_000)
frame_rates = st.sampled_from([10.0, 24.0, 25.0, 30000 / 1001, 30.0, 60.0])


def ascending(values: Any) -> bool:
    return all(earlier < later for earlier, later in itertools.pairwise(values))


def test_the_paper_protocol() -> None:
    # SlowFast 4 x 16 on ten seconds: clips of 64 source frames, first at the start, last at the end.
    spans = sample_clips(10.0, 10, clip_frames=32, clip_stride=2)
    assert [span.start for span in spans] == pytest.approx([(10 - 64 / 30) * index / 9 for index in range(10)])
    assert spans[-1].end == pytest.approx(10.0)
    assert not any(span.short or span.looped for span in spans)
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


def upstream_cases() -> list[tuple[dict[str, Any], list[list[int]]]]:
    """The settings of each case, and the indices that upstream's own code gave for it."""
    known = json.loads((Path(__file__).resolve().parents[1] / "conformance" / "sampling.json").read_text())
    cases = []
    for row in known["cases"]:
        case = dict(zip(known["columns"], row, strict=True))
        clips = []
        for clip in case.pop("indices"):
            first, _, steps = clip.partition("+")
            walk = itertools.accumulate(map(int, steps, itertools.repeat(36)), initial=int(first))
            clips.append([index % case["video_frames"] for index in walk])
        cases.append((case, clips * case["clips"] if len(clips) == 1 else clips))
    return cases


def test_the_indices_of_pyslowfast_and_mmaction2() -> None:
    cases = upstream_cases()
    assert len(cases) == 300
    for case, expected in cases:
        assert clip_indices(**case) == expected, case


def test_spans_show_the_frames_of_the_indices() -> None:
    for case, expected in upstream_cases():
        frames, fps = case.pop("video_frames"), case["video_fps"]
        spans = sample_clips(frames / fps, **case)
        if all(clip == expected[0] for clip in expected):
            expected = expected[:1]
        assert [[math.floor(time * fps) for time in span.times] for span in spans] == expected, case


def test_the_indices_of_gluoncv() -> None:
    # Every second of 11 frames: 0, 2, 4, 6, 8, 10. Clips of 3 start at 0, 1.5 and 3 of these, truncated.
    settings_ = {"clip_stride": 2, "convention": "gluoncv"}
    assert clip_indices(11, 3, clip_frames=3, **settings_) == [[0, 2, 4], [2, 4, 6], [6, 8, 10]]
    assert clip_indices(11, 1, clip_frames=3, **settings_) == [[0, 2, 4]]
    # The last of them, not of the video, is repeated.
    assert clip_indices(4, 2, clip_frames=3, **settings_) == [[0, 2, 2], [0, 2, 2]]


def test_ends_of_short_videos() -> None:
    for convention, indices in (("pyslowfast", [0, 2, 4, 4]), ("mmaction2", [0, 2, 4, 1]), ("gluoncv", [0, 2, 4, 4])):
        (span,) = sample_clips(0.5, clip_frames=4, clip_stride=2, convention=convention, fps=10.0)
        assert span.times == pytest.approx([(index + 0.5) / 10 for index in indices])
        assert (span.start, span.end, span.short) == (0.0, 0.5, True)
        assert span.looped == (convention == "mmaction2")


def test_where_some_clips_coincide_all_are_given() -> None:
    spans = sample_clips(66 / 30, 10, clip_frames=32, clip_stride=2, convention="mmaction2")
    assert [round(span.start * 30) for span in spans] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]


def test_strides_are_counted_at_30_fps_by_pyslowfast_only() -> None:
    for convention, last in (("pyslowfast", 31), ("mmaction2", 14), ("gluoncv", 14)):
        first = sample_clips(20.0, clip_frames=8, clip_stride=2, convention=convention, video_fps=60.0)[0]
        assert int(first.times[-1] * 60) == last


@settings(deadline=None)
@given(
    duration=st.floats(0.01, 100),
    clips=st.integers(1, 12),
    frames=st.integers(1, 40),
    stride=st.integers(1, 16),
    convention=st.sampled_from(CONVENTIONS),
    video_fps=frame_rates,
    use_offset=st.booleans(),
)
def test_spans_of_every_convention(
    duration: float, clips: int, frames: int, stride: int, convention: str, video_fps: float, use_offset: bool
) -> None:
    spans = sample_clips(
        duration,
        clips,
        clip_frames=frames,
        clip_stride=stride,
        convention=convention,
        video_fps=video_fps,
        use_offset=use_offset,
    )
    assert len(spans) in (1, clips)
    for earlier, later in itertools.pairwise(spans):
        assert earlier.start <= later.start
    for span in spans:
        assert 0 <= span.start < span.end <= duration
        assert len(span.times) == frames
        assert span.short or not span.looped
        if convention in BY_FRAME or not span.short:
            assert all(span.start <= time <= span.end + 1e-9 for time in span.times)
        if not span.looped:
            assert list(span.times) == sorted(span.times)


@settings(deadline=None)
@given(
    video_frames=st.integers(1, 2000),
    clips=st.integers(1, 12),
    frames=st.integers(1, 40),
    stride=st.integers(1, 16),
    convention=st.sampled_from(BY_FRAME),
    video_fps=frame_rates,
    use_offset=st.booleans(),
)
def test_indices_are_frames_of_the_video(
    video_frames: int, clips: int, frames: int, stride: int, convention: str, video_fps: float, use_offset: bool
) -> None:
    placed = clip_indices(
        video_frames,
        clips,
        clip_frames=frames,
        clip_stride=stride,
        convention=convention,
        video_fps=video_fps,
        use_offset=use_offset,
    )
    assert [len(clip) for clip in placed] == [frames] * clips
    assert all(0 <= index < video_frames for clip in placed for index in clip)
    if convention == "gluoncv":
        assert all(index % stride == 0 for clip in placed for index in clip)
    fits = (frames - 1) * stride < video_frames
    if convention == "mmaction2" and fits and clips > 1:
        assert placed[0][0] == 0
        assert placed[-1][-1] == video_frames - 1


def test_segments_are_the_whole_video() -> None:
    assert sample_clips(3.0, clip_frames=8, clip_stride=2, convention="segments") == [whole_video(3.0, 8)]


@settings(deadline=None)
@given(duration=lengths, frames=st.integers(1, 64), stride=st.integers(1, 16), seed=st.integers(0, 99))
def test_random_clips(duration: float, frames: int, stride: int, seed: int) -> None:
    span = random_clip(duration, clip_frames=frames, clip_stride=stride, generator=torch.Generator().manual_seed(seed))
    assert 0 <= span.start < span.end <= duration
    assert len(span.times) == frames
    assert ascending(span.times)
    assert span.short == (span.times[-1] >= duration)
    if span.short:
        assert span.start == 0
    else:
        assert span.start < span.times[0] and span.times[-1] < span.end + 1e-9


def test_random_clips_are_anywhere_and_repeat_with_the_seed() -> None:
    torch.manual_seed(0)
    starts = [random_clip(12.0, clip_frames=30, clip_stride=2).start for _ in range(50)]
    assert 0 <= min(starts) < 1 and 9 < max(starts) <= 10
    torch.manual_seed(0)
    assert random_clip(12.0, clip_frames=30, clip_stride=2).start == starts[0]


def starts_of(spans: list[ClipSpan]) -> list[float]:
    return [round(span.start, 9) for span in spans]


def test_windows() -> None:
    spans = sliding_windows(7.0, window=2.0, stride=1.5, clip_frames=4)
    assert starts_of(spans) == [0.0, 1.5, 3.0, 4.5]
    assert spans[1].times == pytest.approx([1.5 + 1 / 60, 2.0 + 1 / 60, 2.5 + 1 / 60, 3.0 + 1 / 60])
    assert spans[-1].end == 6.5
    covered = sliding_windows(7.0, window=2.0, stride=1.5, clip_frames=4, cover_end=True)
    assert covered[:-1] == spans
    assert (covered[-1].start, covered[-1].end) == (5.0, 7.0)


def test_windows_do_not_mind_rounding() -> None:
    # 0.1 is no binary fraction: the last window ends with the video, and nothing is left over.
    for spans in (
        sliding_windows(1.0, window=0.3, stride=0.1, clip_frames=2),
        sliding_windows(1.0, window=0.3, stride=0.1, clip_frames=2, cover_end=True),
        sliding_windows(30 / 30 - 1e-9, window=0.3, stride=0.1, clip_frames=2, cover_end=True),
    ):
        assert starts_of(spans) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
        assert not any(span.short for span in spans)


@pytest.mark.parametrize("cover_end", [False, True])
def test_a_video_shorter_than_a_window(cover_end: bool) -> None:
    (span,) = sliding_windows(1.0, window=2.0, stride=0.5, clip_frames=4, cover_end=cover_end)
    assert (span.start, span.end, span.short) == (0.0, 1.0, True)
    assert span.times == pytest.approx([index * 0.5 + 1 / 60 for index in range(4)])


def test_windows_of_the_clips_own_length_are_clips() -> None:
    (window,) = sliding_windows(64 / 30, window=64 / 30, stride=1.0, clip_frames=32)
    assert window.times == pytest.approx(frame_times(0.0, 32, 2))


@settings(deadline=None)
@given(
    duration=st.floats(0.1, 100),
    window=st.floats(0.05, 20),
    stride=st.floats(0.1, 20),
    frames=st.integers(1, 20),
    cover_end=st.booleans(),
)
def test_windows_cover_what_they_promise(
    duration: float, window: float, stride: float, frames: int, cover_end: bool
) -> None:
    spans = sliding_windows(duration, window=window, stride=stride, clip_frames=frames, cover_end=cover_end)
    assert spans[0].start == 0
    regular = spans if spans[-1].start == (len(spans) - 1) * stride else spans[:-1]
    assert [span.start for span in regular] == [index * stride for index in range(len(regular))]
    assert len(regular) * stride + window > duration  # no further one would fit
    for span in spans:
        assert len(span.times) == frames
        assert ascending(span.times)
        assert span.end <= duration
        if not span.short:
            assert span.end == pytest.approx(span.start + window, abs=2e-6)
            assert all(span.start <= time <= span.end for time in span.times)
    assert spans[0].short == (duration < window - 1e-6)
    if cover_end:
        assert spans[-1].end == pytest.approx(duration, abs=2e-6)
    elif not spans[0].short:
        assert regular == spans


@pytest.mark.parametrize("clips", [0, -3, 2.5])
def test_no_clips(clips: Any) -> None:
    with pytest.raises(ValueError, match=f"clips must be at least 1 and a whole number, got {clips}"):
        clip_starts(10.0, 2.0, clips)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"duration": 0.0}, "duration must be positive and finite, got 0.0"),
        ({"duration": math.nan}, "duration must be positive and finite, got nan"),
        ({"duration": math.inf}, "duration must be positive and finite, got inf"),
        ({"clip_frames": 0}, "clip_frames must be at least 1"),
        ({"clip_stride": 1.5}, "clip_stride must be at least 1 and a whole number, got 1.5"),
        ({"fps": -30.0}, "fps must be positive"),
        ({"convention": "pyslowfast", "video_fps": 0.0}, "video_fps must be positive"),
        ({"convention": "centre"}, "one of uniform, pyslowfast, mmaction2, gluoncv, segments; got 'centre'"),
        ({"convention": "keyframe"}, "got 'keyframe': a clip around the frame"),
    ],
)
def test_impossible_clips(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_clips(**{"duration": 10.0, "clip_frames": 16, "clip_stride": 2, **wrong})


def test_impossible_indices_windows_and_random_clips() -> None:
    with pytest.raises(ValueError, match="one of pyslowfast, mmaction2, gluoncv; got 'uniform', which goes by time"):
        clip_indices(30, clip_frames=4, clip_stride=2, convention="uniform")
    with pytest.raises(ValueError, match="video_frames must be at least 1"):
        clip_indices(0, clip_frames=4, clip_stride=2, convention="mmaction2")
    with pytest.raises(ValueError, match="window must be positive"):
        sliding_windows(10.0, window=0.0, stride=1.0, clip_frames=4)
    with pytest.raises(ValueError, match="stride must be positive"):
        sliding_windows(10.0, window=1.0, stride=-1.0, clip_frames=4)
    with pytest.raises(ValueError, match="clip_frames must be at least 1"):
        sliding_windows(10.0, window=1.0, stride=1.0, clip_frames=0)
    with pytest.raises(ValueError, match="duration must be positive"):
        random_clip(-1.0, clip_frames=4, clip_stride=2)
    with pytest.raises(ValueError, match="duration must be positive"):
        whole_video(0.0, 4)


def test_clips_around_key_frames_are_made_as_they_are_asked_for() -> None:
    spans = keyframe_clips(4e6, range(1, 4_000_000), clip_frames=4, clip_stride=15)
    assert len(spans) == 3_999_999
    assert spans[9].times == pytest.approx((9.0, 9.5, 10.0, 10.5))
    assert (spans[-1].start, spans[-1].end) == pytest.approx((3_999_998.0, 4e6))
    with pytest.raises(ValueError, match="outside the video"):
        keyframe_clips(4.0, [1.0, 5.0], clip_frames=4, clip_stride=15)
