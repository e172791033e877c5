"""Decode one file from start to end and say what it holds: a row of the index.

This runs in processes that are started for nothing else, so that nothing heavy is imported here.
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

LOOKS = 8
"""Frames of each video whose looks are kept, spread evenly over it."""
_SIDE = 8  # a look is this many comparisons wide and high: 64 bits


def examine(path: str) -> dict[str, Any]:
    """Decode a file from start to end.

    Args:
        path: The file.

    Returns:
        A row of the index without what the manifest says: the facts, or `error`.
    """
    row: dict[str, Any] = {"path": path}
    try:
        row["size"] = size_of(Path(path))
        row["modified"] = Path(path).stat().st_mtime_ns
        facts, looks = _facts(Path(path))
    except VideoError as error:
        return row | {"error": error.reason}
    except OSError as error:
        return row | {"error": f"cannot be read: {error.strerror}"}
    return row | facts.to_row() | {"looks": looks}


class _Looker:
    """Looks at each decoded frame: is it of the first one's size, a key frame, one whose looks are kept?"""

    def __init__(self, expected: int, first: av.VideoFrame) -> None:
        places = (np.arange(LOOKS) + 0.5) / LOOKS * max(expected, 1)
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
            self._hashes[number] = look_of(self._grey(frame))

    def looks(self) -> list[int]:
        """A hash for each of the places; none where the video ended before."""
        if not all(place in self._hashes for place in self.places):
            return []
        return [self._hashes[place] for place in self.places]

    def _grey(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        try:
            small = self._reformatter.reformat(
                frame,
                width=_SIDE + 1,
                height=_SIDE,
                format="gray",
                interpolation=Interpolation.AREA,
                threads=1,
            )
        except (
            av.FFmpegError,
            ValueError,
            MemoryError,
        ):  # a pixel format that cannot be read at all: no look
            return np.zeros((_SIDE, _SIDE + 1), dtype=np.uint8)
        return np.asarray(small.to_ndarray(), dtype=np.uint8)


def look_of(grey: npt.NDArray[np.uint8]) -> int:
    """A frame's looks as 64 bits: is each of 8 × 8 places lighter than its neighbour to the right?

    Args:
        grey: The frame made small, uint8 [8, 9].

    Example:
        >>> look_of(np.zeros((8, 9), dtype=np.uint8))
        0
    """
    bits = grey[:, :-1] > grey[:, 1:]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _facts(path: Path) -> tuple[VideoFacts, list[int]]:
    status = path.stat()
    stream = Stream(path)
    try:
        found = read_table(stream)
        codec = stream.codec
    finally:
        stream.close()
    looker = _Looker(len(found.table.pts), found.first)
    stream = Stream(path)
    try:
        table, damage = scan_table(stream, found.table, opening=True, look=looker)
    finally:
        stream.close()
    noted = [text for text in (found.damage or damage, looker.odd) if text]
    facts = VideoFacts(
        size=status.st_size,
        modified=status.st_mtime_ns,
        digest=content_digest(path),
        codec=codec,
        table=_with_true_keys(table, looker.keys),
        stored_size=looker.size,
        orientation=Orientation.of_frame(found.first),
        damage="; ".join(noted) or None,
    )
    return facts, looker.looks()


def _with_true_keys(table: FrameTable, keys: set[int | None]) -> FrameTable:
    """Leave out frames that the container calls key frames and the decoder does not."""
    hidden = ~np.isin(table.key_pts, table.pts)  # is never shown, so nobody saw whether it is one
    true = hidden | np.isin(table.key_pts, np.array([key for key in keys if key is not None], dtype=np.int64))
    return replace(table, key_pts=table.key_pts[true], key_seek=table.key_seek[true])
