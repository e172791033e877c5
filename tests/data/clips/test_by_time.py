"""Clips by time (`clip.fps`) against a slow reading of their definition, in fractions of a second."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from t3d.clip import ClipSpec
from t3d.data.clips.arrays import ArrayStore, load_clips
from t3d.data.clips.check import readable
from t3d.data.clips.dataset import ClipItem, TrainClips, VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.rates import mixed_rates
from t3d.data.clips.sampler import SampleKey
from t3d.data.clips.sampling import Indices, check_length, clips_of, random_clip, spread_clips
from t3d.data.clips.timeline import Timeline
from t3d.data.config import AugmentConfig, DataConfig
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, VideoError
from t3d.training.start import Run
from t3d.video.encode import write_video

PLAIN = AugmentConfig(flip=0)


def spec_of(num_frames: int, fps: float, **options: object) -> ClipSpec:
    return ClipSpec(num_frames=num_frames, fps=fps, size=16, resize=16, **options)  # type: ignore[arg-type]


def steady(total: int, rate: float) -> Timeline:
    return Timeline(np.arange(total) / rate, begin=0.0, end=total / rate)


def numbers(clips: list[Indices]) -> list[list[int]]:
    return [clip.tolist() for clip in clips]


class Film:
    """A video in fractions of a second: the slow opinion."""

    def __init__(self, steps: list[Fraction]) -> None:
        """Take the seconds for which each frame is shown."""
        self.times = [sum(steps[:i], Fraction()) for i in range(len(steps))]
        self.end = sum(steps, Fraction())

    def line(self) -> Timeline:
        return Timeline(np.array([float(time) for time in self.times]), begin=0.0, end=float(self.end))

    def shown(self, time: Fraction) -> int:
        """The frame on screen at a time, looking at one frame after another."""
        number = 0
        while number + 1 < len(self.times) and self.times[number + 1] <= time:
            number += 1
        return number

    def clip(self, start: Fraction, spec: ClipSpec) -> list[int]:
        return [self.shown(start + Fraction(i) / Fraction(spec.fps or 1)) for i in range(spec.num_frames)]

    def short(self, start: Fraction, spec: ClipSpec) -> list[int]:
        numbers = []
        for i in range(spec.num_frames):
            time = start + Fraction(i) / Fraction(spec.fps or 1)
            while time >= self.end:
                time = time - (self.end - start) if spec.short == "wrap" else self.times[-1]
            numbers.append(self.shown(time))
        return numbers

    def clips(self, spec: ClipSpec) -> list[list[int]]:
        rate = Fraction(spec.fps or 1)
        reach = (spec.num_frames - 1) / rate
        if reach >= self.end:
            return [self.short(Fraction(), spec)]
        clips, start = [], Fraction()
        while start + reach < self.end:
            clips.append(self.clip(start, spec))
            start += spec.num_frames / rate
        if start < self.end and spec.tail == "shift":
            clips.append(self.clip(self.latest(spec), spec))
        if start < self.end and spec.tail == "pad":
            clips.append(self.short(start, spec))
        return clips

    def latest(self, spec: ClipSpec) -> Fraction:
        rate = Fraction(spec.fps or 1)
        last = min(self.end - self.times[-1], 1 / rate)
        return max(self.end - last - (spec.num_frames - 1) / rate, Fraction())


def films() -> list[Film]:
    """Steady films of many lengths, and films whose frames are shown for 1/60 s to 2 s."""
    rng = np.random.default_rng(0)
    steady_films = [Film([Fraction(1, rate)] * total) for rate in (10, 25, 30) for total in range(1, 60, 7)]
    uneven = [
        Film([Fraction(int(ticks), 600) for ticks in rng.choice([10, 20, 24, 25, 60, 200, 1200], size=count)])
        for count in rng.integers(1, 40, size=15)
    ]
    return steady_films + uneven


@pytest.mark.parametrize("tail", ["drop", "pad", "shift"])
@pytest.mark.parametrize("short", ["wrap", "repeat_last"])
def test_clips_of_a_video_are_those_of_the_slow_reading(short: str, tail: str) -> None:
    for film in films():
        for num_frames, fps in ((1, 5.0), (4, 12.5), (8, 25.0), (6, 7.5), (5, 100.0)):
            spec = spec_of(num_frames, fps, short=short, tail=tail)
            clips = clips_of(film.line(), spec)
            assert [clip.tolist() for clip in clips] == film.clips(spec), (film.times, film.end, spec)
            assert all(clip.dtype == np.int64 for clip in clips)


@pytest.mark.parametrize(("rate", "stride"), [(25, 1), (25, 2), (24, 3), (30, 4), (30000 / 1001, 2)])
@pytest.mark.parametrize("tail", ["drop", "pad", "shift"])
def test_at_a_steady_rate_they_are_the_clips_that_count_frames(rate: float, stride: int, tail: str) -> None:
    by_time = spec_of(8, rate / stride, tail=tail)
    by_frames = replace(by_time, fps=None, stride=stride)
    for total in range(1, 90, 4):
        line = steady(total, rate)
        assert numbers(clips_of(line, by_time)) == numbers(clips_of(total, by_frames))
        for count in (1, 2, 5, 10):
            spread = spread_clips(line, by_time, count=count)
            assert numbers(spread) == numbers(spread_clips(total, by_frames, count=count))


@pytest.mark.situation(
    "Video files",
    "Videos with different frame rates in one set",
    "`clip.fps` samples by time; a warning without it",
    ffmpeg="`-vf fps`",
)
def test_a_clip_lasts_equally_long_at_every_rate() -> None:
    spec = spec_of(8, 10.0)
    for rate in (10, 12.5, 25, 30, 50, 60):
        for clip in clips_of(steady(int(rate * 4), rate), spec):
            assert (clip[-1] - clip[0]) / rate == pytest.approx(0.7, abs=1 / rate)


def test_a_random_clip_starts_at_every_time_equally_often_and_fits() -> None:
    # 10 frames at 10 per second, then 10 at 50 per second: a start is 5 times as likely in a slow frame.
    times = np.concatenate([np.arange(10) / 10, 1 + np.arange(10) / 50])
    line = Timeline(times, begin=0.0, end=1.2)
    spec = spec_of(3, 20.0)
    rng = np.random.default_rng(3)
    draws = [random_clip(line, spec, rng) for _ in range(2_200)]
    counts = Counter(int(clip[0]) for clip in draws)
    assert set(counts) == set(range(15))  # starts reach from 0 to 1.2 - 0.1 s
    expected = [200.0] * 10 + [40.0] * 5
    assert stats.chisquare([counts[number] for number in range(15)], expected).pvalue > 1e-3
    # The other frames follow 1 / 20 s and 2 / 20 s later: at least half a slow frame, and 2.5 or 5 fast ones.
    fast = [clip - clip[0] for clip in draws if clip[0] >= 10]
    assert {tuple(each) for each in fast} == {(0, 2, 5), (0, 3, 5)}


def test_segments_give_a_clip_each() -> None:
    spec = spec_of(4, 12.5, segments=3)
    by_frames = replace(spec, fps=None, stride=2)
    line = steady(90, 25)
    assert [clip.tolist() for clip in clips_of(line, spec)] == [c.tolist() for c in clips_of(90, by_frames)]
    rng = np.random.default_rng(0)
    for _ in range(200):
        for number, part in enumerate(np.split(random_clip(line, spec, rng), 3)):
            assert 30 * number <= part[0] <= part[-1] < 30 * (number + 1)
            assert (np.diff(part) == 2).all()


def test_times_in_milliseconds_find_the_frames_they_mean() -> None:
    """Matroska rounds times: at 30 frames per second the third frame is at 0.067 s, after 2 / 30 s."""
    for rate in (30, 24, 60, 30000 / 1001):
        times = np.rint(np.arange(90) / rate * 1000) / 1000
        line = Timeline(times, begin=0.0, end=round(90 / rate, 3))
        (first, *_) = clips_of(line, spec_of(32, rate))
        assert first.tolist() == list(range(32))


def test_short_videos_are_refused_if_the_spec_says_so() -> None:
    spec = spec_of(8, 10.0, short="error")
    check_length(steady(18, 25), spec)  # 0.72 s: the last frame is needed at 0.7 s
    with pytest.raises(
        ConfigError, match=r"lasts 0\.680 s, a clip of 8 frames at clip.fps = 10 needs .* 0\.7"
    ):
        check_length(steady(17, 25), spec)
    for cut in (lambda: clips_of(steady(17, 25), spec), lambda: spread_clips(steady(17, 25), spec, count=2)):
        with pytest.raises(ConfigError, match=r"clip\.short = wrap"):
            cut()


def test_a_number_of_frames_is_not_enough() -> None:
    with pytest.raises(ConfigError, match="the times of the 40 frames are unknown"):
        clips_of(40, spec_of(8, 10.0))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stride": 2, "fps": 10.0}, "clip.stride is 2 and clip.fps is 10"),
        ({"fps": 0.0}, "clip.fps is 0"),
        ({"fps": math.nan}, "clip.fps is nan"),
        ({"fps": math.inf}, "clip.fps is inf"),
        ({"fps": 2000.0}, "at most 1000"),
    ],
)
def test_a_rate_that_cannot_work_is_refused(options: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ClipSpec(**options)  # type: ignore[arg-type]


def test_without_a_rate_the_stride_is_the_papers() -> None:
    assert (ClipSpec().stride, ClipSpec().step, ClipSpec().fps) == (2, 2, None)
    spec = ClipSpec(fps=12.5)
    assert (spec.stride, spec.fps) == (None, 12.5)
    with pytest.raises(ConfigError, match="no stride in frames"):
        _ = spec.span


# --- real files ---------------------------------------------------------------------------------------------


def numbered(path: Path, times: list[float]) -> None:
    """Write a video whose frame i is 10 i bright."""
    frames = torch.stack([torch.full((3, 32, 32), 10 * i, dtype=torch.uint8) for i in range(len(times))])
    write_video(path, frames, frame_times=times, crf=1)


def shown(item: object) -> list[int]:
    assert isinstance(item, ClipItem)
    return [round(float(frame.float().mean()) / 10) for frame in item.frames]


@pytest.mark.situation(
    "Video files",
    "Variable frame rates",
    "Clips by time are exact",
    ffmpeg="the same",
)
def test_files_of_variable_rate_with_and_without_a_cache(tmp_path: Path) -> None:
    times = [0, 0.1, 0.2, 0.3, 0.32, 0.34, 0.36, 0.38, 0.4, 0.5, 0.9, 1.0]
    numbered(tmp_path / "film.mp4", times)
    manifest = Manifest.from_files([tmp_path / "film.mp4"])
    spec = spec_of(5, 10.0, tail="shift")
    stores = [FrameStore(spec), FrameStore(spec, cache=str(tmp_path / "cache"))]
    assert stores[1].prepare(tmp_path / "film.mp4")
    for store in stores:
        assert [shown(item) for item in VideoClips(manifest, spec, store=store)] == [
            [0, 1, 2, 3, 8],
            [9, 9, 9, 9, 10],
            [9, 9, 9, 10, 11],
        ]
    trained = [
        [
            shown(TrainClips(manifest, spec, store=store, augment=PLAIN, seed=0)[SampleKey(epoch, 0)])
            for epoch in range(9)
        ]
        for store in stores
    ]
    assert trained[0] == trained[1]


def test_a_row_with_a_time_span_starts_at_its_time(tmp_path: Path) -> None:
    numbered(tmp_path / "film.mp4", [i / 10 for i in range(20)])
    (tmp_path / "list.csv").write_text("path,label,start,end\nfilm.mp4,a,0.45,1.1\nfilm.mp4,a,0.333,\n")
    manifest = Manifest.from_csv(tmp_path / "list.csv")
    spec = spec_of(4, 20.0)
    clips = [shown(item) for item in VideoClips(manifest, spec, store=FrameStore(spec)) if item.video == 0]  # type: ignore[union-attr]
    assert clips == [[4, 5, 5, 6], [6, 7, 7, 8], [8, 9, 9, 10]]
    refused = replace(spec, num_frames=40, short="error")
    (failed,) = (item for item in VideoClips(manifest.select([0]), refused, store=FrameStore(refused)))
    assert "lasts 0.650 s" in failed.reason  # type: ignore[union-attr]


def test_frames_in_memory_need_their_rate() -> None:
    frames = np.stack([np.full((16, 16, 3), 10 * i, np.uint8) for i in range(20)])
    spec = spec_of(4, 5.0)
    with pytest.raises(ConfigError, match="give their frames per second as `fps`"):
        load_clips(frames, spec)
    with pytest.raises(ConfigError, match="fps is 0"):
        ArrayStore(frames, spec, fps=0)
    assert load_clips(frames, spec, fps=10).shape[0] == 2
    assert load_clips(frames, spec, fps=20).shape[0] == 1


# --- mixed rates --------------------------------------------------------------------------------------------


def test_rates_within_a_quarter_pass_and_others_are_reported() -> None:
    spec = ClipSpec(num_frames=8, stride=2)
    assert mixed_rates([24, 25, 29.97, 30, 0], spec) == ""
    assert mixed_rates([], spec) == mixed_rates([0.0], spec) == ""
    assert mixed_rates([10, 25, 50], ClipSpec(fps=10.0)) == ""
    text = mixed_rates([10, 25, 25, 50], spec)
    assert "10 to 50 frames per second (median 25)" in text
    assert "lasts 1.40 s at the lowest rate and 0.28 s at the highest" in text
    assert "clip.fps = 12.5" in text


def test_opening_videos_tells_their_rates(tmp_path: Path) -> None:
    numbered(tmp_path / "a.mp4", [i / 10 for i in range(20)])
    numbered(tmp_path / "b.mp4", [i / 40 for i in range(20)])
    numbered(tmp_path / "c.mp4", [0.0])
    (tmp_path / "d.mp4").write_bytes(b"no video")
    manifest = Manifest.from_files([tmp_path])
    spec = ClipSpec(num_frames=2, size=16, resize=16)
    kept, bad, rates = readable(manifest, FrameStore(spec), max_bad=0.5)
    assert (len(kept), len(bad)) == (3, 1)
    assert rates == pytest.approx([10, 40, 0])
    with pytest.raises(VideoError):
        FrameStore(spec).open(tmp_path / "d.mp4")


def test_a_run_warns_of_mixed_rates_in_its_lists_together_unless_it_samples_by_time(tmp_path: Path) -> None:
    for name, rate in (("train", 10), ("val", 40)):
        (tmp_path / name).mkdir()
        numbered(tmp_path / name / "a.mp4", [i / rate for i in range(20)])
    train, val = (Manifest.from_files([tmp_path / name]) for name in ("train", "val"))
    for spec in (ClipSpec(num_frames=2, size=16, resize=16), spec_of(2, 5.0)):
        config = SimpleNamespace(clip=spec, data=DataConfig(workers=0))
        main = SimpleNamespace(is_main_process=True)
        run: Any = SimpleNamespace(config=config, accelerator=main, store=FrameStore(spec))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Run.check_videos(run, train, val)
            messages = [str(each.message) for each in caught if "frames per second" in str(each.message)]
        assert len(messages) == (spec.fps is None)
        assert all("10 to 40 frames per second" in text for text in messages)
