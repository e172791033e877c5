"""Tone mapping: frames with a high dynamic range (HDR) as a standard screen (SDR, BT.709) shows them."""

from __future__ import annotations

import av
from av.filter import Graph

from t3d.video.remarks import hdr_transfer

# FFmpeg's `scale` filter maps brightness and colors to the smaller range by this intent (since FFmpeg 7.1).
_SCALE = "out_primaries=bt709:out_transfer=bt709:out_color_matrix=bt709:intent=perceptual"


class ToneMapper:
    """Converts HDR frames to SDR, with a filter that is built once per format of frames."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._form: tuple[object, ...] = ()

    def to_sdr(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return an HDR frame as an RGB frame of the same size, and any other frame unchanged.

        Raises:
            av.FFmpegError: FFmpeg cannot convert the frame.
        """
        if hdr_transfer(frame) is None:
            return frame
        form = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        if self._graph is None or form != self._form:
            self._graph, self._form = _graph(frame), form
        self._graph.vpush(frame)
        return self._graph.vpull()


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
