"""Sequential reading of one video file: packets, frames, RGB pixels. `t3d.video.reader` adds random access.

All FFmpeg errors are converted to `VideoError`.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.container
import av.logging
import av.video
from av.stream import Discard, Disposition

from t3d.errors import VideoError
from t3d.io.archive_names import is_archive, unpack_hint
from t3d.io.tar_member import TarMember
from t3d.io.video_cache import ensure_local
from t3d.video.heap import count_closed
from t3d.video.limits import TimeLimit, check_frame_size
from t3d.video.orientation import Image
from t3d.video.rgb import RGBConverter, ffmpeg_text, stored_pixel_aspect

if TYPE_CHECKING:
    VideoPacket = av.Packet[av.video.VideoStream]

# Video containers only: a playlist or script would make FFmpeg open other files, or wait for them.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,live_flv,asf,ogg,h264,hevc,vvc,m4v,"
    "h263,av1,obu,ivf,mjpeg,mjpeg_2000,gif,apng,yuv4mpegpipe,mxf,mxf_opatom,nut,dv,rm,gxf,wtv,nsv,vc1,dirac,"
    "avs,avs2,avs3,cavsvideo,swf,smjpeg,flic,bink,smk,roq,thp,amv,r3d,webp_pipe,cine,ser,dhav,h261,pva,nuv,"
    "ty,vivo,film_cpk,mpjpeg,ivr,lxf,iv8"
)

# Only to say in a message that a file is one of these.
_AUDIO_FORMATS = (
    "mp3,wav,flac,aac,ac3,eac3,aiff,au,caf,amr,amrnb,amrwb,w64,ape,wv,tta,mpc,mpc8,dts,dtshd,truehd,mlp,voc,"
    "oma,shn,tak,xwma,qcp,aa,gsm,ast,dsf,iff,sox,adx"
)

# Codecs that mark frames that no other frame depends on, and whose decoders can skip them.
# HEVC is not included: frames that it marks may still be used by frames of a higher temporal layer.
_LEAVES = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})

_COVER = Disposition.attached_pic.value

WRONG_PLACES = "some frames differ after a seek from those read from the start; they are decoded in order"
"""Error of a file whose frames cannot be found by seeking."""


class Stream:
    """Demuxer and decoder for the best video stream of a file, read forward from the current position.

    Args:
        path: The file.
        threads: Decoding threads.
        member: Position of the file in its shard, if it is part of one.
        strict: Whether the decoder reports every error it notices, instead of covering up damaged parts of
            a picture with parts of pictures before it. Frames without errors are the same.
        max_megapixels: Largest frame that is decoded, in megapixels.
        time_limit: Checked after every packet.
        tonemap: Whether `rgb` converts frames with a high dynamic range (HDR) to a standard one.

    Raises:
        VideoError: The file is missing, is not a video, has frames that are too large, or cannot be decoded.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 1,
        member: TarMember | None = None,
        strict: bool = False,
        max_megapixels: float = math.inf,
        time_limit: TimeLimit | None = None,
        tonemap: bool = False,
    ) -> None:
        av.logging.set_level(None)
        self.path = path
        self.size = size_of(path) if member is None else member.size
        if member is None and is_archive(path):  # FFmpeg may take a picture in it for a video
            raise VideoError(path, f"is an archive, not a video; {unpack_hint(path)}")
        self._member = member
        self._shard = None if member is None else member.open()
        self._time_limit = time_limit
        # FFmpeg checks it as well: when it opens the file, and if frames change their size later. It counts
        # the margins of a frame in memory.
        largest = {} if max_megapixels == math.inf else {"max_pixels": str(int(max_megapixels * 2e6) + 2**17)}
        self.errors: list[str] = []  # errors while reading, one line each
        try:
            self.container = open_container(path, member, decoder_options=largest)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(path, _why_not_opened(path, member, error)) from error
        self.video = _pick(path, self.container)
        if largest:
            height, width = _frame_size(path, member, self.video)
            check_frame_size(path, height, width, max_megapixels=max_megapixels)
        for other in self.container.streams:
            if other.index != self.video.index:
                other.discard = Discard.all
        context = self.video.codec_context
        context.thread_count = threads
        context.thread_type = "AUTO" if threads > 1 else "NONE"
        self.codec: str = context.codec.canonical_name  # FFmpeg's name
        # HEVC's decoder hides errors otherwise, and returns the rest of a frame as if it were undamaged.
        explode = {"err_detect": "explode"} if strict or self.codec == "hevc" else {}
        context.options = largest | explode
        # Of the packets of the last pass of `frames`.
        self.decoding_times: list[int | None] = []
        self.packet_times: list[int | None] = []  # as stored, not always times of presentation
        self.passed_over: set[int] = set()  # time stamps of the frames that the last pass of `frames` skipped
        self._rgb = RGBConverter(path, tonemap=tonemap)
        # Every frame of MPEG-4 without B-frames depends on the one before, up to the next key frame.
        self.chained = self.codec == "mpeg4" and not context.has_b_frames
        self._leaves = self.codec in _LEAVES and not self.chained

    def packets(self) -> Iterator[VideoPacket]:
        """Yield the packets of the video stream in file order. The last, empty packet may be missing."""
        # A packet has at least one byte; a maliciously crafted index could repeat itself for hours.
        bound = 1000 + self.size
        source = self.container.demux(self.video)
        count = 0
        may_be_encrypted = self.container.format.name != "avi"
        while True:
            try:
                packet = next(source, None)
            except (av.FFmpegError, ValueError) as error:
                self.errors.append(f"reading stops after {count} packets: {ffmpeg_text(error)}")
                packet = None
            except IndexError:
                # PyAV fails on streams that appear in mid-file, but only after it has read everything.
                packet = None
            if packet is None:
                return
            count += 1
            if self._time_limit is not None:
                self._time_limit.check()
            if count > bound:
                raise VideoError(
                    self.path, f"its index lists over {bound} frames, more than its bytes can hold"
                )
            if may_be_encrypted and packet.is_keyframe and packet.has_sidedata("encryption_info"):
                raise VideoError(self.path, "is encrypted; decrypt it first")
            yield packet

    def decode(self, packet: VideoPacket | None) -> list[av.VideoFrame]:
        """Decode one packet into frames. None flushes the decoder. Failures are added to `errors`."""
        try:
            return self.video.codec_context.decode(packet)
        except av.EOFError:
            return []  # flushed before
        except (av.FFmpegError, ValueError, MemoryError) as error:
            self.errors.append(ffmpeg_text(error))
            return []

    def frames(
        self,
        needless: Callable[[int], bool] | None = None,
        *,
        unchained: Set[int] = frozenset(),
        landing: tuple[int, int | None] | None = None,
    ) -> Iterator[av.VideoFrame]:
        """Yield the frames from here to the end, in presentation order.

        Args:
            needless: Returns for a time stamp whether that frame is not needed. Such a frame is skipped
                if no other frame depends on it. The other frames stay bit-identical.
            unchained: Time stamps of frames that are not needed, nor any other up to the next key frame. If
                the stream is `chained`, they are not decoded. May change while frames are read.
            landing: Time stamp and position in the file of the key frame's packet that was sought. Another
                position means that the container's index is wrong, and adds `WRONG_PLACES` to `errors`.
        """
        context = self.video.codec_context
        passing = False
        chained = self.chained
        if not self._leaves:
            needless = None
        self.decoding_times, self.packet_times, self.passed_over = [], [], set()
        for packet in self.packets():
            if not packet.size:
                continue
            self.decoding_times.append(packet.dts)
            self.packet_times.append(packet.pts)
            if landing is not None and packet.pts == landing[0]:
                if landing[1] is not None and packet.pos != landing[1]:
                    self.errors.append(WRONG_PLACES)
                landing = None
            stamp = packet.pts
            if chained:
                if stamp is not None and stamp in unchained:
                    self.passed_over.add(stamp)
                    continue
            elif needless is not None:
                # Decoding can start at a key frame.
                pass_over = stamp is not None and not packet.is_keyframe and needless(stamp)
                if pass_over != passing:
                    context.skip_frame = "NONREF" if pass_over else "DEFAULT"
                    passing = pass_over
                if passing and stamp is not None:
                    self.passed_over.add(stamp)
            yield from self.decode(packet)
        yield from self.decode(None)

    def seek(self, timestamp: int) -> None:
        """Seek to the last key frame at or before a time stamp, according to the container's index.

        Raises:
            VideoError: The container cannot seek.
        """
        try:
            self.container.seek(timestamp, stream=self.video, backward=True)
        except (av.FFmpegError, ValueError, OverflowError) as error:
            raise VideoError(
                self.path, f"cannot go to time stamp {timestamp}: {ffmpeg_text(error)}"
            ) from error

    def rgb(self, frame: av.VideoFrame, *, shape: tuple[int, int] | None = None) -> Image:
        """Convert a frame to RGB as stored (not rotated), uint8 H W C, by its own color space and range.

        Args:
            frame: A frame from `frames`.
            shape: Height and width to scale it to, by swscale's bicubic filter.
        """
        return self._rgb(frame, shape=shape)

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a stored pixel divided by its height: the container's value, else the codec's, else 1.

        Absurd values, such as damaged headers have, are read as 1.
        """
        return stored_pixel_aspect(self.video)

    def beyond_end(self) -> int:
        """Return how many frames of the container's index are, in part or whole, beyond the end of the file.

        Known after the packets are read, and only if the index is at the start, as in some MP4 files.
        """
        return sum(entry.pos + entry.size > self.size for entry in self.video.index_entries)

    def content(self) -> bytes | None:
        """Return the bytes of the file, or None if it is part of a shard or cannot be read."""
        if self._member is not None:
            return None
        try:
            with self.path.open("rb", buffering=0) as file:
                return file.read(self.size)
        except OSError:
            return None

    def ends(self) -> bytes:
        """Return the first and last bytes of the file, where an MP4 lists its boxes."""
        with self.path.open("rb") if self._member is None else self._member.open() as file:
            start = 0 if self._member is None else self._member.start
            file.seek(start)
            first = file.read(min(1 << 16, self.size))
            file.seek(start + max(self.size - (1 << 16), 0))
            return first + file.read(min(1 << 16, self.size))

    def close(self) -> None:
        """Close the file."""
        self.container.close()
        if self._shard is not None:
            self._shard.close()
        count_closed()


def size_of(path: Path) -> int:
    """Return the size in bytes of a file that may be a video.

    Raises:
        VideoError: It is missing, is not a regular file, or is empty; or its URL cannot be downloaded.
    """
    ensure_local(path)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except NotADirectoryError as error:
        reason = "is in a file, not in a folder; a video in a shard is read by the shards' index.parquet"
        raise VideoError(path, reason) from error
    except (OSError, ValueError) as error:
        raise VideoError(path, f"cannot be looked at: {error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise VideoError(path, "is a folder, not a video file")
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(path, "is not a regular file")
    if status.st_size == 0:
        raise VideoError(path, "is empty (0 bytes)")
    return status.st_size


def open_container(
    path: Path,
    member: TarMember | None,
    *,
    decoder_options: dict[str, str] | None = None,
    formats: str = FORMATS,
    decoders: str | None = None,
) -> av.container.InputContainer:
    """Open a file with FFmpeg.

    Args:
        path: The file.
        member: Position of the file in its shard, if it is part of one. The shard must stay open.
        decoder_options: Options of the decoders.
        formats: Container formats that are accepted.
        decoders: Decoders that may run while FFmpeg looks at the start of the file. Default: all.

    Raises:
        av.FFmpegError: FFmpeg cannot open the file.
    """
    only = {} if decoders is None else {"codec_whitelist": decoders}
    container: av.container.InputContainer = av.open(
        # "file:" keeps a colon in the name from being read as a protocol.
        f"file:{os.fspath(path)}" if member is None else member.url,
        format="avi" if member is None and _is_avi(path) else None,
        options=decoder_options,
        container_options={
            "format_whitelist": formats,
            "protocol_whitelist": "file" if member is None else "file,subfile",
            **only,
        },
        metadata_errors="replace",
    )
    return container


def _is_avi(path: Path) -> bool:
    """Return whether a file begins as AVI files do: to find it out takes FFmpeg half its time of opening."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError):
        return False
    try:
        head = os.read(file, 12)
    except OSError:
        return False
    finally:
        os.close(file)
    return head[:4] == b"RIFF" and head[8:] == b"AVI "


