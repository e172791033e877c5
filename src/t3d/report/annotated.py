"""Videos with the classes of each moment drawn into them, a strip of the whole video, and their sound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t3d.data.index import VideoIndex
from t3d.data.listing import absolute, is_video
from t3d.errors import ConfigError, VideoError
from t3d.evaluation.config import ANNOTATED
from t3d.evaluation.parts import Part
from t3d.evaluation.result import Prediction
from t3d.io.files import is_url
from t3d.progress import Bar, progress
from t3d.report.lettering import Lettering, lettering_of
from t3d.report.overlay import Overlay
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits
from t3d.video.sound import Sound
from t3d.video.video import Images, Video
from t3d.video.writer import FORMATS, Encoding, video_writer

_TOGETHER = 4_000_000  # pixels of the frames that are decoded together


@dataclass(frozen=True)
class Annotated:
    """A video that was written.

    Args:
        path: The file.
        frames: Number of frames.
        sound: Codecs of the sound; empty if the video has none.
        remarks: Sentences about names that the video cannot show.
    """

    path: Path
    frames: int
    sound: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def annotated_files(
    save: str, parts: Sequence[Part], *, overwrite: bool, index: VideoIndex | None = None
) -> dict[str, Path]:
    """Choose the files for annotated videos, before any video is classified.

    In a folder, a video keeps its name and gets the ending `.mp4`, or another for its sound.
    Videos of several folders keep the names of those below the deepest folder that holds all.

    Args:
        save: The file for one video, or a folder.
        parts: The videos.
        overwrite: Whether existing files are replaced.
        index: Facts about the videos, for those in shards.

    Returns:
        The file for the absolute path, or the URL, of each video.

    Raises:
        ConfigError: Several videos and one file, a time span, a file that exists, or sound that the file
            cannot hold.
    """
    spans = [part for part in parts if part.start is not None or part.end is not None]
    if spans:
        raise ConfigError(
            f"`save` is {save}, and {spans[0].path} is listed with a time span; whole videos are annotated. "
            "Give the files or a list without time spans"
        )
    paths = list(dict.fromkeys(part.path if is_url(part.path) else absolute(part.path) for part in parts))
    if Path(save).suffix.lower() in ANNOTATED and not Path(save).is_dir():
        if len(paths) != 1:
            raise ConfigError(f"`save` is {save}, and {len(paths)} videos are given; give a folder as `save`")
        files = {paths[0]: Path(save)}
        _refuse_sound(paths[0], Path(save), index)
    else:
        files = _files_in(Path(save), paths, index)
    for path, file in files.items():
        if not is_url(path) and file.exists() and Path(path).exists() and file.samefile(path):
            raise ConfigError(f"`save` is {file}, which is the video itself; choose another file")
        if file.exists() and not overwrite:
            raise ConfigError(f"{file} already exists; choose another `save`, or set `overwrite`")
    return files


def _files_in(folder: Path, paths: Sequence[str], index: VideoIndex | None) -> dict[str, Path]:
    local = [path for path in paths if not is_url(path)]
    common = os.path.commonpath([str(Path(path).parent) for path in local]) if local else ""
    files: dict[str, Path] = {}
    taken: set[Path] = set()
    for path in paths:
        relative = Path(path.rpartition("/")[2]) if is_url(path) else Path(path).relative_to(common)
        ending = next(iter(_endings(path, index)))
        stem = relative.stem if is_video(path) else relative.name  # that of a folder of images may have dots
        file = folder / relative.with_name(stem + ending)
        number = 2
        while file in taken:
            file = folder / relative.with_name(f"{stem}-{number}{ending}")
            number += 1
        taken.add(file)
        files[path] = file
    return files


def _endings(path: str, index: VideoIndex | None) -> list[str]:
    """Return the endings of files that can hold the sound of a video; all if it cannot be opened.

    Raises:
        ConfigError: No file can hold it.
    """
    if is_url(path):  # it is downloaded when it is classified
        return list(ANNOTATED)
    try:
        with _sound(Path(path), index) as sound:
            endings = [ending for ending in ANNOTATED if not sound.not_in(FORMATS[ending])]
            codecs = ", ".join(sound.codecs)
    except VideoError:
        return list(ANNOTATED)
    if not endings:
        raise ConfigError(
            f"no file that T3D writes can hold the sound of {path} ({codecs}), which is copied as it is; "
            "encode the sound again first, such as with `ffmpeg -i IN -c:v copy -c:a aac OUT.mkv`"
        )
    return endings


def _refuse_sound(path: str, file: Path, index: VideoIndex | None) -> None:
    endings = _endings(path, index)
    if file.suffix.lower() not in endings:
        with _sound(Path(path), index) as sound:
            codecs = ", ".join(sound.codecs)
        raise ConfigError(
            f"{file}: {file.suffix} files cannot hold the sound of {path} ({codecs}), which is copied as it "
            f"is; choose a name that ends in {' or '.join(endings)}"
        )


def _sound(path: Path, index: VideoIndex | None) -> Sound:
    facts = None if index is None else index.facts(path)
    return Sound(path, member=None if facts is None else facts.member(path))


def write_annotated(
    prediction: Prediction,
    file: Path,
    *,
    index: VideoIndex | None = None,
    limits: ReadLimits = DEFAULT_LIMITS,
    image_fps: float | None = None,
    threshold: float | None = None,
    sound: bool = True,
    bar: Bar | None = None,
) -> Annotated:
    """Write a video with the classes of each moment. It appears complete or not at all.

    Frames keep their times and their size; a video with an odd side gets one more row or column of pixels.
    Rotation is applied to the pixels. A few frames are in memory at a time.

    Args:
        prediction: The classes of the video, with those of its clips.
        file: The file to write; an existing one is replaced. See `annotated_files`.
        index: See `annotated_files`.
        limits: Limits of reading the video.
        image_fps: Frames per second of a folder of images.
        threshold: See `Overlay`.
        sound: Copy the sound.
        bar: Progress to advance by frames. Default: a new one, see `t3d.progress`.

    Raises:
        VideoError: The video cannot be read.
        ConfigError: The file cannot hold the sound.
        WriteError: The file cannot be written.
    """
    assert prediction.per_clip is not None
    path = Path(prediction.path)
    facts = None if index is None else index.facts(path)
    lettering = lettering_of(sorted(prediction.classes))
    with (
        Video(prediction.path, facts=facts, limits=limits, image_fps=image_fps, tonemap=True) as video,
        _sound(video.path, index) if sound else nullcontext() as copied,
    ):
        overlay = Overlay(
            video.height,
            video.width,
            prediction.per_clip,
            seconds=video.duration,
            targets=prediction.targets,
            lettering=lettering,
            threshold=threshold,
        )
        _write(video, copied, overlay, file, bar)
        return Annotated(file, len(video), () if copied is None else copied.codecs, _remarks(lettering))


def _remarks(lettering: Lettering) -> tuple[str, ...]:
    remark = lettering.remark()
    return () if remark is None else (remark,)


def _write(video: Video, sound: Sound | None, overlay: Overlay, file: Path, bar: Bar | None) -> None:
    if bar is not None:
        bar.move(0, len(video))
    ticks = video.ticks()
    height, width = video.height + video.height % 2, video.width + video.width % 2
    step = max(min(_TOGETHER // (height * width), 16), 1)
    with (
        progress(f"Writing {file.name}", len(video), unit="frames", bar=bar) as shown,
        video_writer(
            file,
            height=height,
            width=width,
            time_base=ticks.clock,
            rate=ticks.rate(),
            encoding=encoding_of(file),
            pixel_aspect=video.pixel_aspect,
        ) as writer,
    ):
        lead = 0
        if sound is not None:
            lead = round(writer.add_sound(sound, first_frame=video.first_time) / ticks.clock)
        times = video.times
        for first in range(0, len(video), step):
            numbers = range(first, min(first + step, len(video)))
            images = video.images_at(numbers, missing="nearest")
            for number, image in zip(numbers, even_sides(images), strict=True):
                overlay.draw(image, float(times[number]))
                tick = int(ticks.times[number]) + lead
                writer.add(image, tick, duration=ticks.durations[number])
            shown.advance(len(numbers))


def encoding_of(file: Path) -> Encoding:
    """Return the compression of a drawn video, by the ending of its file."""
    if file.suffix.lower() == ".webm":
        return Encoding("libvpx-vp9", 30, 60, extra={"deadline": "realtime", "cpu-used": "8"}, threads=0)
    return Encoding(crf=20, keyframe_interval=60, extra={"preset": "veryfast"}, threads=0)


def even_sides(images: Images) -> Images:
    """Return frames N H W C that can be changed, with even sides: the last row and column are repeated."""
    odd = images.shape[1] % 2, images.shape[2] % 2
    if any(odd):
        return np.pad(images, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    return images if images.flags.writeable else images.copy()
