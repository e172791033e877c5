"""Decode one file from start to end and describe it: a row of the index.

Processes start only to run this module, so it imports nothing heavy.
"""

from __future__ import annotations

import math
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
from t3d.video.frame_table import HIDDEN_ERRORS, ReadTable, damage_of, scan_table
from t3d.video.image_names import file_state, images_digest
from t3d.video.images import ImageReader
from t3d.video.limits import NO_LIMITS
from t3d.video.opening import read_packets
from t3d.video.reader import FrameReader
from t3d.video.remarks import joined, size_remark
from t3d.video.stream import WRONG_PLACES, Stream, size_of

HASHED_FRAMES = 8
"""Frames of each video that are hashed, spread evenly over it."""
_SIDE = 8  # a hash is this many comparisons wide and high: 64 bits


def examine(path: str, *, max_megapixels: float = math.inf, image_fps: float | None = None) -> dict[str, Any]:
    """Decode a file from start to end.

    Args:
        path: The file, or a folder of images.
        max_megapixels: Largest frame that is decoded, in megapixels.
        image_fps: Frames per second of a folder of images. None: 25.

    Returns:
        A row of the index without the columns of the manifest: the facts, or `error`.
    """
    row: dict[str, Any] = {"path": path}
    try:
        if Path(path).is_dir():
            row["size"], row["modified"] = file_state(Path(path))
            facts, hashes = _facts_of_images(Path(path), max_megapixels, image_fps)
            return row | facts.to_row() | {"looks": hashes}
        row["size"] = size_of(Path(path))
        row["modified"] = Path(path).stat().st_mtime_ns
        facts, hashes = _facts(Path(path), max_megapixels)
    except VideoError as error:
        return row | {"error": error.reason}
    except OSError as error:
        return row | {"error": f"cannot be read: {error.strerror}"}
    return row | facts.to_row() | {"looks": hashes}  # the name of the column in stored indexes


class _FrameInspector:
    """Checks each decoded frame's size, and hashes the frames that stand for the video."""

    def __init__(self, expected: int, size: tuple[int, int]) -> None:
        places = (np.arange(HASHED_FRAMES) + 0.5) / HASHED_FRAMES * max(expected, 1)
        self.places: list[int] = places.astype(np.int64).tolist()
        self.size = size
        self.odd: str | None = None
        self._hashes: dict[int, int] = {}
        self._reformatter = VideoReformatter()

    def __call__(self, number: int, frame: av.VideoFrame) -> None:
        if (frame.height, frame.width) != self.size and self.odd is None:
            self.odd = size_remark(number, frame, self.size)
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


def _facts(path: Path, max_megapixels: float) -> tuple[VideoFacts, list[int]]:
    status = path.stat()
    with _Streams(path, max_megapixels) as streams:
        opening, reading = read_packets(streams.open)
        inspector = _FrameInspector(len(reading.table.pts), opening.stored_size)
        if reading.sure:
            scanned = scan_table(
                streams.open(True), reading.table, promised=True, trusted=True, look=inspector
            )
            wrong = None if scanned.table.order is None else HIDDEN_ERRORS
            if wrong is None and not _lands(streams.open(True), reading):
                wrong = WRONG_PLACES
            if wrong is not None:  # once more as a reader does that has seen the same
                inspector = _FrameInspector(len(reading.table.pts), opening.stored_size)
                scanned = scan_table(
                    streams.open(False), reading.table, promised=True, trusted=False, look=inspector
                )
        else:
            wrong = None
            scanned = scan_table(
                streams.open(False),
                reading.table,
                promised=False,
                trusted=not reading.updated,
                look=inspector,
            )
    notes = (*reading.notes, *scanned.notes)
    facts = VideoFacts(
        size=status.st_size,
        modified=status.st_mtime_ns,
        digest=content_digest(path),
        codec=opening.codec,
        table=scanned.table,
        stored_size=inspector.size,
        orientation=opening.orientation,
        damage=None,
        pixel_aspect=opening.pixel_aspect,
    )
    if scanned.signatures is not None:
        wrong = FrameReader(path, threads=1, facts=facts, limits=NO_LIMITS).check(scanned.signatures)
        if wrong is not None:
            counted = np.arange(len(facts.table.pts), dtype=np.int64)
            facts = replace(facts, table=replace(facts.table, order=counted))
    if wrong and (wrong == WRONG_PLACES or not scanned.notes):
        notes += (wrong,)
    damage = joined(damage_of(*notes), *opening.remarks, inspector.odd)
    return replace(facts, damage=damage), inspector.hashes()


def _facts_of_images(
    path: Path, max_megapixels: float, image_fps: float | None
) -> tuple[VideoFacts, list[int]]:
    """Decode every image of a folder. One that cannot be decoded is damage; the first one is an error."""
    size, modified = file_state(path)
    reader = ImageReader(path, fps=image_fps, max_megapixels=max_megapixels)
    count = len(reader.table.pts)
    inspector = _FrameInspector(count, reader.size)
    bad: list[str] = []
    for number in range(count):
        try:
            image = reader.image(number)
        except VideoError as error:
            bad.append(error.reason)
            continue
        inspector(number, av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"))
    wrong = f"{len(bad)} of {count} images cannot be read: {bad[0]}" if bad else None
    facts = VideoFacts(
        size=size,
        modified=modified,
        digest=images_digest(path),
        codec=reader.codec,
        table=reader.table,
        stored_size=reader.orientation.size(reader.size),
        orientation=reader.orientation,
        damage=joined(reader.damage, wrong),
        pixel_aspect=reader.pixel_aspect,
    )
    if file_state(path) != (size, modified):
        raise VideoError(path, "was changed while it was read; run the command again")
    return facts, inspector.hashes()


class _Streams:
    """Streams of one file, each closed when the next one opens."""

    def __init__(self, path: Path, max_megapixels: float) -> None:
        self._path = path
        self._max_megapixels = max_megapixels
        self._stream: Stream | None = None

    def open(self, strict: bool) -> Stream:
        """Open the file from its start."""
        self.close()
        self._stream = Stream(self._path, strict=strict, max_megapixels=self._max_megapixels)
        return self._stream

    def close(self) -> None:
        """Close the open stream, if there is one."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def __enter__(self) -> _Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lands(stream: Stream, reading: ReadTable) -> bool:
    """Return whether seeking to each key frame leads to its packet."""
    table = reading.table
    for stamp, seek in zip(table.key_pts[::-1].tolist(), table.key_seek[::-1].tolist(), strict=True):
        try:
            stream.seek(seek)
        except VideoError:
            return False
        packet = next((packet for packet in stream.packets() if packet.pts == stamp), None)
        if packet is None or packet.pos != reading.landings.get(stamp, packet.pos):
            return False
    return True
