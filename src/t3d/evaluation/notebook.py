"""HTML of a result for notebooks. It needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from t3d.errors import VideoError, printable
from t3d.io.files import is_url
from t3d.video.video import Images, Video

_SIDE = 160  # longest side of the picture, in pixels
_BLUE = "#4c78a8"


def bars_html(pairs: Sequence[tuple[str, float]], *, note: str = "", picture: str | None = None) -> str:
    """Return classes with bars, and a picture next to them.

    Args:
        pairs: Classes and their probabilities.
        note: Text below the bars.
        picture: Data URI of a picture.
    """
    body = f'<table style="border:0">{"".join(_bar(name, prob) for name, prob in pairs)}</table>'
    if note:
        body += f"<div>{_text(note)}</div>"
    if picture is None:
        return body
    image = f'<img src="{picture}" alt="a frame of the video">'
    return f'<div style="display:flex;gap:12px;align-items:center">{image}<div>{body}</div></div>'


def titled(title: str, body: str) -> str:
    """Return HTML below the name of a video."""
    return f'<div><div><b>{_text(title)}</b></div><div style="max-width:860px">{body}</div></div>'


def text_html(text: str) -> str:
    """Return text as HTML."""
    return f"<div>{_text(text)}</div>"


def frame_uri(path: str, start: float | None, end: float | None) -> str | None:
    """Return a small picture of the middle of a time span, as a data URI.

    Args:
        path: The video.
        start: Start in seconds; None for the file's beginning.
        end: End in seconds; None for the file's end.

    Returns:
        None if the file is not on this machine, or cannot be read.
    """
    if is_url(path) or not Path(path).exists():
        return None
    try:
        with Video(path) as video:
            last = min(video.duration if end is None else end, video.duration)
            number = video.index_at(min(((start or 0.0) + last) / 2, video.duration))
            (image,) = video.images_at([number], missing="nearest", transform=_small)
    except (VideoError, IndexError):
        return None
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(image)).decode()


def _small(images: Images) -> Images:
    """Return frames N H W C with every few pixels only, at least `_SIDE` on the longest side if they had."""
    step = max(max(images.shape[1:3]) // (2 * _SIDE), 1)
    return images[:, ::step, ::step]


def _jpeg(image: Images) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def _bar(name: str, prob: float) -> str:
    bar = f"background:{_BLUE};height:10px;width:{100 * prob:.1f}px"
    return (
        f'<tr><td style="text-align:left">{_text(name)}</td>'
        f'<td><div style="width:100px"><div style="{bar}"></div></div></td>'
        f'<td style="text-align:right">{prob:.1%}</td></tr>'
    )


def _text(text: str) -> str:
    return escape(printable(text))
