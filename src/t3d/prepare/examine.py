"""Decode one file from start to end and describe it: a row of the index.

Processes start only to run this module, so it imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from t3d.errors import VideoError
from t3d.io.files import content_digest
from t3d.video.facts import VideoFacts
from t3d.video.frame_table import FrameTable, read_table, scan_table
from t3d.video.orientation import Orientation
from t3d.video.stream import Stream, size_of

HASHED_FRAMES = 8
"""Frames of each video that are hashed, spread evenly over it."""
_FOLDER = (
    "is a folder, which an index cannot describe; if it holds the frames of a video as images, make a video "
    "file "
    "of them first (t3d prepare transcode)"
)
_SIDE = 8  # a hash is this many comparisons wide and high: 64 bits


def examine(path: str) -> dict[str, Any]:
    """Decode a file from start to end.

    Args:
        path: The file.

    Returns:
        A row of the index without the columns of the manifest: the facts, or `error`.
    """
    row: dict[str, Any] = {"path": path}
    if Path(path).is_dir():
        return row | {"error": _FOLDER}
    try:
        row["size"] = size_of(Path(path))
        row["modified"] = Path(path).stat().st_mtime_ns
        facts, hashes = _facts(Path(path))
    except VideoError as error:
        return row | {"error": error.reason}
    except OSError as error:
        return row | {"error": f"cannot be read: {error.strerror}"}
    return row | facts.to_row() | {"looks": hashes}  # the name of the column in stored indexes


class _FrameInspector:
    """Checks each decoded frame's size, notes key frames, and hashes the frames that stand for the video."""

    def __init__(self, expected: int, first: av.VideoFrame) -> None:
        places = (np.arange(HASHED_FRAMES) + 0.5) / HASHED_FRAMES * max(expected, 1)
        self.places: list[int] = places.astype(np.int64).tolist()
        self.size = (first.height, first.width)
        self.odd: str | None = None
        self.keys: set[int | None] = set()
        self._hashes: dict[int, int] = {}
        self._reformatter = VideoReformatter()

    def __call__(self, number: int, frame: av.VideoFrame) -> None:
        if (frame.height, frame.width) != self.size and self.odd is None:
            height, width = self.size
            self.odd = f"frame {number} is {frame.width} × {frame.height}, the first {width} × {height}"
        if frame.key_frame:
            self.keys.add(frame.pts)
        if number in self.places:
            self._hashes[number] = perceptual_hash(self._gray(frame))

    def hashes(self) -> list[int]:
        """Return the hash of each of the frames; none if the video ended before."""
        if not all(place in self._hashes for place in self.places):
            return []
        return [self._hashes[place] for place in self.places]

    def _gray(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        try:
            small = self._reformatter.reformat(
                frame,
                width=_SIDE + 1,
                height=_SIDE,
                format="gray",
                interpolation=Interpolation.AREA,
                threads=1,
            )
        except (av.FFmpegError, ValueError, MemoryError):  # a pixel format that cannot be read at all
            return np.zeros((_SIDE, _SIDE + 1), dtype=np.uint8)
        return np.asarray(small.to_ndarray(), dtype=np.uint8)


def perceptual_hash(gray: npt.NDArray[np.uint8]) -> int:
    """Return a frame's perceptual hash (dHash): 64 bits.

    Each bit says whether one of 8 × 8 places is lighter than its neighbor to the right.

    Args:
        gray: The frame, scaled down, uint8 [8, 9].

    Example:
        >>> perceptual_hash(np.zeros((8, 9), dtype=np.uint8))
        0
    """
    bits = gray[:, :-1] > gray[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _facts(path: Path) -> tuple[VideoFacts, list[int]]:
    status = path.stat()
    stream = Stream(path)
    try:
        reading = read_table(stream)
        codec = stream.codec
    finally:
        stream.close()
    inspector = _FrameInspector(len(reading.table.pts), reading.first)
    stream = Stream(path)
    try:
        table, damage = scan_table(stream, reading.table, opening=True, look=inspector)
    finally:
        stream.close()
    noted = [text for text in (reading.damage or damage, inspector.odd) if text]
    facts = VideoFacts(
        size=status.st_size,
        modified=status.st_mtime_ns,
        digest=content_digest(path),
        codec=codec,
        table=_with_true_keys(table, inspector.keys),
        stored_size=inspector.size,
        orientation=Orientation.of_frame(reading.first),
        damage="; ".join(noted) or None,
    )
    return facts, inspector.hashes()


def _with_true_keys(table: FrameTable, keys: set[int | None]) -> FrameTable:
    """Leave out frames that the container calls key frames and the decoder does not."""
    hidden = ~np.isin(table.key_pts, table.pts)  # is never shown, so nobody saw whether it is one
    true = hidden | np.isin(table.key_pts, np.array([key for key in keys if key is not None], dtype=np.int64))
    return replace(table, key_pts=table.key_pts[true], key_seek=table.key_seek[true])
