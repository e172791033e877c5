from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from scipy import stats

from t3d.clip import ClipSpec, ResizeMode, ShortPolicy, TailPolicy
from t3d.data.clips.sampling import check_length, clips_of, random_clip, spread_clips
from t3d.errors import ConfigError

SHAPES = [(1, 1), (1, 3), (2, 2), (3, 1), (4, 2), (5, 3), (8, 1), (16, 2), (32, 2)]


def spec_of(num_frames: int, stride: int, **policies: str) -> ClipSpec:
    return ClipSpec(num_frames=num_frames, stride=stride, **policies)  # type: ignore[arg-type]


def slow_short(total: int, spec: ClipSpec) -> list[int]:
    """One clip from fewer frames than it reaches over, a frame at a time."""
    clip = []
    for k in range(spec.num_frames):
        frame = k * spec.stride
        while frame >= total:
            frame = frame - total if spec.short == "wrap" else total - 1
        clip.append(frame)
    return clip


def slow_clips(total: int, spec: ClipSpec) -> list[list[int]]:
    """`clips_of`, read off its docstring."""
    reach = spec.stride * (spec.num_frames - 1) + 1
    if total < reach:
        return [slow_short(total, spec)]
    clips, start = [], 0
    while start + reach <= total:
        clips.append([start + k * spec.stride for k in range(spec.num_frames)])
        start += spec.num_frames * spec.stride
    left = total - start
    if left > 0 and spec.tail == "shift":
        clips.append([total - reach + k * spec.stride for k in range(spec.num_frames)])
    if left > 0 and spec.tail == "pad":
        clips.append([start + frame for frame in slow_short(left, spec)])
    return clips


@pytest.mark.parametrize("tail", ["drop", "pad", "shift"])
@pytest.mark.parametrize("short", ["wrap", "repeat_last"])
def test_clips_of_every_length_are_those_of_the_slow_reading(short: str, tail: str) -> None:
    for num_frames, stride in SHAPES:
        spec = spec_of(num_frames, stride, short=short, tail=tail)
        for total in range(1, 201):
            clips = clips_of(total, spec)
            assert [clip.tolist() for clip in clips] == slow_clips(total, spec), (total, spec)
            assert all(clip.dtype == np.int64 for clip in clips)


@pytest.mark.parametrize("tail", ["drop", "pad"])
def test_no_frame_is_within_the_reach_of_two_clips(tail: str) -> None:
    for num_frames, stride in SHAPES:
        spec = spec_of(num_frames, stride, tail=tail)
        for total in range(1, 201):
            reaches = [range(clip.min(), clip.max() + 1) for clip in clips_of(total, spec)]
            assert max(Counter(frame for reach in reaches for frame in reach).values()) == 1
            assert reaches[-1].stop <= total


def test_with_pad_and_shift_no_frame_is_out_of_reach_but_the_gap_of_the_stride() -> None:
    for tail in ("pad", "shift"):
        for total in range(40, 120):
            spec = spec_of(5, 1, tail=tail)
            assert {frame for clip in clips_of(total, spec) for frame in clip.tolist()} == set(range(total))


@pytest.mark.parametrize("short", ["wrap", "repeat_last"])
def test_spread_clips_start_at_equal_distances_from_one_end_to_the_other(short: str) -> None:
    for num_frames, stride in SHAPES:
        spec = spec_of(num_frames, stride, short=short)
        reach = spec.stride * (spec.num_frames - 1) + 1
        for total in range(1, 121):
            for count in (1, 2, 3, 10, 30):
                clips = [clip.tolist() for clip in spread_clips(total, spec, count=count)]
                if total < reach:
                    assert clips == [slow_short(total, spec)] * count
                    continue
                exact = [Fraction(total - reach, 2)]
                if count > 1:
                    exact = [k * Fraction(total - reach, count - 1) for k in range(count)]
                starts = [math.floor(start) for start in exact]
                assert clips == [[start + k * stride for k in range(num_frames)] for start in starts]
                if count > 1:
                    assert (clips[0][0], clips[-1][-1]) == (0, total - 1)


def test_where_clips_just_fit_spread_ones_are_those_that_do_not_overlap() -> None:
    spec = spec_of(4, 1)
    for count in range(2, 9):
        apart = [clip.tolist() for clip in clips_of(4 * count, spec)]
        assert [clip.tolist() for clip in spread_clips(4 * count, spec, count=count)] == apart


def test_error_refuses_short_videos_and_nothing_else() -> None:
    spec = spec_of(4, 3, short="error")
    for total in range(1, 60):
        if total < 10:
            with pytest.raises(ConfigError, match=f"the video has {total} frames.* needs 10"):
                clips_of(total, spec)
            with pytest.raises(ConfigError, match=f"the video has {total} frames.* needs 10"):
                spread_clips(total, spec, count=2)
            with pytest.raises(ConfigError, match=r"clip\.short = wrap"):
                random_clip(total, spec, np.random.default_rng(0))
            with pytest.raises(ConfigError, match="needs 10"):
                check_length(total, spec)
        else:
            check_length(total, spec)
            assert [clip.tolist() for clip in clips_of(total, spec)] == slow_clips(total, spec)


@pytest.mark.parametrize("short", ["wrap", "repeat_last", "error"])
def test_a_video_without_frames_is_refused(short: str) -> None:
    spec = spec_of(1, 1, short=short)
    with pytest.raises(ConfigError, match="0 frames"):
        clips_of(0, spec)
    with pytest.raises(ConfigError, match="0 frames"):
        random_clip(0, spec, np.random.default_rng(0))


