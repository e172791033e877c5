"""Tone mapping: frames with a high dynamic range (HDR) as a standard screen (SDR, BT.709) shows them."""

from __future__ import annotations

import os
import threading

import av
from av.filter import Graph

from t3d.video.remarks import hdr_transfer

# FFmpeg's `scale` filter maps brightness and colors to the smaller range by this intent (since FFmpeg 7.1).
_SCALE = "out_primaries=bt709:out_transfer=bt709:out_color_matrix=bt709:intent=perceptual"
_MOST = 4  # filters per thread: sizes and formats that alternate

# A filter takes seconds to build, so the files that a thread reads share it. A filter belongs to one thread,
# and its helper threads do not survive a fork.
_built = threading.local()


def to_sdr(frame: av.VideoFrame) -> av.VideoFrame:
    """Return an HDR frame as an RGB frame of the same size, and any other frame unchanged.

    Args:
        frame: A decoded frame.

    Raises:
        av.FFmpegError: FFmpeg cannot convert the frame.
    """
    if hdr_transfer(frame) is None:
        return frame
    graphs: dict[tuple[object, ...], Graph] = _built.__dict__.setdefault(f"graphs{os.getpid()}", {})
    form = (
        frame.width,
        frame.height,
        frame.format.name,
        frame.colorspace,
        frame.color_range,
        frame.color_primaries,
        frame.color_trc,
    )
    graph = graphs.pop(form, None) or _graph(frame)
    graphs[form] = graph  # the last one used comes last
    if len(graphs) > _MOST:
        del graphs[next(iter(graphs))]
    try:
        graph.vpush(frame)
        return graph.vpull()
    except BaseException:
        del graphs[form]  # it may hold a part of this frame
        raise


def _graph(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    steps = (graph.add("scale", _SCALE), graph.add("format", "rgb24"), graph.add("buffersink"))
    for step in steps:
        source.link_to(step)
        source = step
    graph.configure()
    return graph
