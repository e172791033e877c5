"""The packets of an MPEG-4 AVI file without reading them one by one: its index, checked against its bytes.

Reading all packets through PyAV takes many times as long as reading the file. Each entry of the file's index
is therefore compared with the file's bytes. If all agree, reading would give the same packets, with the same
time stamps. If anything is unusual, the packets must be read.

Legend: N packets, K key frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from t3d.video.stream import Stream, VideoPacket

Int64s = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]

# Larger files are not read into memory.
_LARGEST = 1 << 26
# A chunk begins with four letters and its size.
_HEAD = 8
_HEADERS = 4096
_ENTRY = 16  # bytes of an entry of the index
_KEY = 0x10  # flag of a key frame
# Start code of a picture; the next byte begins with its type in two bits.
_PICTURE = b"\0\0\1\xb6"
_PICTURE_WORD = int.from_bytes(_PICTURE, "little")
_I, _B = 0, 2  # types of pictures: independent of others, and dependent on later ones


@dataclass(frozen=True)
class IndexedPackets:
    """Packets of a file, as reading them would give. Each holds one picture.

    Args:
        stamps: Time stamp of each packet, for decoding and for display, int64 [N], ascending.
        keys: Numbers of the key frames' packets, int64 [K], ascending.
        positions: Position of each packet's content in the file, int64 [N].
        smallest: Bytes of the smallest packet.
        key_heads: First bytes of each key frame's packet, with the parameters of the decoder.
    """

    stamps: Int64s
    keys: Int64s
    positions: Int64s
    smallest: int
    key_heads: tuple[bytes, ...]


def indexed_packets(stream: Stream, first: VideoPacket) -> IndexedPackets | None:
    """Return the packets that an AVI file's index lists, or None if they must be read.

    The file must be MPEG-4 without B-frames, and all of this must hold:

    - Its chunks follow each other without a gap, from the list of chunks to the end of the file.
    - The index lists each chunk of the stream with its place and size.
    - Each chunk begins with a picture, or with the same headers as the first one.
    - Those with an independent picture, and only those, are key frames in the index.

    Args:
        stream: The file.
        first: Its first packet, as read.
    """
    if stream.codec != "mpeg4" or stream.container.format.name != "avi":
        return None
    if stream.video.codec_context.has_b_frames or stream.size > _LARGEST:
        return None
    content = stream.content()
    if content is None or len(content) != stream.size:
        return None
    begin = content.rfind(b"idx1")
    size = int.from_bytes(content[begin + 4 : begin + _HEAD], "little")
    if begin < 0 or not size or size % _ENTRY or begin + _HEAD + size > len(content):
        return None
    # Four bytes from each position on. A row of the index: name, flags, place and size of a chunk.
    words = np.ndarray(len(content) - 3, "<u4", buffer=content, strides=1)
    rows = np.frombuffer(content, "<u4", size // 4, begin + _HEAD).reshape(-1, 4)
    name = int.from_bytes(b"%02ddc" % stream.video.index, "little")
    named = rows[:, 0] == name
    rows = (rows if named.all() else rows[named]).astype(np.int64)
    start = _agreed_start(stream, first, rows)
    if start is None or first.pos is None:
        return None
    sizes = rows[:, 3]
    places = rows[:, 2] + (first.pos - _HEAD - rows[0, 2])  # counted from an arbitrary position
    positions = places + _HEAD
    ends = positions + sizes
    if (places < 0).any() or (ends > begin).any():
        return None
    if (words[places] != name).any() or (words[places + 4] != sizes).any():
        return None
    if not _only_listed(content, words, places, ends, stream.video.index):
        return None
    keys = np.flatnonzero(rows[:, 1] & _KEY)
    if not _same_headers(content, words, positions, ends, keys):
        return None
    heads = tuple(
        content[at : at + min(size, _HEADERS)]
        for at, size in zip(positions[keys].tolist(), sizes[keys].tolist(), strict=True)
    )
    return IndexedPackets(np.arange(start, start + len(rows)), keys, positions, int(sizes.min()), heads)


def _agreed_start(stream: Stream, first: VideoPacket, rows: Int64s) -> int | None:
    """Return the first time stamp, or None if the index differs from FFmpeg's own, which it seeks by.

    FFmpeg's entries have ascending time stamps: there is no gap if the last one has the right one.
    """
    known, count = stream.video.index_entries, len(rows)
    if not count or count != len(known):
        return None
    start, last = known[0], known[count - 1]
    agreed = (
        (first.pts, first.dts, first.pos, first.size)
        == (start.timestamp, start.timestamp, start.pos + _HEAD, start.size)
        and (last.timestamp - start.timestamp, last.pos - start.pos, last.size)
        == (count - 1, rows[-1, 2] - rows[0, 2], rows[-1, 3])
        and start.size == rows[0, 3]
    )
    return start.timestamp if agreed else None


def _only_listed(content: bytes, words: Words, places: Int64s, ends: Int64s, number: int) -> bool:
    """Return whether no chunk between, before and after those of the index could be one of the stream."""
    begin = content.rfind(b"movi", 0, int(places[0])) + len(b"movi")
    # A chunk of odd size is followed by an empty byte.
    odd = (ends - places) & 1
    starts = ends + odd
    if begin < len(b"movi") or ((words[ends - 3] >> 24) * odd).any():
        return False
    # A file with several lists of chunks has other indexes.
    if content.find(b"indx", 0, begin) >= 0:
        return False
    gaps = np.flatnonzero(starts[:-1] != places[1:])
    between = [(begin, int(places[0])), (int(starts[-1]), len(content))]
    between += zip(starts[gaps].tolist(), places[gaps + 1].tolist(), strict=True)
    return all(_only_others(content, start, stop, number) for start, stop in between)


def _only_others(content: bytes, start: int, stop: int, number: int) -> bool:
    """Return whether chunks of sound, indexes and fillers reach from one place to another."""
    while start + _HEAD <= stop:
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + _HEAD], "little")
        sound = name[2:] == b"wb" and name[:2].isdigit() and int(name[:2]) != number
        if not sound and name not in (b"JUNK", b"idx1"):
            return False
        start += _HEAD + size
        if size & 1 and start < stop:
            if content[start]:
                return False
            start += 1
    return start == stop


def _same_headers(content: bytes, words: Words, positions: Int64s, ends: Int64s, keys: Int64s) -> bool:
    """Return whether all packets that begin with headers have the first one's, and pictures are as listed.

    Listed are independent pictures as key frames, and no picture that depends on later ones.
    """
    first = int(positions[0])
    prefix = content[first : content.find(_PICTURE, first, int(ends[0])) + len(_PICTURE)]
    others = np.flatnonzero(words[positions] != _PICTURE_WORD)
    starts = positions[others].tolist()
    if not starts or starts[0] != first or not all(content.startswith(prefix, start) for start in starts):
        return False
    kinds = words[positions + 1] >> 30  # the first two bits after the start code of a picture
    kinds[others] = [content[start + len(prefix)] >> 6 for start in starts]
    return np.array_equal(np.flatnonzero(kinds == _I), keys) and not (kinds == _B).any()
