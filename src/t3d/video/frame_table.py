"""When each frame of a video is shown and where decoding can start, found by reading or by decoding.

Legend: T frames, K key frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import numpy.typing as npt

from t3d.errors import VideoError
from t3d.video.packets import read_packets
from t3d.video.signature import signature
from t3d.video.stream import Stream
from t3d.video.time_stamps import repair

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


SURE_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "prores", "mpeg4"})
"""Codecs whose decoders keep nothing through a seek that matters, and report damage if they are strict."""
# Formats without time stamps: those that FFmpeg gives are guessed.
_NO_TIMES = frozenset(
    {"avi", "mpegvideo", "m4v", "h264", "hevc", "vvc", "h261", "h263", "mjpeg", "vc1", "dirac", "cavsvideo"}
)
_LARGEST_RATE = 240
HIDDEN_ERRORS = "the decoder hides errors in damaged frames"
"""Note for a file that decodes without an error only because the decoder covers errors up."""


@dataclass(frozen=True)
class ReadTable:
    """Result of reading a file's packets.

    Args:
        table: The frame table according to the packets.
        first: The first decoded frame.
        sure: Whether decoding is expected to agree with the table.
        notes: What is wrong with the file.
        landings: Position in the file of each key frame's packet, by its time stamp.
        updated: Whether some packets change the decoder's parameters, so that it cannot start anywhere.
    """

    table: FrameTable
    first: av.VideoFrame
    sure: bool
    notes: tuple[str, ...]
    landings: dict[int, int]
    updated: bool


@dataclass(frozen=True)
class ScannedTable:
    """Result of decoding a file from start to end.

    Args:
        table: The corrected frame table.
        notes: What is wrong with the file.
        signatures: Signature of each frame of the table, if decoding can start at a key frame.
    """

    table: FrameTable
    notes: tuple[str, ...]
    signatures: dict[int, int] | None


def damage_of(*notes: str) -> str | None:
    """Return what is wrong with a file, as one line, or None."""
    return "; ".join(list(dict.fromkeys(notes))[:4]) or None


def read_with(opened: Callable[[bool], Stream]) -> ReadTable:
    """Read all packets of a file with a strict decoder, or with a lenient one if the first frame is damaged.

    Args:
        opened: Opens the file; called with whether its decoder is strict.

    Raises:
        VideoError: No frame can be decoded.
    """
    stream = opened(True)
    try:
        reading = read_table(stream)
        if not stream.errors:
            return reading
    except VideoError:
        pass
    return read_table(opened(False))


def read_table(stream: Stream) -> ReadTable:
    """Read all packets of a file, decoding only as far as the first frame.

    Args:
        stream: The file, just opened.

    Raises:
        VideoError: No frame can be decoded.
    """
    packets = read_packets(stream)
    first = packets.first
    if first is None:
        raise VideoError(stream.path, _why_no_frame(stream, packets.count))
    table = FrameTable(
        pts=packets.shown,
        time_base=stream.video.time_base or Fraction(1, 25),
        last=packets.duration,
        key_pts=packets.key_pts,
        key_seek=packets.key_seek,
    )
    sure = (
        packets.orderly
        and not packets.corrupt
        and first.pts == packets.shown[0]
        and not packets.updated
        and _one_packet_one_frame(stream, packets.smallest)
    )
    whole = packets.count >= len(stream.video.index_entries) and not packets.corrupt and not stream.errors
    lost = 0 if whole else stream.beyond_end()
    more = [f"{packets.corrupt} packets are marked as damaged"] if packets.corrupt else []
    more += [f"the file is cut off: {lost} of the frames it lists lie beyond its end"] if lost else []
    return ReadTable(_with_last(table), first, sure, _notes(stream, *more), packets.landings, packets.updated)


def scan_table(
    stream: Stream,
    table: FrameTable,
    *,
    promised: bool,
    trusted: bool,
    look: Callable[[int, av.VideoFrame], None] | None = None,
) -> ScannedTable:
    """Decode a file from start to end, and correct its frame table by the result.

    A number of frames that was promised does not change: if the decoder returns a different number, frames
    keep their numbers, and missing ones are marked.

    Args:
        stream: The file, just opened.
        table: The frame table so far.
        promised: Whether the packets alone decide the number of frames.
        trusted: Whether frames of an undamaged file may be found by time stamp. False after this failed:
            then frames are counted from the start.
        look: Called with the number of each frame and the frame.

    Returns:
        The corrected table, and what is wrong with the file.

    Raises:
        VideoError: No frame can be decoded.
    """
    stamps: list[int | None] = []
    keys: list[int | None] = []
    signatures: list[int] = []
    patched = 0
    for number, frame in enumerate(stream.frames()):
        stamps.append(frame.pts)
        patched += frame.is_corrupt
        if frame.key_frame:
            keys.append(frame.pts)
        if trusted and not promised:
            signatures.append(signature(frame))
        if look is not None:
            look(number, frame)
    if not stamps:
        raise VideoError(stream.path, _why_no_frame(stream, 0))
    notes = _notes(stream, *([f"{patched} frames are patched up by the decoder"] if patched else []))

    # A decoder may silently skip frames that it cannot decode: HEVC's does.
    if promised and stamps != table.pts.tolist():
        table, more_notes = _with_missing_frames(table, stamps)
        return ScannedTable(table, (*more_notes, *notes), None)

    counted = np.arange(len(stamps), dtype=np.int64)
    if promised:
        table = _with_true_keys(table, keys)
        seekable = trusted and not notes and len(table.key_pts) > 0
        return ScannedTable(replace(table, order=None if seekable else counted), notes, None)
    pts = np.array([stamp for stamp in stamps if stamp is not None], dtype=np.int64)
    if len(pts) < len(stamps) or (np.diff(pts) <= 0).any():
        table, more_notes = _with_repaired_times(stream, table, stamps)
        return ScannedTable(replace(table, order=counted), (*notes, *more_notes), None)
    table = _with_last(_with_true_keys(replace(table, pts=pts), keys))
    seekable = trusted and not notes and len(table.key_pts) > 0 and table.key_pts[0] <= pts[0]
    table = replace(table, order=None if seekable else counted)
    return ScannedTable(table, notes, dict(enumerate(signatures)) if seekable else None)


def _with_true_keys(table: FrameTable, keys: Sequence[int | None]) -> FrameTable:
    """Leave out frames that the container calls key frames and the decoder does not."""
    hidden = ~np.isin(table.key_pts, table.pts)  # is never shown, so nobody saw whether it is one
    true = hidden | np.isin(table.key_pts, np.array([key for key in keys if key is not None], dtype=np.int64))
    return replace(table, key_pts=table.key_pts[true], key_seek=table.key_seek[true])


def _with_missing_frames(
    table: FrameTable, stamps: Sequence[int | None]
) -> tuple[FrameTable, tuple[str, ...]]:
    """Return a table of as many frames for a file that decodes differently, and what is wrong with it."""
    count = len(table.pts)
    places: dict[int | None, int] = {}
    for place, stamp in enumerate(stamps):
        places.setdefault(stamp, place)
    order = np.array([places.get(stamp, -1) for stamp in table.pts.tolist()], dtype=np.int64)
    missing = np.flatnonzero(order < 0)
    if len(missing):
        numbers = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        return replace(table, order=order), (
            f"{len(missing)} of {count} frames cannot be decoded: {numbers}",
        )
    if len(stamps) != count:
        return replace(table, order=order), (f"the decoder gives {len(stamps)} frames for {count}",)
    # Readers that have not seen this find frames by their time stamps, so all do.
    return replace(table, order=order), (
        "the decoder returns frames in another order than their time stamps",
    )


def _with_repaired_times(
    stream: Stream, table: FrameTable, stamps: Sequence[int | None]
) -> tuple[FrameTable, tuple[str, ...]]:
    """Return a table without bad time stamps, and what was repaired."""
    rate = Fraction(stream.video.average_rate or stream.video.guessed_rate or 25)
    timeless = not _NO_TIMES.isdisjoint(stream.container.format.name.split(","))
    if timeless or _are_decoding_times(stream, stamps):
        # FFmpeg guesses the time stamps of AVI, and is wrong with B-frames. Other containers (ASF, MXF) may
        # have times of decoding only. Frames are shown in equal steps, but for empty packets, which show the
        # last frame again.
        for times in (stream.decoding_times, [] if timeless else stamps):
            if len(set(times)) == len(stamps) and None not in times:
                pts = np.sort(np.array(times, dtype=np.int64))
                return _with_last(replace(table, pts=pts)), ()
    if timeless or all(stamp is None for stamp in stamps):
        counted = np.arange(len(stamps), dtype=np.int64)
        return replace(table, pts=counted, time_base=1 / rate, last=1), ()
    step = max(round(1 / _usual_rate(stream) / table.time_base), 1)
    repaired = repair(stamps, step=step)
    finer = repaired.finer
    return _with_last(
        replace(
            table,
            pts=repaired.pts,
            time_base=table.time_base / finer,
            last=table.last * finer,
            key_pts=table.key_pts * finer,
            key_seek=table.key_seek * finer,
        )
    ), repaired.notes


def _are_decoding_times(stream: Stream, stamps: Sequence[int | None]) -> bool:
    """Return whether a file has times of decoding only.

    Its packets then have ascending time stamps, although the decoder changes the order of the frames.
    """
    stored = stream.packet_times
    known = [stamp for stamp in stamps if stamp is not None]
    return (
        len(known) > 1
        and None not in stored
        and _never_falls([stamp for stamp in stored if stamp is not None])
        and any(later < earlier for earlier, later in pairwise(known))
    )


def _usual_rate(stream: Stream) -> Fraction:
    """Return a frame rate that does not come from time stamps, which are all wrong."""
    video = stream.video
    rates = (video.codec_context.framerate, video.average_rate, video.guessed_rate)
    return next((Fraction(rate) for rate in rates if rate and rate <= _LARGEST_RATE), Fraction(25))


def _with_last(table: FrameTable) -> FrameTable:
    """Estimate the duration of the last frame if the file does not state it."""
    if table.last > 0:
        return table
    gaps = np.diff(table.pts)
    last = int(np.median(gaps)) if len(gaps) else int(Fraction(1, 25) / table.time_base)
    return replace(table, last=max(last, 1))


def _never_falls(times: Sequence[int]) -> bool:
    return bool((np.diff(np.array(times, dtype=np.int64)) >= 0).all())


def _one_packet_one_frame(stream: Stream, smallest: int) -> bool:
    container = stream.container.format.name.split(",")
    # Real MPEG-4 files have packets of a few bytes without a frame, or two frames per packet.
    plain = smallest > 16 and not stream.video.codec_context.has_b_frames
    if "mov" in container or "matroska" in container:
        return stream.codec in SURE_CODECS and (stream.codec != "mpeg4" or plain)
    return "avi" in container and (stream.codec == "mjpeg" or (stream.codec == "mpeg4" and plain))


def _notes(stream: Stream, *more: str) -> tuple[str, ...]:
    return tuple([*more, *dict.fromkeys(stream.errors)][:3])


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
