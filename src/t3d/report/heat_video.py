"""Videos with heat drawn into them: where the evidence for a class is.

Legend: H height, W width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from t3d.data.index import VideoIndex
from t3d.explanation.pictures import with_heat
from t3d.explanation.result import ClipExplanation, Explanation
from t3d.progress import Bar, progress
from t3d.report.lettering import Lettering, lettering_of
from t3d.report.overlay import Layout, Picture
from t3d.report.redrawn import frames_to_draw, writer_like
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits
from t3d.video.video import Video

_UNSEEN = 0.45  # brightness of the part of a frame that the network does not see


def write_heat_video(
    explanation: Explanation,
    file: Path,
    *,
    index: VideoIndex | None = None,
    limits: ReadLimits = DEFAULT_LIMITS,
    image_fps: float | None = None,
    bar: Bar | None = None,
) -> Path:
    """Write the explained clips of a video, one after another, with their heat. There is no sound.

    Frames keep their size; what the network does not see is darkened. The file appears complete or not at
    all. A few frames are in memory at a time.

    Args:
        explanation: The explanation of a video file.
        file: The file to write, H.264 in `.mp4`; an existing one is replaced.
        index: Facts about the videos, for those in shards.
        limits: Limits of reading the video.
        image_fps: Frames per second of a folder of images.
        bar: Progress to advance by frames. Default: a new one, see `t3d.progress`.

    Returns:
        The file.

    Raises:
        VideoError: The video cannot be read.
        WriteError: The file cannot be written.
    """
    facts = None if index is None else index.facts(Path(explanation.path))
    lettering = lettering_of([explanation.label])
    with Video(explanation.path, facts=facts, limits=limits, image_fps=image_fps, tonemap=True) as video:
        ticks, times = video.ticks(), video.times
        shown = {
            number: clip
            for number, time in enumerate(times.tolist())
            if (clip := _clip_at(explanation.clips, time)) is not None
        }
        tick = 0
        if bar is not None:
            bar.move(0, len(shown))
        with (
            progress(f"Writing {file.name}", len(shown), unit="frames", bar=bar) as drawn,
            writer_like(video, file) as writer,
        ):
            for number, image in frames_to_draw(video, list(shown)):
                draw_heat(image, shown[number], float(times[number]))
                _write_text(image, explanation.label, f" {shown[number].probability:.0%}", lettering)
                writer.add(image, tick, duration=ticks.durations[number])
                tick += ticks.durations[number]
                drawn.advance()
    return file


def draw_heat(image: Picture, clip: ClipExplanation, seconds: float) -> None:
    """Draw the heat of a clip onto a frame of the video.

    Args:
        image: The frame, uint8 [H, W, 3], which is changed.
        clip: The clip that is shown.
        seconds: Time of the frame.
    """
    height, width = image.shape[:2]
    box = clip.box
    top, left = round(box.top * height), round(box.left * width)
    bottom, right = round((box.top + box.height) * height), round((box.left + box.width) * width)
    seen = image[top:bottom, left:right].copy()
    image[:] = np.round(image * _UNSEEN).astype(np.uint8)
    if clip.heat is not None:
        heat = clip.heat[frame_at(clip.times, seconds)]
        large = Image.fromarray(heat).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
        seen = with_heat(seen, np.asarray(large))
    image[top:bottom, left:right] = seen


def frame_at(times: npt.NDArray[np.float64], seconds: float) -> int:
    """Return which frame of a clip is shown at a time: the last one that has appeared.

    Args:
        times: Times of the frames of the clip, in any order, since short videos repeat frames.
        seconds: The time.

    Example:
        >>> frame_at(np.array([0.0, 0.2, 0.4, 0.0]), 0.3)
        1
    """
    late = np.where(times <= seconds + 1e-6, seconds - times, np.inf)
    return int(late.argmin()) if np.isfinite(late).any() else int(times.argmin())


def _clip_at(clips: tuple[ClipExplanation, ...], seconds: float) -> ClipExplanation | None:
    """Return the clip that shows a time; of two that overlap, the later one. None between clips."""
    late = seconds + 1e-6
    return next((each for each in reversed(clips) if each.start <= late < each.until), None)


def _write_text(image: Picture, label: str, share: str, lettering: Lettering) -> None:
    look = Layout.of(*image.shape[:2])
    font = lettering.font(label, look.font)
    text = (
        lettering.fitted(label, look.font, image.shape[1] - 2 * look.margin - font.getlength(share)) + share
    )
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    box = pen.textbbox((look.margin, look.margin), text, font=font)
    pen.rectangle((0, 0, box[2] + look.margin, box[3] + look.margin), fill=(0, 0, 0))
    pen.text((look.margin, look.margin), text, fill=(255, 255, 255), font=font)
    image[:] = np.asarray(picture)
