"""Table of a file's packets, read without decoding more than the first frame.

Legend: N packets with a time stamp, K key frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt

from t3d.video.avi_index import IndexedPackets, indexed_packets
from t3d.video.parameter_sets import WATCHED_CODECS, ParameterWatch

if TYPE_CHECKING:
    from t3d.video.stream import Stream, VideoPacket

Int64s = npt.NDArray[np.int64]

# Most B-frames in a row that encoders write. Most earlier frames of the file that are shown after a frame.
_MOST_B_FRAMES = 16
_MOST_LAYERS = 5


@dataclass(frozen=True)
class Packets:
    """Facts about a file's frames that its packets give.

    Args:
        count: Number of packets, with or without a time stamp.
        shown: Time stamp of each packet whose frame is shown, int64 [N], ascending.
        key_pts: Time stamp of each key frame, int64 [K], ascending.
        key_seek: Time stamp to seek to for each key frame, int64 [K].
        landings: Position in the file of each key frame's packet, by its time stamp.
        orderly: Whether all packets have different time stamps, the first is a key frame and shown first,
            and the order of the packets is plausible.
        updated: Whether some packets change the decoder's parameters, so that it cannot start anywhere.
        corrupt: Number of packets that are marked as damaged.
        smallest: Bytes of the smallest packet.
        duration: Ticks for which the last frame is shown; 0 if unknown.
        first: The first decoded frame, or None.
    """

    count: int
    shown: Int64s
    key_pts: Int64s
    key_seek: Int64s
    landings: dict[int, int]
    orderly: bool
    updated: bool
    corrupt: int
    smallest: int
    duration: int
    first: av.VideoFrame | None


def read_packets(stream: Stream) -> Packets:
    """Read all packets of a file, or its index if that is certain to be the same, and decode the first frame.

    Args:
        stream: The file, just opened.
    """
    source = stream.packets()
    head = next((packet for packet in source if packet.size), None)
    if head is None:
        return _read(stream, ())
    indexed = indexed_packets(stream, head)
    first = next(iter(stream.decode(head)), None)
    if indexed is not None and first is not None and not stream.errors:
        return _of_index(stream, indexed, head, first)
    return _read(stream, chain([head], source), first=first)


def _of_index(stream: Stream, indexed: IndexedPackets, head: VideoPacket, first: av.VideoFrame) -> Packets:
    stamps = indexed.stamps[indexed.keys]
    watch = ParameterWatch(stream.codec, stream.video.codec_context.extradata or b"")
    for content in indexed.key_heads:
        watch.see(content, key=True)
    return Packets(
        count=len(indexed.stamps),
        shown=indexed.stamps,
        key_pts=stamps,
        key_seek=stamps,
        landings=dict(zip(stamps.tolist(), indexed.positions[indexed.keys].tolist(), strict=True)),
        orderly=True,
        updated=watch.changed,
        corrupt=0,
        smallest=indexed.smallest,
        duration=head.duration or 0,
        first=first,
    )


def _read(stream: Stream, source: Iterable[VideoPacket], *, first: av.VideoFrame | None = None) -> Packets:
    """Read all packets; the first one is already decoded."""
    rows: list[tuple[int | None, int | None, bool, bool]] = []
    corrupt, smallest, duration = 0, stream.size, 0
    landings: dict[int, int] = {}
    watch = _watch(stream)
    replaced: set[bool] = set()  # whether a key frame's packet replaces what the container stores
    for packet in source:
        size = packet.size
        if not size:
            continue
        key = packet.is_keyframe
        if first is None and rows:
            first = next(iter(stream.decode(packet)), None)
        rows.append((packet.pts, packet.dts, key, packet.is_discard))
        corrupt += packet.is_corrupt
        smallest = min(smallest, size)
        duration = packet.duration or duration
        if key:
            if packet.pts is not None and packet.pos is not None:
                landings[packet.pts] = packet.pos
            replaced.add(packet.has_sidedata("new_extradata"))
        if watch is not None:
            watch.see(memoryview(packet), key=key)
    if first is None:
        first = next(iter(stream.decode(None)), None)

    known = [(pts, dts, key, discard) for pts, dts, key, discard in rows if pts is not None]
    in_file = np.array([pts for pts, _, _, discard in known if not discard], dtype=np.int64)
    shown = np.sort(in_file)
    decoded = np.array([dts for _, dts, _, _ in known if dts is not None], dtype=np.int64)
    orderly = (
        len(known) == len(rows)
        and len(shown) > 0
        and bool((np.diff(shown) > 0).all())
        and all(dts is None or dts <= pts for pts, dts, _, _ in known)
        and bool((np.diff(decoded) >= 0).all())
        and _in_plausible_order(in_file, b_frames=stream.video.codec_context.has_b_frames)
        and rows[0][2]  # decoding starts at a key frame, and nothing is shown before it
        and rows[0][0] == min(pts for pts, _, _, _ in known)
    )
    # Containers index by decoding time or by presentation time: seeking to the earlier is never too late.
    keys = sorted({(pts, pts if dts is None else min(pts, dts)) for pts, dts, key, _ in known if key})
    return Packets(
        count=len(rows),
        shown=shown,
        key_pts=np.array([pts for pts, _ in keys], dtype=np.int64),
        key_seek=np.array([seek for _, seek in keys], dtype=np.int64),
        landings=landings,
        orderly=orderly,
        updated=len(replaced) > 1 or (watch is not None and watch.changed),
        corrupt=corrupt,
        smallest=smallest,
        duration=duration,
        first=first,
    )


def _watch(stream: Stream) -> ParameterWatch | None:
    """Return a watch for parameters that change: a decoder that starts after a change misses it."""
    if stream.codec not in WATCHED_CODECS:
        return None
    return ParameterWatch(stream.codec, stream.video.codec_context.extradata or b"")


def _in_plausible_order(pts: Int64s, *, b_frames: bool) -> bool:
    """Return whether packets are in the file in the order of display, but for B-frames."""
    if not b_frames:
        return bool((np.diff(pts) > 0).all())
    ranks = np.empty(len(pts), dtype=np.int64)
    ranks[np.argsort(pts, kind="stable")] = np.arange(len(pts))
    later = ranks - np.arange(len(pts))
    return bool(((later <= _MOST_B_FRAMES) & (later >= -_MOST_LAYERS)).all())
