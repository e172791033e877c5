"""Why a live source cannot be read, and whether another attempt may help."""

from __future__ import annotations

import errno
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

import av

from t3d.io.video_cache import PAGES
from t3d.live.address import Address, cameras
from t3d.video.rgb import ffmpeg_text

_SECONDS = 5.0  # for the look at a web page
_TRANSIENT_CAMERA = (errno.EBUSY, errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EIO)


@dataclass(frozen=True)
class Problem:
    """Reason why a source cannot be read.

    Args:
        reason: The reason in one sentence, without credentials.
        retry: Whether another attempt may help.
    """

    reason: str
    retry: bool = True


def opening_problem(
    error: Exception,
    address: Address,
    *,
    timeout: float,
    worked: bool = False,
    head_of: Callable[[str], bytes] | None = None,
) -> Problem:
    """Return why a source cannot be opened.

    Args:
        error: Error of FFmpeg or of the system.
        address: The source.
        timeout: Time limit for opening it, in seconds.
        worked: Whether frames arrived in an earlier connection, so that the address is right.
        head_of: Function that returns the first bytes of a URL. Default: `web_head`.
    """
    if isinstance(error, av.HTTPUnauthorizedError):
        return Problem(
            "the source refuses this user name and password, or needs them (401); give them in the URL as "
            "USER:PASSWORD@HOST, with special characters as percent codes (%40 for @)",
            retry=False,
        )
    if isinstance(error, av.HTTPForbiddenError):
        return Problem("the source refuses access (403); check the permissions of the user", retry=False)
    if isinstance(error, av.HTTPNotFoundError):
        return Problem("the server answers that there is no such stream (404)")
    if isinstance(error, av.ProtocolNotFoundError):
        return Problem(
            f"this build of FFmpeg cannot read {address.shown.partition('://')[0]}://; convert the stream "
            "with another program, and pipe it: `ffmpeg -i URL -c copy -f mpegts - | t3d watch MODEL -`",
            retry=False,
        )
    if isinstance(error, av.ExitError | av.TimeoutError):
        return Problem(f"no answer within {timeout:g} s; check the address, the network and the firewall")
    if address.kind == "camera":
        return _camera_problem(error, worked=worked)
    if address.kind == "file":
        return _file_problem(error)
    if isinstance(error, av.InvalidDataError | av.ArgumentError):
        head = (head_of or web_head)(address.target).lstrip().lower() if address.is_web else b""
        if head.startswith(PAGES) and b"<mpd" not in head:
            return Problem(
                "this is a web page, not a stream; give the address of the stream itself (often .m3u8)",
                retry=False,
            )
        final = address.kind == "pipe" or (address.is_web and not worked)
        return Problem("what it sends is not video, or damaged", retry=not final)
    return Problem(f"cannot be reached: {_sentence(error)}")


def reading_problem(error: Exception, address: Address, *, timeout: float) -> Problem:
    """Return why an open source cannot be read any longer.

    Args:
        error: Error of FFmpeg or of the system.
        address: The source. Only live ones are opened again.
        timeout: Time limit without data, in seconds.
    """
    if isinstance(error, av.ExitError | av.TimeoutError):
        return Problem(f"no data for {timeout:g} s", retry=address.is_live)
    what = "the connection broke" if address.is_live else "reading failed before the end"
    return Problem(f"{what}: {_sentence(error)}", retry=address.is_live)


def web_head(url: str) -> bytes:
    """Return the first bytes of a URL; none if it cannot be read in this way."""
    try:
        with urllib.request.urlopen(_request(url), timeout=_SECONDS) as response:
            head: bytes = response.read(512)
            return head.removeprefix(b"\xef\xbb\xbf")
    except (OSError, ValueError, HTTPException):
        return b""


def _request(url: str) -> urllib.request.Request:
    """Return a request with user name and password in a header: `urlopen` takes none in a URL."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl())
    if at:
        name, _, password = user.partition(":")
        token = b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")  # not for another server
    return request


def _camera_problem(error: Exception, *, worked: bool) -> Problem:
    number = getattr(error, "errno", None)
    # A camera that worked may be plugged in again, or freed by the process that was ended.
    retry = worked and number in _TRANSIENT_CAMERA
    if number == errno.EBUSY:
        reason = "another program uses the camera; close it"
    elif number in (errno.EACCES, errno.EPERM):
        reason = (
            "no permission to open the camera; add your user to the group `video` "
            "(`sudo usermod -aG video $USER`) and log in again"
        )
    elif number == errno.ENOENT:
        known = ", ".join(cameras())
        reason = (
            f"there is no such camera; {f'this machine has {known}' if known else 'no camera is connected'}"
        )
    elif number in (errno.ENOTTY, errno.EINVAL, errno.ENODEV, errno.ENXIO):
        reason = "is not a camera that records video, or it was unplugged; try another number"
    else:
        reason = f"the camera cannot be opened: {_sentence(error)}"
    return Problem(reason, retry=retry)


def _file_problem(error: Exception) -> Problem:
    if getattr(error, "errno", None) == errno.ENOENT:
        reason = "no such file; give a camera (0), a URL such as rtsp://…, `-` for standard input, or a file"
    elif isinstance(error, av.InvalidDataError | av.ArgumentError):
        reason = "is not a video"
    else:
        reason = f"cannot be opened: {_sentence(error)}"
    return Problem(reason, retry=False)


def _sentence(error: Exception) -> str:
    """Return FFmpeg's own words for an error. They do not contain the URL."""
    return ffmpeg_text(error) if getattr(error, "strerror", None) else type(error).__name__
