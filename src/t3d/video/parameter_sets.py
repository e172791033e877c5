"""Find H.264 and HEVC parameter sets within packets: a decoder that starts at another packet misses them."""

from __future__ import annotations

from collections.abc import Iterator

# Types of NAL units: sequence and picture parameter sets, and HEVC's video parameter set.
_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}


def carries_parameter_sets(data: bytes | memoryview, *, codec: str, extradata: bytes) -> bool:
    r"""Return whether a packet begins with parameter sets, before its first picture.

    Args:
        data: The packet's bytes.
        codec: FFmpeg's name of the codec.
        extradata: What the container stores for the decoder. It says how packets are divided into units.

    Example:
        >>> carries_parameter_sets(b"\0\0\0\1\x67\1\2", codec="h264", extradata=b"")
        True
        >>> carries_parameter_sets(b"\0\0\0\1\x65\1\2", codec="h264", extradata=b"")
        False
    """
    wanted = _SETS.get(codec)
    if wanted is None:
        return False
    for first_byte in _units(data, codec=codec, extradata=extradata):
        kind = first_byte & 31 if codec == "h264" else first_byte >> 1 & 63
        if kind in wanted:
            return True
        if kind <= (5 if codec == "h264" else 31):  # a picture
            return False
    return False


def _units(data: bytes | memoryview, *, codec: str, extradata: bytes) -> Iterator[int]:
    """Yield the first byte of each NAL unit."""
    place = 4 if codec == "h264" else 21
    if extradata[:1] == b"\1" and len(extradata) > place:
        size = (extradata[place] & 3) + 1
        at = 0
        while at + size < len(data):
            yield data[at + size]
            at += size + int.from_bytes(data[at : at + size], "big")
        return
    content = bytes(data[:4096])
    at = content.find(b"\0\0\1")
    while 0 <= at < len(content) - 3:
        yield content[at + 3]
        at = content.find(b"\0\0\1", at + 3)
