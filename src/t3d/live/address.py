"""Address of a live source: a camera, a URL, standard input or a file.

A URL may contain a password. `Address.shown` is the text for messages and results, without it.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from t3d.errors import ConfigError, printable
from t3d.io.files import is_url

Kind = Literal["camera", "url", "pipe", "file"]
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "rtp", "tcp", "srt")
# Part of a path such as `user=admin_password=…`. A password may have any character, so the rest is hidden.
_SECRET = re.compile(r"((?:user|login|usr|pass|pwd|token|key|secret|auth|sign?)[a-z0-9]*=).*", re.I | re.S)
_CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
# A playlist must not make FFmpeg open files of this machine, so each kind may use its own protocols only.
_WEB = "http,https,httpproxy,tcp,tls,crypto,data"
_PROTOCOLS = {
    "rtsp": f"rtsp,rtsps,rtp,srtp,udp,{_WEB}",
    "rtmp": f"rtmp,rtmps,rtmpt,rtmpe,rtmpte,rtmpts,ffrtmphttp,ffrtmpcrypt,{_WEB}",
    "http": f"{_WEB},hls",
    "udp": "udp,udplite,rtp,srtp,rtcp",
    "tcp": "tcp,tls",
    "srt": "srt",
    "pipe": "pipe,fd",
    "file": "file,crypto,data",
}


@dataclass(frozen=True)
class Address:
    """Address of a live source.

    Args:
        kind: Kind of source.
        shown: Text for messages, see `shown_url`.
        target: What FFmpeg opens. It may contain a password, so it is never printed.
        form: FFmpeg's name of the input format; None to find it out from the content.
        options: Options of the container.
    """

    kind: Kind
    shown: str
    target: str = field(repr=False)
    form: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    @property
    def is_web(self) -> bool:
        """Return whether it is an HTTP or HTTPS URL."""
        return self.kind == "url" and self.target.lower().startswith(("http:", "https:"))

    @property
    def is_live(self) -> bool:
        """Return whether opening it again continues at the present time.

        A file would begin again at its start, and standard input in the middle of a frame.
        """
        return self.kind in ("camera", "url")

    def hide_secrets(self, text: str) -> str:
        """Return a message without the secrets of this address, also if it quotes only a part of the URL."""
        if self.kind != "url":
            return text
        user = urlsplit(self.target).netloc.rpartition("@")[0]
        text = text.replace(self.target, self.shown)
        for secret in filter(None, (user, user.partition(":")[2])):
            text = text.replace(f"{secret}@", "")
        return text


def parse_address(text: str, *, platform: str = sys.platform) -> Address:
    """Return the address of a source as the user gave it.

    Args:
        text: Number of a camera, a device such as `/dev/video0`, a URL, `-` for standard input, or a file.
        platform: Value of `sys.platform`.

    Raises:
        ConfigError: The URL has another scheme or is malformed, or this system has no such source.

    Example:
        >>> parse_address("rtsp://me:secret@camera/1?token=5").shown
        'rtsp://camera/1?…'
        >>> parse_address("0", platform="linux").target
        '/dev/video0'
    """
    if not text:
        raise ConfigError("source is empty; give a camera (0), a URL, `-` for standard input, or a file")
    if text == "-":
        if platform == "win32":
            raise ConfigError("source is -; standard input is not supported on Windows: give a URL or a file")
        return Address("pipe", "standard input", "", options=_limited("pipe"))
    if text.isascii() and text.isdigit():
        return _camera(text, platform)
    if text.startswith("/dev/") or (platform == "win32" and text.startswith("video=")):
        form = _CAMERA_FORMATS.get(platform, "v4l2")
        return Address("camera", printable(text), text, form)
    if is_url(text) and not text.lower().startswith("file://"):
        return _url(text)
    path = text[7:] if text.lower().startswith("file://") else text
    return Address("file", printable(path), f"file:{path}", options=_limited("file"))


def _camera(number: str, platform: str) -> Address:
    if platform == "win32":
        raise ConfigError(
            f"source is {number}; on Windows, cameras have names: give `video=NAME`. "
            "`ffmpeg -list_devices true -f dshow -i dummy` lists them"
        )
    if platform == "darwin":
        return Address("camera", f"camera {number}", number, "avfoundation")
    return Address("camera", f"/dev/video{int(number)}", f"/dev/video{int(number)}", "v4l2")


def _url(text: str) -> Address:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:  # a port that is not a number, as of a password with a slash
        scheme = text.partition("://")[0]
        raise ConfigError(
            f"source is {scheme}://…, which is not a valid URL; write special characters of a user name or "
            "password as percent codes, such as %2F for / and %40 for @"
        ) from error
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"source begins with {scheme}://; live sources are read from {allowed}")
    shown = shown_url(text)
    if not host and scheme not in ("udp", "rtp"):
        raise ConfigError(f"source is {shown}, which names no host; write {scheme}://HOST/PATH")
    family = {"rtsps": "rtsp", "rtmps": "rtmp", "https": "http", "rtp": "udp"}.get(scheme, scheme)
    options = dict(_limited(family))
    if family == "rtsp":
        options["rtsp_flags"] = "prefer_tcp"  # over UDP, lost packets damage frames
    elif family == "udp":
        options["overrun_nonfatal"] = "1"
    elif family == "http":
        options["live_start_index"] = "-1"  # the newest segment of a playlist
    return Address("url", shown, text, options=tuple(options.items()))


def shown_url(url: str) -> str:
    """Return a URL for messages: without user name, password, query and fragment.

    The last part of an RTMP path is often a stream key, so it is hidden, too. So are passwords and keys that
    a path names, with all that follows.

    Example:
        >>> shown_url("http://me:a@b@host:8080/live.m3u8?key=1")
        'http://host:8080/live.m3u8?…'
        >>> shown_url("rtmp://host/app/4f8e-22c1"), shown_url("rtsp://host/user=me_password=abc_channel=1")
        ('rtmp://host/app/…', 'rtsp://host/user=…')
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    path = _SECRET.sub(r"\1…", parts.path)
    if parts.scheme.lower() in ("rtmp", "rtmps"):
        path = re.sub(r"[^/]+/*$", "…", path)
    return printable(urlunsplit((parts.scheme, host, path, "…" if parts.query else "", "")))


def cameras() -> list[str]:
    """Return the cameras of this machine that Linux lists, such as `/dev/video0`."""
    return sorted(map(os.fspath, Path("/dev").glob("video[0-9]*")))


def _limited(family: str) -> tuple[tuple[str, str], ...]:
    return (("protocol_whitelist", _PROTOCOLS[family]),)
