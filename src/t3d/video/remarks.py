"""Remarks about files that can be read but are unusual. They are part of `damage`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

SCALED = "all are scaled to the size of the first"

# Values of AVColorTransferCharacteristic.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}


def size_remark(number: int, frame: av.VideoFrame, first: tuple[int, int]) -> str:
    """Return the remark about a frame whose size differs from that of the first frame.

    Args:
        number: Number of the frame.
        frame: The frame as decoded.
        first: Height and width of the first frame as stored, in pixels.
    """
    height, width = first
    return f"frame {number} is {frame.width} × {frame.height}, the first {width} × {height}: {SCALED}"


def hdr_transfer(frame: av.VideoFrame) -> str | None:
    """Return the transfer function of a frame with a high dynamic range (HDR), `PQ` or `HLG`, or None.

    Args:
        frame: The frame as decoded.
    """
    return _HDR_TRANSFERS.get(int(frame.color_trc))


def hdr_remark(frame: av.VideoFrame) -> str | None:
    """Return the remark about a frame with a high dynamic range (HDR), or None.

    Args:
        frame: The frame as decoded.
    """
    transfer = hdr_transfer(frame)
    if transfer is None:
        return None
    return f"HDR ({transfer}): read without tone mapping, unless clip.tonemap is on"


def joined(*remarks: str | None) -> str | None:
    """Join remarks into one sentence. Missing and repeated ones are left out.

    Example:
        >>> joined("one", None, "two", "one")
        'one; two'
    """
    return "; ".join(dict.fromkeys(remark for remark in remarks if remark)) or None
