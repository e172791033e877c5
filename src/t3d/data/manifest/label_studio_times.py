"""Seconds of the frames that Label Studio numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from t3d.errors import ManifestError, VideoError
from t3d.io.files import is_url
from t3d.video.stream import Stream

_SLACK = 1.0  # seconds that a label may end after its video, since frame rates are rounded


class _Header(NamedTuple):
    """Frames per second and length in seconds that a file states."""

    rate: float
    seconds: float


class FrameClock:
    """Turns numbers of frames into seconds.

    Args:
        name: The export, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._headers: dict[str, _Header] = {}

    @property
    def guessed(self) -> int:
        """Number of videos whose own frame rate was used, since the export does not say one."""
        return len(self._headers)

    def seconds(
        self, path: str, first: int | None, last: int | None, *, rate: float | None, task: str
    ) -> tuple[float | None, float | None]:
        """Return the start and the end of a range of frames; None for an open end.

        Args:
            path: The video.
            first: Its first frame, counted from 1.
            last: Its last frame, which belongs to it.
            rate: Frames per second that Label Studio counted. None: those of the file.
            task: The task in messages.

        Raises:
            ManifestError: The rate is needed and cannot be found, or the range ends after the video.
        """
        where = f"{self._name}, {task}"
        length = math.inf
        if rate is None:
            rate, length = self._header(path, where)
        if not 0 < rate < math.inf:
            raise ManifestError(f"{where}: fps is {rate:g}; it must be a number above 0")
        start = None if first is None else max(first - 1, 0) / rate
        end = None if last is None else last / rate
        latest = max(start or 0.0, end or 0.0)
        if latest > length + _SLACK:
            raise ManifestError(
                f"{where}: a label ends at frame {last or first}, which is {latest:.2f} s at {rate:g} frames "
                f"per second, but {path} has {length:.2f} s. Label Studio counted by another frame rate, "
                "that of its Video tag (24 by default); write it as `fps` into the data of the tasks"
            )
        return start, end

    def _header(self, path: str, where: str) -> _Header:
        if path not in self._headers:
            if is_url(path):
                raise ManifestError(
                    f"{where}: the frame rate of {path} is unknown, since it is not on this machine; write "
                    "it as `fps` into the data of the task, or download it and give its folder as `root`"
                )
            try:
                self._headers[path] = _read_header(Path(path))
            except VideoError as error:
                raise ManifestError(f"{where}: {error}") from error
        return self._headers[path]


def _read_header(path: Path) -> _Header:
    stream = Stream(path)
    try:
        video = stream.video
        rate = float(video.average_rate or video.guessed_rate or 0)
        seconds = math.inf
        if video.duration is not None and video.time_base is not None:
            seconds = float(video.duration * video.time_base)
        elif stream.container.duration is not None:
            seconds = stream.container.duration / 1_000_000
    finally:
        stream.close()
    if rate <= 0:
        raise VideoError(path, "does not state its frame rate; write it as `fps` into the data of the task")
    return _Header(rate, seconds)
