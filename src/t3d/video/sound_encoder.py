"""Encode a sound again, for a file that cannot hold its codec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import av
import av.container
from av.audio.resampler import AudioResampler

if TYPE_CHECKING:
    import av.audio

    AudioPacket = av.Packet[av.audio.AudioStream]

# Encoders by codec, the first one that the new file can hold is used: WebM holds Opus only.
_ENCODERS: dict[str, Literal["aac", "libopus"]] = {"aac": "aac", "opus": "libopus"}
_OPUS_RATE = 48_000


class Encoded:
    """An audio stream of a new file, encoded from the packets of another one.

    Args:
        stream: The audio stream of the other file.
        container: The new file, which gets another stream.
        shift: Seconds to subtract from all times.
    """

    def __init__(
        self, stream: av.audio.AudioStream, container: av.container.OutputContainer, shift: Fraction
    ) -> None:
        encoder = next(name for codec, name in _ENCODERS.items() if codec in container.supported_codecs)
        context = stream.codec_context
        rate = _OPUS_RATE if encoder == "libopus" else context.sample_rate
        layout = "mono" if context.layout.nb_channels == 1 else "stereo"
        self._source = stream
        self._next = 0  # time stamp after the last sample
        self._shift = shift
        self._stream = container.add_stream(encoder, rate=rate, layout=layout)
        self._resampler = AudioResampler(
            format=self._stream.codec_context.format, layout=layout, rate=rate, frame_size=0
        )

    def packets(self, packet: AudioPacket | None) -> Iterator[AudioPacket]:
        """Yield the encoded packets for a packet of the other file. Without one, yield all that are left."""
        frames: list[av.AudioFrame] = []
        with suppress(av.FFmpegError):  # a damaged packet is silent
            frames = list(self._source.codec_context.decode(packet))
        for frame in frames:
            for resampled in self._resampler.resample(frame):
                yield from self._encode(resampled)
        if packet is None:
            for resampled in self._resampler.resample(None):
                yield from self._encode(resampled)
            yield from self._stream.encode(None)

    def _encode(self, frame: av.AudioFrame) -> Iterator[AudioPacket]:
        if frame.pts is None:  # some decoders do not know the times of their last samples
            frame.pts = self._next
        else:
            frame.pts -= round(self._shift / Fraction(frame.time_base or 1))
        length = Fraction(frame.samples, frame.sample_rate)
        self._next = frame.pts + round(length / Fraction(frame.time_base or 1))
        yield from self._stream.encode(frame)
