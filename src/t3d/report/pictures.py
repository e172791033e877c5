"""Moving pictures of videos for a page: animated WebP in data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.errors import T3DError
from t3d.evaluation.scores import Scores
from t3d.video.limits import ReadLimits

_ERRORS = 12  # wrong answers shown
_THUMBNAIL = ClipSpec(num_frames=10, stride=1, size=96, resize=96)
_MILLISECONDS = 160  # per frame of a moving picture


@dataclass(frozen=True)
class Film:
    """A video in a page, with the answer of a model.

    Args:
        name: Folder and name of its file.
        label: True class.
        answer: Class that the model gave.
        probability: Probability of that class.
        picture: Some of its frames, as a moving picture in a data URI; empty if it cannot be read.
    """

    name: str
    label: str
    answer: str
    probability: float
    picture: str = ""


class Camera:
    """Makes moving pictures of videos.

    Args:
        limits: Limits of reading one file.
        image_fps: Frames per second of videos that are folders of images.
    """

    def __init__(self, limits: ReadLimits, image_fps: float | None = None) -> None:
        self._store = FrameStore(_THUMBNAIL, limits=limits, image_fps=image_fps)

    def film(self, path: Path, start: float | None = None, end: float | None = None) -> str:
        """Return frames spread over a video as an animated WebP in a data URI.

        Args:
            path: The video.
            start: Start of the part to show, in seconds. None: the beginning.
            end: Its end. None: the end of the video.

        Returns:
            The URI, or an empty string if the video cannot be read.
        """
        images = self._images(path, start, end, _THUMBNAIL.num_frames)
        if not images:
            return ""
        first, *others = images
        buffer = io.BytesIO()
        first.save(
            buffer, "WEBP", save_all=True, append_images=others, duration=_MILLISECONDS, loop=0, quality=60
        )
        return _uri(buffer)

    def still(self, path: Path, start: float | None = None, end: float | None = None) -> str:
        """Return the middle frame of a video or part as WebP in a data URI; see `film`."""
        images = self._images(path, start, end, 1)
        if not images:
            return ""
        buffer = io.BytesIO()
        images[0].save(buffer, "WEBP", quality=60)
        return _uri(buffer)

    def _images(self, path: Path, start: float | None, end: float | None, count: int) -> list[Image.Image]:
        """Return frames spread over a video, or its middle frame; none if it cannot be read."""
        try:
            frames = self._store.open(path)
            low, high = np.searchsorted(frames.times, [start or 0.0, np.inf if end is None else end])
            last = max(high - 1, low)
            wanted = np.linspace(low, last, count) if count > 1 else np.array([(low + last) / 2])
            images = frames.get(wanted.round().astype(np.int64)).permute(0, 2, 3, 1).numpy()
        except (T3DError, IndexError):  # such as a video in a shard, or one that has moved
            return []
        return [Image.fromarray(np.ascontiguousarray(image)) for image in images]


def _uri(buffer: io.BytesIO) -> str:
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def wrong_answers(scores: Scores, camera: Camera, *, most: int = _ERRORS) -> list[Film]:
    """Return the wrong answers that the model is most confident of, with moving pictures of their videos.

    Of each group (column `source`), one is chosen.

    Args:
        scores: Scores of videos with one label each.
        camera: Makes the pictures.
        most: Largest number of answers.
    """
    probs = np.nan_to_num(scores.video_probs, nan=-1.0)
    answers, confidence = probs.argmax(1), probs.max(1)
    wrong = np.flatnonzero((answers != scores.labels) & (scores.labels >= 0) & (confidence >= 0))
    rows = wrong[np.argsort(-confidence[wrong], kind="stable")]
    if scores.groups:  # videos of a group are similar: the first of each
        rows = rows[np.sort(np.unique(np.array(scores.groups)[rows], return_index=True)[1])]
    return films(scores, rows[:most].tolist(), camera)


def first_of_each_class(scores: Scores, camera: Camera, *, most: int = _ERRORS) -> list[Film]:
    """Return the first readable video of each class, with the answer of the model.

    Args:
        scores: Scores of videos with one label each.
        camera: Makes the pictures.
        most: Largest number of videos.
    """
    readable = np.isfinite(scores.video_probs).all(1)
    rows = [np.flatnonzero((scores.labels == label) & readable)[:1] for label in range(len(scores.classes))]
    return films(scores, np.concatenate(rows).tolist()[:most], camera)


def films(scores: Scores, rows: Sequence[int], camera: Camera) -> list[Film]:
    """Return rows of a test as films."""
    made = []
    for row in rows:
        answer = int(scores.video_probs[row].argmax())
        made.append(
            Film(
                "/".join(Path(scores.paths[row]).parts[-2:]),
                scores.classes[int(scores.labels[row])],
                scores.classes[answer],
                float(scores.video_probs[row, answer]),
                camera.film(Path(scores.paths[row]), *(scores.spans[row] if scores.spans else ())),
            )
        )
    return made
