"""Sound of a file, which is copied into a new file, or encoded again if the new file cannot hold it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import av
import av.container

from t3d.errors import VideoError
from t3d.io.tar_member import TarMember
from t3d.video.sound_encoder import Encoded
from t3d.video.stream import open_container

if TYPE_CHECKING:
    import av.audio

    AudioPacket = av.Packet[av.audio.AudioStream]

# Encoders put samples before the start of the sound to warm up a decoder. Players skip them.
_WARM_UP = Fraction(1, 10)


# FFmpeg can write more into an MP4 file, such as uncompressed sound, but most players cannot read it there.
_IN_MP4 = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp2", "mp3", "opus"})


class Sound:
    """The audio streams of a file, read once from start to end.

    Args:
        path: The file. A folder of images has no sound.
        member: Position of the file in its shard, if it is part of one.

    Attributes:
        codecs: Codec of each audio stream.

    Raises:
        VideoError: The file cannot be opened.

    Example:
        >>> with Sound(path) as sound, video_writer(…) as writer:  # doctest: +SKIP
        ...     writer.add_sound(sound)
    """

    def __init__(self, path: Path, *, member: TarMember | None = None) -> None:
        self.path = path
        self.codecs: tuple[str, ...] = ()
        self._container: av.container.InputContainer | None = None
        self._streams: list[av.audio.AudioStream] = []
        self._copies: dict[int, av.audio.AudioStream] = {}
        self._encoded: dict[int, Encoded] = {}
        self._last: dict[int, int] = {}  # latest time stamp of each stream
        self._shift = Fraction(0)
        self._waiting: AudioPacket | None = None
        self._shard = None if member is None else member.open()
        if path.is_dir():
            return
        try:
            self._container = open_container(path, member)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(path, f"its sound cannot be read: {error}") from error
        # A stream of an unknown codec has no context, and cannot be copied.
        self._streams = [
            each for each in self._container.streams.audio if getattr(each, "codec_context", None)
        ]
        self.codecs = tuple(each.codec_context.codec.canonical_name for each in self._streams)
        self._packets = self._read()
        self._waiting = next(self._packets, None)

    @property
    def start(self) -> Fraction | None:
        """Seconds at which the first packet starts; None without sound."""
        packet = self._waiting
        return None if packet is None else Fraction(packet.dts or 0) * Fraction(packet.time_base)

    def not_in(self, form: str) -> tuple[str, ...]:
        """Return the codecs of the sound that a container cannot hold, or that few players find there.

        Args:
            form: FFmpeg's name of the container, one of the values of `t3d.video.writer.FORMATS`.
        """
        if not self.codecs:
            return ()
        with av.open(io.BytesIO(), "w", format=form) as container:
            return tuple(codec for codec in self.codecs if not _holds(container, codec))

    def copy_to(self, container: av.container.OutputContainer, *, shift: Fraction) -> None:
        """Add the audio streams to a new file. Those that it cannot hold are encoded again.

        Args:
            container: The new file.
            shift: Seconds to subtract from all times.
        """
        self._shift = shift
        for stream in self._streams:
            if _holds(container, stream.codec_context.codec.canonical_name):
                self._copies[stream.index] = container.add_stream_from_template(stream)
            else:
                self._encoded[stream.index] = Encoded(stream, container, shift)

    def lead(self, first_frame: Fraction) -> Fraction:
        """Return the time of the first frame in a new file that starts when sound or pictures start.

        Args:
            first_frame: Seconds at which the first frame appears in this file.
        """
        if self.start is None or first_frame - self.start <= _WARM_UP:
            return Fraction(0)
        return first_frame - self.start

    def until(self, seconds: Fraction | None = None) -> Iterator[AudioPacket]:
        """Yield the next packets for the new file, up to a time in it; without a time, all that are left."""
        while (packet := self._waiting) is not None:
            base = Fraction(packet.time_base)
            stamp = packet.dts or 0
            if seconds is not None and stamp * base - self._shift > seconds:
                return
            if (encoded := self._encoded.get(packet.stream.index)) is not None:
                yield from encoded.packets(packet)
            else:
                ticks = round(self._shift / base)
                packet.dts = stamp - ticks
                packet.pts = (stamp if packet.pts is None else packet.pts) - ticks
                packet.stream = self._copies[packet.stream.index]
                yield packet
            self._waiting = next(self._packets, None)
        for encoded in self._encoded.values():
            yield from encoded.packets(None)
        self._encoded.clear()

    def _read(self) -> Iterator[AudioPacket]:
        """Yield the packets whose times ascend, up to the end of the file or to where it is damaged."""
        if not self._streams or self._container is None:
            return
        source = self._container.demux(self._streams)
        while True:
            try:
                packet = next(source, None)
            except (av.FFmpegError, ValueError):
                return
            if packet is None:
                return
            index, stamp = packet.stream.index, packet.dts
            if not packet.size or stamp is None or stamp <= self._last.get(index, stamp - 1):
                continue
            self._last[index] = stamp
            yield cast("AudioPacket", packet)

    def __enter__(self) -> Sound:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = None
        if self._container is not None:
            self._container.close()
        if self._shard is not None:
            self._shard.close()


def _holds(container: av.container.OutputContainer, codec: str) -> bool:
    """Return whether a new file can hold a codec of sound, so that players can play it."""
    in_mp4 = container.format.name in ("mp4", "ipod") and codec not in _IN_MP4
    return codec in container.supported_codecs and not in_mp4
