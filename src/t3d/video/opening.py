"""Facts about a file that reading its frames needs, from an index or from reading the file through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from t3d.errors import VideoError
from t3d.video.frame_table import FrameTable, ReadTable, read_with, scan_table
from t3d.video.limits import check_frame_size
from t3d.video.orientation import Orientation
from t3d.video.remarks import hdr_remark
from t3d.video.stream import Stream, size_of

if TYPE_CHECKING:
    from t3d.video.facts import VideoFacts


@dataclass(frozen=True)
class Opening:
    """Facts about a file that reading its frames needs.

    Args:
        table: When each frame is shown, and where decoding can start.
        codec: FFmpeg's name of the codec.
        stored_size: Height and width of a frame as stored.
        orientation: How stored frames are rotated for display.
        pixel_aspect: Width of a displayed pixel divided by its height; None if it is not known.
        notes: What is wrong with the file.
        remarks: What is unusual about it.
        landings: Position in the file of each key frame's packet, by its time stamp, as far as known.
        signatures: Signature of each frame, by number, if the file was decoded and decoding can start at a
            key frame.
        scanned: Whether the file was decoded from start to end.
    """

    table: FrameTable
    codec: str
    stored_size: tuple[int, int]
    orientation: Orientation
    pixel_aspect: Fraction | None
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    landings: Mapping[int, int] = field(default_factory=dict)
    signatures: Mapping[int, int] | None = None
    scanned: bool = False


def read_packets(opened: Callable[[bool], Stream]) -> tuple[Opening, ReadTable]:
    """Read all packets of a file, and decode its first frame.

    Args:
        opened: Opens the file; called with whether its decoder is strict.

    Returns:
        The facts that packets and first frame give, and how far the packets can be trusted.

    Raises:
        VideoError: No frame can be decoded.
    """
    stream: Stream | None = None

    def opened_last(strict: bool) -> Stream:
        nonlocal stream
        stream = opened(strict)
        return stream

    reading = read_with(opened_last)
    assert stream is not None
    orientation = Orientation.of_frame(reading.first)
    remark = hdr_remark(reading.first)
    opening = Opening(
        table=reading.table,
        codec=stream.codec,
        stored_size=(reading.first.height, reading.first.width),
        orientation=orientation,
        pixel_aspect=orientation.pixel_aspect(stream.pixel_aspect),
        notes=reading.notes,
        remarks=(remark,) if remark else (),
    )
    return opening, reading


def open_file(opened: Callable[[bool], Stream]) -> Opening:
    """Read all packets of a file, and decode it from start to end if that may not agree with the packets.

    Args:
        opened: See `read_packets`.

    Raises:
        VideoError: No frame can be decoded.
    """
    opening, reading = read_packets(opened)
    if reading.sure:
        return replace(opening, landings=reading.landings)
    scanned = scan_table(opened(False), reading.table, promised=False, trusted=not reading.updated)
    return replace(
        opening,
        table=scanned.table,
        notes=(*reading.notes, *scanned.notes),
        signatures=scanned.signatures,
        scanned=True,
    )


def open_indexed(path: Path, facts: VideoFacts, *, max_megapixels: float) -> Opening | None:
    """Return the facts in an index; None if they are too old to be trusted.

    Args:
        path: The file.
        facts: Its row.
        max_megapixels: Largest frame that is decoded, in megapixels.

    Raises:
        VideoError: The file has another size than when it was indexed, or its frames are too large.
    """
    # A shard is checked when frames are read: until then it need not be on this machine.
    size = facts.size if facts.member(path) is not None else size_of(path)
    if size != facts.size:
        reason = f"has {size} bytes, and had {facts.size} when it was indexed; run t3d prepare index again"
        raise VideoError(path, reason)
    height, width = facts.stored_size
    check_frame_size(path, height, width, max_megapixels=max_megapixels)
    if not facts.checked:
        return None
    return Opening(
        table=facts.table,
        codec=facts.codec,
        stored_size=facts.stored_size,
        orientation=facts.orientation,
        pixel_aspect=facts.pixel_aspect,
        notes=(facts.damage,) if facts.damage else (),
    )
