"""`t3d bench decode`: frames per second of T3D's exact reader, compared with PyAV and torchcodec.

Legend: T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from t3d.bench.config import DecodeBenchConfig
from t3d.bench.result import Machine, load_average, this_machine
from t3d.errors import ConfigError, VideoError
from t3d.evaluation.parts import as_manifest, parts_of
from t3d.timing import Rounds, Timing, alternate
from t3d.video.video import Video

ORDERED, RANDOM = "in order", "random clips"
Clips = dict[str, list[list[int]]]
"""Frames of each random clip, by path."""


@dataclass(frozen=True)
class DecodeRow:
    """One reader.

    Args:
        reader: Its name.
        order: `in order`, every frame once, or `random clips`.
        frames: Frames that it returns.
        time: Seconds for all of them, with opening the files.
        relative: Speed compared with the first row of the same order.
    """

    reader: str
    order: str
    frames: int
    time: Timing
    relative: float = 1.0


@dataclass(frozen=True)
class DecodeResult:
    """Result of `bench_decode`.

    Args:
        videos: Videos that could be read.
        frames: Frames in them.
        rows: The readers.
        bad: Videos that could not be read, with the reasons.
        machine: Where it ran.
    """

    videos: int
    frames: int
    rows: tuple[DecodeRow, ...]
    bad: tuple[str, ...]
    machine: Machine

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return asdict(self)


def bench_decode(config: DecodeBenchConfig) -> DecodeResult:
    """Time readers that take turns, each in one thread, opening the files included.

    Args:
        config: What to measure.

    Raises:
        ConfigError: No video can be read.
        ManifestError: No videos were found.
    """
    load = load_average()
    manifest = as_manifest(parts_of(config.videos))
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(config.count, len(manifest))).round().astype(int))
    frames: dict[str, int] = {}
    bad: list[str] = []
    for row in rows.tolist():
        path = str(manifest[row].path)
        try:
            with Video(path) as video:
                video.frames_at([len(video) - 1], missing="nearest")
                frames[path] = len(video)
        except VideoError as error:
            bad.append(str(error))
    if not frames:
        raise ConfigError(f"videos: not one of {len(rows)} could be read (first error: {bad[0]})")
    rng = np.random.default_rng(0)
    clips: Clips = {
        path: [_clip(count, config.num_frames, rng) for _ in range(config.clips)]
        for path, count in frames.items()
    }
    readers = _readers(clips)
    calls = {name: call for name, (_, call) in readers.items()}
    timed = alternate(calls, Rounds.of_benchmark(config.seconds))
    times = timed.times
    bad += [f"{name}: {reason}" for name, reason in timed.failures.items()]
    result: list[DecodeRow] = []
    first: dict[str, float] = {}
    for name, (order, _) in readers.items():
        if name not in times:
            continue
        read = sum(len(clip) for each in clips.values() for clip in each)
        count = sum(frames.values()) if order == ORDERED else read
        row_ = DecodeRow(name.partition(", ")[0], order, count, times[name])
        rate = count / row_.time.median
        result.append(replace(row_, relative=rate / first.setdefault(order, rate)))
    machine = Machine(**{**asdict(this_machine("cpu", 1)), "load": load})
    return DecodeResult(len(frames), sum(frames.values()), tuple(result), tuple(bad), machine)


def _clip(count: int, length: int, rng: np.random.Generator) -> list[int]:
    """Return the frames of a random clip; a short video gives all of its frames."""
    first = int(rng.integers(max(count - length, 0) + 1))
    return list(range(first, min(first + length, count)))


def _readers(clips: Clips) -> dict[str, tuple[str, Callable[[], object]]]:
    """Return order and call of each reader, by its name and order."""
    paths = list(clips)
    readers: dict[str, tuple[str, Callable[[], object]]] = {
        f"T3D, {ORDERED}": (ORDERED, lambda: _ours(paths)),
    }
    files = not any(Path(path).is_dir() for path in paths)  # other readers do not read folders of images
    if files:
        readers[f"PyAV, {ORDERED}"] = (ORDERED, lambda: _pyav(paths))
    random: dict[str, tuple[str, Callable[[], object]]] = {
        f"T3D, {RANDOM}": (RANDOM, lambda: _our_clips(clips))
    }
    if files and find_spec("torchcodec") is not None:
        readers[f"torchcodec, {ORDERED}"] = (ORDERED, lambda: _torchcodec(dict.fromkeys(paths)))
        random[f"torchcodec, {RANDOM}"] = (RANDOM, lambda: _torchcodec(clips))
    return readers | random


def _ours(paths: Sequence[str]) -> None:
    for path in paths:
        with Video(path) as video:
            for _ in video:
                pass


def _our_clips(clips: Clips) -> None:
    for path, wanted in clips.items():
        with Video(path) as video:
            for frames in wanted:
                video.frames_at(frames, missing="nearest")


def _pyav(paths: Sequence[str]) -> None:
    import av

    for path in paths:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for frame in container.decode(stream):
                frame.to_ndarray(format="rgb24")


def _torchcodec(clips: Any) -> None:
    from torchcodec.decoders import VideoDecoder

    for path, wanted in clips.items():
        decoder = VideoDecoder(path, num_ffmpeg_threads=1)
        for frames in wanted or [list(range(len(decoder)))]:
            decoder.get_frames_at(frames)
