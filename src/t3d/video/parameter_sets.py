"""Find packets that change the decoder's parameters: a decoder that starts at another packet misses them."""

from __future__ import annotations

from collections.abc import Iterator

# Types of NAL units: sequence and picture parameter sets, and HEVC's video parameter set.
_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
_LAST_PICTURE = {"h264": 5, "hevc": 31}
# Encoders that MPEG-4 decoders recognize by the user data, to work around their errors.
_ENCODERS = (b"DivX", b"XviD", b"Lavc", b"FFmp", b"ffmp")
_MPEG4_USER_DATA, _MPEG4_PICTURE = 0xB2, 0xB6
# Markers of a JPEG picture: quantization tables, Huffman tables, restart interval, start of the pixels.
_DQT, _DHT, _DRI, _SOS = 0xDB, 0xC4, 0xDD, 0xDA
_NOTHING: frozenset[bytes] = frozenset()

WATCHED_CODECS = frozenset({"h264", "hevc", "mpeg4", "mjpeg"})
"""Codecs whose packets may change parameters that later packets need."""


class ParameterWatch:
    r"""Sees all packets of a file in order, and finds out whether decoding may start at any key frame.

    That is so if all parameters within packets are those that the container stores for the decoder, or if
    each key frame's packet brings its own. MJPEG has tables instead: each packet must bring the same ones.

    Args:
        codec: FFmpeg's name of the codec, one of `WATCHED_CODECS`.
        extradata: What the container stores for the decoder. It says how packets are divided into units.

    Example:
        >>> watch = ParameterWatch("h264", b"")
        >>> watch.see(b"\0\0\0\1\x67\1\2", key=True)
        >>> watch.changed
        False
        >>> watch.see(b"\0\0\0\1\x65\1\2", key=True)
        >>> watch.changed
        True
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self._codec = codec
        self._extradata = extradata
        self._prefix = _prefix_size(codec, extradata)
        self._last_picture = _LAST_PICTURE.get(codec, -1)
        self._shift = 0 if codec == "h264" else 1
        self._mask = 31 if codec == "h264" else 63
        self._stored = _stored(codec, extradata)
        self._kinds: set[frozenset[bytes]] = set()  # of parameters that packets of key frames bring
        self._current = _NOTHING
        self._foreign = False  # some parameters are not those that the container stores
        self._stray = False  # a packet without a key frame brings other parameters

    @property
    def changed(self) -> bool:
        """True if a decoder that starts at a key frame may miss parameters."""
        if self._codec == "mjpeg":
            return len(self._kinds) > 1
        return self._foreign and (self._stray or len(self._kinds) > 1)

    def see(self, data: bytes | memoryview, *, key: bool) -> None:
        """Look at the bytes of the next packet."""
        if not key and self._plain(data):
            return
        units = self._units(data)
        if key:
            size = 2 if self._codec == "mjpeg" else 1
            self._kinds.add(frozenset(unit[:size] for unit in units) if units else _NOTHING)
            self._current = units
        elif not units <= self._current:
            self._stray = True
        if not units <= self._stored:
            self._foreign = True

    def _plain(self, data: bytes | memoryview) -> bool:
        """Return whether a packet begins with a picture. This is the quick way for most packets."""
        if self._prefix:
            return len(data) > self._prefix and (
                0 < data[self._prefix] >> self._shift & self._mask <= self._last_picture
            )
        return self._codec == "mpeg4" and len(data) > 3 and data[3] == _MPEG4_PICTURE and not data[0]

    def _units(self, data: bytes | memoryview) -> frozenset[bytes]:
        if self._codec == "mjpeg":
            return frozenset(_tables(data))
        if self._codec == "mpeg4":
            return frozenset(_mpeg4_headers(bytes(data[:4096])))
        wanted, units = _SETS[self._codec], []
        for unit in _nal_units(data, self._prefix):
            kind = unit[0] >> self._shift & self._mask
            if kind in wanted:
                units.append(bytes(unit).rstrip(b"\0"))
            elif kind <= self._last_picture:
                break
        return frozenset(units)


def _prefix_size(codec: str, extradata: bytes) -> int:
    """Return the bytes of a unit's length in MP4 and Matroska files; 0 for units with start codes."""
    place = {"h264": 4, "hevc": 21}.get(codec)
    if place is None or extradata[:1] != b"\1" or len(extradata) <= place:
        return 0
    return (extradata[place] & 3) + 1


def _stored(codec: str, extradata: bytes) -> frozenset[bytes]:
    """Return the parameters that the container stores for the decoder."""
    if codec == "mpeg4":
        return frozenset(_mpeg4_headers(extradata))
    if codec == "mjpeg":
        return _NOTHING
    if not _prefix_size(codec, extradata):
        units: Iterator[bytes | memoryview] = _nal_units(extradata, 0)
    else:
        units = _avc_sets(extradata) if codec == "h264" else _hevc_sets(extradata)
    return frozenset(bytes(unit).rstrip(b"\0") for unit in units if unit)


def _avc_sets(extradata: bytes) -> Iterator[bytes]:
    """Yield the parameter sets of an `avcC` box."""
    at = 5
    for mask in (31, 255):  # the numbers of sequence and of picture parameter sets
        if at >= len(extradata):
            return
        count, at = extradata[at] & mask, at + 1
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            yield extradata[at + 2 : at + 2 + length]
            at += 2 + length


def _hevc_sets(extradata: bytes) -> Iterator[bytes]:
    """Yield the parameter sets of an `hvcC` box."""
    at = 23
    for _ in range(extradata[22] if len(extradata) > 22 else 0):
        count, at = int.from_bytes(extradata[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            if at >= len(extradata):
                return
            length = int.from_bytes(extradata[at : at + 2], "big")
            yield extradata[at + 2 : at + 2 + length]
            at += 2 + length


def _nal_units(data: bytes | memoryview, prefix: int) -> Iterator[bytes | memoryview]:
    """Yield each NAL unit, with its header; with start codes, only those near the beginning."""
    at = 0
    if prefix:
        while at + prefix < len(data):
            length = int.from_bytes(data[at : at + prefix], "big")
            at += prefix
            if length:
                yield data[at : at + length]
            at += length
        return
    content = bytes(data[:4096])
    at = content.find(b"\0\0\1")
    while 0 <= at < len(content) - 3:
        end = content.find(b"\0\0\1", at + 3)
        yield content[at + 3 : end if end >= 0 else len(content)]
        at = end


def _mpeg4_headers(content: bytes) -> Iterator[bytes]:
    """Yield the descriptions of the video object layer, and the encoder's name, before the first picture."""
    for unit in _nal_units(content, 0):
        if unit[0] == _MPEG4_PICTURE:
            return
        if 0x20 <= unit[0] <= 0x2F or (unit[0] == _MPEG4_USER_DATA and bytes(unit[1:5]) in _ENCODERS):
            yield bytes(unit).rstrip(b"\0")


def _tables(data: bytes | memoryview) -> Iterator[bytes]:
    """Yield the marker and number of each table that a JPEG picture brings."""
    at = 2
    while at + 4 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _SOS:
            return
        if marker == 0xFF:  # a byte that fills up
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (_DQT, _DHT):
            yield from _table_numbers(data[at + 4 : end], marker)
        elif marker == _DRI:
            yield bytes((marker, 0))
        at = end


def _table_numbers(tables: bytes | memoryview, marker: int) -> Iterator[bytes]:
    at = 0
    while at < len(tables):
        yield bytes((marker, tables[at]))
        if marker == _DQT:
            at += 129 if tables[at] >> 4 else 65
        else:
            at += 17 + sum(tables[at + 1 : at + 17])
