"""When each frame of a video is shown and where decoding can start, found by reading or by decoding.

Legend: T frames, K key frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

from t3d.errors import VideoError
from t3d.video.stream import Stream

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FrameTable:
    """When each frame is shown, and where decoding can start.

    Args:
        pts: Time stamp of each frame, int64 [T], ascending.
        time_base: Seconds in one tick of `pts`.
        last: Ticks for which the last frame is shown, above 0.
        key_pts: Time stamps of the key frames, int64 [K], ascending.
        key_seek: Time stamp to seek to for each key frame, int64 [K].
        order: For a file that must be decoded from its start: position of each frame in the decoder's output,
            int64 [T]; -1 for a frame that cannot be decoded. None: frames are found by time stamp.
    """

    pts: Int64s
    time_base: Fraction
    last: int
    key_pts: Int64s
    key_seek: Int64s
    order: Int64s | None = None


@dataclass(frozen=True)
class ReadTable:
    """Result of reading a file's packets.

    Args:
        table: The frame table according to the packets.
        first: The first decoded frame.
        sure: Whether decoding is expected to agree with the table.
        damage: What is wrong with the file, or None.
    """

    table: FrameTable
    first: av.VideoFrame
    sure: bool
    damage: str | None


def read_table(stream: Stream) -> ReadTable:
    """Read all packets of a file, decoding only as far as the first frame.

    Args:
        stream: The file, just opened.

    Raises:
        VideoError: No frame can be decoded.
    """
    rows: list[tuple[int | None, int | None, bool, bool]] = []
    corrupt, smallest, duration = 0, stream.size, 0
    first: av.VideoFrame | None = None
    for packet in stream.packets():
        if not packet.size:
            continue
        rows.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        corrupt += packet.is_corrupt
        smallest = min(smallest, packet.size)
        duration = packet.duration or duration
        if first is None:
            first = next(iter(stream.decode(packet)), None)
    if first is None:
        first = next(iter(stream.decode(None)), None)
    if first is None:
        raise VideoError(stream.path, _why_no_frame(stream, len(rows)))

    known = [(pts, dts, key, discard) for pts, dts, key, discard in rows if pts is not None]
    shown = np.sort(np.array([pts for pts, _, _, discard in known if not discard], dtype=np.int64))
    # Containers index by decoding time or by presentation time: seeking to the earlier is never too late.
    keys = sorted({(pts, pts if dts is None else min(pts, dts)) for pts, dts, key, _ in known if key})
    table = FrameTable(
        pts=shown,
        time_base=stream.video.time_base or Fraction(1, 25),
        last=duration,
        key_pts=np.array([pts for pts, _ in keys], dtype=np.int64),
        key_seek=np.array([seek for _, seek in keys], dtype=np.int64),
    )
    sure = (
        len(known) == len(rows)
        and len(shown) > 0
        and bool((np.diff(shown) > 0).all())
        and not corrupt
        and rows[0][2]  # decoding starts at a key frame, and nothing is shown before it
        and rows[0][0] == min(pts for pts, _, _, _ in known)
        and first.pts == shown[0]
        and _one_packet_one_frame(stream, smallest)
    )
    lost = stream.beyond_end()
    more = [f"{corrupt} packets are marked as damaged"] if corrupt else []
    more += [f"the file is cut off: {lost} of the frames it lists lie beyond its end"] if lost else []
    damage = _damage(stream, *more)
    return ReadTable(_with_last(table), first, sure, damage)


def scan_table(
    stream: Stream,
    table: FrameTable,
    *,
    opening: bool,
    look: Callable[[int, av.VideoFrame], None] | None = None,
) -> tuple[FrameTable, str | None]:
    """Decode a file from start to end, and correct its frame table by the result.

    While a file is being opened, an undamaged file can still find its frames by time stamp later. A
    later scan means that this failed, so frames are counted from the start. Once the number of frames was
    reported, it does not change: if the decoder returns a different number, frames keep their numbers, and
    missing ones are marked.

    Args:
        stream: The file, just opened.
        table: The frame table so far.
        opening: Whether no frame has been returned yet.
        look: Called with the number of each frame and the frame.

    Returns:
        The corrected table, and what is wrong with the file, or None.

    Raises:
        VideoError: No frame can be decoded.
    """
    decoded = []
    for number, frame in enumerate(stream.frames()):
        decoded.append((frame.pts, frame.is_corrupt))
        if look is not None:
            look(number, frame)
    if not decoded:
        raise VideoError(stream.path, _why_no_frame(stream, 0))
    patched = sum(corrupt for _, corrupt in decoded)
    damage = _damage(stream, *([f"{patched} frames are patched up by the decoder"] if patched else []))

    # A decoder may silently skip frames that it cannot decode: HEVC's does.
    if not opening and (damage or len(decoded) != len(table.pts)):
        places: dict[int | None, int] = {}
        for place, (stamp, _) in enumerate(decoded):
            places.setdefault(stamp, place)
        order = np.array([places.get(stamp, -1) for stamp in table.pts.tolist()], dtype=np.int64)
        if not damage:
            damage = f"the decoder gives {len(decoded)} frames for {len(order)}"
        return replace(table, order=order), damage

    counted = np.arange(len(decoded), dtype=np.int64)
    pts = np.array([stamp for stamp, _ in decoded if stamp is not None], dtype=np.int64)
    if len(pts) < len(decoded) or (np.diff(pts) <= 0).any():
        rate = stream.video.average_rate or stream.video.guessed_rate or Fraction(25)
        return replace(table, pts=counted, time_base=1 / Fraction(rate), last=1, order=counted), damage
    seekable = opening and not damage and len(table.key_pts) > 0 and table.key_pts[0] <= pts[0]
    return _with_last(replace(table, pts=pts, order=None if seekable else counted)), damage


def _with_last(table: FrameTable) -> FrameTable:
    """Estimate the duration of the last frame if the file does not state it."""
    if table.last > 0:
        return table
    gaps = np.diff(table.pts)
    last = int(np.median(gaps)) if len(gaps) else int(Fraction(1, 25) / table.time_base)
    return replace(table, last=max(last, 1))


def _one_packet_one_frame(stream: Stream, smallest: int) -> bool:
    container = stream.container.format.name.split(",")
    # Real MPEG-4 files have packets of a few bytes without a frame, or two frames per packet.
    plain = smallest > 16 and not stream.video.codec_context.has_b_frames
    if "mov" in container or "matroska" in container:
        return stream.codec in {"h264", "hevc", "av1", "vp9", "mjpeg", "ffv1", "prores"} or (
            stream.codec == "mpeg4" and plain
        )
    return "avi" in container and (stream.codec == "mjpeg" or (stream.codec == "mpeg4" and plain))


def _damage(stream: Stream, *more: str) -> str | None:
    messages = [*more, *dict.fromkeys(stream.errors)]
    return "; ".join(messages[:3]) or None


def _why_no_frame(stream: Stream, packets: int) -> str:
    if b"encv" in stream.ends():
        return "is encrypted; decrypt it first"
    if stream.codec == "webp" and b"ANIM" in stream.ends():
        return "is an animated WebP, which FFmpeg cannot decode; convert it to MP4, GIF or APNG first"
    if lost := stream.beyond_end():
        return f"is cut off: {lost} of the frames it lists lie beyond its end, and none before can be decoded"
    if packets == 0 and not stream.errors:
        return "holds no frame: only the description of a video"
    return "holds no frame that can be decoded" + (f": {stream.errors[0]}" if stream.errors else "")
