"""Check by its content whether a file is a video."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path

from t3d.errors import VideoError
from t3d.io.archives import archive_kind
from t3d.video.stream import Stream

_PACKETS = 200
_SECONDS = 5.0


def holds_video(path: Path) -> bool:
    """Return whether FFmpeg opens a file as a video and decodes a frame near its start.

    It reads at most the few megabytes that FFmpeg needs to recognize a format, and 200 packets.

    Args:
        path: A regular file with any ending.

    Example:
        >>> Path("notes.dat").write_text("no video") and holds_video(Path("notes.dat"))
        False
    """
    deadline = time.monotonic() + _SECONDS
    try:
        if archive_kind(path):  # FFmpeg may take a picture in it for a video
            return False
    except OSError:
        return False
    try:
        stream = Stream(path)
    except VideoError:
        return False
    try:
        for packet in islice(stream.packets(), _PACKETS):
            if stream.decode(packet):
                return True
            if time.monotonic() > deadline:
                return False
        return bool(stream.decode(None))
    except VideoError:
        return False
    finally:
        stream.close()
