"""Files that the server accepts: common containers and codecs only, of a bounded size and length.

FFmpeg has hundreds of decoders, and most are rarely used and rarely tested. Files from strangers are opened
only with those that browsers, phones and cameras write.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import av.container
import av.video
from av.codec.codec import UnknownCodecError

from t3d.errors import VideoError
from t3d.video.stream import best_video, is_cover, open_container

CONTAINERS = {
    "mov": "video/mp4",
    "matroska": "video/x-matroska",
    "webm": "video/webm",
    "avi": "video/x-msvideo",
    "mpegts": "video/mp2t",
    "mpeg": "video/mpeg",
    "flv": "video/x-flv",
    "asf": "video/x-ms-wmv",
    "ogg": "video/ogg",
    "gif": "image/gif",
}
"""Media type per container, by FFmpeg's name."""
_VIDEO_CODECS = """
h264 hevc vp8 vp9 av1 mpeg4 mpeg1video mpeg2video h263 flv1 mjpeg msmpeg4v2 msmpeg4v3 wmv1 wmv2 wmv3 vc1
theora prores dvvideo gif rawvideo
"""
_SOUND_CODECS = """
aac mp3 mp2 mp1 ac3 eac3 opus vorbis flac alac amr_nb amr_wb wmav1 wmav2 speex adpcm_ms adpcm_ima_wav
adpcm_swf nellymoser
"""
VIDEO_CODECS = frozenset(_VIDEO_CODECS.split())
SOUND_CODECS = frozenset(_SOUND_CODECS.split())
TEXT_CODECS = frozenset({"mov_text", "subrip", "ass", "ssa", "webvtt", "text"})
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif"
_MOST_STREAMS = 32
_HINT = "Convert it to H.264 in MP4, for example with `ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4`"


@dataclass(frozen=True)
class FileFacts:
    """Facts about an accepted file.

    Args:
        container: FFmpeg's name of the container, a key of `CONTAINERS`.
        codec: FFmpeg's name of the codec of the pictures.
        width: Width of a frame as stored, in pixels.
        height: Height of a frame as stored, in pixels.
        sound: FFmpeg's names of the codecs of the sound.
    """

    container: str
    codec: str
    width: int
    height: int
    sound: tuple[str, ...] = ()


def check_file(path: Path, *, max_seconds: float, max_megapixels: float) -> FileFacts:
    """Refuse a file that the server does not accept, before it is decoded.

    Args:
        path: The file.
        max_seconds: Longest video in seconds, by the header. The header may be wrong: see `check_length`.
        max_megapixels: Largest frame in megapixels.

    Raises:
        VideoError: The file is not accepted, with the reason and what to do.
    """
    limits = {"max_pixels": str(int(max_megapixels * 2e6) + 2**17)}  # see `t3d.video.stream`
    try:
        container = open_container(path, None, decoder_options=limits, formats=_FORMATS, decoders=_decoders())
    except av.ArgumentError as error:  # the format is not in the list
        reason = f"is not a video in a format that this server accepts (MP4, MOV, MKV, WebM, AVI, …). {_HINT}"
        raise VideoError(path, reason) from error
    except (av.FFmpegError, ValueError) as error:
        reason = (
            "is not a video, or its start is damaged or cut off. Check that it plays on your computer, and "
            "send the original again"
        )
        raise VideoError(path, reason) from error
    with container:
        return _checked(path, container, max_seconds=max_seconds, max_megapixels=max_megapixels)


def check_length(path: Path, seconds: float, *, max_seconds: float) -> None:
    """Refuse a video that is too long.

    Args:
        path: The file, for the message.
        seconds: Its length.
        max_seconds: Longest video in seconds.

    Raises:
        VideoError: It is longer.
    """
    if seconds > max_seconds:
        raise VideoError(
            path,
            f"has {seconds:.0f} seconds; this server accepts at most {max_seconds:g}. Send a part of it, for "
            f"example with `ffmpeg -i IN -t {max_seconds:g} OUT.mp4`",
        )


def _checked(
    path: Path, container: av.container.InputContainer, *, max_seconds: float, max_megapixels: float
) -> FileFacts:
    if len(container.streams) > _MOST_STREAMS:
        raise VideoError(path, f"has {len(container.streams)} streams; at most {_MOST_STREAMS} are accepted")
    for stream in container.streams:
        if not is_cover(stream):  # a cover picture is not decoded
            _check_stream(path, stream.type, _codec(stream))
    video = best_video(container)
    if video is None:
        raise VideoError(path, "has no pictures, only sound, text or a cover; send a video")
    context = video.codec_context
    megapixels = context.width * context.height / 1e6
    if megapixels > max_megapixels:
        raise VideoError(
            path,
            f"has frames of {context.width} × {context.height} pixels ({megapixels:.3g} megapixels); this "
            f"server accepts at most {max_megapixels:g}. Make it smaller, for example with "
            "`ffmpeg -i IN -vf scale=-2:1080 OUT.mp4`",
        )
    if container.duration is not None:
        check_length(path, container.duration / av.time_base, max_seconds=max_seconds)
    name = container.format.name
    form = "mov" if name.startswith("mov,") else name.split(",")[0]
    codec = _codec(video) or ""
    if form == "matroska" and codec in ("vp8", "vp9", "av1"):
        form = "webm"
    sound = tuple(_codec(stream) or "unknown" for stream in container.streams.audio)
    return FileFacts(form, codec, context.width, context.height, sound)


@cache
def _decoders() -> str:
    """Return the names of the decoders that may run while FFmpeg looks at a file, as FFmpeg takes them."""
    names = []
    for codec in sorted(VIDEO_CODECS | SOUND_CODECS | TEXT_CODECS):
        try:
            names.append(av.Codec(codec, "r").name)
        except UnknownCodecError:  # this build of FFmpeg cannot decode it
            continue
    return ",".join(names)


def _codec(stream: av.stream.Stream) -> str | None:
    """Return FFmpeg's name of a stream's codec; None if FFmpeg has no decoder for it."""
    context = getattr(stream, "codec_context", None)
    return None if context is None else str(context.codec.canonical_name)


def _check_stream(path: Path, kind: str, codec: str | None) -> None:
    """Refuse a stream whose codec is not in the lists. Data that nothing decodes is harmless."""
    allowed = {"video": VIDEO_CODECS, "audio": SOUND_CODECS, "subtitle": TEXT_CODECS}.get(kind)
    if codec is None and kind == "video":
        raise VideoError(path, f"has pictures in an unknown codec. {_HINT}")
    if allowed is None or codec is None:
        return
    if codec not in allowed and not (kind == "audio" and codec.startswith("pcm_")):
        raise VideoError(path, f"has {kind} in the codec {codec}, which this server does not accept. {_HINT}")