def test_a_random_clip_starts_everywhere_equally_often() -> None:
    spec, total, draws = spec_of(4, 2), 30, 12_000
    rng = np.random.default_rng(5)
    starts: Counter[int] = Counter()
    for _ in range(draws):
        clip = random_clip(total, spec, rng)
        assert clip.tolist() == [clip[0] + 2 * k for k in range(4)]
        starts[int(clip[0])] += 1
    # The last start is 23: its clip ends at frame 29, the video's last.
    assert set(starts) == set(range(24))
    assert stats.chisquare([starts[i] for i in range(24)]).pvalue > 1e-3


def test_a_video_as_long_as_a_clip_has_one_start() -> None:
    spec = spec_of(4, 2)
    assert random_clip(7, spec, np.random.default_rng(0)).tolist() == [0, 2, 4, 6]
    assert [clip.tolist() for clip in clips_of(7, spec)] == [[0, 2, 4, 6]]


@pytest.mark.parametrize(("short", "expected"), [("wrap", [0, 2, 4, 1, 3]), ("repeat_last", [0, 2, 4, 4, 4])])
def test_a_random_clip_of_a_short_video_follows_the_policy(short: str, expected: list[int]) -> None:
    assert random_clip(5, spec_of(5, 2, short=short), np.random.default_rng(0)).tolist() == expected


def test_the_same_generator_gives_the_same_clip() -> None:
    spec = spec_of(4, 2)
    first, second = (
        [random_clip(500, spec, rng).tolist() for _ in range(20)]
        for rng in (np.random.default_rng(3), np.random.default_rng(3))
    )
    assert first == second
    assert len({clip[0] for clip in first}) > 10


def slow_starts(total: int, spec: ClipSpec, segment: int) -> list[int]:
    """Return the allowed starts of a segment's clip, by the docstrings, one start at a time."""
    reach = spec.stride * (spec.num_frames - 1) + 1
    low, high = segment * total // spec.segments, (segment + 1) * total // spec.segments
    inside = [start for start in range(low, high) if start + reach <= high]
    return inside or [max(start for start in range(low + 1) if start + reach <= total)]


@pytest.mark.parametrize("segments", [2, 3, 7])
@pytest.mark.parametrize("short", ["wrap", "repeat_last"])
def test_each_segment_gives_a_clip(segments: int, short: str) -> None:
    rng = np.random.default_rng(1)
    for num_frames, stride in SHAPES:
        spec = replace(spec_of(num_frames, stride, short=short), segments=segments)
        for total in range(1, 120):
            (middle,) = clips_of(total, spec)
            drawn = random_clip(total, spec, rng)
            assert middle.dtype == drawn.dtype == np.int64
            assert len(middle) == len(drawn) == segments * num_frames
            if total < spec.span:
                assert middle.tolist() == drawn.tolist() == slow_short(total, spec) * segments
                continue
            for segment in range(segments):
                starts = slow_starts(total, spec, segment)
                part = slice(segment * num_frames, (segment + 1) * num_frames)
                first = starts[(len(starts) - 1) // 2]
                assert middle[part].tolist() == [first + stride * k for k in range(num_frames)]
                assert drawn[part][0] in starts
                assert (np.diff(drawn[part]) == stride).all()


def test_segments_start_everywhere_equally_often_and_each_on_its_own() -> None:
    spec = replace(spec_of(4, 2), segments=2)
    rng = np.random.default_rng(5)
    draws = [random_clip(30, spec, rng) for _ in range(9_000)]
    pairs = Counter((int(clip[0]), int(clip[4])) for clip in draws)
    assert set(pairs) == {(a, b) for a in range(9) for b in range(15, 24)}
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_frames": 0}, "num_frames is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"size": -1}, "size is -1"),
        ({"resize": 0}, "resize is 0"),
        ({"size": 200, "resize": 199}, "set clip.resize to 200"),
        ({"std": (0.2, 0.0, 0.2)}, "clip.std"),
        ({"std": (0.2, float("nan"), 0.2)}, "above 0"),
        ({"mean": (0.5, 0.5)}, "red, green and blue"),
        ({"std": (0.5,) * 4}, "red, green and blue"),
        ({"short": "rap"}, "did you mean 'wrap'"),
        ({"tail": "shft"}, "did you mean 'shift'"),
        ({"resize_mode": "short side"}, "did you mean 'short_side'"),
        ({"short": "error", "tail": "pad"}, "nearly every video"),
        ({"segments": 0}, "segments is 0"),
        ({"segments": 2, "modality": "diff"}, "the gap between two segments"),
        ({"segments": 3, "modality": "diff"}, "the gap between two segments"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace(ClipSpec(), **wrong)


def test_every_policy_that_is_named_is_allowed() -> None:
    for name, kind in (("resize_mode", ResizeMode), ("short", ShortPolicy), ("tail", TailPolicy)):
        assert [getattr(replace(ClipSpec(), **{name: value}), name) for value in get_args(kind)] == list(
            get_args(kind)
        )


def test_lists_out_of_a_file_become_tuples_so_that_specs_compare() -> None:
    assert ClipSpec(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]) == ClipSpec()  # type: ignore[arg-type]
    assert hash(ClipSpec()) == hash(ClipSpec())


def test_defaults_are_the_papers() -> None:
    spec = ClipSpec()
    assert (spec.num_frames, spec.stride, spec.size, spec.resize, spec.resize_mode) == (
        32,
        2,
        224,
        256,
        "short_side",
    )
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet
    assert (spec.short, spec.tail, spec.modality, spec.segments) == ("wrap", "drop", "rgb", 1)