def _frame_size(path: Path, member: TarMember | None, video: av.video.VideoStream) -> tuple[int, int]:
    """Return height and width of a frame according to the header, or (0, 0) if they are unknown.

    In some formats, such as GIF, FFmpeg knows them only after it has decoded a frame, which `max_pixels` may
    have forbidden.
    """
    context = video.codec_context
    if context.width == 0:
        with (
            suppress(av.FFmpegError, ValueError, IndexError),
            open_container(path, member) as other,
        ):
            probed = other.streams.video[video.container.streams.video.index(video)].codec_context
            return probed.height, probed.width
    return context.height, context.width


def best_video(container: av.container.InputContainer) -> av.video.VideoStream | None:
    """Return the stream of a file that is read; None without one. A cover picture is not a video."""
    videos = [stream for stream in container.streams.video if not is_cover(stream)]
    best = container.streams.best("video")
    first = videos[0] if videos else None
    return next((stream for stream in videos if best is not None and stream.index == best.index), first)


def is_cover(stream: av.stream.Stream) -> bool:
    """Return whether a stream is a picture that stands for the file, as in files of music."""
    return bool(stream.disposition.value & _COVER)


def _pick(path: Path, container: av.container.InputContainer) -> av.video.VideoStream:
    video = best_video(container)
    if video is None:
        kinds = sorted({"a cover picture" if s.type == "video" else s.type for s in container.streams})
        raise VideoError(path, "has no video stream" + (f", only {' and '.join(kinds)}" if kinds else ""))
    if video.codec_context is None:
        raise VideoError(path, "this build of FFmpeg cannot decode its video codec")
    return video


def _why_not_opened(path: Path, member: TarMember | None, error: Exception) -> str:
    if isinstance(error, av.InvalidDataError):
        return "cannot be opened by FFmpeg: not a video, or its header is truncated or corrupt"
    if isinstance(error, av.ArgumentError):
        with (
            suppress(av.FFmpegError, ValueError),
            open_container(path, member, formats=_AUDIO_FORMATS) as audio,
        ):
            return f"is an audio file, not a video ({audio.format.long_name})"
        return "is not a video container but a playlist, script, picture or the like"
    return f"cannot be opened: {ffmpeg_text(error)}"
