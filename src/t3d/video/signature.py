"""Short signature of a decoded frame, to see whether decoding gives the same picture again."""

from __future__ import annotations

import zlib

import av
import numpy as np


def signature(frame: av.VideoFrame) -> int:
    """Return 32 bits that depend on every pixel as decoded, and on the palette, if there is one.

    Equal pictures have equal signatures. Pictures that differ by accident have different ones: a checksum of
    each row's sum of eight-byte words. That is about ten times as fast as a checksum of all bytes.
    """
    layout = frame.format
    sums = 0
    for number, plane in enumerate(frame.planes):
        data = np.frombuffer(plane, dtype=np.uint8)  # type: ignore[call-overload]
        line = abs(plane.line_size)
        if not line or len(data) % line:  # a palette
            sums = zlib.crc32(data, sums)
            continue
        if layout.is_planar:
            parts = [part for part in layout.components if part.plane == number]
            width = sum(part.width * (2 if part.bits > 8 else 1) for part in parts)
        else:
            width = -(-plane.width * layout.padded_bits_per_pixel // 8)
        rows = data.reshape(-1, line)[:, : width or line]  # without padding, whose bytes are arbitrary
        whole = rows.shape[1] // 8 * 8
        words = rows[:, :whole].view(np.uint64).sum(axis=1) + rows[:, whole:].sum(axis=1, dtype=np.uint64)
        sums = zlib.crc32(words, sums)
    return sums
