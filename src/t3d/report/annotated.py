"""Videos with the classes of each moment drawn into them, a strip of the whole video, and their sound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from t3d.data.index import VideoIndex
from t3d.data.listing import absolute
from t3d.errors import ConfigError, VideoError
from t3d.evaluation.config import ANNOTATED
from t3d.evaluation.parts import Part
from t3d.evaluation.result import Prediction
from t3d.io.files import is_url
from t3d.progress import Bar, progress
from t3d.report.file_names import numbered, stem_of
from t3d.report.lettering import Lettering, lettering_of
from t3d.report.overlay import Overlay
from t3d.report.redrawn import frames_to_draw, writer_like
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits
from t3d.video.sound import Sound
from t3d.video.video import Video
from t3d.video.writer import FORMATS


@dataclass(frozen=True)
class Annotated:
    """A video that was written.

    Args:
        path: The file.
        frames: Number of frames.
        sound: Codecs of the sound; empty if the video has none.
        remarks: Sentences about names that the video cannot show.
        encoded: Codecs that the file cannot hold, so that the sound was encoded again.
    """

    path: Path
    frames: int
    sound: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()

    def sound_phrase(self) -> str:
        """Return what was done with the sound."""
        copied = [codec for codec in self.sound if codec not in self.encoded]
        phrases = [f"sound copied ({', '.join(copied)})"] if copied else []
        if self.encoded:
            phrases.append(f"sound encoded again ({', '.join(self.encoded)} does not fit this kind of file)")
        return ", ".join(phrases) or "no sound"


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
        ConfigError: Several videos and one file, a time span, or a file that exists.
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
        relative = Path() if is_url(path) else Path(path).relative_to(common).parent
        ending = _ending(path, index)
        stem, number = stem_of(path), 1
        while (file := folder / relative / (numbered(stem, number) + ending)) in taken:
            number += 1
        taken.add(file)
        files[path] = file
    return files


def _ending(path: str, index: VideoIndex | None) -> str:
    """Return the first ending of files that can hold the sound of a video as it is, or else the first."""
    if is_url(path):  # it is downloaded when it is classified
        return ANNOTATED[0]
    try:
        with _sound(Path(path), index) as sound:
            return next((each for each in ANNOTATED if not sound.not_in(FORMATS[each])), ANNOTATED[0])
    except VideoError:
        return ANNOTATED[0]


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
        codecs = () if copied is None else copied.codecs
        encoded = () if copied is None else copied.not_in(FORMATS[file.suffix.lower()])
        return Annotated(file, len(video), codecs, _remarks(lettering), encoded)


def _remarks(lettering: Lettering) -> tuple[str, ...]:
    remark = lettering.remark()
    return () if remark is None else (remark,)


def _write(video: Video, sound: Sound | None, overlay: Overlay, file: Path, bar: Bar | None) -> None:
    if bar is not None:
        bar.move(0, len(video))
    ticks, times = video.ticks(), video.times
    with (
        progress(f"Writing {file.name}", len(video), unit="frames", bar=bar) as shown,
        writer_like(video, file) as writer,
    ):
        lead = 0
        if sound is not None:
            lead = round(writer.add_sound(sound, first_frame=video.first_time) / ticks.clock)
        for number, image in frames_to_draw(video, range(len(video))):
            overlay.draw(image, float(times[number]))
            writer.add(image, int(ticks.times[number]) + lead, duration=ticks.durations[number])
            shown.advance()
